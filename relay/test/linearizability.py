"""Is a recorded history linearizable? And ``python -m relay.test.linearizability DIR`` over recorded registers.

A history is a set of operations, each with the moment it was called and the moment it returned. It is linearizable if
every operation can be thought to happen at one moment between the two, in an order in which a single copy of the state
would have given the results that were seen (Herlihy and Wing 1990). An operation that never returned, or whose result
is unknown, may happen at any moment after its call, or never.

:func:`linearizable` is the search of Wing and Gong (1993) with the cache of Lowe (2017). The events stand in a list; an
operation whose call comes before the first return in the list may be the next one. One that fits the state is lifted
out of the list with its return and the search begins anew at the front; when a return is reached, what was lifted last
goes back in and the next candidate is tried. A set of operations that has once led to a state is not tried again.

The command reads ``etcd_NNN.log`` files::

    INFO  jepsen.util - PROCESS :invoke|:ok|:fail|:info :read|:write|:cas VALUE

and ``verdicts.txt``, prints each history on which the search and the verdict differ and then ``51 of 51``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

State = TypeVar("State", bound=Hashable)
Apply = Callable[[State, "Operation"], "State | None"]
"""The state (never None) after an operation, or None if its result cannot be what was seen. An operation that did not
return can have had any."""


@dataclass(frozen=True)
class Operation:
    """One call. ``called`` and ``returned`` order the events; no two of a history are equal."""

    action: str
    # Any: what a model is told and what it answers is the model's own.
    argument: Any
    result: Any
    called: int
    returned: int | None
    """None: never, or with an unknown result."""


class _Event:
    """A call or a return in the list. A call knows its return; that of a pending operation is None."""

    __slots__ = ("bit", "next", "operation", "previous", "returning")

    def __init__(self, operation: Operation | None, bit: int) -> None:
        self.operation = operation
        self.bit = bit
        self.returning: _Event | None = None
        self.previous: _Event = self
        self.next: _Event | None = None

    def unlink(self) -> None:
        """Out of the list; the event keeps its neighbours, to come back between them."""
        self.previous.next = self.next
        if self.next is not None:
            self.next.previous = self.previous

    def relink(self) -> None:
        """Back where it was; events come back in the reverse order of their going."""
        self.previous.next = self
        if self.next is not None:
            self.next.previous = self


def linearizable(operations: Iterable[Operation], initial: State, apply: Apply[State]) -> bool:
    """Whether the history is linearizable from the state ``initial``. ``apply`` gives None for an impossible result."""
    head = _chain(operations)
    state, done = initial, 0
    lifted: list[tuple[_Event, State]] = []
    seen: set[tuple[int, State]] = set()
    event = head.next
    while event is not None:
        if event.operation is not None:
            after = apply(state, event.operation)
            key = (done | event.bit, after)
            if after is not None and key not in seen:
                seen.add((done | event.bit, after))
                lifted.append((event, state))
                state, done = after, done | event.bit
                event.unlink()
                if event.returning is not None:
                    event.returning.unlink()
                event = head.next
            else:
                event = event.next
        elif not lifted:
            return False
        else:
            # A return whose operation has not happened: the choice before was wrong.
            event, state = lifted.pop()
            done &= ~event.bit
            if event.returning is not None:
                event.returning.relink()
            event.relink()
            event = event.next
    # No return is left, so all that returned has happened.
    return True


def _chain(operations: Iterable[Operation]) -> _Event:
    """The events in order of time, behind a head."""
    events: list[tuple[int, _Event]] = []
    for number, operation in enumerate(operations):
        call = _Event(operation, 1 << number)
        events.append((operation.called, call))
        if operation.returned is not None:
            call.returning = _Event(None, 0)
            events.append((operation.returned, call.returning))
    events.sort(key=lambda pair: pair[0])
    head = last = _Event(None, 0)
    for _moment, event in events:
        event.previous = last
        last.next = event
        last = event
    return head


def linearizable_by_key(
    operations: Iterable[Operation], key: Callable[[Operation], Hashable], initial: State, apply: Apply[State]
) -> bool:
    """The same for operations that each touch one key: a history is linearizable if that of each key is (locality)."""
    of_key: dict[Hashable, list[Operation]] = {}
    for operation in operations:
        of_key.setdefault(key(operation), []).append(operation)
    return all(linearizable(part, initial, apply) for part in of_key.values())


# --- a register, and its recorded histories ------------------------------------------------------------------------

NIL = "nil"
"""The value of a register that nobody wrote."""


def register(state: str, operation: Operation) -> str | None:
    """One value: ``read`` gives it, ``write`` sets it, ``cas`` of (old, new) sets it if it was old, and says so."""
    if operation.action == "write":
        return str(operation.argument)
    if operation.action == "read":
        return state if operation.returned is None or operation.result == state else None
    old, new = operation.argument
    swapped = state == old
    if operation.returned is not None and operation.result is not swapped:
        return None
    return new if swapped else state


_LINE = re.compile(r"INFO\s+jepsen\.util - (\S+)\s+:(\w+)\s+:(read|write|cas)\s+(.*\S)")


class BadHistory(ValueError):
    """A line of a recorded history makes no sense."""


def read_history(lines: Iterable[str]) -> list[Operation]:
    """The operations of a recorded register. ``:fail`` did not happen; ``:info`` and what never ends may have."""
    pending: dict[str, tuple[str, Any, int]] = {}
    operations = []
    for moment, line in enumerate(lines):
        match = _LINE.match(line)
        if match is None:
            continue
        process, event, action, value = match.groups()
        if event == "invoke":
            if process in pending:
                raise BadHistory(f"process {process} calls twice: {line.strip()}")
            argument = tuple(value.strip("[]").split()) if action == "cas" else value
            pending[process] = (action, argument, moment)
            continue
        if process not in pending or event not in ("ok", "fail", "info"):
            raise BadHistory(f"nothing to end: {line.strip()}")
        action, argument, called = pending.pop(process)
        if event == "ok":
            operations.append(Operation(action, argument, True if action == "cas" else value, called, moment))
        elif event == "info":
            operations.append(Operation(action, argument, None, called, None))
    operations += [Operation(action, argument, None, called, None) for action, argument, called in pending.values()]
    return operations


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    if len(arguments) != 1:
        print("usage: python -m relay.test.linearizability DIR", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    verdicts = [line.split() for line in (folder / "verdicts.txt").read_text().splitlines() if line.strip()]
    agreed = 0
    for name, verdict in verdicts:
        found = linearizable(read_history((folder / name).read_text().splitlines()), NIL, register)
        if found is (verdict == "true"):
            agreed += 1
        else:
            print(f"{name}: found {str(found).lower()}, verdict {verdict}")
    print(f"{agreed} of {len(verdicts)}")
    return 0 if agreed == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
