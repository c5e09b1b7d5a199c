"""``relay store``: look into the file of the SQLite store, repair it, make it smaller.

FILE is the file, or the node's data directory. ``check`` and ``dump`` change nothing and may be used while the node
runs; ``repair`` and ``compact`` need it stopped.

Exit status 0: sound, or done; 1: damaged; 2: no store is there, or a node has it open.
"""

from __future__ import annotations

import base64
import json
import os.path
import sqlite3
from collections.abc import Iterator
from typing import Any, Final

import attrs
import click

from relay.config_store import Store
from relay.errors import ConfigError
from relay.store.sqlite_check import look, opened
from relay.store.sqlite_file import is_busy
from relay.store.sqlite_repair import compact as compact_file
from relay.store.sqlite_repair import repair as repair_file

_PUBLICATIONS: Final = (
    "SELECT r.name, n.name, p.offset, c.epoch, p.at_ms, p.expires_ms, p.frame FROM realms r"
    " JOIN channel_names n ON n.realm = r.id JOIN channels c ON c.realm = n.realm AND c.channel = n.channel"
    " JOIN publications p ON p.realm = n.realm AND p.channel = n.channel"
)
_MESSAGES: Final = (
    "SELECT r.name, n.name, m.number, m.at_ms, m.due_ms, m.expires_ms, m.priority, m.deliveries, m.ordering_key,"
    " m.frame, {reason} FROM realms r JOIN queue_names n ON n.realm = r.id"
    " JOIN queues q ON q.realm = n.realm AND q.queue = n.queue"
    " JOIN {table} m ON m.realm = n.realm AND m.queue = n.queue AND m.generation = q.{generation}"
)
_WAITING: Final = _MESSAGES.format(table="messages", reason="''", generation="generation")
_DEAD: Final = _MESSAGES.format(table="dead", reason="m.reason", generation="dead_generation")
_PUBLICATION_NAMES: Final = ("realm", "channel", "offset", "epoch", "at_ms", "expires_ms", "frame")
_MESSAGE_NAMES: Final = (
    "realm", "queue", "number", "at_ms", "due_ms", "expires_ms", "priority", "deliveries", "ordering_key", "frame",
    "reason",
)  # fmt: skip
PLACE: Final = 2
"""Which of the names is the place in the channel or queue."""


@click.group()
def store() -> None:
    """Look into the store of a node, and repair it."""


@store.command()
@click.argument("file", metavar="FILE", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
def check(file: str, as_json: bool) -> int:
    """Read all of the store in FILE and say whether it is sound. Exit status 1 when it is not."""
    path = _path(file)
    try:
        connection = opened(path, readonly=True)
        try:
            report = look(connection)
        finally:
            connection.close()
    except sqlite3.Error as error:
        _raise_if_busy(path, error)
        if as_json:
            click.echo(json.dumps({"sound": False, "problems": [str(error)]}, ensure_ascii=False))
        else:
            click.echo(f"{path}: {error}", err=True)
        return 1
    if as_json:
        click.echo(json.dumps({"sound": not report.problems, **attrs.asdict(report)}, ensure_ascii=False))
    else:
        for problem in report.problems:
            click.echo(f"{path}: {problem}", err=True)
        click.echo(
            f"{path}: {'damaged' if report.problems else 'sound'}: version {report.version}; {report.realms} realms; "
            f"{report.publications} publications in {report.channels} channels; {report.messages} messages and "
            f"{report.dead} dead ones in {report.queues} queues; {report.keys} keys; {report.users} users; "
            f"{report.bytes} bytes, {report.free_bytes} of them free"
        )
    return 1 if report.problems else 0


@store.command()
@click.argument("file", metavar="FILE", type=click.Path())
def repair(file: str) -> int:
    """Make a store that the node can start from. What cannot be read is lost; the damaged file is kept beside it.

    The node must be stopped.
    """
    path = _path(file)
    done = repair_file(path)
    for problem in done.problems:
        click.echo(f"{path}: {problem}", err=True)
    if done.kept_as:
        kept = ", ".join(f"{count} {table}" for table, count in done.rows.items() if count)
        click.echo(f"{path}: written anew with {kept or 'nothing'}; the damaged file is {done.kept_as}")
        if done.unread:
            click.echo(f"{path}: not all could be read of {', '.join(done.unread)}")
        click.echo(f"{path}: every channel begins another epoch")
    elif done.problems:
        click.echo(f"{path}: counted again")
    else:
        click.echo(f"{path}: sound, nothing to repair")
    return 0


@store.command()
@click.argument("file", metavar="FILE", type=click.Path())
@click.option("--realm", help="Only this realm.")
@click.option("--channel", help="Only this channel, and no queues.")
@click.option("--queue", help="Only this queue, and no channels.")
def dump(file: str, realm: str | None, channel: str | None, queue: str | None) -> int:
    """Print publications and messages, an object a line, with their frames in base64."""
    path = _path(file)
    try:
        connection = opened(path, readonly=True)
        try:
            for line in _lines(connection, realm, channel, queue):
                click.echo(json.dumps(line, ensure_ascii=False))
        finally:
            connection.close()
    except sqlite3.Error as error:
        _raise_if_busy(path, error)
        click.echo(f"{path}: {error}", err=True)
        return 1
    return 0


@store.command()
@click.argument("file", metavar="FILE", type=click.Path())
def compact(file: str) -> int:
    """Write the store anew without its free pages. Needs as much room again; the node must be stopped."""
    path = _path(file)
    try:
        before, after = compact_file(path)
    except sqlite3.Error as error:
        _raise_if_busy(path, error)
        click.echo(f"{path}: {error}", err=True)
        return 1
    click.echo(f"{path}: {before} bytes, now {after}")
    return 0


def _path(file: str) -> str:
    return os.path.join(file, Store().file) if os.path.isdir(file) else file


def _raise_if_busy(path: str, error: sqlite3.Error) -> None:
    if is_busy(error):
        raise ConfigError(f"{path} is in use by another process") from None


def _lines(
    connection: sqlite3.Connection, realm: str | None, channel: str | None, queue: str | None
) -> Iterator[dict[str, Any]]:  # Any: JSON
    if queue is None:
        yield from _rows(connection, _PUBLICATIONS, _PUBLICATION_NAMES, realm, channel)
    if channel is None:
        for sql, dead in ((_WAITING, False), (_DEAD, True)):
            for row in _rows(connection, sql, _MESSAGE_NAMES, realm, queue):
                yield {**row, "dead": dead}


def _rows(
    connection: sqlite3.Connection, sql: str, names: tuple[str, ...], realm: str | None, name: str | None
) -> Iterator[dict[str, Any]]:  # Any: JSON
    wanted = {"r.name = ?": realm, "n.name = ?": name}
    where = " AND ".join(each for each, value in wanted.items() if value is not None)
    values = [value for value in wanted.values() if value is not None]
    where = f"WHERE {where} " if where else ""
    for row in connection.execute(f"{sql} {where}ORDER BY r.name, n.name, {names[PLACE]}", values):
        found = dict(zip(names, row, strict=True))
        found["frame"] = base64.b64encode(found["frame"]).decode("ascii")
        yield found
