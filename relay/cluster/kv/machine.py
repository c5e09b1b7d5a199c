"""The key-value state machine: entries of the log in, results out.

An entry that cannot be read stops the node; everything else has a result, errors too, and a command that fails changes
nothing. All that decides is in the state and the entry: two nodes that applied the same entries have the same snapshot,
byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from relay.cluster.kv.ballots import PREFIX, candidate_key, candidates_prefix, check_election, election_of, settle
from relay.cluster.kv.commands import (
    Campaign,
    Close,
    Command,
    ErrorLabel,
    Event,
    Grant,
    Keep,
    Open,
    Operation,
    Pair,
    Resign,
    Result,
    Revoke,
    SetLimits,
    Time,
    Txn,
    decode,
)
from relay.cluster.kv.sessions import Session
from relay.cluster.kv.snapshot import read_snapshot, write_snapshot
from relay.cluster.kv.state import Refused, State
from relay.cluster.kv.transactions import read_bytes, transact
from relay.cluster.raft.types import Entry


class KeyValueMachine:
    """``changed``, when it is not None, is called with the events of each batch, in order; with None when a snapshot
    has replaced the state. ``led`` is told the term in which this node leads, 0 when it does not."""

    def __init__(self) -> None:
        self.state = State()
        self.changed: Callable[[list[Event] | None], None] | None = None
        self.led: Callable[[int], None] | None = None
        self._operations: dict[type, Callable[[int, int, Any], Result]] = {  # Any: the type that it stands under
            Txn: self._txn,
            Grant: self._grant,
            Keep: self._keep,
            Revoke: self._revoke,
            Time: self._time,
            Campaign: self._campaign,
            Resign: self._resign,
            Open: self._open,
            Close: self._close,
            SetLimits: self._set_limits,
        }

    # --- IStateMachine --------------------------------------------------------------------------------------------

    def apply(self, entries: Sequence[Entry]) -> list[Result]:
        """Entries in order; their results. Raises ``UnreadableCommand``."""
        events: list[Event] = []
        results = [self._command(entry.term, entry.index, decode(entry.data), events) for entry in entries]
        if events and self.changed is not None:
            self.changed(events)
        return results

    def snapshot(self) -> Iterator[bytes]:
        """The state as it is now, in chunks. Equal states give equal bytes."""
        return write_snapshot(self.state)

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Become what a snapshot holds. Raises ``BadSnapshot``; then nothing has changed."""
        self.state = read_snapshot(chunks)
        if self.changed is not None:
            self.changed(None)

    def leader_changed(self, leader: int, term: int, leading: bool) -> None:
        """The group has another leader or term: whoever proposes the time is told."""
        if self.led is not None:
            self.led(term if leading else 0)

    # --- one command ----------------------------------------------------------------------------------------------

    def _command(self, term: int, index: int, command: Command, events: list[Event]) -> Result:
        # Fast path: nobody would ask again.
        if not command.client:
            return self._do(term, index, command.operation, events)
        session = self.state.sessions.use(command.client, index)
        if session is None:
            return self._error("no_session", f"no session {command.client}")
        self.state.sessions.acknowledge(session, command.ack)
        known = session.results.get(command.seq)
        if known is not None:
            return known
        if command.seq <= session.floor:
            return self._error("forgotten", f"command {command.seq} of session {command.client} is not known any more")
        refusal = self._no_room(session, command.operation)
        if refusal is not None:
            return refusal
        result = self._do(term, index, command.operation, events)
        if self.state.sessions.has(session):  # it may have ended itself
            self.state.sessions.keep(session, command.seq, result)
        return result

    def _no_room(self, session: Session, operation: Operation) -> Result | None:
        """An error that is not remembered, so the same command may succeed once results are acknowledged."""
        limits = self.state.limits
        if len(session.results) >= limits.session_results_max:
            return self._error("full", f"{limits.session_results_max} results of the session are not acknowledged")
        reads = read_bytes(self.state, (*operation.then, *operation.otherwise)) if isinstance(operation, Txn) else 0
        if reads and self.state.sessions.bytes + reads > limits.session_bytes_max:
            return self._error("full", f"results of {limits.session_bytes_max} bytes are not acknowledged")
        return None

    def _do(self, term: int, index: int, operation: Operation, events: list[Event]) -> Result:
        try:
            result = self._operations[type(operation)](term, index, operation)
        except Refused as refused:
            return self._error(refused.label, refused.text)
        touched = self.state.keys.changing()
        if touched:
            elections = {election_of(key) for key in touched if key.startswith(PREFIX)}
            for election in sorted(elections):
                settle(self.state.keys, election, term, index)
            events += self.state.keys.commit(self.state.limits)
        return msgspec.structs.replace(result, revision=self.state.keys.revision)

    def _error(self, label: ErrorLabel, text: str) -> Result:
        return Result(self.state.keys.revision, label, text)

    # --- keys ------------------------------------------------------------------------------------------------------

    def _txn(self, term: int, index: int, txn: Txn) -> Result:
        return transact(self.state, txn)

    # --- leases ---------------------------------------------------------------------------------------------------

    def _grant(self, term: int, index: int, grant: Grant) -> Result:
        limits = self.state.limits
        if not limits.lease_ttl_ms_min <= grant.ttl_ms <= limits.lease_ttl_ms_max:
            raise Refused("limit", f"a lease lasts {limits.lease_ttl_ms_min} to {limits.lease_ttl_ms_max} ms")
        if len(self.state.leases) >= limits.leases_max:
            raise Refused("full", f"{limits.leases_max} leases are the limit")
        self.state.leases.grant(index, grant.ttl_ms)
        return Result(0, ids=(index,))

    def _keep(self, term: int, index: int, keep: Keep) -> Result:
        if len(keep.leases) > self.state.limits.leases_max:
            raise Refused("limit", f"{self.state.limits.leases_max} leases are the limit")
        return Result(0, ids=tuple(lease for lease in keep.leases if not self.state.leases.keep(lease)))

    def _revoke(self, term: int, index: int, revoke: Revoke) -> Result:
        if self.state.leases.get(revoke.lease) is None:
            raise Refused("no_lease", f"no lease {revoke.lease}")
        return Result(0, outputs=(self.state.delete(self.state.leases.end(revoke.lease)),))

    def _time(self, term: int, index: int, time: Time) -> Result:
        if time.term not in (0, term):
            return Result(0)
        for lease in self.state.leases.advance(time.now_ms):
            self.state.delete(self.state.leases.end(lease))
        return Result(0)

    # --- elections ------------------------------------------------------------------------------------------------

    def _campaign(self, term: int, index: int, campaign: Campaign) -> Result:
        mistake = check_election(campaign.election, campaign.candidate)
        if mistake:
            raise Refused("invalid", mistake)
        limits = self.state.limits
        key = candidate_key(campaign.election, campaign.candidate)
        if self.state.leases.get(campaign.lease) is None:
            raise Refused("no_lease", f"no lease {campaign.lease}")
        if len(campaign.value) > limits.value_bytes_max:
            raise Refused("limit", f"a value has at most {limits.value_bytes_max} bytes")
        before = self.state.keys.get(key)
        if before is not None and before.lease == campaign.lease:
            return Result(0)
        if before is None:
            if len(self.state.keys) + 2 > limits.keys_max:
                raise Refused("full", f"{limits.keys_max} keys are the limit")
            others = self.state.keys.with_prefix(candidates_prefix(campaign.election))
            if sum(1 for _ in others) >= limits.candidates_max:
                raise Refused("full", f"{limits.candidates_max} candidates are the limit")
        if self.state.keys.bytes + 2 * (len(key.encode()) + len(campaign.value)) > limits.bytes_max:
            raise Refused("full", f"{limits.bytes_max} bytes of keys and values are the limit")
        # A candidate with another lease is another one that begins at the end of the queue.
        self.state.delete((key,))
        self.state.put(key, campaign.value, campaign.lease)
        return Result(0)

    def _resign(self, term: int, index: int, resign: Resign) -> Result:
        key = candidate_key(resign.election, resign.candidate)
        before = self.state.keys.get(key)
        if before is None or (resign.lease and before.lease != resign.lease):
            raise Refused("not_found", f"{resign.candidate} is no candidate of {resign.election}")
        self.state.delete((key,))
        return Result(0)

    # --- sessions and limits --------------------------------------------------------------------------------------

    def _open(self, term: int, index: int, open_: Open) -> Result:
        session = -index if open_.own else index
        self.state.sessions.open(session, index, self.state.limits)
        return Result(0, ids=(session,))

    def _close(self, term: int, index: int, close: Close) -> Result:
        if not self.state.sessions.close(close.session):
            raise Refused("no_session", f"no session {close.session}")
        return Result(0)

    def _set_limits(self, term: int, index: int, change: SetLimits) -> Result:
        self.state.limits = change.limits
        return Result(0)

    # --- reading --------------------------------------------------------------------------------------------------

    def range(self, prefix: str, start: str, end: str | None, pairs_max: int, bytes_max: int) -> tuple[list[Pair], str]:
        """Pairs in order, and the key to go on from ('' at the end). At least one, then within both limits."""
        found: list[Pair] = []
        size = 0
        for pair in self.state.keys.with_prefix(prefix, start):
            if end is not None and pair.key >= end:
                break
            size += len(pair.key) + len(pair.value)
            if found and (len(found) >= pairs_max or size > bytes_max):
                return found, pair.key
            found.append(pair)
        return found, ""
