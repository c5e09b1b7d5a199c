"""What ``relay raft init`` does: the configuration of each node of a new cluster, as a file to read and to edit."""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
from pathlib import Path
from typing import Final

import click

from relay.cli.exits import USAGE

WEB_PORT: Final = 80
"""The web listener is so much above the port for clients."""
SECRET_FILE: Final = "cluster-secret"
SECRET_BYTES: Final = 32

_FILE: Final = """\
# Node {node} of {nodes}; made by "relay raft init". Settings: docs/configuration.md; clusters: docs/cluster.md.
#
#   twistd -n relay --config={file}

data: {data}

listeners:
  - {{name: web, address: "tcp:{web}:interface=127.0.0.1", protocols: [http, websocket]}}
  - {{name: stream, address: "tcp:{stream}:interface=127.0.0.1"}}

cluster:
  name: {name}
  node: {node}
  listen: {listen}
  peers:                            # the same in all files
{peers}{secret}"""


def write_files(
    directory: str, nodes: int, hosts: tuple[str, ...], port: int, cluster_port: int, name: str, force: bool,
    as_json: bool,
) -> int:  # fmt: skip
    """Write them; the exit status."""
    if len(hosts) not in (1, nodes):
        raise click.UsageError(f"--host once, or {nodes} times")
    folder = Path(directory)
    one_machine = len(hosts) == 1
    local = all(map(_is_local, hosts))
    files = [folder / f"n{node}.yaml" for node in range(1, nodes + 1)]
    there = [str(each) for each in files if each.exists()]
    if there and not force:
        click.echo(f"relay: {', '.join(there)}: there already; --force replaces them", err=True)
        return USAGE
    folder.mkdir(parents=True, exist_ok=True)
    if not local:
        _write_secret(folder / SECRET_FILE, force)
    places = [
        (hosts[0] if one_machine else hosts[node - 1], cluster_port + node if one_machine else cluster_port)
        for node in range(1, nodes + 1)
    ]
    peers = "".join(
        f"    - {{node: {node}, address: {_text(f'tcp:{_escaped(host)}:{link}')}}}\n"
        for node, (host, link) in enumerate(places, 1)
    )
    for node, (file, (host, link)) in enumerate(zip(files, places, strict=True), 1):
        offset = node if one_machine else 0
        content = _FILE.format(
            node=node, nodes=nodes, file=file, name=_text(name), peers=peers,
            data=f"./relay-data/n{node}", web=port + WEB_PORT + offset, stream=port + offset,
            listen=_text(f"tcp:{link}:interface={_escaped(host)}"),
            secret="" if local else f"  secret: {{file: {_text(str(folder / SECRET_FILE))}}}\n",
        )  # fmt: skip
        file.write_text(content, "utf-8")
    if as_json:
        click.echo(json.dumps({"files": [str(each) for each in files]}))
    else:
        for each in files:
            click.echo(f"twistd -n relay --config={each}")
        if not local:
            click.echo(f"{folder / SECRET_FILE} has to be on every machine; nobody else may read it", err=True)
    return 0


def _write_secret(file: Path, force: bool) -> None:
    """A new secret that only the owner reads; one that is there stays, unless ``force``."""
    if file.exists() and not force:
        return
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(secrets.token_hex(SECRET_BYTES) + "\n")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _escaped(host: str) -> str:
    """``host`` inside of an endpoint string."""
    return host.replace(":", "\\:")


def _text(value: str) -> str:
    """``value`` as YAML."""
    return json.dumps(value, ensure_ascii=False)
