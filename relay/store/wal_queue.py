"""What waits for the disk: a bounded queue between the loop, which submits, and the writer, which takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from relay.errors import Full
from relay.store.wal_writer import Batch, GroupWrite, LogOptions, Submission


class LogFull(Full):
    """The queue is full, or the disk has no room for another segment: nothing was done, submit again later."""


class SubmissionQueue:
    """Bounded by bytes and by length; what is counted leaves the count only when it is durable.

    The loop calls ``room``, ``put`` and ``completed``, the writer ``has_work``, ``take`` and ``put_back``. No counter
    is changed by both, so that no lock is needed beside the deque's own.
    """

    __slots__ = ("_length", "_options", "_queue", "_urgent_put", "_urgent_taken", "pending_bytes")

    def __init__(self, options: LogOptions) -> None:
        self._options = options
        self._queue: deque[Submission] = deque()
        self.pending_bytes = 0
        self._length = 0
        self._urgent_put = 0
        self._urgent_taken = 0

    def check_room(self, size: int) -> None:
        """Raises ValueError for more than a submission may have, LogFull when it does not fit now."""
        options = self._options
        if size > options.submission_bytes_max:
            raise ValueError(f"{size} bytes in one submission, the limit is {options.submission_bytes_max}")
        if self.pending_bytes + size > options.queue_bytes_max or self._length >= options.queue_length_max:
            raise LogFull(f"{self._length} submissions of {self.pending_bytes} bytes wait for the disk")

    def put(
        self, writes: Sequence[GroupWrite], done: Callable[[], object] | None, size: int, *, must_sync: bool
    ) -> bool:
        """Append; whether the writer has to be woken: for ``must_sync``, or when the queue is half full."""
        self.pending_bytes += size
        self._length += 1
        options = self._options
        urgent = (
            must_sync or self.pending_bytes * 2 > options.queue_bytes_max or self._length * 2 > options.queue_length_max
        )
        self._queue.append(Submission(writes, done, size, urgent))
        self._urgent_put += urgent
        return urgent

    def completed(self, batch: Batch) -> None:
        """``batch`` is durable: there is room again."""
        self.pending_bytes -= batch.size
        self._length -= len(batch.submissions)

    def has_work(self) -> bool:
        """Whether something urgent waits to be taken."""
        # Not "other than": what ``put`` has appended and not counted yet may be taken already.
        return self._urgent_put > self._urgent_taken

    def take(self) -> Batch | None:
        """All that waits, up to ``batch_bytes_max``, urgent or not. None when nothing does."""
        queue = self._queue
        taken: list[Submission] = []
        size = 0
        while queue and (not taken or size + queue[0].size <= self._options.batch_bytes_max):
            submission = queue.popleft()
            size += submission.size
            self._urgent_taken += submission.urgent
            taken.append(submission)
        return Batch(taken, size) if taken else None

    def put_back(self, batch: Batch) -> None:
        """What was taken goes back to the front, in its order."""
        for submission in reversed(batch.submissions):
            self._urgent_taken -= submission.urgent
            self._queue.appendleft(submission)
