"""``relay wal``: look into a write-ahead log without changing it, also one that a node is writing.

Exit status 0: the log is sound, or ends in a torn tail that the node will cut; 1: it is damaged, and a node would
refuse to start from it; 2: the directory is missing or holds no log.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections import Counter

import attrs
import click

from relay.errors import ConfigError
from relay.store.files import OsFiles
from relay.store.wal_format import Kind, LogDamaged, Record, decode_vote
from relay.store.wal_groups import GroupTable
from relay.store.wal_recovery import SYNCED_NAME, Replay, list_segments, scan
from relay.store.wal_segment import Segment
from relay.store.wal_writer import LogOptions

ATTEMPTS = 5  # when a node begins or removes segments between our looking at one and the next
SHOWN_BYTES = 24  # of a payload, in lines for people


@click.group()
def wal() -> None:
    """Look into a write-ahead log."""


@wal.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
def check(directory: str, as_json: bool) -> int:
    """Read the whole log in DIR, as a starting node would, and say whether it is sound.

    Exit status 1 and one line with file, offset and reason when it is not.
    """
    try:
        report = _report(directory)
    except LogDamaged as error:
        if as_json:
            fault = {"file": error.path, "offset": error.offset, "reason": error.reason}
            click.echo(json.dumps({"sound": False, "damage": fault}, ensure_ascii=False))
        else:
            click.echo(str(error), err=True)
        return 1
    if as_json:
        click.echo(json.dumps({"sound": True, **attrs.asdict(report)}, ensure_ascii=False))
        return 0
    click.echo(
        f"{directory}: sound: segments {report.first_segment} to {report.last_segment}, {report.spare_segments} spare; "
        f"{report.records} records; ends at offset {report.end} of segment {report.last_segment}"
    )
    if report.torn_bytes:
        click.echo(f"a torn tail of {report.torn_bytes} bytes follows; a starting node will cut it")
    for group in report.groups:
        click.echo(
            f"group {group.group}: entries {group.first_index} to {group.last_index}, snapshot {group.snapshot_index}, "
            f"term {group.term}, vote {group.vote}, commit {group.commit}"
        )
    return 0


@wal.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print an object per line, with the payload in base64.")
@click.option("--group", type=int, help="Only the records of this group.")
def dump(directory: str, as_json: bool, group: int | None) -> int:
    """Print the records of the log in DIR in order, up to its end or to where it is damaged."""

    def show(segment: Segment, record: Record) -> None:
        if group is None or record.group == group:
            click.echo(_as_json(segment, record) if as_json else _as_line(segment, record))

    _look(directory)
    try:
        found = scan(OsFiles(), directory, show, repair=False)
    except LogDamaged as error:
        click.echo(str(error), err=True)
        return 1
    for segment in found.segments + found.spares:
        segment.file.close()
    return 0


@attrs.frozen
class GroupReport:
    """What the log holds of one group."""

    group: int
    first_index: int
    last_index: int
    snapshot_index: int
    term: int
    vote: int
    commit: int


@attrs.frozen
class Report:
    """What ``check`` found in a sound log."""

    first_segment: int
    last_segment: int
    spare_segments: int
    records: int
    end: int
    torn_bytes: int
    kinds: dict[str, int]
    groups: list[GroupReport]


def _look(directory: str) -> list[int]:
    """The segments in ``directory``. Raises ConfigError when there is no log at all, LogDamaged for gaps."""
    try:
        sequences, _ = list_segments(OsFiles(), directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"{directory}: {error.strerror}") from None
    if not sequences and not os.path.exists(os.path.join(directory, SYNCED_NAME)):
        raise ConfigError(f"{directory}: no write-ahead log is here")
    return sequences


def _report(directory: str) -> Report:
    """Scan the log; again when its segments were others afterwards, because a node is at work on it."""
    for _ in range(ATTEMPTS):
        before = _look(directory)
        try:
            return _scan(directory)
        except (LogDamaged, FileNotFoundError):
            if _look(directory) == before:
                raise
    raise ConfigError(f"{directory}: segments come and go too fast; look when the node is less busy")


def _scan(directory: str) -> Report:
    table = GroupTable(LogOptions(cache_bytes_max=0, cache_group_bytes_max=0), _never_read)
    replay = Replay(table)
    kinds: Counter[str] = Counter()

    def visit(segment: Segment, record: Record) -> None:
        kinds[_kind(record)] += 1
        replay.visit(segment, record)

    found = scan(OsFiles(), directory, visit, repair=False)
    for segment in found.segments + found.spares:
        segment.file.close()
    replay.finish(found)
    groups = []
    for log in sorted(table.logs(), key=lambda log: log.group):
        hard = log.hard_state
        groups.append(
            GroupReport(
                log.group,
                log.first_index(),
                log.last_index(),
                log.known_snapshot.index,
                hard.term,
                hard.vote,
                hard.commit,
            )
        )
    last = found.segments[-1]
    return Report(
        first_segment=found.segments[0].sequence,
        last_segment=last.sequence,
        spare_segments=len(found.spares),
        records=found.records,
        end=last.end,
        torn_bytes=found.torn_bytes,
        kinds=dict(kinds),
        groups=groups,
    )


def _never_read(place: int, payload_bytes: int) -> Record:
    raise AssertionError("a check reads no entry twice")


def _kind(record: Record) -> str:
    try:
        return Kind(record.kind).name.lower()
    except ValueError:
        return f"type_{record.kind}"


def _as_json(segment: Segment, record: Record) -> str:
    return json.dumps(
        {
            "segment": segment.sequence,
            "offset": record.offset,
            "kind": _kind(record),
            "group": record.group,
            "index": record.index,
            "term": record.term,
            "payload": base64.b64encode(record.payload).decode("ascii"),
        }
    )


def _as_line(segment: Segment, record: Record) -> str:
    where = f"{segment.sequence}:{record.offset}"
    line = f"{where} {_kind(record)} group={record.group} index={record.index} term={record.term}"
    if record.kind == Kind.HARD_STATE and len(record.payload) == 8:
        return f"{line} vote={decode_vote(record.payload)}"
    if record.kind == Kind.MARK or not record.payload:
        return line
    shown = record.payload[:SHOWN_BYTES].hex()
    return f"{line} bytes={len(record.payload)} {shown}{'…' if len(record.payload) > SHOWN_BYTES else ''}"


if __name__ == "__main__":
    from relay.cli.main import run

    sys.exit(run(["wal", *sys.argv[1:]]))
