"""The door to the core: step, tick and propose on one side, Ready on the other.

The caller's loop::

    node.step(message) / node.tick() / node.propose(data)         as they come
    while node.has_ready():
        ready = node.ready()
        write ready.hard_state, ready.snapshot, ready.entries     in this order, and fsync if ready.must_sync
        send ready.messages                                       only after the write
        apply ready.snapshot, then ready.committed_entries        membership changes by node.apply_conf_change
        node.advance()

A leader may send its MsgApp before its own write is done (thesis 10.2.1); acknowledgements and votes may not. With
``async_storage_writes`` the two are told apart by messages (see ``storage_messages``), and there is no ``advance``.
"""

from __future__ import annotations

import msgspec

from relay.cluster.raft.codec import encode_conf_change
from relay.cluster.raft.errors import CannotStepLocal, PeerNotFound, RaftInvariantError
from relay.cluster.raft.machine import new_raft, step, storage_appended, storage_applied, tick
from relay.cluster.raft.membership import apply_conf_change
from relay.cluster.raft.options import Options
from relay.cluster.raft.proposals import propose
from relay.cluster.raft.state import RaftState
from relay.cluster.raft.status import Status, status_of
from relay.cluster.raft.storage_messages import storage_append, storage_apply
from relay.cluster.raft.types import (
    LEADER,
    LOCAL_MESSAGES,
    LOCAL_TARGETS,
    MESSAGE_NAMES,
    MSG_FORGET_LEADER,
    MSG_HUP,
    MSG_PROP,
    MSG_READ_INDEX,
    MSG_SNAP_STATUS,
    MSG_TRANSFER_LEADER,
    MSG_UNREACHABLE,
    RESPONSE_MESSAGES,
    ConfChange,
    ConfChangeV2,
    ConfState,
    Entry,
    HardState,
    Message,
    ReadState,
    Snapshot,
    SoftState,
    as_v2,
    entries_size,
)

_GUARDED = tuple(kind in LOCAL_MESSAGES or kind in RESPONSE_MESSAGES for kind in range(len(MESSAGE_NAMES)))
"""Kinds whose sender is looked at."""


class Ready(msgspec.Struct, gc=False):
    """What the caller has to do now. With asynchronous storage writes only ``messages`` and the states matter."""

    messages: list[Message]
    """To be sent, in order for each receiver where the transport can."""
    must_sync: bool = False
    """An fsync is needed: entries, term or vote changed. A commit index alone need not be durable."""
    entries: tuple[Entry, ...] = ()
    """To be appended, over what the storage has from the first of them on, before ``messages`` leave."""
    hard_state: HardState | None = None
    """To be durable before ``messages`` leave; None if it did not change."""
    committed_entries: tuple[Entry, ...] = ()
    """To be applied, in order. May include ``entries``, which are then to be written first."""
    snapshot: Snapshot | None = None
    """To replace the storage and the state machine, before ``entries`` are appended behind it."""
    soft_state: SoftState | None = None
    """Leader and role, if they changed."""
    read_states: tuple[ReadState, ...] = ()
    """Reads that may be served once applied far enough."""


