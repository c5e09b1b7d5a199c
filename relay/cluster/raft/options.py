"""How one node of a group is set up."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from relay.cluster.raft.logger import Logger, SilentLogger
from relay.cluster.raft.storage import Storage
from relay.cluster.raft.types import LOCAL_TARGETS, NO_LIMIT, NONE, READ_ONLY_LEASE_BASED, READ_ONLY_SAFE
from relay.errors import ConfigError


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a node needs to know besides what its storage remembers. Sizes in bytes, times in ticks."""

    id: int
    """Who this node is; never 0, never reused for an emptied disk."""
    storage: Storage
    random_below: Callable[[int], int]
    """``random_below(n)`` is uniform in [0, n): it spreads elections (paper 5.2). Injected, so that runs repeat."""
    election_tick: int = 10
    """A follower that hears no leader for ``election_tick`` to ``2 * election_tick - 1`` ticks campaigns."""
    heartbeat_tick: int = 1
    """The leader's heartbeats are this many ticks apart; less than ``election_tick``."""
    applied: int = 0
    """The index up to which the state machine is already applied at a restart."""
    async_storage_writes: bool = False
    """Ready carries MsgStorageAppend and MsgStorageApply in place of needing ``advance``."""
    message_size_max: int = 256 * 1024
    """Entries of one append are cut to this; 0: one entry each."""
    committed_size_max: int = 0
    """Entries handed out and not yet applied are cut to this; 0: as ``message_size_max``."""
    uncommitted_size_max: int = 0
    """Payload that a leader appends without commitment before it drops proposals; 0: no limit (paper 5.3 has none)."""
    inflight_max: int = 256
    """Appends to one node that are not acknowledged."""
    inflight_size_max: int = 0
    """The same in payload bytes; 0: no limit; else at least ``message_size_max``."""
    waiting_reads_max: int = 10_000
    """Reads that wait for a round of heartbeats, and reads that wait for the term's first commit; more are dropped."""
    check_quorum: bool = False
    """A leader that does not hear a quorum for ``election_tick`` steps down, and nobody votes while it hears a leader
    (thesis 6.2, 4.2.3)."""
    pre_vote: bool = False
    """Ask before campaigning, so that a node that was cut off does not depose anybody (thesis 9.6)."""
    read_only: int = READ_ONLY_SAFE
    """READ_ONLY_SAFE or READ_ONLY_LEASE_BASED; the second needs ``check_quorum`` and clocks that do not drift."""
    disable_proposal_forwarding: bool = False
    """Followers drop proposals in place of passing them to the leader."""
    disable_conf_change_validation: bool = False
    """Propose changes of membership that do not fit the present configuration; something above must order them."""
    step_down_on_removal: bool = False
    """A leader that applied its own removal or demotion steps down at once (thesis 4.2.2)."""
    logger: Logger = SilentLogger()

    def checked(self) -> Options:
        """The same with its defaults filled in; :class:`ConfigError` for what cannot be."""
        if self.id == NONE:
            raise ConfigError("cannot use none as id")
        if self.id in LOCAL_TARGETS:
            raise ConfigError("cannot use local target as id")
        if self.heartbeat_tick <= 0:
            raise ConfigError("heartbeat tick must be greater than 0")
        if self.election_tick <= self.heartbeat_tick:
            raise ConfigError("election tick must be greater than heartbeat tick")
        if self.inflight_max <= 0:
            raise ConfigError("max inflight messages must be greater than 0")
        if 0 < self.inflight_size_max < self.message_size_max:
            raise ConfigError("max inflight bytes must be >= max message size")
        if self.read_only == READ_ONLY_LEASE_BASED and not self.check_quorum:
            raise ConfigError("CheckQuorum must be enabled when ReadOnlyOption is ReadOnlyLeaseBased")
        return msgspec.structs.replace(
            self,
            committed_size_max=self.committed_size_max or self.message_size_max,
            uncommitted_size_max=self.uncommitted_size_max or NO_LIMIT,
        )
