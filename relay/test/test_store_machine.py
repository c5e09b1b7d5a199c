"""The SQLite store beside the store in memory: whatever is done to both, they answer the same.

The file is closed and opened again in between, as often as hypothesis likes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from random import Random
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from relay.config_store import Store
from relay.records import ACKED, DEAD, REMOVED, RETRY, REVIVED, Append, Put, Range, Retention, Settle
from relay.store.memory import MemoryStore
from relay.store.sqlite import SqliteStore
from relay.test.strategies import runs

NOW_MS = 1_800_000_000_000
RETENTIONS = {
    "all": Retention(),
    "few": Retention(messages_max=3),
    "small": Retention(bytes_max=40),
    "short": Retention(age_ms_max=1500),
}
REALMS = st.sampled_from(["r", "s"])
CHANNELS = st.sampled_from(list(RETENTIONS))
QUEUES = st.sampled_from(["p", "q"])
KEYS = st.sampled_from(["", "", "", "a", "b"])
LIVES_MS = st.sampled_from([0, 0, 0, 500, 2000, 30_000])
NUMBERS = st.integers(0, 12)
STEPS = 40
EXAMPLES = 25


class Stores(RuleBasedStateMachine):
    """Both of them, and a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = NOW_MS
        self.random = Random(1)
        self.directory = tempfile.mkdtemp()
        self.options = Store(trim_rows=5, keys_max=1000)
        self.memory = MemoryStore(self.options, lambda: self.now_ms, self.random.randbytes)
        self.sqlite = self.opened()
        self.used: set[tuple[str, str]] = set()

    def opened(self) -> SqliteStore:
        """The file, opened."""
        path = os.path.join(self.directory, "relay.db")
        store = SqliteStore(path, self.options, lambda: self.now_ms, self.random.randbytes, on_fatal=_raise)
        store.open()
        store.writer._connection.execute("PRAGMA synchronous = OFF")  # the process is not killed here
        return store

    def teardown(self) -> None:
        """Close and remove the file."""
        self.sqlite.stop()
        shutil.rmtree(self.directory)

    def both(self, ask: Any) -> tuple[Any, Any]:
        """Ask both; their answers."""
        answers: list[Any] = []
        for store in (self.memory, self.sqlite):
            ask(store, answers.append)
            if store is self.sqlite:
                self.sqlite.run_once()
        assert len(answers) == 2, answers
        return answers[0], answers[1]

    # --- what can be done -----------------------------------------------------------------------------------------

    @rule(
        realm=REALMS,
        batch=st.lists(st.tuples(CHANNELS, st.binary(max_size=30), KEYS, LIVES_MS, st.booleans()), max_size=6),
    )
    def append(self, realm: str, batch: list[tuple[str, bytes, str, int, bool]]) -> None:
        """Publish a batch."""

        def made() -> list[Append]:
            return [
                Append(
                    realm, channel, frame, self.now_ms, RETENTIONS[channel],
                    expires_ms=life and self.now_ms + life, key=key, key_until_ms=self.now_ms + 2000, retained=retained,
                )
                for channel, frame, key, life, retained in batch
            ]  # fmt: skip

        self.used |= {(realm, each[0]) for each in batch}
        one, other = self.both(lambda store, done: store.history.append(made(), done))
        assert [_appended(each) for each in one] == [_appended(each) for each in other]

    @rule(realm=REALMS, batch=st.lists(st.tuples(QUEUES, st.binary(max_size=30), KEYS, LIVES_MS), max_size=6))
    def put(self, realm: str, batch: list[tuple[str, bytes, str, int]]) -> None:
        """Put a batch."""

        def made() -> list[Put]:
            return [
                Put(
                    realm, queue, frame, self.now_ms, self.now_ms + 5, life and self.now_ms + life, len(frame) % 3,
                    "o", key, self.now_ms + 2000, queue_bytes_max=1500,
                )
                for queue, frame, key, life in batch
            ]  # fmt: skip

        one, other = self.both(lambda store, done: store.queues.put(made(), done))
        assert [(each.number, each.repeated, type(each.error)) for each in one] == [
            (each.number, each.repeated, type(each.error)) for each in other
        ]

    @rule(
        realm=REALMS,
        batch=st.lists(
            st.tuples(QUEUES, NUMBERS, st.sampled_from([ACKED, ACKED, RETRY, DEAD, DEAD, REVIVED, REMOVED])), max_size=8
        ),
    )
    def settle(self, realm: str, batch: list[tuple[str, int, int]]) -> None:
        """Settle a batch, with whatever numbers, the same ones several times."""

        def made() -> list[Settle]:
            return [Settle(realm, queue, number, action, number, number, "why") for queue, number, action in batch]

        one, other = self.both(lambda store, done: store.queues.settle(made(), done))
        assert [type(each.error) for each in one] == [type(each.error) for each in other]

    @rule(realm=REALMS, channel=CHANNELS)
    def purge_channel(self, realm: str, channel: str) -> None:
        """Purge a channel."""
        assert self.both(lambda store, done: store.history.purge(realm, channel, done)) == (None, None)

    @rule(realm=REALMS, queue=QUEUES, dead=st.booleans())
    def purge_queue(self, realm: str, queue: str, dead: bool) -> None:
        """Purge a queue."""
        one, other = self.both(lambda store, done: store.queues.purge(realm, queue, dead, done))
        assert one == other

    @rule(realm=REALMS, queue=QUEUES, paused=st.booleans())
    def pause(self, realm: str, queue: str, paused: bool) -> None:
        """Pause a queue, or not."""
        assert self.both(lambda store, done: store.queues.pause(realm, queue, paused, done)) == (None, None)

    @rule(passed_ms=st.sampled_from([1, 400, 1500, 12_000]))
    def later(self, passed_ms: int) -> None:
        """Time passes, and both trim."""
        self.now_ms += passed_ms
        for _ in range(3):
            self.memory.sweep()
        self.sqlite.tick()
        self.sqlite.run_once()

    @rule()
    def restart(self) -> None:
        """The file is closed and opened again."""
        self.sqlite.stop()
        self.sqlite = self.opened()

    # --- what must be the same ------------------------------------------------------------------------------------

    @rule(
        realm=REALMS,
        channel=CHANNELS,
        after=NUMBERS,
        before=NUMBERS,
        limit=st.integers(0, 5),
        bytes_max=st.sampled_from([0, 1, 50]),
        since_ms=st.sampled_from([0, NOW_MS + 1000]),
        backwards=st.booleans(),
    )
    def read(self, realm: str, channel: str, **wanted: Any) -> None:
        """Any page is the same, once both have trimmed."""
        self.later(0)
        one, other = self.both(lambda store, done: store.history.read(Range(realm, channel, **wanted), done))
        assert _page(one) == _page(other)

    @invariant()
    def budgets(self) -> None:
        """Both count the same bytes, once both have trimmed; and the file what a new start would find."""
        self.later(0)
        assert self.memory.budget.realms == self.sqlite.writer.budget.realms
        assert self.memory.budget.bytes == self.sqlite.writer.budget.bytes

    @invariant()
    def queues(self) -> None:
        """All queues are the same."""
        one, other = self.both(lambda store, done: store.queues.states(done))
        assert sorted(one, key=repr) == sorted(other, key=repr)
        for state in one:
            for dead in (False, True):
                loaded = self.both(
                    lambda store, done, state=state, dead=dead: store.queues.load(
                        state.realm, state.queue, 0, 100, dead, done
                    )
                )
                assert list(loaded[0]) == list(loaded[1])


def _raise(error: BaseException) -> None:
    raise error


def _appended(append: Append) -> tuple[Any, ...]:
    return append.offset, append.repeated, type(append.error), bool(append.epoch)


def _page(page: Any) -> tuple[Any, ...]:
    return bool(page.epoch), page.first, page.last, page.publications, page.retained, page.error


class MachineTests(SynchronousTestCase):
    """The property."""

    def test_same(self) -> None:
        """Whatever happens, the two stores cannot be told apart."""
        settings = runs(EXAMPLES)
        run_state_machine_as_test(Stores, settings=type(settings)(settings, stateful_step_count=STEPS))
