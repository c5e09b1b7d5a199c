"""Power cuts for one directory: what a killed program never synced is taken back. Killing alone loses nothing of it.

    shim = build(scratch)                          the library of ``power_cut.c``, by the machine's C compiler
    env  = environment(shim, directory, log)       for the program that writes there
    cut(log, directory, random)                    after the program was killed: the directory as after a power cut

What is modelled: bytes written and not covered by a later fsync or fdatasync of the file are lost, all of them or, as a
disk's cache does it, some sectors of them; names made, changed or removed are lost until the directory is synced (a new
file's name is there once the file itself was synced, as on ext4 and XFS). Not modelled: directories that are made or
removed, and disks that lie about what they synced. A program that maps a file for shared writing cannot be followed:
``cut`` refuses.
"""

from __future__ import annotations

import os
import random as randomness
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

SOURCE: Final = Path(__file__).with_name("power_cut.c")
MAGIC: Final = 0x52504331
HEAD: Final = struct.Struct("=IIQQQQIIII")
SECTOR_BYTES: Final = 512


class CannotFollow(Exception):
    """The program did something that the library does not see; the sentence says what."""


@attrs.frozen
class Change:
    """One record of the log; see ``power_cut.c``."""

    op: str
    number: int
    inode: int
    offset: int
    size: int
    before: bytes
    after: bytes
    name: str
    to: str


@attrs.define
class Report:
    """``changes``: in the log; ``lost``: taken back; ``sectors``: of those, written after all."""

    changes: int = 0
    syncs: int = 0
    lost: int = 0
    sectors: int = 0


def build(directory: Path) -> Path:
    """Compile the library into ``directory``. Raises ``CalledProcessError`` or ``FileNotFoundError``: no compiler."""
    library = directory / "power_cut.so"
    command = ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(library), str(SOURCE)]
    subprocess.run([*command, "-ldl", "-lpthread"], check=True, capture_output=True)
    return library


def environment(library: Path, directory: Path, log: Path) -> dict[str, str]:
    """The environment of a program whose writes to ``directory`` are to be followed; the log begins anew."""
    forget(log)
    return {
        **os.environ,
        "LD_PRELOAD": str(library),
        "RELAY_POWER_DIR": str(directory.resolve()),
        "RELAY_POWER_LOG": str(log.resolve()),
    }


def forget(log: Path) -> None:
    """Remove a log and what stands beside it."""
    for path in [log, *log.parent.glob(f"{log.name}.*.kept")]:
        path.unlink(missing_ok=True)


def changes(log: Path) -> Iterator[Change]:
    """The log's records; one that is cut off at the end was not carried out."""
    data = log.read_bytes() if log.exists() else b""
    at = 0
    while at + HEAD.size <= len(data):
        magic, op, number, inode, offset, size, *lengths = HEAD.unpack_from(data, at)
        assert magic == MAGIC, f"{log} is no log at {at}"
        parts = []
        at += HEAD.size
        for length in lengths:
            parts.append(data[at : at + length])
            at += length
        if at > len(data):
            return
        yield Change(chr(op), number, inode, offset, size, parts[0], parts[1], parts[2].decode(), parts[3].decode())


def cut(log: Path, directory: Path, random: randomness.Random | None = None) -> Report:
    """Leave ``directory`` as a power cut at the end of ``log`` might have; the log is used up.

    ``random`` None: everything unsynced is lost; else each sector of it with one chance, drawn once, between none and
    all. Raises ``CannotFollow``.
    """
    report = Report()
    synced: dict[int, int] = {}
    done: list[Change] = []
    for change in changes(log):
        if change.op == "M":
            raise CannotFollow(change.name)
        if change.op in "SD":
            report.syncs += 1
            synced[change.inode] = max(synced.get(change.inode, 0), change.offset)
        else:
            report.changes += 1
            done.append(change)
    lost = [change for change in done if not _covered(change, synced)]
    for change in reversed(lost):
        report.lost += _take_back(change, log, directory)
    if random is not None:
        share = random.random()
        resized = {change.inode for change in lost if change.op == "T"}
        for change in lost:
            if change.op == "W" and change.inode not in resized:
                report.sectors += _write_some(change, directory, random, share)
    forget(log)
    return report


def _covered(change: Change, synced: dict[int, int]) -> bool:
    if change.op in "WT":
        return synced.get(change.inode, 0) >= change.number
    try:
        parent = os.stat(os.path.dirname(change.name)).st_ino
    except FileNotFoundError:
        return False
    covered = synced.get(parent, 0)
    if change.op == "C":
        covered = max(covered, synced.get(change.inode, 0))
    return covered >= change.number


def _take_back(change: Change, log: Path, directory: Path) -> bool:
    if change.op in "WT":
        path = _path(directory, change.inode)
        if path is None:
            return False  # removed since, for good
        with path.open("r+b") as file:
            file.seek(change.offset)
            file.write(change.before)
            file.truncate(change.size)
        return True
    name = Path(change.name)
    kept = log.with_name(f"{log.name}.{change.number}.kept")
    if change.op == "C":
        name.unlink(missing_ok=True)
    elif change.op == "U":
        if kept.exists() and not name.exists():
            os.link(kept, name)
    else:
        to = Path(change.to)
        if to.exists() and to.stat().st_ino == change.inode:
            to.rename(name)
            if kept.exists():
                os.link(kept, to)
    return True


def _write_some(change: Change, directory: Path, random: randomness.Random, share: float) -> int:
    path = _path(directory, change.inode)
    if path is None:
        return 0
    count = 0
    with path.open("r+b") as file:
        at, end = change.offset, change.offset + len(change.after)
        while at < end:
            stop = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
            if random.random() < share:
                file.seek(at)
                file.write(change.after[at - change.offset : stop - change.offset])
                count += 1
            at = stop
    return count


def _path(directory: Path, inode: int) -> Path | None:
    for path in directory.rglob("*"):
        if path.is_file() and path.stat().st_ino == inode:
            return path
    return None
