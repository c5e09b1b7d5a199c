"""Majorities, and majorities of two configurations at once (paper 5.3, 5.4; thesis 4.3).

A configuration is a set of voters, as a frozenset of ids. A joint configuration is two of them, ``incoming`` (the new
one) and ``outgoing`` (the old one, empty when the configuration is not joint): what it decides needs a majority of
each. The empty set decides everything and is passed by every index, which makes it the neutral second half.

=============  =================================================================================
acknowledged   a function from an id to the index it acknowledged, or None if nothing is known
votes          a mapping from an id to yes or no; absent means not voted yet
=============  =================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from relay.cluster.raft.types import NO_LIMIT

EVERY_INDEX: Final = NO_LIMIT
"""The index that the empty configuration has committed; written ∞."""

VOTE_PENDING: Final = 1
"""Neither side has it yet: more votes can still decide."""
VOTE_LOST: Final = 2
"""No majority of yes is possible any more."""
VOTE_WON: Final = 3
"""A majority said yes."""
VOTE_NAMES: Final = ("", "VotePending", "VoteLost", "VoteWon")

Acknowledged = Callable[[int], int | None]


def committed_index(voters: Collection[int], acknowledged: Acknowledged) -> int:
    """The greatest index that a majority of ``voters`` has acknowledged (paper 5.3); unknown counts as 0."""
    if not voters:
        return EVERY_INDEX
    indexes = sorted(acknowledged(voter) or 0 for voter in voters)
    return indexes[(len(indexes) - 1) // 2]


def joint_committed_index(incoming: Collection[int], outgoing: Collection[int], acknowledged: Acknowledged) -> int:
    """The greatest index that a majority of each half has acknowledged."""
    return min(committed_index(incoming, acknowledged), committed_index(outgoing, acknowledged))


def vote_result(voters: Collection[int], votes: Mapping[int, bool]) -> int:
    """VOTE_WON, VOTE_LOST or VOTE_PENDING (paper 5.2: a candidate needs the votes of a majority)."""
    if not voters:
        # By convention, so that the empty half of a joint configuration never holds an election up.
        return VOTE_WON
    granted = missing = 0
    for voter in voters:
        vote = votes.get(voter)
        if vote is None:
            missing += 1
        elif vote:
            granted += 1
    needed = len(voters) // 2 + 1
    if granted >= needed:
        return VOTE_WON
    return VOTE_PENDING if granted + missing >= needed else VOTE_LOST


def joint_vote_result(incoming: Collection[int], outgoing: Collection[int], votes: Mapping[int, bool]) -> int:
    """Won if both halves are won, lost as soon as one is lost, else pending."""
    first = vote_result(incoming, votes)
    second = vote_result(outgoing, votes)
    if first == second:
        return first
    return VOTE_LOST if VOTE_LOST in (first, second) else VOTE_PENDING


def describe_voters(voters: Iterable[int]) -> str:
    """``(1 2 a)``: the ids ascending, in hexadecimal."""
    return "(" + " ".join(f"{voter:x}" for voter in sorted(voters)) + ")"


def describe_joint_voters(incoming: Collection[int], outgoing: Collection[int]) -> str:
    """``(1 2 3)`` or ``(1 2 3)&&(1 4)``."""
    if not outgoing:
        return describe_voters(incoming)
    return f"{describe_voters(incoming)}&&{describe_voters(outgoing)}"


def describe_index(index: int) -> str:
    """The index in decimal, or ∞."""
    return "∞" if index == EVERY_INDEX else str(index)


def describe_acknowledged(voters: Collection[int], acknowledged: Acknowledged) -> str:
    """A table with a line per voter, whose bar grows with the rank of the voter's index; ``?`` where none is known."""
    if not voters:
        return "<empty majority quorum>"
    width = len(voters)
    ranked = sorted((acknowledged(voter) or 0, voter) for voter in voters)
    bars: dict[int, int] = {}
    for rank, (known, _voter) in enumerate(ranked):
        # Equal indexes get equal bars: that of the lowest rank among them.
        bars.setdefault(known, rank)
    lines = [" " * width + "    idx\n"]
    for voter in sorted(voters):
        index = acknowledged(voter)
        if index is None:
            lines.append("?" + " " * width + f" {0:5d}    (id={voter:x})\n")
        else:
            bar = bars[index]
            lines.append("x" * bar + ">" + " " * (width - bar) + f" {index:5d}    (id={voter:x})\n")
    return "".join(lines)


def describe_joint_acknowledged(
    incoming: Collection[int], outgoing: Collection[int], acknowledged: Acknowledged
) -> str:
    """The table over the voters of both halves."""
    return describe_acknowledged(frozenset(incoming) | frozenset(outgoing), acknowledged)
