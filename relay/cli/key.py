"""``relay key``: the keys of the secure channel (docs/secure.md), a node's and a client's own."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import click


@click.group()
def key() -> None:
    """Show and make keys of the secure channel."""


@key.command()
@click.option("--config", "file", type=click.Path(), default=None, help="The node's configuration file.")
@click.option("--data", type=click.Path(), default=None, help="The node's data directory, instead.")
@click.option("--json", "as_json", is_flag=True, help='Print {"fingerprint": …, "public": …}.')
def show(file: str | None, data: str | None, as_json: bool) -> None:
    """Print the fingerprint of a node's key, which clients pin; makes the key when there is none yet."""
    from relay.config_load import load
    from relay.key_files import load_identity
    from relay.wire.secure import public_identity

    _print(public_identity(load_identity(Path(data or load(file, os.environ).data))), as_json)


@key.command()
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help='Print {"fingerprint": …, "public": …}.')
def make(file: str, as_json: bool) -> int:
    """Make a client's key in FILE (PEM) and print its public half, for auth.keys of the server's configuration."""
    from relay.key_files import write_identity
    from relay.wire.secure import public_identity

    if Path(file).exists():
        click.echo(f"{file}: there is a file of that name already", err=True)
        return 2
    try:
        private = write_identity(Path(file))
    except OSError as error:
        click.echo(f"{error.filename or file}: {error.strerror}", err=True)
        return 1
    _print(public_identity(private), as_json)
    return 0


def _print(public: bytes, as_json: bool) -> None:
    from relay.wire.secure import fingerprint

    text = base64.b64encode(public).decode()
    if as_json:
        click.echo(json.dumps({"fingerprint": fingerprint(public), "public": text}))
    else:
        click.echo(f"fingerprint  {fingerprint(public)}\npublic key   {text}")
