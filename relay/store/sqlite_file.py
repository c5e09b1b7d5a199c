"""The file of the SQLite store: opened for one process, checked, brought to this version, its errors told apart.

====================================  ==============================================================================
error                                 what it means for the store
====================================  ==============================================================================
SQLITE_FULL                           the disk or the file's limit: nothing of the transaction is stored; go on
SQLITE_BUSY, SQLITE_LOCKED            somebody has the file open in another program and writes: nothing is stored
everything else                       nobody knows what is on the disk: the process ends (``on_fatal``)
====================================  ==============================================================================

A failed fsync is SQLITE_IOERR_FSYNC. It is never tried again: the kernel may have dropped the pages that it could not
write, and report success the next time.
"""

from __future__ import annotations

import os
import os.path
import sqlite3
from typing import Final, NoReturn

from relay.errors import ConfigError
from relay.store.files import File, OsFiles
from relay.store.sqlite_schema import APPLICATION_ID, MIGRATIONS, SCHEMA, TABLES, VERSION

EXIT_STATUS_FATAL: Final = 70
"""EX_SOFTWARE of sysexits.h, as for the write-ahead log."""
CHECK_BYTES_MAX: Final = 33_554_432
"""A file up to this size is checked as a whole at the start, in a tenth of a second; of a larger one only what is read
then, and damage elsewhere ends the process when it is met."""
BUSY_MS: Final = 5000
"""How long a program that writes to the file beside us is waited for: none should."""
PAGE_BYTES: Final = 4096
"""A commit writes whole pages to the log: with small ones a single publication costs two of them, 8 KiB."""
LOCK_SUFFIX: Final = ".lock"
STATEMENTS_CACHED: Final = 512


def end_process(error: BaseException) -> NoReturn:
    """The default ``on_fatal``: one line, and the process is gone before anything can be acknowledged."""
    try:
        os.write(2, f"relay: fatal: store: {type(error).__name__}: {error}\n".encode())
    finally:  # also when standard error is closed
        os._exit(EXIT_STATUS_FATAL)


def is_full(error: BaseException) -> bool:
    """Whether the disk, or the file's own limit, has no room."""
    return isinstance(error, sqlite3.Error) and _code(error) == sqlite3.SQLITE_FULL


def is_busy(error: BaseException) -> bool:
    """Whether another program holds the file's lock."""
    return isinstance(error, sqlite3.Error) and _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: sqlite3.Error) -> int:
    """The primary code, without the extended part."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


def connect(path: str, cache_bytes: int, *, create: bool = False, readonly: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode, for any thread but one at a time. Raises ``sqlite3.Error``."""
    mode = "ro" if readonly else "rwc" if create else "rw"
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    connection = sqlite3.connect(
        f"file:{quoted}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=STATEMENTS_CACHED,
        timeout=BUSY_MS / 1000,
    )
    try:
        connection.execute(f"PRAGMA cache_size = -{max(1, cache_bytes // 1024)}")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
    except BaseException:
        connection.close()
        raise
    return connection


class StoreFile:
    """The file at ``path``, held against other processes from ``open`` to ``close``."""

    def __init__(self, path: str, cache_bytes: int) -> None:
        self.path = path
        self._cache_bytes = cache_bytes
        self._lock: File | None = None

    def open(self) -> sqlite3.Connection:
        """The connection that writes. Makes the file when it is missing. Raises ``ConfigError`` with one sentence."""
        files = OsFiles()
        try:
            files.make_directory(os.path.dirname(self.path))
            self._lock = files.lock(self.path + LOCK_SUFFIX)
        except BlockingIOError:
            raise ConfigError(f"{self.path} is in use by another process") from None
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror}") from None
        try:
            return self._connect()
        except BaseException:
            self.close()
            raise

    def reader(self) -> sqlite3.Connection:
        """Another connection, which reads only."""
        connection = connect(self.path, self._cache_bytes // 2)
        connection.execute("PRAGMA query_only = ON")
        return connection

    def keeper(self) -> sqlite3.Connection:
        """Another connection, for checkpoints."""
        return connect(self.path, PAGE_BYTES)

    def close(self) -> None:
        """Let others have it. The connections are closed before."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _connect(self) -> sqlite3.Connection:
        old_mask = os.umask(0o077)  # the file is nobody else's to read
        try:
            connection = connect(self.path, self._cache_bytes, create=True)
        except sqlite3.Error as error:
            raise self.refusal(error) from None
        finally:
            os.umask(old_mask)
        try:
            prepare(connection, self.path)
            connection.close()  # SQLite refuses to copy the log on one that has just changed the schema
            connection = connect(self.path, self._cache_bytes)
            _settle_log(connection)
            if os.path.getsize(self.path) <= CHECK_BYTES_MAX:
                found = quick_check(connection)
                if found:
                    raise ConfigError(damaged(self.path, found))
        except sqlite3.Error as error:
            connection.close()
            raise self.refusal(error) from None
        except BaseException:
            connection.close()
            raise
        return connection

    def refusal(self, error: sqlite3.Error) -> ConfigError:
        """The one line about ``error`` at the start."""
        if is_full(error):
            return ConfigError(f"{self.path}: the disk is full")
        if is_busy(error):
            return ConfigError(f"{self.path} is in use by another program")
        if _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return ConfigError(damaged(self.path, str(error)))
        return ConfigError(f"{self.path}: {error}")


def _settle_log(connection: sqlite3.Connection) -> None:
    """Bring what the last process left in the log into the file, synced, before anybody sees it.

    A process that was killed leaves commits that only the page cache has, and after a sync that failed a second one may
    report success without having written them: so they are written once more, to another place.
    """
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        if not is_full(error):  # a node may start on a full disk: it then refuses what is new
            raise


def damaged(path: str, what: str) -> str:
    """The one line about a damaged file."""
    return f"{path} is damaged ({what}): see `relay store check` and `relay store repair`"


def quick_check(connection: sqlite3.Connection) -> str:
    """The first thing that is wrong with the structure of the file; '' when nothing is."""
    text: str = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    return "" if text == "ok" else " ".join(text.split())


def prepare(connection: sqlite3.Connection, path: str) -> None:
    """Make an empty file a store, or an older store one of this version. Raises ``ConfigError``, ``sqlite3.Error``."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables and not version:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        _script(connection, f"{SCHEMA} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};")
        tables = set(TABLES)
    elif application != APPLICATION_ID:
        raise ConfigError(f"{path} is not a relay store")
    elif version > VERSION:
        raise ConfigError(f"{path} is of version {version}, made by a later relay; this one knows up to {VERSION}")
    else:
        for each in range(version, VERSION):
            _script(connection, f"{MIGRATIONS[each]} PRAGMA user_version = {each + 1};")
            tables = set(TABLES)
    missing = [each for each in TABLES if each not in tables]
    if missing:
        raise ConfigError(damaged(path, f"without table {missing[0]}"))
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise ConfigError(f"{path}: this file system has no shared memory for SQLite's write-ahead log")


def _script(connection: sqlite3.Connection, sql: str) -> None:
    """All statements of ``sql`` or none of them."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for each in sql.split(";"):
            if each.strip():
                connection.execute(each)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
