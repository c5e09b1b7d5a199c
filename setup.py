"""Packaging that ``pyproject.toml`` cannot say: a file inside Twisted's own name space ``twisted.plugins``."""

from setuptools import find_packages, setup

setup(
    # With the map given, an editable install adds this directory to the path instead of an import
    # hook; only so does ``twisted.plugin`` find ``twisted/plugins/relay_plugin.py`` in a checkout.
    package_dir={"": "."},
    packages=[*find_packages(include=["relay", "relay.*"]), "twisted.plugins"],
)
