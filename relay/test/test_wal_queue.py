"""The queue before the log's writer, in the order in which two threads may meet there."""

from __future__ import annotations

from collections import deque

from twisted.trial.unittest import SynchronousTestCase

from relay.store.wal_queue import SubmissionQueue
from relay.store.wal_writer import Batch, LogOptions, Submission


class RaceTests(SynchronousTestCase):
    """The loop puts, the writer takes."""

    def test_taken_before_it_is_counted(self) -> None:
        """A submission that the writer takes the moment it lies there is no work a second time: the writer would find
        nothing, and take that for the end."""
        queue = SubmissionQueue(LogOptions())
        taken: list[Batch | None] = []
        work: list[bool] = []

        class Overtaken(deque[Submission]):
            """The loop is interrupted behind ``append``."""

            def append(self, submission: Submission) -> None:
                super().append(submission)
                taken.append(queue.take())
                work.append(queue.has_work())

        queue._queue = Overtaken()
        queue.put((), None, 0, must_sync=True)
        self.assertEqual((len(taken), work, queue.has_work()), (1, [False], False))
        queue._queue = deque()
        queue.put((), None, 0, must_sync=True)
        self.assertTrue(queue.has_work())
        self.assertIsNotNone(queue.take())
        self.assertFalse(queue.has_work())
