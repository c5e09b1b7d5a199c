"""Nodes on a bench: what the commands of the interaction scenarios drive by hand.

There is no clock and no network. ``process_ready`` takes a node's Ready and puts its messages into one pile,
``deliver`` hands over those for one node in the order of the pile, ``stabilize`` does both for all nodes, and the work
of the storage threads, until nothing is left. Everything that happens is written into the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from relay.cluster.raft.codec import decode_conf_change
from relay.cluster.raft.describe import describe_message, describe_ready
from relay.cluster.raft.errors import RaftError
from relay.cluster.raft.logger import LEVEL_NAMES, SILENT
from relay.cluster.raft.options import Options
from relay.cluster.raft.rawnode import RawNode
from relay.cluster.raft.storage import MemoryStorage
from relay.cluster.raft.types import (
    ENTRY_NORMAL,
    LOCAL_TARGETS,
    MSG_STORAGE_APPEND,
    Entry,
    HardState,
    Message,
    Snapshot,
)
from relay.test.raft_datadriven import Argument, ScenarioError


class Output:
    """The output of one directive, which is also where the nodes' log lines go. At level NONE nothing is written."""

    def __init__(self) -> None:
        self.level = 0
        self._parts: list[str] = []

    def write(self, level: int, line: str) -> None:
        """A line of a node's log."""
        if self.level <= level:
            self.print(f"{LEVEL_NAMES[level]} {line}\n")

    def print(self, text: str) -> None:
        """A piece of a command's output."""
        if self.level != SILENT:
            self._parts.append(text)

    @contextmanager
    def indented(self) -> Iterator[None]:
        """What is written inside is indented by two spaces."""
        outer, self._parts = self._parts, []
        try:
            yield
        finally:
            inner = "".join(self._parts)
            self._parts = outer
            lines = inner.split("\n")
            if not lines[-1]:
                lines.pop()
            outer.extend(f"  {line}\n" for line in lines)

    def take(self) -> str:
        """Everything written since the last time."""
        text = "".join(self._parts)
        self._parts = []
        return text


class BenchStorage(MemoryStorage):
    """The storage of a node on the bench: its snapshot is always of the last applied entry."""

    __slots__ = ("history",)

    def __init__(self, first: Snapshot) -> None:
        super().__init__()
        # The state after each applied entry; the state machine appends what it is given.
        self.history = [first]

    def snapshot(self) -> Snapshot:
        """The state after the last applied entry."""
        return self.history[-1]


class BenchNode:
    """A node with its storage and what its storage threads have to do."""

    def __init__(self, options: Options, storage: BenchStorage) -> None:
        self.options = options
        self.storage = storage
        self.raw = RawNode(options)
        self.append_work: list[Message] = []
        self.apply_work: list[Message] = []

    def write(self, hard_state: HardState | None, entries: tuple[Entry, ...], snapshot: Snapshot | None) -> None:
        """What the append thread does."""
        if hard_state is not None and hard_state != HardState():
            self.storage.set_hard_state(hard_state)
        if snapshot is not None and snapshot.index:
            if entries:
                raise RaftError("can't apply snapshot and entries at the same time")
            self.storage.apply_snapshot(snapshot)
        else:
            self.storage.append(entries)

    def apply(self, entries: tuple[Entry, ...]) -> None:
        """What the apply thread does."""
        for entry in entries:
            last = self.storage.history[-1]
            state, update = last.conf_state, entry.data
            if entry.type != ENTRY_NORMAL:
                change = decode_conf_change(entry)
                state, update = self.raw.apply_conf_change(change), change.context
            self.storage.history.append(Snapshot(last.data + update, entry.index, entry.term, state))


