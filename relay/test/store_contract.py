"""What every store has to keep to, whatever it is made of: mixins for the tests of each.

A test case mixes in ``HistoryContract``, or ``QueueContract`` or ``PresenceContract`` of the module beside it
(``store_contract_queues``), and gives::

    store(**settings)   an open store with these settings of section ``store``: .history, .queues, .presence
    settled(store)      has everything done that was submitted; gives a Deferred or None
    trimmed(store)      has everything removed that is over its limits or has expired; likewise

``self.now_ms`` is the store's time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from relay.errors import Full
from relay.interfaces import IHistory
from relay.records import Append, Page, Put, QueueState, Range, Retention, Settle
from relay.store.budget import OVERHEAD_BYTES, READ_BYTES_MAX

NOW_MS = 1_800_000_000_000
KEEP = Retention()
ODD_FRAMES = [b"", b"\x00", b"\xff\xfe\x00,'\n", bytes(range(256)), b"," * 5000]


if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase as _Case
else:
    _Case = object


class Contract(_Case):
    """What the mixins share. The test case they are mixed into is trial's."""

    store: Any  # Any: a factory, see the module
    settled: Any  # Any: as above
    trimmed: Any  # Any: as above

    def setUp(self) -> None:
        """Time stands still."""
        self.now_ms = NOW_MS

    async def ask(self, store: Any, method: Callable[..., None], *arguments: Any) -> Any:
        """Call a store's method; what its ``done`` is called with."""
        answer: Deferred[Any] = Deferred()
        method(*arguments, answer.callback)
        waited = self.settled(store)
        if waited is not None:
            await waited
        return await answer

    # --- histories ------------------------------------------------------------------------------------------------

    def publication(self, body: bytes = b"x", channel: str = "c", realm: str = "r", **fields: Any) -> Append:
        """One publication, accepted now."""
        fields.setdefault("retention", KEEP)
        fields.setdefault("at_ms", self.now_ms)
        return Append(realm, channel, body, **fields)

    async def append(self, store: Any, *batch: Append) -> list[int]:
        """Append them; their offsets. None may fail."""
        await self.ask(store, store.history.append, batch)
        self.assertEqual([each.error for each in batch], [None] * len(batch))
        return [each.offset for each in batch]

    async def page(self, store: Any, channel: str = "c", realm: str = "r", **wanted: Any) -> Page:
        """Read a channel."""
        wanted.setdefault("limit", 100)
        page: Page = await self.ask(store, store.history.read, Range(realm, channel, **wanted))
        self.assertEqual(page.error, None)
        return page

    async def offsets(self, store: Any, channel: str = "c", realm: str = "r", **wanted: Any) -> list[int]:
        """The offsets of a page."""
        page = await self.page(store, channel, realm, **wanted)
        return [each.offset for each in page.publications]

    # --- queues ---------------------------------------------------------------------------------------------------

    def message(self, body: bytes = b"x", queue: str = "q", realm: str = "r", **fields: Any) -> Put:
        """One message, accepted now."""
        return Put(realm, queue, body, fields.pop("at_ms", self.now_ms), **fields)

    async def put(self, store: Any, *batch: Put) -> list[int]:
        """Put them; their numbers. None may fail."""
        await self.ask(store, store.queues.put, batch)
        self.assertEqual([each.error for each in batch], [None] * len(batch))
        return [each.number for each in batch]

    async def settle(self, store: Any, number: int, action: int, queue: str = "q", **fields: Any) -> Settle:
        """Settle one message."""
        settle = Settle("r", queue, number, action, **fields)
        await self.ask(store, store.queues.settle, [settle])
        return settle

    async def load(self, store: Any, dead: bool = False, queue: str = "q", after: int = 0, limit: int = 100) -> Any:
        """The messages of a queue."""
        return await self.ask(store, store.queues.load, "r", queue, after, limit, dead)

    async def numbers(self, store: Any, dead: bool = False, queue: str = "q", **wanted: int) -> list[int]:
        """Their numbers."""
        return [each.number for each in await self.load(store, dead, queue, **wanted)]

    async def states(self, store: Any) -> dict[tuple[str, str], QueueState]:
        """The states of all queues."""
        return {(each.realm, each.queue): each for each in await self.ask(store, store.queues.states)}


