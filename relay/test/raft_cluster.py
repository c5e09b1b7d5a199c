"""A cluster in memory for tests of the core: every node writes at once, and messages wait until they are delivered."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from relay.cluster.raft.codec import decode_conf_change
from relay.cluster.raft.errors import PeerNotFound, ProposalDropped
from relay.cluster.raft.options import Options
from relay.cluster.raft.rawnode import RawNode, Ready
from relay.cluster.raft.storage import MemoryStorage
from relay.cluster.raft.types import (
    ENTRY_NORMAL,
    LEADER,
    NO_LIMIT,
    ConfState,
    Entry,
    HardState,
    Message,
    ReadState,
    Snapshot,
)

Filter = Callable[[Message], bool]


def entries(*terms: int, first: int = 1) -> tuple[Entry, ...]:
    """Entries of these terms at consecutive indexes."""
    return tuple(Entry(term=term, index=index) for index, term in enumerate(terms, first))


class Member:
    """One node, its storage, and what it has applied."""

    def __init__(self, node: int, storage: MemoryStorage, **options: object) -> None:
        defaults: dict[str, object] = {
            "random_below": lambda count: 0,
            "election_tick": 10,
            "message_size_max": NO_LIMIT,
        }
        self.storage = storage
        # Any of Options' fields, given by name.
        self.raw = RawNode(Options(id=node, storage=storage, **(defaults | options)))  # type: ignore[arg-type]
        self.applied: list[Entry] = []
        self.reads: list[ReadState] = []

    @property
    def data(self) -> list[bytes]:
        """The payloads applied, without the empty ones."""
        return [entry.data for entry in self.applied if entry.type == ENTRY_NORMAL and entry.data]

    def handle(self) -> list[Message]:
        """Handle everything that is ready; the messages to be sent."""
        sent: list[Message] = []
        while self.raw.has_ready():
            sent += self.handle_one().messages
        return sent

    def handle_one(self) -> Ready:
        """One round of the caller's loop."""
        ready = self.raw.ready()
        if ready.hard_state is not None:
            self.storage.set_hard_state(ready.hard_state)
        if ready.snapshot is not None:
            self.storage.apply_snapshot(ready.snapshot)
        self.storage.append(ready.entries)
        self.reads += ready.read_states
        for entry in ready.committed_entries:
            if entry.type != ENTRY_NORMAL:
                self.raw.apply_conf_change(decode_conf_change(entry))
            self.applied.append(entry)
        self.raw.advance()
        return ready

    def log(self) -> list[tuple[int, int]]:
        """(term, index) of everything in the storage."""
        storage = self.storage
        if storage.last_index() < storage.first_index():
            return []
        stored = storage.entries(storage.first_index(), storage.last_index() + 1, NO_LIMIT)
        return [(entry.term, entry.index) for entry in stored]


def stored(
    log: Iterable[Entry] = (),
    *,
    term: int = 0,
    vote: int = 0,
    commit: int = 0,
    snapshot: Snapshot | None = None,
    voters: Iterable[int] = (1, 2, 3),
    learners: Iterable[int] = (),
) -> MemoryStorage:
    """A storage with that content."""
    storage = MemoryStorage(ConfState(tuple(voters), tuple(learners)))
    if snapshot is not None:
        storage.apply_snapshot(snapshot)
    storage.append(tuple(log))
    storage.set_hard_state(HardState(term, vote, commit))
    return storage


class Cluster:
    """Members by id, and the messages between them in order of sending."""

    def __init__(self, size: int = 3, *, storages: dict[int, MemoryStorage] | None = None, **options: object) -> None:
        ids = range(1, size + 1)
        self.members = {node: Member(node, (storages or {}).get(node) or stored(voters=ids), **options) for node in ids}
        self.network: list[Message] = []

    def __getitem__(self, node: int) -> Member:
        return self.members[node]

    def collect(self) -> None:
        """Every member handles what is ready."""
        for member in self.members.values():
            self.network += member.handle()

    def deliver(self, wanted: Filter = lambda message: True) -> int:
        """Deliver the waiting messages that are ``wanted``, drop the others; how many were delivered."""
        waiting, self.network = self.network, []
        chosen = [message for message in waiting if wanted(message) and message.to in self.members]
        for message in chosen:
            try:
                self.members[message.to].raw.step(message)
            except (PeerNotFound, ProposalDropped):
                # The sender finds out as it would over a network: by not being answered.
                continue
        return len(chosen)

    def settle(self, wanted: Filter = lambda message: True) -> None:
        """Until nothing happens any more."""
        self.collect()
        while self.network:
            self.deliver(wanted)
            self.collect()

    def elect(self, node: int, wanted: Filter = lambda message: True) -> Member:
        """Make ``node`` the leader."""
        self.members[node].raw.campaign()
        self.settle(wanted)
        assert self.members[node].raw.raft.role == LEADER
        return self.members[node]

    def tick(self, count: int = 1) -> None:
        """Everybody's clock moves on, and nothing else."""
        for _ in range(count):
            for member in self.members.values():
                member.raw.tick()

    def leaders(self) -> list[int]:
        """Who believes to lead."""
        return [node for node, member in self.members.items() if member.raw.raft.role == LEADER]


def without(*nodes: int) -> Filter:
    """Everything that neither comes from nor goes to one of ``nodes``."""
    return lambda message: message.from_ not in nodes and message.to not in nodes
