"""``relay config``: check, show, describe; and hash a password for it.

Like the node, ``check`` and ``show`` take ``RELAY_…`` variables of the environment into account.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click
import msgspec
import yaml

from relay import config_load
from relay.config import Config

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


@click.group()
def config() -> None:
    """Check and show configurations."""


@config.command()
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help='Print {"valid": …, "problems": […]}.')
def check(file: str, as_json: bool) -> int:
    """Say what is wrong with the configuration FILE; exit status 2 when anything is."""
    from relay.config_check import problems  # imports most of relay
    from relay.errors import ConfigError

    try:
        found = [f"{file}: {each}" for each in problems(config_load.load(file, os.environ))]
    except ConfigError as error:
        found = [str(error)]
    if as_json:
        click.echo(json.dumps({"valid": not found, "problems": found}, ensure_ascii=False))
    else:
        for each in found:
            click.echo(each, err=True)
        if not found:
            click.echo(f"{file}: valid")
    return 2 if found else 0


@config.command()
@click.argument("file", type=click.Path(), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of YAML.")
def show(file: str | None, as_json: bool) -> None:
    """Print the effective configuration: FILE, the environment and the defaults. Secrets are masked."""
    shown = tree(config_load.mask_secrets(config_load.read(file, os.environ)))
    click.echo(json.dumps(shown, ensure_ascii=False, indent=2) if as_json else dump_yaml(shown), nl=as_json)


@config.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors and other programs."""
    click.echo(json.dumps({"$schema": SCHEMA_DIALECT} | msgspec.json.schema(Config), ensure_ascii=False, indent=2))


@config.command()
def docs() -> None:
    """Print the page docs/configuration.md."""
    from relay.cli.config_docs import page

    click.echo(page(), nl=False)


@config.command()
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the password from standard input, one line.")
def password(from_stdin: bool) -> None:
    """Ask for a password and print its hash, for password_scrypt of auth.static."""
    from relay.core.passwords import SALT_BYTES, hash_password
    from relay.errors import ConfigError

    if from_stdin:
        text = sys.stdin.readline().rstrip("\r\n")
    else:
        text = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    try:
        click.echo(hash_password(text, os.urandom(SALT_BYTES)).line())
    except ValueError as error:
        raise ConfigError(str(error)) from None


def tree(value: Config) -> Any:  # Any: dicts, lists and scalars
    """The configuration as a file could hold it; a reference to a secret keeps only what it has."""
    return _trimmed(msgspec.to_builtins(value))


def dump_yaml(shown: object) -> str:
    """``shown`` as YAML, in the order of the documentation."""

    def dump(as_it_is: bool) -> str:
        return str(yaml.safe_dump(shown, sort_keys=False, allow_unicode=as_it_is, default_flow_style=False, width=120))

    text = dump(True)
    # PyYAML does not escape these, and reads them as line breaks.
    return dump(False) if any(each in text for each in "\x85\u2028\u2029") else text


def _trimmed(value: Any) -> Any:  # Any: as tree
    if isinstance(value, dict):
        if value.keys() == {"file", "env"}:
            return {name: each for name, each in value.items() if each}
        return {name: _trimmed(each) for name, each in value.items()}
    return [_trimmed(each) for each in value] if isinstance(value, list | tuple) else value
