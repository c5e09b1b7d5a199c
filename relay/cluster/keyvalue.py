"""The key-value state as code in this node uses it, on any member of the group: writes, linearizable reads, watches.

    execute(operation) ─▶ IRaftGroup.propose ─▶ the leader's log ─▶ KeyValueMachine on every node ─▶ the result here
    barrier()          ─▶ IRaftGroup.read_index ─▶ a look at ``state`` is linearizable
    watch(prefix, revision) ─▶ the history of this node's state, then what comes

A write ends in one of three ways: a ``Result``; a ``RelayError`` whose outcome is ``not_done``; or one whose outcome is
``unknown``. Before it says unknown it proposes the command again, under the same number of this node's session, until
``write_timeout_s`` is over: the state does it once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from zope.interface import classImplements

from relay import errors
from relay.cluster.kv.commands import Command, Event, Open, Operation, Pair, Result, encode
from relay.cluster.kv.history import WHOLE_BYTES
from relay.cluster.kv.machine import KeyValueMachine
from relay.cluster.kv.state import State
from relay.interfaces import IRaftGroup, IStateMachine

classImplements(KeyValueMachine, IStateMachine)  # said here: the machine is below the interfaces

RETRY_S: Final = 0.02
RETRY_S_MAX: Final = 0.32
"""Between two attempts of a write that found no leader, doubled each time: from a tenth of the shortest election on."""

_ERRORS: Final[dict[str, type[errors.RelayError]]] = {
    "invalid": errors.BadBody,
    "limit": errors.LimitExceeded,
    "full": errors.Full,
    "no_lease": errors.NotFound,
    "no_session": errors.NotFound,
    "not_found": errors.NotFound,
    "forgotten": errors.Gone,
}

_NOT_REMEMBERED: Final = ("no_session", "full")

Listener = Callable[[list[Event] | None], None]
"""Called with events of keys below its prefix; None: the state was replaced, look at all of it."""


def check(result: Result, repeated: bool = False) -> Result:
    """``result``. Raises the ``RelayError`` for its error: nothing was done, or it is not known: ``forgotten``, or
    ``repeated`` (an earlier proposal ended as unknown) and an error that the state does not remember, as the earlier
    one may have been done, or be done yet."""
    if result.error:
        unknown = result.error == "forgotten" or (repeated and result.error in _NOT_REMEMBERED)
        raise _ERRORS[result.error](result.text, outcome="unknown" if unknown else "not_done")
    return result


class KeyValue:
    """One per group and node. ``writes_max``: writes under way; ``watches_max``: listeners and watches."""

    def __init__(
        self,
        machine: KeyValueMachine,
        group: IRaftGroup,
        clock: IReactorTime,
        *,
        write_timeout_s: float = 10.0,
        writes_max: int = 512,
        watches_max: int = 1000,
    ) -> None:
        self.group = group
        self.clock = clock
        self._machine = machine
        self._write_timeout_s = write_timeout_s
        self._writes_max = writes_max
        self._watches_max = watches_max
        self._session: _Session | None = None
        self._opening = False
        self._opened: dict[Deferred[None], None] = {}  # who waits for the session that is being opened
        self._writes = 0
        self._listeners: dict[Listener, str] = {}
        machine.changed = self._changed

    @property
    def state(self) -> State:
        """What this node has applied; to be looked at, not to be changed or kept over a wait."""
        return self._machine.state

    def range(self, prefix: str, start: str, end: str | None, pairs_max: int, bytes_max: int) -> tuple[list[Pair], str]:
        """As ``KeyValueMachine.range``."""
        return self._machine.range(prefix, start, end, pairs_max, bytes_max)

    # --- writing --------------------------------------------------------------------------------------------------

    async def execute(self, operation: Operation) -> Result:
        """Have it done once, under a number of this node's session; the result has no error. Raises ``RelayError``."""
        until_s = self.clock.seconds() + self._write_timeout_s
        while True:
            session = self._session or await self._open_session(until_s)
            if session.kept >= self.state.limits.session_results_max:
                # A write that waits long keeps the results of all behind it, and the state would refuse more. The
                # session ends with the writes that are under way.
                if self._session is session:
                    self._session = None
                continue
            seq = session.next_seq()
            try:
                result, repeated = await self._command(operation, session.id, seq, session.acknowledged, until_s)
            finally:
                session.answered(seq)
            if result.error != "no_session":
                return check(result, repeated)
            # The state has let this node's session go. The command was not done by this proposal, but perhaps by one
            # before it.
            if self._session is session:
                self._session = None
            if repeated:
                raise errors.Unavailable("the session of this node has ended meanwhile", outcome="unknown")

    async def execute_for(self, operation: Operation, client: int, seq: int, ack: int) -> Result:
        """Have it done once under a number that a client gave in its own session, as ``execute``."""
        until_s = self.clock.seconds() + self._write_timeout_s
        result, repeated = await self._command(operation, client, seq, lambda: ack, until_s)
        return check(result, repeated)

    async def _command(
        self, operation: Operation, client: int, seq: int, ack: Callable[[], int], until_s: float
    ) -> tuple[Result, bool]:
        """Have a command done; its result, and whether it was proposed before with an unknown end.

        ``client`` 0: without a number, then what ends as unknown is not tried again.
        """
        if self._writes >= self._writes_max:
            raise errors.Full(f"{self._writes_max} writes are under way")
        self._writes += 1
        unknown = False
        retry_s = RETRY_S
        try:
            while True:
                try:
                    return await self._propose(encode(Command(operation, client, seq, ack()))), unknown
                except errors.RelayError as error:
                    unknown = unknown or error.outcome == "unknown"
                    # A session too many does no harm: the state lets the idle ones go.
                    may_repeat = error.temporary and (client or not unknown or isinstance(operation, Open))
                    if not may_repeat or self.clock.seconds() + retry_s >= until_s:
                        if unknown and error.outcome != "unknown":
                            raise errors.Unavailable(str(error), outcome="unknown") from None
                        raise
                await deferLater(self.clock, retry_s)
                retry_s = min(retry_s * 2, RETRY_S_MAX)
        finally:
            self._writes -= 1

    async def _open_session(self, until_s: float) -> _Session:
        while self._session is None:
            if self._opening:
                if len(self._opened) + 1 >= self._writes_max:
                    raise errors.Full(f"{self._writes_max} writes wait for the session of this node")
                # Whoever opens it began earlier, with the same patience: this wait ends in time.
                opened: Deferred[None] = Deferred(self._forget)
                self._opened[opened] = None
                await opened
                if self._session is None and self.clock.seconds() >= until_s:
                    raise errors.Unavailable("this node could not open its session in time")
                continue
            self._opening = True
            try:
                result, _ = await self._command(Open(own=True), 0, 0, lambda: 0, until_s)
                self._session = _Session(check(result).ids[0])
            finally:
                self._opening = False
                waiting, self._opened = self._opened, {}
                for each in waiting:
                    if not each.called:
                        each.callback(None)
        return self._session

    def _forget(self, opened: Deferred[None]) -> None:
        """Who waited for the session was cancelled."""
        self._opened.pop(opened, None)

    def _propose(self, data: bytes) -> Deferred[Result]:
        waiting: Deferred[Result] = Deferred()

        def done(result: Result, error: errors.RelayError | None) -> None:
            if waiting.called:
                return  # cancelled: nobody waits any more
            if error is None:
                waiting.callback(result)
            else:
                waiting.errback(error)

        self.group.propose(data, done)
        return waiting

    def propose_unnumbered(
        self, operation: Operation, done: Callable[[Result, errors.RelayError | None], None]
    ) -> None:
        """Propose once and be told; for what may be done twice."""
        self.group.propose(encode(Command(operation)), done)

    # --- reading --------------------------------------------------------------------------------------------------

    def barrier(self) -> Deferred[None]:
        """Fires when this node shows all that was acknowledged before this call; a look at ``state`` is linearizable
        then, and only before the next wait. Fails with ``RelayError``."""
        waiting: Deferred[None] = Deferred()

        def done(_: None, error: errors.RelayError | None) -> None:
            if waiting.called:
                return
            if error is None:
                waiting.callback(None)
            else:
                waiting.errback(error)

        self.group.read_index(done)
        return waiting

    # --- watching -------------------------------------------------------------------------------------------------

    def listen(self, prefix: str, listener: Listener) -> Callable[[], None]:
        """Have ``listener`` told of changes of keys that begin with ``prefix``; the result ends it. It is called while
        entries are applied: it may look and note, not wait. Raises ``LimitExceeded``."""
        if len(self._listeners) >= self._watches_max:
            raise errors.LimitExceeded(f"{self._watches_max} watches of this node are the limit", temporary=True)
        self._listeners[listener] = prefix

        def end() -> None:
            self._listeners.pop(listener, None)

        return end

    def watch(self, prefix: str, revision: int) -> Watch:
        """Changes of keys that begin with ``prefix`` from ``revision`` on (0: from now on). Raises as ``listen``."""
        return Watch(self, prefix, revision or self.state.keys.revision + 1)

    def _changed(self, events: list[Event] | None) -> None:
        for listener, prefix in list(self._listeners.items()):
            if events is None:
                listener(None)
                continue
            found = [event for event in events if event.pair.key.startswith(prefix)]
            if found:
                listener(found)


