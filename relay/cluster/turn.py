"""The end of a turn: what groups did is joined into one submission to the log and few frames for each node.

::

    mark ─▶ flush: replica.work of all that are marked ─▶ LogQueue.flush ─▶ Outbounds.flush ─▶ outcomes
                   ▲                                                                                        │
                   └────────────── as long as something was marked meanwhile ◀──────────────────────────────┘

:class:`Turn` is what a replica and its snapshots know of their node (``replica.Host``,
``group_snapshots.SnapshotHost``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.logger import Logger

from relay.cluster.counters import Counters
from relay.cluster.group_options import GroupOptions
from relay.cluster.log_queue import LogQueue
from relay.cluster.outbound import Outbounds
from relay.cluster.ports import Stores
from relay.cluster.raft.types import Message
from relay.cluster.replica import Replica
from relay.cluster.requests import Outcome
from relay.errors import InternalError
from relay.interfaces import IRaftTransport

log = Logger()

ROUNDS_MAX: Final = 10_000
"""Rounds of work in one turn; more means that two groups wake each other for ever, a mistake of ours."""


class Turn:
    """See the module. After ``fail``, and once ``closed``, nothing is done any more."""

    def __init__(
        self,
        node: int,
        stores: Stores,
        transport: IRaftTransport,
        options: GroupOptions,
        at_turn_end: Callable[[Callable[[], object]], object],
        random_below: Callable[[int], int],
        on_fatal: Callable[[BaseException], object],
    ) -> None:
        self.node = node
        self.boot = random_below(1 << 63)  # another number in each life of the process
        self.ticks = 0
        self.options = options
        self.stores = stores
        self.outcomes: list[Outcome] = []
        self.stopped = False
        self.blocked = False
        self.sending = 0
        self.receiving = 0
        self.counters = Counters()
        self.out = Outbounds(transport, options.frame_bytes_max)
        self.replicas: dict[int, Replica] = {}
        self.active: dict[int, Replica] = {}  # those that are not quiet
        self.queue = LogQueue(stores.log, self._appended)
        self.failed: BaseException | None = None
        self.closed = False  # failed, or the node has stopped: the log takes nothing more
        self._at_turn_end = at_turn_end
        self._random_below = random_below
        self._on_fatal = on_fatal
        self._marked: dict[Replica, None] = {}
        self._flushing = False
        self._scheduled = False

    # --- replica.Host -----------------------------------------------------------------------------------------------

    def mark(self, replica: Replica) -> None:
        """Have ``work`` called at the end of the turn."""
        self._marked[replica] = None
        if not self._scheduled and not self._flushing:
            self._scheduled = True
            self._at_turn_end(self.flush)

    def wake(self, replica: Replica) -> None:
        """Have ``tick`` called from now on."""
        self.active[replica.number] = replica

    def rest(self, replica: Replica) -> None:
        """No ticks any more."""
        self.active.pop(replica.number, None)

    def write(self, replica: Replica, write: Any, message: Message, *, must_sync: bool) -> None:  # Any: a log's write
        """To the log, with this turn's others."""
        self.queue.add(replica, write, message, must_sync=must_sync)

    def random_below(self, bound: int) -> int:
        """Uniform in [0, bound)."""
        return self._random_below(bound)

    # --- group_snapshots.SnapshotHost -------------------------------------------------------------------------------

    def note(self, form: str, **values: object) -> None:
        """A line for the operator."""
        log.warn(form, **values)

    # --- the turn ---------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """All work that is marked, and what comes of it."""
        self._scheduled = False
        if self._flushing or self.failed is not None:
            return
        if self.closed:
            self.tell()  # that nothing is taken any more
            return
        self._flushing = True
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - a core, a machine or a log that contradicts itself must not go on
            self.fail(error)
        finally:
            self._flushing = False

    def _work(self) -> None:
        for _ in range(ROUNDS_MAX):
            marked, self._marked = self._marked, {}
            for replica in marked:
                replica.work()
            self.blocked = not self.queue.flush()
            for node, group in self.out.flush():
                replica = self.replicas[group]
                replica.raw.report_unreachable(node)
                self._marked[replica] = None
            if self.outcomes:
                self.tell()
            if not self._marked:
                return
        raise InternalError("the groups of this node do not come to rest")

    def _appended(self, replica: Replica, message: Message) -> None:
        if self.closed:
            return
        try:
            replica.appended(message)
        except Exception as error:  # noqa: BLE001 - as in ``flush``
            self.fail(error)

    def tell(self) -> None:
        """Outcomes to whoever waits for them; a mistake of theirs is theirs."""
        told = self.outcomes[:]
        self.outcomes.clear()
        for done, result, error in told:
            try:
                done(result, error)
            except Exception:  # noqa: BLE001 - logged; the others are to be told, too
                log.failure("whoever waited for a proposal or a read met an error")

    def fail(self, error: BaseException) -> None:
        """Going on could lose what was acknowledged: the process is to end."""
        if self.failed is None:
            self.failed = error
            self.stopped = self.closed = True
            log.critical("this node's groups cannot go on: {error}", error=repr(error))
            self._on_fatal(error)
