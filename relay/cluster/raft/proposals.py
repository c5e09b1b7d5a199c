"""What a leader does with proposals (paper 5.3; changes of membership: thesis 4.1)."""

from __future__ import annotations

from relay.cluster.raft.codec import decode_conf_change
from relay.cluster.raft.describe import describe_conf_change
from relay.cluster.raft.errors import ProposalDropped, RaftInvariantError
from relay.cluster.raft.logger import DEBUG, INFO, say
from relay.cluster.raft.replication import append_entries, broadcast_append
from relay.cluster.raft.state import RaftState
from relay.cluster.raft.types import ENTRY_NORMAL, NONE, Entry, as_v2


def propose(r: RaftState, entries: tuple[Entry, ...]) -> None:
    """Append ``entries`` and send them to everybody; :class:`ProposalDropped` if they are not appended.

    A change of membership that is not allowed now is appended as an empty entry: its index is spent, its effect is not.
    """
    if not entries:
        raise RaftInvariantError(f"{r.id:x} stepped empty MsgProp")
    if r.id not in r.progress:
        # Removed from the configuration while leading.
        raise ProposalDropped
    if r.lead_transferee != NONE:
        say(
            r.logger,
            DEBUG,
            "%x [term %d] transfer leadership to %x is in progress; dropping proposal",
            r.id,
            r.term,
            r.lead_transferee,
        )
        raise ProposalDropped
    for entry in entries:
        if entry.type != ENTRY_NORMAL:
            entries = _with_changes_checked(r, entries)
            break
    if not append_entries(r, entries):
        raise ProposalDropped
    broadcast_append(r)


def _with_changes_checked(r: RaftState, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """The entries with refused changes emptied; notes where the last accepted one will stand."""
    checked = []
    for offset, entry in enumerate(entries, 1):
        if entry.type != ENTRY_NORMAL:
            change = decode_conf_change(entry)
            refusal = _refusal(r, leaves=not as_v2(change).changes)
            if refusal and not r.options.disable_conf_change_validation:
                if r.logger.level <= INFO:
                    say(
                        r.logger,
                        INFO,
                        "%x ignoring conf change %s at config %s: %s",
                        r.id,
                        describe_conf_change(change),
                        r.configuration,
                        refusal,
                    )
                entry = Entry(ENTRY_NORMAL)
            else:
                r.pending_conf_index = r.log.last_index + offset
        checked.append(entry)
    return tuple(checked)


def _refusal(r: RaftState, leaves: bool) -> str:
    """Why a change may not be appended now, or nothing. Judged by the applied configuration, so perhaps too strict."""
    joint = bool(r.configuration.outgoing)
    if r.pending_conf_index > r.log.applied:
        return f"possible unapplied conf change at index {r.pending_conf_index} (applied to {r.log.applied})"
    if joint and not leaves:
        return "must transition out of joint config first"
    if not joint and leaves:
        return "not in joint state; refusing empty conf change"
    return ""
