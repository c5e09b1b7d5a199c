"""Many Raft groups on one node: one clock, one log, one set of links.

::

    transport ──received──▶ Groups ──▶ Replica ─┐                        ┌─▶ LogQueue ──▶ log.submit
    clock ──────tick──────▶        ──▶ Replica ─┼─ marked ──▶ flush ─────┼─▶ Outbound, one a node ──▶ transport.send
    users ──────propose───▶ Group  ──▶ Replica ─┘   once a turn          └─▶ outcomes

Nothing here has I/O, a clock, threads or random of its own: log, snapshots, background work, transport, clock, turns
and random are given, so that a simulator drives this very code.

**Time.** ``start`` begins ticking: one timed call for all groups. Only groups that are not quiet are ticked.

**Liveness of nodes.** Each tick every linked node is sent something, if only the empty beats. A node that was not heard
for an election time-out is silent: its groups wake, and those that it led look for another leader at once. A transport
that finds nobody listening (``unreachable``: the process is gone) does the same without the time-out.

**A leader that is gone.** Followers forget it and campaign, with pre-vote, after ``campaign_ms_min`` to
``campaign_ms_max``, drawn by each node; a node that has not noticed yet refuses, so the campaign is tried again a few
times. Once in an election time-out for each node that is lost, however often its link breaks.

**Spread.** A node that leads more groups than its share of the live voters hands one over, at most one a look
(``spread_ticks``). **Retire** hands over all of them.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from relay.cluster.campaigns import Campaigns
from relay.cluster.group import Group
from relay.cluster.group_options import GroupOptions
from relay.cluster.group_snapshots import GroupSnapshots
from relay.cluster.group_start import audit, begin
from relay.cluster.inbound import Inbound
from relay.cluster.ports import Stores
from relay.cluster.replica import Replica
from relay.cluster.spread import Spread
from relay.cluster.turn import Turn
from relay.errors import Conflict, RemoteProtocolError, Unavailable
from relay.interfaces import IRaftReceiver, IRaftTransport, IStateMachine


@implementer(IRaftReceiver)
class Groups:
    """See the module. First ``add`` all groups, then ``start``. ``on_fatal`` is called when going on could lose data:
    it ends the process, or (in a simulator) this node."""

    def __init__(
        self,
        node: int,
        *,
        stores: Stores,
        transport: IRaftTransport,
        clock: IReactorTime,
        at_turn_end: Callable[[Callable[[], object]], object],
        random_below: Callable[[int], int],
        options: GroupOptions | None = None,
        on_fatal: Callable[[BaseException], object],
    ) -> None:
        self.node = node
        self.options = options or GroupOptions()
        self.turn = Turn(node, stores, transport, self.options, at_turn_end, random_below, on_fatal)
        self.replicas = self.turn.replicas
        self.groups: dict[int, Group] = {}
        self.snapshots: dict[int, GroupSnapshots] = {}
        self.campaigns = Campaigns(self.turn, clock)
        self.spread = Spread(self.turn, self.replicas, self.groups)
        self.inbound = Inbound(self.turn, self.replicas, self.snapshots)
        self._clock = clock
        self._timer: IDelayedCall | None = None

    # --- life -----------------------------------------------------------------------------------------------------

    def add(self, number: int, machine: IStateMachine, *, voters: tuple[int, ...] = ()) -> Group:
        """Begin a group whose :func:`relay.cluster.group_start.prepare` is durable; ``voters`` are what the
        configuration file says, for the audit. Blocks while it reads a snapshot. Raises Conflict, ConfigError."""
        if number in self.groups:
            raise Conflict(f"group {number} is here")
        turn = self.turn
        start = begin(turn.stores, number, machine)
        audit(number, turn.stores.log.group(number), start.conf_state, start.applied, file=voters)
        replica = Replica(number, turn, machine, start.storage, start.applied)
        self.replicas[number] = replica
        self.snapshots[number] = GroupSnapshots(replica, turn, start.storage, start.available)
        group = self.groups[number] = Group(replica, self.snapshots[number])
        turn.wake(replica)
        turn.mark(replica)
        return group

    def start(self) -> None:
        """Begin ticking."""
        self._timer = self._clock.callLater(self.options.tick_s, self._tick)

    def say(self, data: bytes) -> None:
        """Tell all linked nodes something that is of no group and may be lost; there ``inbound.said`` gets it."""
        self.turn.out.say(data)

    def retire(self, done: Callable[[], object]) -> None:
        """Take no more proposals, and hand over all leaderships; ``done`` when that is so or time is up."""
        self.turn.stopped = True
        self.spread.retire(done)

    def stop(self) -> None:
        """No more ticks; whoever waits is told that the node stops."""
        turn = self.turn
        turn.stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self.campaigns.stop()
        for replica in self.replicas.values():
            replica.proposals.end("the node is stopping")
            replica.reads.end(Unavailable("the node is stopping"))
            replica.changes.end("the node is stopping")
        turn.tell()
        # What becomes durable from here on has nobody to answer to, and what would follow it finds the log closed.
        turn.closed = True

    def _tick(self) -> None:
        """The clock's only call. A late one counts once: time that this node missed must not start elections."""
        turn = self.turn
        if turn.failed is not None:
            return
        self._timer = self._clock.callLater(self.options.tick_s, self._tick)
        turn.ticks += 1
        try:
            for replica in list(turn.active.values()):
                replica.tick()
            if turn.sending or turn.receiving:
                for snapshots in self.snapshots.values():
                    snapshots.tick()
            if turn.queue.blocked:
                turn.blocked = not turn.queue.flush()
            if turn.ticks % self.options.election_ticks == 0 and turn.stores.log.no_room is not None:
                self._make_room()
                if turn.blocked:
                    self.spread.relieve()
            for node in turn.out.live(turn.ticks, self.options.election_ticks):
                self._lost(node)
            self.spread.tick()
        except Exception as error:  # noqa: BLE001 - a core that contradicts itself must not go on
            turn.fail(error)

    def _make_room(self) -> None:
        """The disk is full: compact what holds the oldest segment."""
        for number in self.turn.stores.log.holding_oldest():
            if number in self.snapshots:
                self.snapshots[number].taking.take()

    # --- IRaftReceiver ----------------------------------------------------------------------------------------------

    def received(self, node: int, frame: bytes) -> None:
        """A frame from ``node``. Raises RemoteProtocolError for one that means nothing."""
        turn = self.turn
        if turn.closed:
            return
        outbound = turn.out.nodes.get(node) or turn.out.known(node)
        outbound.heard = turn.ticks
        if outbound.silent:
            outbound.silent = False
            self._wake(node)
        try:
            self.inbound.receive(node, frame)
        except RemoteProtocolError:
            raise
        except Exception as error:  # noqa: BLE001 - as in _tick
            turn.fail(error)

    def linked(self, node: int) -> None:
        """Frames to ``node`` are taken from now on."""
        outbound = self.turn.out.known(node)
        outbound.linked = True
        outbound.silent = False
        outbound.heard = self.turn.ticks
        self._wake(node)

    def unlinked(self, node: int) -> None:
        """The link to ``node`` is gone."""
        turn = self.turn
        turn.out.known(node).linked = False
        for number, replica in self.replicas.items():
            replica.proposals.lost(node)
            self.snapshots[number].unlinked(node)
            if node in replica.raw.raft.progress:
                replica.raw.report_unreachable(node)
            turn.mark(replica)
        self._wake(node)

    def unreachable(self, node: int) -> None:
        """Nobody listens there: the process is gone."""
        self._lost(node)

    def _lost(self, node: int) -> None:
        """``node`` is gone, or silent: groups that it led need another leader."""
        self._wake(node)
        self.campaigns.leader_lost(node, self.replicas.values())

    def _wake(self, node: int) -> None:
        """Tick the groups that have ``node`` as a member."""
        for replica in self.replicas.values():
            if replica.quiet and node in replica.raw.raft.progress:
                replica.wake()