class RawNode:
    """One node of one group. Nothing happens but inside a call; no call may be made during another."""

    __slots__ = ("_async", "_hard_state", "_lead", "_own_messages", "_pending", "_role", "raft")

    def __init__(self, options: Options) -> None:
        # The state, for the rules; others look at ``status``.
        self.raft: RaftState = new_raft(options)
        self._async = options.async_storage_writes
        # What the last Ready told, to tell only changes.
        self._hard_state = self.raft.hard_state()
        self._lead = self.raft.lead
        self._role = self.raft.role
        # Messages of this node to itself that wait for advance. Not empty only between ready and advance.
        self._own_messages: list[Message] = []
        # Between ready and advance, what advance will report: term, last term and last index of the log if any of it is
        # unstable, snapshot; last index, number and size of the entries applied.
        self._pending: tuple[int, int, int, Snapshot | None, int, int, int] | None = None

    def tick(self) -> None:
        """One tick of the clock passed."""
        tick(self.raft)

    def campaign(self) -> None:
        """Start an election, or a pre-election."""
        step(self.raft, Message(MSG_HUP))

    def propose(self, data: bytes) -> None:
        """Propose one entry; :class:`ProposalDropped` if it was neither appended nor forwarded."""
        self.propose_all((Entry(data=data),))

    def propose_all(self, entries: tuple[Entry, ...]) -> None:
        """Propose several entries at once: they are appended together or not at all."""
        r = self.raft
        if r.role == LEADER:  # fast path
            propose(r, entries)
        else:
            step(r, Message(MSG_PROP, from_=r.id, entries=entries))

    def propose_conf_change(self, change: ConfChange | ConfChangeV2 | None) -> None:
        """Propose a change of membership; None leaves a joint configuration. Refused ones become empty entries."""
        kind, data = encode_conf_change(change)
        step(self.raft, Message(MSG_PROP, entries=(Entry(kind, data=data),)))

    def apply_conf_change(self, change: ConfChange | ConfChangeV2) -> ConfState:
        """A change among the committed entries was applied. Not to be called if the application rejects it."""
        return apply_conf_change(self.raft, as_v2(change))

    def step(self, message: Message) -> None:
        """A message from another node or from a storage thread.

        Raises :class:`CannotStepLocal`, :class:`PeerNotFound`, and :class:`ProposalDropped` for a forwarded proposal.
        """
        kind = message.type
        if _GUARDED[kind] and message.from_ not in LOCAL_TARGETS:
            if kind in LOCAL_MESSAGES:
                raise CannotStepLocal
            if message.from_ not in self.raft.progress:
                raise PeerNotFound
        step(self.raft, message)

    def has_ready(self) -> bool:
        """Whether :meth:`ready` has anything to tell."""
        r = self.raft
        if r.messages or r.messages_after_append or r.read_states:
            return True
        log = r.log
        unstable = log.unstable
        told = self._hard_state
        return (
            log.committed != told.commit
            or r.lead != self._lead
            or r.role != self._role
            or r.term != told.term
            or r.vote != told.vote
            or unstable.offset_in_progress != unstable.offset + len(unstable.entries)
            or (unstable.snapshot is not None and not unstable.snapshot_in_progress)
            or log.has_next_committed_entries(not self._async)
        )

    def ready(self) -> Ready:
        """Take what is to be done. Before the next call, :meth:`advance` (but for asynchronous storage writes)."""
        if self._pending is not None:
            raise RaftInvariantError("two accepted Ready structs without call to Advance")
        r = self.raft
        log = r.log
        unstable = log.unstable
        told = self._hard_state
        ready = Ready(messages=r.messages)
        r.messages = []
        if r.lead != self._lead or r.role != self._role:
            ready.soft_state = r.soft_state()
            self._lead = r.lead
            self._role = r.role
        if unstable.offset_in_progress != unstable.offset + len(unstable.entries):
            ready.entries = unstable.next_entries()
            ready.must_sync = True
        if log.committed != told.commit or r.term != told.term or r.vote != told.vote:
            self._hard_state = ready.hard_state = r.hard_state()
            if r.term != told.term or r.vote != told.vote:
                ready.must_sync = True
        if r.read_states:
            ready.read_states = tuple(r.read_states)
            r.read_states = []
        if unstable.snapshot is not None:
            ready.snapshot = unstable.next_snapshot()
        if log.applying < log.committed:
            ready.committed_entries = log.next_committed_entries(not self._async)
        if self._async:
            self._write_by_messages(ready)
        else:
            self._hold_back(ready)
        if ready.must_sync or ready.snapshot is not None:
            unstable.accept_in_progress()
        return ready

    def advance(self) -> None:
        """All of the last Ready is done: written, sent and applied."""
        if self._async:
            raise RaftInvariantError("Advance must not be called when using AsyncStorageWrites")
        pending = self._pending
        if pending is None:
            return
        self._pending = None
        r = self.raft
        if self._own_messages:
            own = self._own_messages
            self._own_messages = []
            for message in own:
                step(r, message)
        term, last_term, last_index, snapshot, applied_index, applied_count, applied_size = pending
        if last_index or snapshot is not None:
            storage_appended(r, term, last_term, last_index, snapshot)
        if applied_index:
            storage_applied(r, applied_index, applied_count, applied_size)

    def status(self) -> Status:
        """A picture of the node, with a copy of what a leader knows about each member."""
        return status_of(self.raft)

    def report_unreachable(self, node: int) -> None:
        """The transport could not deliver the last message to ``node``."""
        step(self.raft, Message(MSG_UNREACHABLE, from_=node))

    def report_snapshot(self, node: int, *, failed: bool) -> None:
        """The snapshot sent to ``node`` arrived, or ``failed``; needed, or nothing is sent to it again."""
        step(self.raft, Message(MSG_SNAP_STATUS, from_=node, reject=failed))

    def transfer_leadership(self, node: int) -> None:
        """Hand leadership to ``node``; it has an election timeout for it, during which proposals are dropped."""
        step(self.raft, Message(MSG_TRANSFER_LEADER, from_=node))

    def forget_leader(self) -> None:
        """On a follower: the leader is known to be gone, so help to elect another at once."""
        step(self.raft, Message(MSG_FORGET_LEADER))

    def read_index(self, request_ctx: bytes) -> None:
        """Ask at which index a read named ``request_ctx`` is linearizable: a ReadState will tell, or be lost."""
        step(self.raft, Message(MSG_READ_INDEX, entries=(Entry(data=request_ctx),)))

    def _write_by_messages(self, ready: Ready) -> None:
        """With asynchronous writes: messages to the storage threads, which carry what waits for durability."""
        r = self.raft
        write = storage_append(r, ready.entries, ready.hard_state, ready.snapshot)
        if write is not None:
            ready.messages.append(write)
            r.messages_after_append = []
        if ready.committed_entries:
            ready.messages.append(storage_apply(r, ready.committed_entries))
            r.log.accept_applying(ready.committed_entries[-1].index, entries_size(ready.committed_entries), False)

    def _hold_back(self, ready: Ready) -> None:
        """Without: what waits for durability leaves with the Ready, or is for this node and stepped by advance."""
        r = self.raft
        log = r.log
        if r.messages_after_append:
            for message in r.messages_after_append:
                (self._own_messages if message.to == r.id else ready.messages).append(message)
            r.messages_after_append = []
        committed = ready.committed_entries
        index = count = size = 0
        if committed:
            index, count, size = committed[-1].index, len(committed), entries_size(committed)
            log.accept_applying(index, size, True)
        if log.unstable.entries:
            self._pending = (r.term, log.last_term, log.last_index, ready.snapshot, index, count, size)
        else:
            self._pending = (r.term, 0, 0, ready.snapshot, index, count, size)
