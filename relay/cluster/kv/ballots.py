"""Elections as keys: who are the candidates of each, and who of them is on duty.

======================================  ==============================================================================
key                                     value
======================================  ==============================================================================
``$election/NAME/candidate/CANDIDATE``  the candidate's own value; goes with its lease
``$election/NAME/duty``                 JSON ``{"candidate", "term", "index", "value"}`` (value in base64): who is on
                                        duty and its fencing token
======================================  ==============================================================================

On duty is the candidate who joined first. It stays until its key goes: it resigns, or its lease ends; then the next is
on duty by the same entry of the log. The token ``(term, index)`` is that entry's place and grows with every change: who
guards something refuses a token lower than one that it has seen. Other commands cannot write keys that begin with
``$``. Watches see all of it.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from relay.cluster.kv.keyspace import KeySpace
from relay.errors import BadName
from relay.wire.names import check_name

PREFIX: Final = "$election/"


class Duty(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is on duty. ``(term, index)`` is the fencing token."""

    candidate: str
    term: Annotated[int, Meta(ge=0)]
    index: Annotated[int, Meta(ge=0)]
    value: bytes = b""

    @property
    def token(self) -> tuple[int, int]:
        """The fencing token: compare as a whole, the larger is the later."""
        return self.term, self.index


def check_election(election: str, candidate: str) -> str:
    """Why these cannot be names of an election and a candidate; '' when they can."""
    try:
        check_name(election)
        check_name(candidate)
    except BadName as error:
        return str(error)
    return "the name of an election has no /" if "/" in election else ""


def candidates_prefix(election: str) -> str:
    """How the keys of an election's candidates begin."""
    return f"{PREFIX}{election}/candidate/"


def candidate_key(election: str, candidate: str) -> str:
    """The key of one candidate."""
    return f"{PREFIX}{election}/candidate/{candidate}"


def duty_key(election: str) -> str:
    """The key that says who is on duty."""
    return f"{PREFIX}{election}/duty"


def election_of(key: str) -> str:
    """The election that a key belongs to, '' for other keys."""
    return key[len(PREFIX) :].partition("/")[0] if key.startswith(PREFIX) else ""


def decode_duty(value: bytes) -> Duty:
    """Read the value of a duty key."""
    return msgspec.json.decode(value, type=Duty)


def duty_of(keys: KeySpace, election: str) -> Duty | None:
    """Who is on duty, None when nobody is."""
    pair = keys.get(duty_key(election))
    return None if pair is None else decode_duty(pair.value)


def settle(keys: KeySpace, election: str, term: int, index: int) -> None:
    """Candidates of ``election`` came or went by the entry at ``(term, index)``: see who is on duty now.

    A candidate that went and came again in this very entry is another one, told by ``create_revision``: it is not among
    those who were there before, for its key is as new as this entry.
    """
    key = duty_key(election)
    before = keys.get(key)
    queue = sorted(keys.with_prefix(candidates_prefix(election)), key=lambda pair: (pair.create_revision, pair.key))
    if before is not None:
        now = keys.get(candidate_key(election, decode_duty(before.value).candidate))
        if now is not None and now.create_revision <= before.mod_revision:
            return
    if queue:
        first = queue[0]
        candidate = first.key[len(candidates_prefix(election)) :]
        keys.put(key, msgspec.json.encode(Duty(candidate, term, index, first.value)), 0)
    elif before is not None:
        keys.delete(key)
