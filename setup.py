"""Packaging that ``pyproject.toml`` cannot say: a file inside Twisted's own name space, and optional compiled code."""

from setuptools import Extension, find_packages, setup

setup(
    # With the map given, an editable install adds this directory to the path instead of an import
    # hook; only so does ``twisted.plugin`` find ``twisted/plugins/relay_plugin.py`` in a checkout.
    package_dir={"": "."},
    # Optional: without a C compiler the pure twin does its work (relay/wire/plain.py).
    ext_modules=[Extension("relay.wire._plain", ["relay/wire/_plain.c"], optional=True)],
    packages=[*find_packages(include=["relay", "relay.*"]), "twisted.plugins"],
)
