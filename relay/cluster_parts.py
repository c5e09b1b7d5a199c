"""The cluster's part of a node, put together: the log and snapshots of ``relay.store`` under the groups of
``relay.cluster``, threads, random and the end of the process."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from relay.cluster.groups import Groups
from relay.cluster.identity import load_identity
from relay.cluster.ports import Stores
from relay.cluster.service import ClusterService, Kept
from relay.config_cluster import Cluster
from relay.errors import ConfigError, RelayError
from relay.interfaces import IStateMachine
from relay.store.files import OsFiles
from relay.store.snapshots import SnapshotStore
from relay.store.wal import EXIT_STATUS_FATAL, WriteAheadLog
from relay.store.wal_thread import LogThreads
from relay.store.wal_writer import GroupWrite, LogOptions

DIRECTORY: Final = "cluster"
LOG_DIRECTORY: Final = "log"
SNAPSHOT_DIRECTORY: Final = "snapshots"
SWITCH_INTERVAL_S: Final = 0.0005
"""How long the log's thread waits for the interpreter's lock behind a busy loop; Python's 5 ms would be in every
commit."""
EXIT_STATUS_REFUSED: Final = 1


def make_cluster(
    config: Cluster,
    data: Path,
    reactor: Any,  # Any: the reactor, with all its interfaces
    machines: Mapping[int, IStateMachine],
    on_started: Callable[[Groups], object] | None = None,
) -> ClusterService:
    """The service, with its directory opened and its log recovered, which blocks. Raises ``ConfigError``."""
    directory = data / DIRECTORY
    identity = load_identity(directory, config.name, config.node, secrets.token_bytes)
    kept = open_kept(config, directory, reactor)
    return ClusterService(
        config,
        identity,
        kept,
        machines,
        reactor,
        random_bytes=secrets.token_bytes,
        on_fatal=_end_fatal,
        on_refused=_end_refused,
        on_started=on_started,
    )


def open_kept(config: Cluster, directory: Path, reactor: Any) -> Kept:  # Any: as above
    """Log, snapshots and threads in ``directory``. Raises ``ConfigError`` when they cannot be trusted or had."""
    options = LogOptions(
        segments_max=config.log_bytes_max // LogOptions().segment_bytes,
        groups_max=min(config.groups_max + 1, LogOptions().groups_max),
    )
    files = OsFiles()
    wal = WriteAheadLog(files, str(directory / LOG_DIRECTORY), options)
    snapshots = SnapshotStore(files, str(directory / SNAPSHOT_DIRECTORY))
    try:
        wal.open()
        snapshots.open()
    except ConfigError:
        raise
    except RelayError as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        raise ConfigError(f"{error.filename or directory}: {error.strerror or error}") from None
    threads = LogThreads(wal, reactor.callFromThread)
    pool = ThreadPool(0, 1, "relay-snapshots")  # one thread: what is asked for is done in order
    started = False

    def background(work: Callable[[], Any], done: Callable[[Any, BaseException | None], object]) -> None:
        def told(success: bool, result: Any) -> None:
            if success:
                reactor.callFromThread(done, result, None)
            else:
                failure: Failure = result
                reactor.callFromThread(done, None, failure.value)

        pool.callInThreadWithCallback(told, work)

    def start() -> None:
        nonlocal started
        started = True
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        pool.start()
        threads.start()

    def stop(stopped: Callable[[], object]) -> None:
        def end() -> None:
            if started:
                pool.stop()
            wal.close()
            stopped()

        if started and wal.failed is None:
            threads.stop(end)
        else:
            end()

    return Kept(Stores(wal, snapshots, GroupWrite, background), wal.run_once, start, stop)


def _end_fatal(error: BaseException) -> None:
    """What is in memory or on the disk cannot be trusted: nothing more may be acknowledged."""
    try:
        os.write(2, f"relay: fatal: cluster: {type(error).__name__}: {error}\n".encode())
    finally:  # also when standard error is closed
        os._exit(EXIT_STATUS_FATAL)


def _end_refused(why: str) -> None:
    """A node that may not take part does not run: it would answer clients without the cluster's state."""
    try:
        os.write(2, f"relay: {why}\n".encode())
    finally:  # also when standard error is closed
        os._exit(EXIT_STATUS_REFUSED)
