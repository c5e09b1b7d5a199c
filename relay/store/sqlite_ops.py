"""What is submitted to the SQLite store: made in the loop, performed by the writer, completed in the loop again.

::

    loop: made ─▶ queue ─▶ writer: write (in a transaction) ─▶ COMMIT ─▶ loop: complete
                                   reset, and write again without what needs room, when the disk was full
                                   fail, when nothing of the transaction is stored
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from relay.errors import RelayError
from relay.records import Append, Put, Settle
from relay.store.budget import OVERHEAD_BYTES

if TYPE_CHECKING:
    from relay.store.sqlite_writer import SqliteWriter

Stored = TypeVar("Stored", bound=Append | Put)


class Op:
    """``size`` in bytes and ``messages`` are what it weighs while it waits. A refused one is only completed."""

    __slots__ = ("keyed", "messages", "refused", "size")

    def __init__(self, size: int, messages: int, *, keyed: bool = False) -> None:
        self.size = size
        self.messages = messages
        self.keyed = keyed  # it has idempotency keys
        self.refused = False

    def keys(self, writer: SqliteWriter) -> list[tuple[int, int, str]]:
        """Idempotency keys that have to be looked up."""
        return []

    def write(self, writer: SqliteWriter) -> None:
        """Do it, in a transaction."""
        raise NotImplementedError

    def reset(self) -> None:
        """As before ``write``."""

    def fail(self, error: RelayError) -> None:
        """It was not done, or nobody knows."""

    def complete(self) -> None:
        """Tell whoever submitted it."""


class _StoreOp(Op, Generic[Stored]):
    """New messages, of which each gets its number or an error."""

    __slots__ = ("batch", "done")

    def __init__(self, batch: Sequence[Stored], done: Callable[[Sequence[Stored]], None]) -> None:
        size = OVERHEAD_BYTES * len(batch)
        keyed = False
        for each in batch:
            size += len(each.frame)
            if each.key:
                keyed = True
        super().__init__(size, len(batch), keyed=keyed)
        self.batch = batch
        self.done = done

    def complete(self) -> None:
        """As ``Op``."""
        self.done(self.batch)


class AppendOp(_StoreOp[Append]):
    """``IHistory.append``."""

    __slots__ = ()

    def keys(self, writer: SqliteWriter) -> list[tuple[int, int, str]]:
        """As ``Op``."""
        return writer.channels.keys_of(self.batch)

    def write(self, writer: SqliteWriter) -> None:
        """As ``Op``."""
        writer.channels.append(self.batch)

    def reset(self) -> None:
        """As ``Op``."""
        for each in self.batch:
            each.offset, each.epoch, each.repeated, each.error = 0, "", False, None

    def fail(self, error: RelayError) -> None:
        """As ``Op``."""
        for each in self.batch:
            each.offset, each.epoch, each.repeated, each.error = 0, "", False, error


class PutOp(_StoreOp[Put]):
    """``IQueueStore.put``."""

    __slots__ = ()

    def keys(self, writer: SqliteWriter) -> list[tuple[int, int, str]]:
        """As ``Op``."""
        return writer.queues.keys_of(self.batch)

    def write(self, writer: SqliteWriter) -> None:
        """As ``Op``."""
        writer.queues.put(self.batch)

    def reset(self) -> None:
        """As ``Op``."""
        for each in self.batch:
            each.number, each.repeated, each.error = 0, False, None

    def fail(self, error: RelayError) -> None:
        """As ``Op``."""
        for each in self.batch:
            each.number, each.repeated, each.error = 0, False, error


class SettleOp(Op):
    """``IQueueStore.settle``."""

    __slots__ = ("batch", "done")

    def __init__(self, batch: Sequence[Settle], done: Callable[[Sequence[Settle]], None] | None) -> None:
        super().__init__(OVERHEAD_BYTES * len(batch), len(batch))
        self.batch = batch
        self.done = done

    def write(self, writer: SqliteWriter) -> None:
        """As ``Op``."""
        writer.queues.settle(self.batch)

    def reset(self) -> None:
        """As ``Op``."""
        for each in self.batch:
            each.error = None

    def fail(self, error: RelayError) -> None:
        """As ``Op``."""
        for each in self.batch:
            each.error = error

    def complete(self) -> None:
        """As ``Op``."""
        if self.done is not None:
            self.done(self.batch)


class CallOp(Op):
    """A purge, a pause …: ``function(writer)`` gives what ``done`` is called with, a value or an error."""

    __slots__ = ("done", "function", "result")

    def __init__(self, function: Callable[[SqliteWriter], object], done: Callable[..., None] | None) -> None:
        super().__init__(OVERHEAD_BYTES, 1)
        self.function = function
        self.done = done
        self.result: object = None

    def write(self, writer: SqliteWriter) -> None:
        """As ``Op``."""
        self.result = self.function(writer)

    def reset(self) -> None:
        """As ``Op``."""
        self.result = None

    def fail(self, error: RelayError) -> None:
        """As ``Op``."""
        self.result = error

    def complete(self) -> None:
        """As ``Op``."""
        if self.done is not None:
            self.done(self.result)
