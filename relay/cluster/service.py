"""The cluster's part of a node: identity, log, links and groups, joined and started in order.

::

    startService   identity read or made, log recovered, its directory's mark checked ─▶ links begin
         │ this node was founded before, or joins           │ a founding voter with an empty directory
         ▼                                                  ▼
      begin ◀──────────────────────────────── all other founding voters were met: founded
         │ groups prepared (written by the log), added, audited; threads and ticks start; ``on_started``
         ▼
      running ──stopService──▶ leaderships handed over ─▶ groups, links, threads end ─▶ log closed

What must not go on ends the process: ``on_fatal`` for what could lose acknowledged writes, ``on_refused`` with one
sentence for a start that the configuration, the directory or the other nodes do not allow.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from relay.cluster.group_options import GroupOptions, options_for
from relay.cluster.group_start import mark_log, prepare
from relay.cluster.groups import Groups
from relay.cluster.handshake import (
    NONCE_BYTES,
    REFUSED_CLUSTER,
    REFUSED_INCARNATION,
    REFUSED_NODE,
    VERSION,
    Hello,
    LinkRefused,
)
from relay.cluster.identity import Identity
from relay.cluster.membership import Membership
from relay.cluster.ports import Stores
from relay.cluster.transport import AcceptFactory, LinkOptions, TcpTransport
from relay.config_cluster import Cluster
from relay.errors import RelayError
from relay.interfaces import IStateMachine

log = Logger()

MEMBERS_LOOK_S: Final = 1.0
"""How often it is looked who is no member any more."""


@attrs.frozen
class Kept:
    """What a node keeps, opened, and how it runs: made where ``relay.store`` may be imported."""

    stores: Stores
    run_once: Callable[[], bool]  # one write of the log in this thread; False: nothing was queued
    start: Callable[[], object]  # the log's threads
    stop: Callable[[Callable[[], object]], object]  # write what is queued, end threads and files, then call


def group_options(config: Cluster) -> GroupOptions:
    """The groups' options of a configuration."""
    timing = options_for(config.profile)
    return attrs.evolve(
        timing,
        proposal_bytes_max=config.proposal_bytes_max,
        proposals_max=config.proposals_max,
        uncommitted_bytes_max=config.uncommitted_bytes_max,
        snapshot_log_bytes=config.snapshot_log_bytes,
        request_ticks=max(1, round(config.request_timeout_s / timing.tick_s)),
    )


def link_options(config: Cluster) -> LinkOptions:
    """The links' options of a configuration."""
    urgent, _, snapshots = LinkOptions().lane_bytes_max
    return LinkOptions(lane_bytes_max=(urgent, config.link_queue_bytes_max, snapshots), links_max=config.links_max)