class HistoryContract(Contract):
    """``IHistory``."""

    async def test_history_interface(self) -> None:
        """It is what it says."""
        verifyObject(IHistory, self.store().history)

    async def test_offsets_gapless(self) -> None:
        """Offsets of a channel are 1, 2, 3 … in the order of submission, whatever goes to other channels and realms."""
        store = self.store()
        batch = [self.publication(b"%d" % n, "ab"[n % 2], "rs"[n % 3 == 0]) for n in range(60)]
        await self.append(store, *batch[:7])
        await self.append(store, *batch[7:])
        for realm in "rs":
            for channel in "ab":
                mine = [each for each in batch if (each.realm, each.channel) == (realm, channel)]
                self.assertEqual([each.offset for each in mine], list(range(1, len(mine) + 1)))
                page = await self.page(store, channel, realm)
                self.assertEqual([each.frame for each in page.publications], [each.frame for each in mine])
                self.assertEqual((page.first, page.last), (1, len(mine)))

    async def test_same_objects(self) -> None:
        """The objects of the batch come back filled; all of a channel have its epoch."""
        store = self.store()
        batch = [self.publication(context=n) for n in range(3)]
        answer = await self.ask(store, store.history.append, batch)
        self.assertEqual([id(each) for each in answer], [id(each) for each in batch])
        page = await self.page(store)
        self.assertEqual({each.epoch for each in batch}, {page.epoch})
        self.assertTrue(page.epoch)
        self.assertEqual([each.context for each in batch], [0, 1, 2])

    async def test_unknown_channel(self) -> None:
        """A channel that nobody published to has epoch '' and last 0."""
        store = self.store()
        await self.append(store, self.publication())
        for realm, channel in (("r", "other"), ("other", "c")):
            page = await self.page(store, channel, realm)
            self.assertEqual((page.epoch, page.first, page.last, page.publications), ("", 1, 0, ()))

    async def test_frames_and_fields(self) -> None:
        """Frames of any bytes and all fields come back as they were stored."""
        store = self.store()
        batch = [
            self.publication(frame, at_ms=self.now_ms + n, expires_ms=(self.now_ms + 10**6 + n) * (n % 2))
            for n, frame in enumerate(ODD_FRAMES)
        ]
        await self.append(store, *batch)
        page = await self.page(store)
        expected = [(each.offset, each.at_ms, each.expires_ms, each.frame) for each in batch]
        found = [(each.offset, each.at_ms, each.expires_ms, each.frame) for each in page.publications]
        self.assertEqual(found, expected)

    async def test_ranges(self) -> None:
        """Offsets over ``after`` and under ``before``, forwards and backwards, at most ``limit``."""
        store = self.store()
        await self.append(store, *[self.publication() for _ in range(10)])
        self.assertEqual(await self.offsets(store, after=3, limit=4), [4, 5, 6, 7])
        self.assertEqual(await self.offsets(store, before=4), [1, 2, 3])
        self.assertEqual(await self.offsets(store, backwards=True, limit=3), [10, 9, 8])
        self.assertEqual(await self.offsets(store, backwards=True, before=8, after=5), [7, 6])
        self.assertEqual(await self.offsets(store, after=10), [])
        self.assertEqual(await self.offsets(store, after=2**64 - 1), [])
        self.assertEqual(await self.offsets(store, before=2**64 - 1, after=8), [9, 10])
        self.assertEqual(await self.offsets(store, limit=0), [])
        self.assertEqual((await self.page(store, limit=0)).last, 10)

    async def test_paging(self) -> None:
        """Pages from one end to the other have every publication once, both ways."""
        store = self.store()
        await self.append(store, *[self.publication() for _ in range(25)])
        found: list[int] = []
        while page := await self.offsets(store, after=found[-1] if found else 0, limit=4):
            found += page
        self.assertEqual(found, list(range(1, 26)))
        found = []
        while page := await self.offsets(store, before=found[-1] if found else 0, limit=4, backwards=True):
            found += page
        self.assertEqual(found, list(range(25, 0, -1)))

    async def test_page_bytes(self) -> None:
        """A page ends where its bytes are over ``bytes_max``, and has at least one publication."""
        store = self.store()
        await self.append(store, *[self.publication(bytes(100)) for _ in range(10)])
        self.assertEqual(await self.offsets(store, bytes_max=1), [1])
        self.assertEqual(await self.offsets(store, bytes_max=250), [1, 2, 3])
        self.assertEqual(await self.offsets(store, bytes_max=250, backwards=True), [10, 9, 8])

    async def test_page_without_bound(self) -> None:
        """A page without a bound of its own ends at ``READ_BYTES_MAX``; who goes on from there gets the rest."""
        store = self.store()
        await self.append(store, *[self.publication(bytes(READ_BYTES_MAX // 4)) for _ in range(6)])
        self.assertEqual(await self.offsets(store), [1, 2, 3, 4])
        self.assertEqual(await self.offsets(store, after=4), [5, 6])

    async def test_since(self) -> None:
        """``since_ms``: accepted then or later."""
        store = self.store()
        await self.append(store, *[self.publication(at_ms=self.now_ms + n * 10) for n in range(10)])
        self.assertEqual(await self.offsets(store, since_ms=self.now_ms + 45), [6, 7, 8, 9, 10])
        self.assertEqual(await self.offsets(store, since_ms=self.now_ms + 50), [6, 7, 8, 9, 10])
        self.assertEqual(await self.offsets(store, since_ms=self.now_ms + 50, after=8), [9, 10])
        self.assertEqual(await self.offsets(store, since_ms=self.now_ms + 75, backwards=True), [10, 9])
        self.assertEqual(await self.offsets(store, since_ms=self.now_ms - 1, limit=2), [1, 2])
        self.assertEqual(await self.offsets(store, since_ms=self.now_ms + 91), [])

    async def test_retention_number(self) -> None:
        """What is over the number of messages goes, the oldest first; offsets go on."""
        store = self.store()
        few = Retention(messages_max=5)
        for n in range(40):
            await self.append(store, self.publication(b"%d" % n, retention=few))
        await self.trimmed(store)
        page = await self.page(store)
        self.assertEqual([each.offset for each in page.publications], [36, 37, 38, 39, 40])
        self.assertEqual((page.first, page.last), (36, 40))

    async def test_retention_bytes(self) -> None:
        """What is over the bytes of frames goes."""
        store = self.store()
        await self.append(store, *[self.publication(bytes(100), retention=Retention(bytes_max=350)) for _ in range(9)])
        await self.trimmed(store)
        self.assertEqual(await self.offsets(store), [7, 8, 9])
        await self.append(store, self.publication(bytes(400), retention=Retention(bytes_max=350)))
        await self.trimmed(store)
        page = await self.page(store)
        self.assertEqual((page.publications, page.first, page.last), ((), 11, 10))

    async def test_retention_age(self) -> None:
        """What is over the age goes, also when nothing is published any more."""
        store = self.store()
        short = Retention(age_ms_max=1000)
        for _ in range(4):
            await self.append(store, self.publication(retention=short))
            self.now_ms += 400
        await self.trimmed(store)
        self.assertEqual(await self.offsets(store), [3, 4])
        self.now_ms += 10_000
        await self.trimmed(store)
        page = await self.page(store)
        self.assertEqual((page.publications, page.first, page.last), ((), 5, 4))

    async def test_offsets_never_again(self) -> None:
        """A channel whose publications have all gone goes on with its offsets and its epoch."""
        store = self.store()
        await self.append(store, *[self.publication(retention=Retention(age_ms_max=10)) for _ in range(3)])
        epoch = (await self.page(store)).epoch
        self.now_ms += 1000
        await self.trimmed(store)
        self.assertEqual(await self.append(store, self.publication()), [4])
        page = await self.page(store)
        self.assertEqual((page.epoch, page.first, page.last), (epoch, 4, 4))

    async def test_idle_channel_forgotten(self) -> None:
        """A channel that keeps nothing is forgotten after ``channel_idle_s``; then its epoch changes."""
        store = self.store(channel_idle_s=100.0)
        await self.append(store, self.publication(retention=Retention(age_ms_max=10)))
        epoch = (await self.page(store)).epoch
        self.now_ms += 90_000
        await self.trimmed(store)
        self.assertEqual((await self.page(store)).epoch, epoch)
        self.now_ms += 20_000
        await self.trimmed(store)
        self.assertEqual((await self.page(store)).epoch, "")
        await self.append(store, self.publication())
        self.assertNotEqual((await self.page(store)).epoch, epoch)

    async def test_expiry(self) -> None:
        """An expired publication is left out at once, wherever it stands, and removed later."""
        store = self.store()
        batch = [self.publication(expires_ms=(self.now_ms + 100) * (n in (0, 2, 3))) for n in range(5)]
        await self.append(store, *batch)
        self.now_ms += 99
        self.assertEqual(await self.offsets(store), [1, 2, 3, 4, 5])
        self.now_ms += 1
        page = await self.page(store)
        self.assertEqual(([each.offset for each in page.publications], page.first, page.last), ([2, 5], 2, 5))
        self.assertEqual(await self.offsets(store, backwards=True, limit=1, before=5), [2])
        await self.trimmed(store)
        self.assertEqual(await self.offsets(store), [2, 5])

    async def test_expiry_of_all(self) -> None:
        """When all have expired, the next offset is the first."""
        store = self.store()
        await self.append(store, *[self.publication(expires_ms=self.now_ms + 1) for _ in range(3)])
        self.now_ms += 1
        for _ in range(2):
            page = await self.page(store)
            self.assertEqual((page.publications, page.first, page.last), ((), 4, 3))
            await self.trimmed(store)

    async def test_retained(self) -> None:
        """The last value is the latest retained publication, also when it is no longer in the history."""
        store = self.store()
        one = Retention(messages_max=1)
        await self.append(store, self.publication(b"1", retained=True), self.publication(b"2", retained=True))
        await self.append(store, *[self.publication(b"later", retention=one) for _ in range(3)])
        await self.trimmed(store)
        page = await self.page(store)
        assert page.retained is not None
        self.assertEqual((page.retained.offset, page.retained.frame), (2, b"2"))
        self.assertEqual([each.offset for each in page.publications], [5])

    async def test_retained_expires(self) -> None:
        """A last value expires as others do."""
        store = self.store()
        await self.append(store, self.publication(retained=True, expires_ms=self.now_ms + 5))
        self.assertNotEqual((await self.page(store)).retained, None)
        self.now_ms += 5
        self.assertEqual((await self.page(store)).retained, None)
        await self.trimmed(store)
        self.assertEqual((await self.page(store)).retained, None)

    async def test_repeated_key(self) -> None:
        """Within its window a key is answered with the first one's offset, and nothing is stored."""
        store = self.store()
        until = self.now_ms + 1000
        first = self.publication(b"first", key="k", key_until_ms=until)
        await self.append(store, self.publication(), first, self.publication())
        again = self.publication(b"again", key="k", key_until_ms=until)
        self.assertEqual(await self.append(store, again), [2])
        self.assertEqual((first.repeated, again.repeated, again.epoch), (False, True, first.epoch))
        self.assertEqual([each.frame for each in (await self.page(store)).publications], [b"x", b"first", b"x"])

    async def test_repeated_key_in_batch(self) -> None:
        """Also within one batch, and without a gap for what follows."""
        store = self.store()
        batch = [self.publication(key=key, key_until_ms=self.now_ms + 9) for key in ("a", "a", "b", "a")]
        self.assertEqual(await self.append(store, *batch), [1, 1, 2, 1])
        self.assertEqual([each.repeated for each in batch], [False, True, False, True])

    async def test_key_is_of_its_channel(self) -> None:
        """The same key in another channel or realm is another one."""
        store = self.store()
        for realm, channel in (("r", "a"), ("r", "b"), ("s", "a")):
            append = self.publication(channel=channel, realm=realm, key="k", key_until_ms=self.now_ms + 9)
            self.assertEqual(await self.append(store, append), [1])
            self.assertEqual(append.repeated, False)

    async def test_key_window_ends(self) -> None:
        """After its window a key may be used again."""
        store = self.store()
        await self.append(store, self.publication(key="k", key_until_ms=self.now_ms + 100))
        self.now_ms += 100
        self.assertEqual(await self.append(store, self.publication(key="k", key_until_ms=self.now_ms + 100)), [2])
        await self.trimmed(store)
        self.now_ms += 50
        self.assertEqual(await self.append(store, self.publication(key="k", key_until_ms=self.now_ms + 100)), [2])

    async def test_keys_max(self) -> None:
        """Of too many keys the oldest are forgotten."""
        store = self.store(keys_max=3)
        for n in range(5):
            await self.append(store, self.publication(key=f"k{n}", key_until_ms=self.now_ms + 1000 + n))
            await self.trimmed(store)
        self.assertEqual(await self.append(store, self.publication(key="k4", key_until_ms=self.now_ms + 2000)), [5])
        self.assertEqual(await self.append(store, self.publication(key="k0", key_until_ms=self.now_ms + 2000)), [6])

    async def test_purge(self) -> None:
        """A purge forgets everything of that channel; the next publication begins another epoch at 1."""
        store = self.store()
        fields: dict[str, Any] = {"key": "k", "key_until_ms": self.now_ms + 10**6, "retained": True}
        await self.append(store, self.publication(**fields), self.publication(), self.publication(channel="other"))
        epoch = (await self.page(store)).epoch
        self.assertEqual(await self.ask(store, store.history.purge, "r", "c"), None)
        page = await self.page(store)
        self.assertEqual((page.epoch, page.first, page.last, page.retained), ("", 1, 0, None))
        await self.trimmed(store)
        self.assertEqual(await self.append(store, self.publication(b"new", **fields)), [1])
        page = await self.page(store)
        self.assertEqual([each.frame for each in page.publications], [b"new"])
        self.assertNotIn(page.epoch, ("", epoch))
        self.assertEqual(await self.offsets(store, "other"), [1])

    async def test_forgotten(self) -> None:
        """A page tells a channel that was forgotten from what it was before; other channels are not concerned."""
        store = self.store()
        before = await self.page(store)
        other = await self.page(store, "other")
        for _ in range(2):
            await self.append(store, self.publication())
            self.assertEqual((await self.page(store)).forgotten, before.forgotten)
            self.assertEqual(await self.ask(store, store.history.purge, "r", "c"), None)
            after = await self.page(store)
            self.assertGreater(after.forgotten, before.forgotten)
            before = after
        self.assertEqual((await self.page(store, "other")).forgotten, other.forgotten)

    async def test_purge_of_nothing(self) -> None:
        """A purge of a channel that is not there is no error, and makes none."""
        store = self.store(channels_max=1)
        self.assertEqual(await self.ask(store, store.history.purge, "r", "c"), None)
        self.assertEqual(await self.append(store, self.publication(channel="d")), [1])

    async def test_channels_max(self) -> None:
        """A channel too many is refused, temporarily and for certain; those that are there go on."""
        store = self.store(channels_max=2)
        batch = [self.publication(channel=each) for each in "abcab"]
        await self.ask(store, store.history.append, batch)
        self.assertEqual([each.offset for each in batch], [1, 1, 0, 2, 2])
        error = batch[2].error
        self.assertIsInstance(error, Full)
        assert error is not None
        self.assertEqual((error.temporary, error.outcome), (True, "not_done"))
        await self.ask(store, store.history.purge, "r", "a")
        self.assertEqual(await self.append(store, self.publication(channel="c")), [1])

    async def test_realm_full(self) -> None:
        """A realm at its limit is refused without taking an offset; other realms and what has room go on."""
        store = self.store(realm_bytes_max=3 * (OVERHEAD_BYTES + 100))
        batch = [self.publication(bytes(100)) for _ in range(5)]
        await self.ask(store, store.history.append, batch)
        self.assertEqual([each.offset for each in batch], [1, 2, 3, 0, 0])
        self.assertEqual([type(each.error) for each in batch[3:]], [Full, Full])
        self.assertEqual(await self.append(store, self.publication(bytes(100), realm="s")), [1])
        await self.ask(store, store.history.purge, "r", "c")
        self.assertEqual(await self.append(store, self.publication(bytes(100))), [1])

    async def test_realm_full_rolls(self) -> None:
        """In a realm at its limit a channel that is at its own limit still goes on: the new one pushes the old out."""
        store = self.store(realm_bytes_max=3 * (OVERHEAD_BYTES + 100))
        few = Retention(messages_max=3)
        for n in range(10):
            self.assertEqual(await self.append(store, self.publication(bytes(100), retention=few)), [n + 1])
        await self.trimmed(store)
        self.assertEqual(await self.offsets(store), [8, 9, 10])

    async def test_completion_order(self) -> None:
        """Batches complete in the order of submission, each once, whatever becomes of them."""
        store = self.store(channels_max=1)
        order: list[int] = []
        for n in range(50):
            batch = [self.publication(channel="c" if n % 3 else "other", context=n)]
            store.history.append(batch, lambda batch: order.append(batch[0].context))
        waited = self.settled(store)
        if waited is not None:
            await waited
        self.assertEqual(order, list(range(50)))

    async def test_submitted_in_completion(self) -> None:
        """A completion may submit more."""
        store = self.store()
        offsets: list[int] = []

        def done(batch: Any) -> None:
            offsets.append(batch[0].offset)
            if len(offsets) < 5:
                store.history.append([self.publication()], done)

        store.history.append([self.publication()], done)
        while len(offsets) < 5:
            waited = self.settled(store)
            if waited is not None:
                await waited
        self.assertEqual(offsets, [1, 2, 3, 4, 5])