class _Session:
    """This node's session in the state, and its numbers."""

    def __init__(self, id_: int) -> None:
        self.id = id_
        self._seq = 0
        self._unanswered: dict[int, None] = {}  # in order

    @property
    def kept(self) -> int:
        """How many results the state may have to keep when the next command comes: those it has not heard of as
        acknowledged."""
        return self._seq - self.acknowledged()

    def next_seq(self) -> int:
        """The next command's number."""
        self._seq += 1
        self._unanswered[self._seq] = None
        return self._seq

    def answered(self, seq: int) -> None:
        """Nobody waits for that command's result any more."""
        del self._unanswered[seq]

    def acknowledged(self) -> int:
        """All numbers up to this one are answered."""
        return next(iter(self._unanswered), self._seq + 1) - 1


class Watch:
    """A place in the history. What is not read yet stands there, not in a queue: a slow reader costs no memory, and
    hears ``Gone`` when the history has gone on without it."""

    def __init__(self, keys: KeyValue, prefix: str, revision: int) -> None:
        self.revision = revision
        """To go on from: the first that was not read to its end."""
        self._skip = 0  # so many of its events were read
        self._keys = keys
        self._prefix = prefix
        self._waiting: Deferred[None] | None = None
        self._end = keys.listen(prefix, self._wake)

    async def read(self, events_max: int, bytes_max: int = WHOLE_BYTES) -> list[Event]:
        """The next events within both limits, but at least one; those of one revision may come in several pieces.
        Raises ``Gone``."""
        while True:
            history = self._keys.state.keys.history
            found, self.revision, self._skip = history.since(
                self.revision, self._prefix, events_max, bytes_max, self._skip
            )
            if found:
                return found
            self._waiting = Deferred()
            await self._waiting

    def close(self) -> None:
        """Watch no more."""
        self._end()

    def _wake(self, events: list[Event] | None) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)
