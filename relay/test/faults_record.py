"""What clients of a fault campaign asked and were told, and what has to be true of it.

==================  ==================================================================================================
an operation ended  counts in the record as
==================  ==================================================================================================
with an answer      done, with that result: ``acknowledged`` if it was a write
``not_done``        not happened
otherwise           ``unknown``: perhaps, at any moment after its call
==================  ==================================================================================================

Each value is written once in a round, so the history of the keys as nodes tell it (a watch) names each write:

1. every acknowledged write is in it at the revision that was told, or it is *lost*;
2. a write that certainly was not done is not in it; no write is in it twice;
3. all nodes tell the same history, and have the same pairs;
4. the operations on each key are linearizable (``linearizability``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import attrs

from relay.test.kv_histories import register
from relay.test.linearizability import Operation, linearizable_by_key

SHOWN_MAX: Final = 5
"""Problems of a kind that are named."""
Event = tuple[int, str, str]
"""A change: revision, key, value."""


@attrs.define(eq=False)
class Call:
    """One operation. ``moment`` orders calls and returns; ``began_s`` and ``ended_s`` are on the monotonic clock."""

    key: str
    action: str  # read, write, cas
    argument: Any  # Any: as ``kv_histories.register`` has it
    called: int
    began_s: float
    returned: int | None = None
    ended_s: float = 0.0
    result: Any = None  # Any: as above
    revision: int = 0
    end: str = "unknown"  # done, refused (a condition did not hold), not_done, unknown

    @property
    def value(self) -> str:
        """What it writes."""
        return str(self.argument[1] if self.action == "cas" else self.argument)


class Record:
    """One round's."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._moment = 0

    def begin(self, key: str, action: str, argument: Any, now_s: float) -> Call:  # Any: as above
        """An operation is sent."""
        self._moment += 1
        call = Call(key, action, argument, self._moment, now_s)
        self.calls.append(call)
        return call

    def end(self, call: Call, end: str, now_s: float, result: Any = None, revision: int = 0) -> None:  # Any: as above
        """It ended."""
        self._moment += 1
        call.end, call.ended_s, call.result, call.revision = end, now_s, result, revision
        if end != "unknown":
            call.returned = self._moment

    def counts(self) -> Counter[str]:
        """How many writes and reads ended how."""
        found: Counter[str] = Counter()
        for call in self.calls:
            if call.action == "read":
                found["reads"] += call.end == "done"
            else:
                found["acknowledged" if call.end == "done" else call.end] += 1
        return found

    def recovered_s(self, since_s: float) -> float | None:
        """The moment of the first acknowledgement of a write that began after ``since_s``."""
        ends = [
            call.ended_s
            for call in self.calls
            if call.action != "read" and call.end == "done" and call.began_s >= since_s
        ]
        return min(ends) if ends else None

    # --- what has to be true ----------------------------------------------------------------------------------------

    def lost(self, history: Iterable[Event]) -> list[str]:
        """Acknowledged writes that the history does not have where they were said to be."""
        there = set(history)
        return [
            f"{call.key} = {call.value} was acknowledged at revision {call.revision}, and is not there"
            for call in self.calls
            if call.action != "read" and call.end == "done" and (call.revision, call.key, call.value) not in there
        ]

    def problems(self, history: Iterable[Event]) -> list[str]:
        """Whatever else contradicts the history, or itself."""
        history = list(history)
        found: list[str] = []
        times = Counter((key, value) for _, key, value in history)
        writes = {(call.key, call.value): call for call in self.calls if call.action != "read"}
        for (key, value), count in times.items():
            call = writes.get((key, value))
            if count > 1:
                found.append(f"{key} = {value} was written {count} times")
            if call is None:
                found.append(f"{key} = {value} was written by nobody")
            elif call.end in ("not_done", "refused"):
                found.append(f"{key} = {value} was written, though its client heard {call.end}")
        revisions = [revision for revision, _, _ in history]
        if revisions != sorted(set(revisions)):
            found.append("the history's revisions do not ascend")
        if not linearizable_by_key(self.operations(), _key, "", _register):
            found.append("the operations of a key are not linearizable")
        return found[:SHOWN_MAX]

    def operations(self) -> list[Operation]:
        """As the checker takes them; the key is in the argument."""
        found = []
        for call in self.calls:
            if call.end == "not_done" or (call.action == "read" and call.end == "unknown"):
                continue
            result = call.result if call.action == "read" else call.end == "done"
            argument = (call.key, call.argument)
            found.append(Operation(call.action, argument, result, call.called, call.returned))
        return found


def _key(operation: Operation) -> str:
    return str(operation.argument[0])


def _register(state: str, operation: Operation) -> str | None:
    bare = Operation(operation.action, operation.argument[1], operation.result, operation.called, operation.returned)
    return register(state, bare)
