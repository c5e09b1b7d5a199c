"""The writes of all groups on their way to the log: one submission a turn, in order, none lost when the log is full.

The core has handed its entries out and counts on their being written, so what the log refuses for lack of room waits
here and is submitted again with every tick and whenever something became durable. Meanwhile ``blocked`` is set, and the
node takes no proposals; what followers are sent is bounded by the leader's window, because nothing is acknowledged.

An answer leaves when everything that was handed out before it is durable. A commit index alone need not be, so what
follows only such a write costs no fdatasync: it leaves with the writes under way, or at once if there are none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from relay.cluster.ports import Log
from relay.cluster.raft.types import Message
from relay.cluster.replica import Replica
from relay.errors import Full

SUBMISSION_BYTES: Final = 4 << 20
"""Payload after which another submission begins; a single write may have more."""

Answers = list[tuple[Replica, Message]]


class _Submission:
    __slots__ = ("answers", "must_sync", "size", "with_entries", "writes")

    def __init__(self) -> None:
        self.writes: list[Any] = []  # Any: what ``Stores.write`` makes
        self.answers: Answers = []
        self.with_entries: set[int] = set()  # the groups; the log takes one such write of each
        self.size = 0
        self.must_sync = False


class LogQueue:
    """See the module."""

    __slots__ = ("_appended", "_log", "_under_way", "_waiting", "written")

    def __init__(self, log: Log, appended: Callable[[Replica, Message], object]) -> None:
        self._log = log
        self._appended = appended
        # Oldest first; only the last one still grows. Empty between turns, but for a full log.
        self._waiting: deque[_Submission] = deque()
        # The answers of submissions that the log has taken, oldest first.
        self._under_way: deque[Answers] = deque()
        self.written = 0  # submissions that are durable

    @property
    def blocked(self) -> bool:
        """The log is full."""
        return len(self._waiting) > 0

    def add(self, replica: Replica, write: Any, message: Message, *, must_sync: bool) -> None:  # Any: as above, or None
        """``appended(replica, message)`` is called when ``write``, if it is one that must, and all before it is
        durable."""
        waiting = self._waiting
        submission = waiting[-1] if waiting else None
        exclusive = must_sync and bool(message.entries or message.snapshot)
        if (
            submission is None
            or submission.size > SUBMISSION_BYTES
            or (exclusive and replica.number in submission.with_entries)
        ):
            submission = _Submission()
            waiting.append(submission)
        if write is not None:
            submission.writes.append(write)
        if exclusive:
            submission.with_entries.add(replica.number)
            submission.size += sum([len(entry.data) for entry in message.entries])
        if must_sync:
            submission.must_sync = True
        if message.responses:
            submission.answers.append((replica, message))

    def flush(self) -> bool:
        """Submit what waits; False when the log has no room. Raises Unavailable when it failed."""
        waiting = self._waiting
        while waiting:
            submission = waiting[0]
            answers = submission.answers
            try:
                if submission.must_sync:
                    self._log.submit(submission.writes, partial(self._done, answers))
                    self._under_way.append(answers)
                elif submission.writes:
                    self._log.submit(submission.writes, must_sync=False)
            except Full:
                return False
            waiting.popleft()
            if submission.must_sync:
                continue
            if self._under_way:
                self._under_way[-1].extend(answers)
            else:
                self._answer(answers)
        return True

    def _done(self, answers: Answers) -> None:
        taken = self._under_way.popleft()
        assert taken is answers, "the log tells in the order of submissions"
        self.written += 1
        self._answer(answers)

    def _answer(self, answers: Answers) -> None:
        for replica, message in answers:
            self._appended(replica, message)