class Bench:
    """The nodes, and the pile of messages between them."""

    def __init__(self) -> None:
        self.output = Output()
        self.nodes: list[BenchNode] = []
        self.pile: list[Message] = []

    def by_id(self, node: int) -> BenchNode:
        """The node with that id; :class:`ScenarioError` if there is none."""
        if not 1 <= node <= len(self.nodes):
            raise ScenarioError(f"no node {node}")
        return self.nodes[node - 1]

    def each(self, arguments: list[Argument], header: str, work: Callable[[BenchNode], None]) -> None:
        """Do ``work`` with each node named; with several, under a header each."""
        nodes = [self.by_id(node) for node in node_ids(arguments)]
        for node in nodes:
            if len(nodes) == 1:
                work(node)
            else:
                self._under(header, node, work)

    def _under(self, header: str, node: BenchNode, work: Callable[[BenchNode], None]) -> None:
        self.output.print(f"> {node.options.id} {header}\n")
        with self.output.indented():
            work(node)

    def process_ready(self, node: BenchNode) -> None:
        """Take a Ready and do what it says; messages go on the pile."""
        ready = node.raw.ready()
        self.output.print(describe_ready(ready))
        if not node.options.async_storage_writes:
            node.write(ready.hard_state, ready.entries, ready.snapshot)
            node.apply(ready.committed_entries)
        for message in ready.messages:
            if message.to not in LOCAL_TARGETS:
                self.pile.append(message)
            elif message.type == MSG_STORAGE_APPEND:
                node.append_work.append(message)
            else:
                node.apply_work.append(message)
        if not node.options.async_storage_writes:
            node.raw.advance()

    def process_append_thread(self, node: BenchNode) -> None:
        """One write of the append thread."""
        if not node.append_work:
            self.output.print("no append work to perform")
            return
        m = node.append_work.pop(0)
        self._work(m, lambda: node.write(HardState(m.term, m.vote, m.commit), m.entries, m.snapshot))

    def process_apply_thread(self, node: BenchNode) -> None:
        """One batch of the apply thread."""
        if not node.apply_work:
            self.output.print("no apply work to perform")
            return
        m = node.apply_work.pop(0)
        self._work(m, lambda: node.apply(m.entries))

    def _work(self, m: Message, work: Callable[[], None]) -> None:
        bare = Message(
            m.type, m.to, m.from_, m.term, entries=m.entries, commit=m.commit, vote=m.vote, snapshot=m.snapshot
        )
        self.output.print(f"Processing:\n{describe_message(bare)}\n")
        work()
        self.output.print("Responses:\n")
        for response in m.responses:
            self.output.print(describe_message(response) + "\n")
        self.pile.extend(m.responses)

    def deliver(self, node: int, kind: int | None = None, *, drop: bool = False) -> int:
        """Hand over, or drop, what lies on the pile for ``node``; how many messages that were."""
        chosen: list[Message] = []
        rest: list[Message] = []
        for message in self.pile:
            wanted = message.to == node and (kind is None or message.type == kind)
            (chosen if wanted and not (drop and _is_local(message)) else rest).append(message)
        self.pile = rest
        for message in chosen:
            self.output.print(("dropped: " if drop else "") + describe_message(message) + "\n")
            if drop:
                continue
            try:
                self.by_id(node).raw.step(message)
            except RaftError as error:
                self.output.print(f"{error}\n")
        return len(chosen)

    def stabilize(self, nodes: list[BenchNode]) -> None:
        """Pump until nothing is left to do."""
        busy = True
        while busy:
            busy = False
            for node in nodes:
                if node.raw.has_ready():
                    busy = True
                    self._under("handling Ready", node, self.process_ready)
            for node in nodes:
                if any(message.to == node.options.id for message in self.pile):
                    busy = True
                    self._under("receiving messages", node, self._receive)
            for node in nodes:
                if node.append_work:
                    busy = True
                    self._under("processing append thread", node, self._all_appends)
            for node in nodes:
                if node.apply_work:
                    busy = True
                    self._under("processing apply thread", node, self._all_applies)

    def _receive(self, node: BenchNode) -> None:
        self.deliver(node.options.id)

    def _all_appends(self, node: BenchNode) -> None:
        while node.append_work:
            self.process_append_thread(node)

    def _all_applies(self, node: BenchNode) -> None:
        while node.apply_work:
            self.process_apply_thread(node)


def node_ids(arguments: list[Argument]) -> list[int]:
    """The arguments without values, as ids."""
    return [int(argument.key) for argument in arguments if not argument.values]


def _is_local(message: Message) -> bool:
    """Whether the message never crosses the network, and so cannot be lost."""
    return message.from_ == message.to or message.from_ in LOCAL_TARGETS or message.to in LOCAL_TARGETS