class ClusterService(Service):
    """See the module. ``machines`` are the groups of this node, by number."""

    def __init__(
        self,
        config: Cluster,
        identity: Identity,
        kept: Kept,
        machines: Mapping[int, IStateMachine],
        reactor: Any,  # Any: IReactorTime and what endpoints need
        *,
        random_bytes: Callable[[int], bytes],
        on_fatal: Callable[[BaseException], object],
        on_refused: Callable[[str], object],
        on_started: Callable[[Groups], object] | None = None,
    ) -> None:
        self.config = config
        self.identity = identity
        self.groups: Groups | None = None
        self.founders = tuple(sorted(peer.node for peer in config.peers if peer.voter))
        self.kept = kept
        self._machines = machines
        self._reactor = reactor
        self._random_bytes = random_bytes
        self._random = random.Random(random_bytes(16))
        self._boot = int.from_bytes(random_bytes(8), "little")
        self._on_fatal = on_fatal
        self._on_refused = on_refused
        self._on_started = on_started
        self._met: set[int] = set()
        self._port: Any = None  # Any: IListeningPort
        self._looks: LoopingCall | None = None  # at who is a member
        self.transport = TcpTransport(
            reactor,
            str(config.secret).encode(),
            self._hello,
            self._check,
            self._shook_hands,
            self._refused,
            self._random.random,
            random_bytes,
            link_options(config),
        )

    # --- IService -----------------------------------------------------------------------------------------------------

    def startService(self) -> None:
        """See the module."""
        Service.startService(self)
        identity = self.identity
        try:
            self._write(mark_log(self.kept.stores, identity.node, identity.number, used=identity.used))
            identity.use()
            self._listen()
            for peer in self.config.peers:
                if peer.node != identity.node:
                    self.transport.add(peer.node, peer.address)
            self.transport.start()
            if identity.founders or identity.node not in self.founders or self.founders == (identity.node,):
                self._begin()
            else:
                log.info(
                    "a new voter: waiting for the other founding voters, {nodes}",
                    nodes=", ".join(str(node) for node in self.founders if node != identity.node),
                )
        except RelayError as error:
            self._refuse(str(error))

    def stopService(self) -> Deferred[None]:
        """See the module."""
        Service.stopService(self)
        stopped: Deferred[None] = Deferred()

        def end() -> None:
            if self._looks is not None and self._looks.running:
                self._looks.stop()
            if self.groups is not None:
                self.groups.stop()
            self.transport.stop()
            if self._port is not None:
                self._port.stopListening()
            self.kept.stop(lambda: stopped.callback(None))

        if self.groups is not None and self.groups.turn.failed is None:
            self.groups.retire(end)
        else:
            end()
        return stopped

    # --- beginning ----------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        endpoint = serverFromString(self._reactor, self.config.listen)
        listening = endpoint.listen(AcceptFactory(self.transport))

        def listens(port: Any) -> None:  # Any: IListeningPort
            self._port = port

        def failed(failure: Failure) -> None:
            failure.trap(CannotListenError)
            self._refuse(f"cluster.listen: {failure.getErrorMessage()}")

        listening.addCallbacks(listens, failed)
        listening.addErrback(lambda failure: log.failure("listening for other nodes", failure))

    def _write(self, writes: list[Any]) -> None:  # Any: writes of the log
        """Before the log's threads run: make ``writes`` durable in this one."""
        if writes:
            self.kept.stores.log.submit(writes)
            while self.kept.run_once():
                pass

    def _begin(self) -> None:
        """Everything is known: the groups start."""
        stores, identity = self.kept.stores, self.identity
        if not identity.founders:
            identity.found(self.founders)
        # Not the file's, which may name others by now: who joined later never founds anything, whatever it says.
        founders = identity.founders if identity.node in identity.founders else ()
        for number in self._machines:
            self._write(prepare(stores, number, founders))
        groups = Groups(
            identity.node,
            stores=stores,
            transport=self.transport,
            clock=self._reactor,
            at_turn_end=getattr(self._reactor, "callAtTurnEnd", None) or _later(self._reactor),
            random_below=self._random.randrange,
            options=group_options(self.config),
            on_fatal=self._on_fatal,
        )
        for number, machine in self._machines.items():
            groups.add(number, machine, voters=self.founders)
        self.groups = groups
        self._looks = LoopingCall(Membership(identity.node, groups.replicas, self.transport, identity.founders).look)
        self._looks.clock = self._reactor
        looking = self._looks.start(MEMBERS_LOOK_S)  # now, too: before anything is applied
        looking.addErrback(lambda failure: log.failure("looking for nodes that were removed", failure))
        self.kept.start()
        groups.start()
        self.transport.use(groups)
        log.info(
            "node {node} of cluster {name} takes part in {count} groups",
            node=identity.node, name=self.config.name, count=len(self._machines),
        )  # fmt: skip
        if self._on_started is not None:
            self._on_started(groups)

    def _refuse(self, why: str) -> None:
        log.critical("{why}", why=why)
        self._on_refused(why)

    # --- the transport's questions ------------------------------------------------------------------------------------

    def _hello(self, to: int) -> Hello:
        own = next(peer.address for peer in self.config.peers if peer.node == self.config.node)
        identity = self.identity
        return Hello(
            VERSION,
            identity.cluster,
            identity.node,
            identity.incarnation,
            self._boot,
            to,
            own,
            identity.founders,
            self._random_bytes(NONCE_BYTES),
        )

    def _check(self, hello: Hello) -> tuple[int, str] | None:
        identity = self.identity
        if hello.cluster != identity.cluster:
            return REFUSED_CLUSTER, f"node {hello.node} is of cluster {hello.cluster!r}, this is {identity.cluster!r}"
        if hello.to != identity.node or hello.node == identity.node:
            return REFUSED_NODE, f"node {hello.node} wants node {hello.to}, this is node {identity.node}"
        reason = identity.refusal(hello.node, hello.incarnation)
        return (REFUSED_INCARNATION, reason) if reason else None

    def _shook_hands(self, hello: Hello) -> None:
        self.identity.meet(hello.node, hello.incarnation)
        self._met.add(hello.node)
        if self.groups is None and hello.founders and hello.founders != self.founders:
            self._refuse(
                f"cluster.peers: the cluster was founded by the voters {_listed(hello.founders)}, the file says "
                f"{_listed(self.founders)}; a node that joins later has voter: false"
            )
            return
        if self.groups is None and self.running and self._met >= set(self.founders) - {self.identity.node}:
            try:
                self._begin()
            except RelayError as error:
                self._refuse(str(error))

    def _refused(self, node: int, error: LinkRefused) -> None:
        """Another node does not take this one."""
        if error.theirs and error.sure and error.refusal == REFUSED_INCARNATION:
            self._refuse(f"node {node} refuses this node: {error}")


def _listed(nodes: Iterable[int]) -> str:
    return ", ".join(map(str, nodes))


def _later(reactor: Any) -> Callable[[Callable[[], object]], object]:  # Any: IReactorTime
    """The end of a turn where the reactor has none."""

    def later(function: Callable[[], object]) -> object:
        return reactor.callLater(0, function)

    return later
