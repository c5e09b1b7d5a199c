"""What a group tells its users, proposal by proposal and read by read, compared with what was applied.

==========  ==========================================================================================================
told        what must hold
==========  ==========================================================================================================
done        an entry with this command was applied, and had this result
not done    a command was applied at most as often as it was proposed and this was not told
read        the node shows all that anybody was told, or shown by a read, before this one was asked for
==========  ==========================================================================================================

Clients see the same, later, where one of them uses the key of another; sessions hide what was done twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relay.cluster.group import Group
from relay.cluster.requests import Done
from relay.errors import RelayError


class _Command:
    """One, by its bytes."""

    __slots__ = ("applied", "proposed")

    def __init__(self) -> None:
        self.proposed = 0  # and not told as not done
        self.applied: list[tuple[int, Any]] = []  # index and result


class Promises:
    """Those of one group, on all nodes. ``violated`` ends the run."""

    __slots__ = ("_commands", "_violated", "shown")

    def __init__(self, violated: Callable[[str], object]) -> None:
        self._violated = violated
        self._commands: dict[bytes, _Command] = {}
        self.shown = 0
        """The last index that anybody knows by what was told."""

    def _command(self, data: bytes) -> _Command:
        found = self._commands.get(data)
        if found is None:
            found = self._commands[data] = _Command()
        return found

    def proposed(self, data: bytes) -> None:
        """Once more."""
        self._command(data).proposed += 1

    def applied(self, index: int, data: bytes, result: Any) -> None:
        """For the first time on any node."""
        command = self._command(data)
        command.applied.append((index, result))
        self._count(command)

    def done(self, data: bytes, result: Any) -> None:
        """Told to whoever proposed it."""
        found = [index for index, had in self._command(data).applied if had == result]
        if not found:
            self._violated(f"told: {result} is the result of a command, which no such entry had")
        self.shown = max(self.shown, found[0])

    def not_done(self, data: bytes) -> None:
        """Told to whoever proposed it."""
        command = self._command(data)
        command.proposed -= 1
        self._count(command)

    def read(self, node: int, index: int, asked: int) -> None:
        """A node shows ``index`` to a read that was asked for when ``asked`` was known."""
        if index < asked:
            self._violated(f"told: node {node} shows {index} entries to a read, {asked} were known before it")
        self.shown = max(self.shown, index)

    def _count(self, command: _Command) -> None:
        if len(command.applied) > command.proposed:
            indexes = [index for index, _ in command.applied]
            self._violated(f"told: a command is applied at {indexes}, of its proposals {command.proposed} may be")


class CheckedGroup:
    """A group as its users see it, which compares what it tells."""

    def __init__(self, group: Group, promises: Promises) -> None:
        self._group = group
        self._promises = promises

    def __getattr__(self, name: str) -> Any:  # Any: whatever the group has
        return getattr(self._group, name)

    def propose(self, data: bytes, done: Done) -> None:
        """As the group."""
        promises = self._promises
        promises.proposed(data)

        def told(result: Any, error: RelayError | None) -> None:
            if error is None:
                promises.done(data, result)
            elif error.outcome == "not_done":
                promises.not_done(data)
            done(result, error)

        self._group.propose(data, told)

    def read_index(self, done: Done) -> None:
        """As the group."""
        group, promises = self._group, self._promises
        asked = promises.shown

        def told(result: Any, error: RelayError | None) -> None:
            if error is None:
                promises.read(group.node, group.applied, asked)
            done(result, error)

        group.read_index(told)
