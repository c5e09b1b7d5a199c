"""Client sessions: a command that is proposed twice is done once (thesis 6.3).

    forgotten  ──── floor ────  results kept, or not seen  ───▶ seq

A client numbers its commands and says with each up to where it has the results. A command whose number is in
``results`` is answered from there; one at or below ``floor`` cannot be told from one that was done, and is refused. All
of it is part of the snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable

from relay.cluster.kv.commands import Limits, Pair, Result, pair_bytes


def result_bytes(result: Result) -> int:
    """What of a result counts for ``session_bytes_max``."""
    size = 0
    for each in result.outputs:
        if isinstance(each, Pair):
            size += pair_bytes(each)
    return size


class Session:
    """``used``: index of the entry that used it last."""

    __slots__ = ("floor", "id", "results", "used")

    def __init__(self, id_: int, used: int, floor: int = 0, results: Iterable[tuple[int, Result]] = ()) -> None:
        self.id = id_
        self.used = used
        self.floor = floor
        self.results = dict(results)


class Sessions:
    """All sessions, the one that was used least recently first."""

    def __init__(self, sessions: Iterable[Session] = ()) -> None:
        self._sessions = {each.id: each for each in sorted(sessions, key=lambda session: (session.used, session.id))}
        self.bytes = sum(result_bytes(result) for each in self._sessions.values() for result in each.results.values())

    def __len__(self) -> int:
        return len(self._sessions)

    def all(self) -> list[Session]:
        """The least recently used first."""
        return list(self._sessions.values())

    def open(self, session: int, index: int, limits: Limits) -> None:
        """A new one, by the entry at ``index``; the one that was idle longest makes room."""
        while len(self._sessions) >= max(1, limits.sessions_max):
            self.close(next(iter(self._sessions)))
        self._sessions[session] = Session(session, index)

    def close(self, session: int) -> bool:
        """End one; False when there is none."""
        found = self._sessions.pop(session, None)
        if found is None:
            return False
        self.bytes -= sum(map(result_bytes, found.results.values()))
        return True

    def use(self, session: int, index: int) -> Session | None:
        """The session with that id, used by the entry at ``index``."""
        found = self._sessions.pop(session, None)
        if found is not None:
            self._sessions[session] = found
            found.used = index
        return found

    def has(self, session: Session) -> bool:
        """Whether ``session`` has not ended."""
        return self._sessions.get(session.id) is session

    def acknowledge(self, session: Session, ack: int) -> None:
        """Results up to ``ack`` have arrived."""
        if ack <= session.floor:
            return
        if ack - session.floor <= len(session.results):
            gone: Iterable[int] = range(session.floor + 1, ack + 1)
        else:
            gone = [seq for seq in session.results if seq <= ack]
        for seq in gone:
            result = session.results.pop(seq, None)
            if result is not None:
                self.bytes -= result_bytes(result)
        session.floor = ack

    def keep(self, session: Session, seq: int, result: Result) -> None:
        """Remember what became of command ``seq``."""
        session.results[seq] = result
        self.bytes += result_bytes(result)
