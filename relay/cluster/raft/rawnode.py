"""The door to the core: step, tick and propose on one side, Ready on the other.

The caller's loop::

    node.step(message) / node.tick() / node.propose(data)         as they come
    while node.has_ready():
        ready = node.ready()
        write ready.hard_state, ready.entries, ready.snapshot     and fsync if ready.must_sync
        send ready.messages                                       only after the write
        apply ready.snapshot, then ready.committed_entries        membership changes by node.apply_conf_change
        node.advance()

A leader may send its MsgApp before its own write is done (thesis 10.2.1); acknowledgements and votes may not. With
``async_storage_writes`` the two are told apart by messages (see ``storage_messages``), and there is no ``advance``.
"""

from __future__ import annotations

import msgspec

from relay.cluster.raft.codec import encode_conf_change
from relay.cluster.raft.errors import CannotStepLocal, PeerNotFound, ProposalDropped, RaftInvariantError
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
)

_GUARDED = tuple(kind in LOCAL_MESSAGES or kind in RESPONSE_MESSAGES for kind in range(len(MESSAGE_NAMES)))
"""Kinds whose sender is looked at."""


class Ready(msgspec.Struct, gc=False):
    """What the caller has to do now. With asynchronous storage writes only ``messages`` and the states matter."""

    soft_state: SoftState | None
    """Leader and role, if they changed."""
    hard_state: HardState | None
    """To be durable before ``messages`` leave; None if it did not change."""
    read_states: tuple[ReadState, ...]
    """Reads that may be served once applied far enough."""
    entries: tuple[Entry, ...]
    """To be appended, over what the storage has from the first of them on, before ``messages`` leave."""
    snapshot: Snapshot | None
    """To replace the storage and the state machine."""
    committed_entries: tuple[Entry, ...]
    """To be applied, in order. May include ``entries``, which are then to be written first."""
    messages: list[Message]
    """To be sent, in order for each receiver where the transport can."""
    must_sync: bool
    """An fsync is needed: entries, term or vote changed. A commit index alone need not be durable."""


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
        # Between ready and advance: what advance will report (term, last term, last index, snapshot, applied entries).
        self._pending: tuple[int, int, int, Snapshot | None, tuple[Entry, ...]] | None = None

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
        return bool(
            r.lead != self._lead
            or r.role != self._role
            or self._hard_state_changed()
            or unstable.offset_in_progress - unstable.offset != len(unstable.entries)
            or (unstable.snapshot is not None and not unstable.snapshot_in_progress)
            or log.has_next_committed_entries(not self._async)
        )

    def ready(self) -> Ready:
        """Take what is to be done. Before the next call, :meth:`advance` (but for asynchronous storage writes)."""
        if self._pending is not None:
            raise RaftInvariantError("two accepted Ready structs without call to Advance")
        r = self.raft
        log = r.log
        soft_state: SoftState | None = None
        if r.lead != self._lead or r.role != self._role:
            soft_state = r.soft_state()
            self._lead = r.lead
            self._role = r.role
        entries = log.unstable.next_entries()
        hard_state: HardState | None = None
        must_sync = bool(entries)
        if self._hard_state_changed():
            hard_state = r.hard_state()
            told = self._hard_state
            must_sync = must_sync or hard_state.term != told.term or hard_state.vote != told.vote
            self._hard_state = hard_state
        read_states: tuple[ReadState, ...] = ()
        if r.read_states:
            read_states = tuple(r.read_states)
            r.read_states = []
        snapshot = log.unstable.next_snapshot()
        committed = log.next_committed_entries(not self._async)
        messages = r.messages
        r.messages = []
        if self._async:
            write = storage_append(r, entries, hard_state, snapshot)
            if write is not None:
                messages.append(write)
            if committed:
                messages.append(storage_apply(r, committed))
            r.messages_after_append = []
        else:
            self._hold_back(snapshot, committed, messages)
        log.unstable.accept_in_progress()
        if committed:
            log.accept_applying(committed, not self._async)
        return Ready(soft_state, hard_state, read_states, entries, snapshot, committed, messages, must_sync)

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
                try:
                    step(r, message)
                except ProposalDropped:
                    raise RaftInvariantError("a proposal among acknowledgements") from None
        term, last_term, last_index, snapshot, applied = pending
        if last_index or snapshot is not None:
            storage_appended(r, term, last_term, last_index, snapshot)
        if applied:
            storage_applied(r, applied)

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

    def _hard_state_changed(self) -> bool:
        r = self.raft
        told = self._hard_state
        return r.log.committed != told.commit or r.term != told.term or r.vote != told.vote

    def _hold_back(self, snapshot: Snapshot | None, committed: tuple[Entry, ...], messages: list[Message]) -> None:
        """Without asynchronous writes: what waits for durability leaves with the Ready, or is stepped in advance."""
        r = self.raft
        if r.messages_after_append:
            for message in r.messages_after_append:
                (self._own_messages if message.to == r.id else messages).append(message)
            r.messages_after_append = []
        log = r.log
        if log.unstable.entries:
            self._pending = (r.term, log.last_term, log.last_index, snapshot, committed)
        else:
            self._pending = (r.term, 0, 0, snapshot, committed)
