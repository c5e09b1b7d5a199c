"""Reading history on request, and subscriptions that do not take every event."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relay.config_auth import Permit
from relay.test.core_fixture import Core, Guest
from relay.test.history_fixture import core_of, offsets, outcome, publish, settle, subscribe
from relay.wire import kinds
from relay.wire.handshake import HistoryEnd, read
from relay.wire.message import Message


class Choosing(SynchronousTestCase):
    """Subscriptions that do not take every event."""

    def test_tags(self):
        """Only events with all of the tags, live and recovered; through a pattern too."""
        core = core_of()
        ann, bob = core.guest("ann"), core.guest("bob")
        for body, tags in ((b"1", {"a": "x", "b": "y"}), (b"2", {"a": "x"}), (b"3", None)):
            bob.send(kinds.PUBLISH, "mem.1", body, seq=0, **({"tags": tags} if tags else {}))
        _, events = subscribe(core, ann, "mem.1", last=9, tags={"a": "x", "b": "y"})
        self.assertEqual([each.body for each in events], [b"1"])
        subscribe(core, ann, "plain.*", tags={"a": "x"})
        for name in ("mem.1", "plain.1"):
            for body, tags in ((b"4", {"a": "x", "b": "y"}), (b"5", {"a": "x"}), (b"6", {"a": "z"})):
                bob.send(kinds.PUBLISH, name, body, seq=0, tags=tags)
        self.assertEqual([each.body for each in ann.take()], [b"4", b"4", b"5"])
        subscribe(core, ann, "**")
        bob.send(kinds.PUBLISH, "mem.1", b"7", seq=0)
        self.assertEqual([each.body for each in ann.take()], [b"7"])
        many = {str(number): "" for number in range(17)}
        for kind in (kinds.SUBSCRIBE, kinds.HISTORY):
            self.assertEqual(outcome(ann.answer(ann.send(kind, "mem.1", {"tags": many})))[0], 41)
        realm = core.hub.realms["default"]
        ann.vanish()
        self.assertEqual(realm.selective, 0)

    def test_max_rate(self):
        """At most so many a second; the others are left out."""
        core = core_of()
        ann, bob = core.guest("ann"), core.guest("bob")
        subscribe(core, ann, "plain", max_rate=2.0)
        for number in range(12):
            bob.send(kinds.PUBLISH, "plain", b"%d" % number, seq=0)
            core.clock.advance(0.25)
        self.assertEqual(len(ann.take()), 6)

    def test_tiny_rate(self):
        """The smallest rate that there is lets one event through, and others who publish notice nothing of it."""
        core = core_of()
        ann, bob = core.guest("ann"), core.guest("bob")
        for latest in (False, True):
            subscribe(core, ann, "plain", max_rate=5e-324, latest=latest)
            answers = [bob.answer(bob.send(kinds.PUBLISH, "plain", b"x")).kind for _ in range(3)]
            self.assertEqual(answers, [kinds.REPLY] * 3)
            core.pass_time(5)
            self.assertEqual(len(ann.take()), 1)

    def test_latest(self):
        """With ``latest`` the newest of each conflation key waits for its turn; the last one always comes."""
        core = core_of(conflation_keys_max=2)
        ann, bob = core.guest("ann"), core.guest("bob")
        subscribe(core, ann, "plain", max_rate=1.0, latest=True)
        for number in range(9):
            bob.send(kinds.PUBLISH, "plain", b"%d" % number, seq=0, conflation_key="xy"[number % 2])
        self.assertEqual([each.body for each in ann.take()], [b"0"])
        core.pass_time(5)
        self.assertEqual([each.body for each in ann.take()], [b"7", b"8"])
        for number in range(9):
            bob.send(kinds.PUBLISH, "plain", b"%d" % number, seq=0, conflation_key=str(number))
        core.pass_time(9)
        self.assertEqual([each.body for each in ann.take()], [b"0", b"7", b"8"])
        self.assertEqual(outcome(ann.answer(ann.send(kinds.SUBSCRIBE, "plain", {"latest": True})))[0], 14)

    def test_latest_is_bounded(self):
        """What waits for its turn is bounded in bytes: what waits longest goes."""
        core = core_of(live_bytes_max=2500)
        ann, bob = core.guest("ann"), core.guest("bob")
        subscribe(core, ann, "plain", max_rate=1.0, latest=True)
        for number in range(6):
            bob.send(kinds.PUBLISH, "plain", bytes([number]) * 1000, seq=0, conflation_key=str(number))
        core.pass_time(9)
        self.assertEqual([each.body[0] for each in ann.take()], [0, 4, 5])

    def test_options_replaced(self):
        """Subscribing again with other options takes them; what waited under the old ones does not come."""
        core = core_of()
        ann, bob = core.guest("ann"), core.guest("bob")
        subscribe(core, ann, "plain", max_rate=1.0, latest=True)
        for number in range(3):
            bob.send(kinds.PUBLISH, "plain", b"%d" % number, seq=0)
        ann.send(kinds.SUBSCRIBE, "plain")
        bob.send(kinds.PUBLISH, "plain", b"3", seq=0)
        core.pass_time(5)
        events = ann.take(kinds.EVENT)
        self.assertEqual((events[0].body, events[-1].body), (b"0", b"3"))
        self.assertEqual(core.hub.realms["default"].selective, 0)


class Reading(SynchronousTestCase):
    """``history``."""

    def ask(self, core: Core, guest: Guest, name: str, **options: Any) -> tuple[list[Message], HistoryEnd]:
        """One page."""
        seq = guest.send(kinds.HISTORY, name, options)
        settle(core)
        got = guest.take()
        self.assertEqual({each.seq for each in got}, {seq})
        self.assertTrue(all(each.flags & kinds.MORE for each in got[:-1]))
        return got[:-1], read(got[-1], HistoryEnd)

    def test_pages_in_both_directions(self):
        """All of it, page by page, forwards and backwards; each publication with body, codec, fields and place."""
        for name in ("mem.1", "disk.1"):
            core = core_of(page_messages_max=3)
            publish(core, name, 8, metadata={"k": "v"})
            ann = core.guest("ann")
            for backwards in (False, True):
                seen, cursor = [], 0
                for _ in range(3):
                    where = {"before": cursor} if backwards else {"after": cursor}
                    page, end = self.ask(core, ann, name, backwards=backwards, **where)
                    self.assertEqual((end.epoch, end.first, end.last), ("e1", 1, 8))
                    seen += page
                    cursor = end.next
                self.assertEqual(cursor, 0)
                self.assertEqual(offsets(seen), list(range(8, 0, -1)) if backwards else list(range(1, 9)))
            self.assertEqual(seen[0].get(kinds.METADATA), {"k": "v"})
            self.assertEqual((seen[0].body, seen[0].get(kinds.FROM_USER)), (b"7", "publisher"))

    def test_ranges(self):
        """Bounds, time, tags, limits, and the ends alone."""
        core = core_of()
        publish(core, "mem.1", 5)
        core.clock.advance(10)
        publish(core, "mem.1", 3, 5, tags={"t": "1"})
        ann = core.guest("ann")
        now = int(core.hub.wall() * 1000)
        wanted: tuple[tuple[dict[str, Any], list[int], int], ...] = (
            ({"after": 2, "before": 6}, [3, 4, 5], 0),
            ({"after": 2, "before": 7, "limit": 2}, [3, 4], 4),
            ({"before": 5, "backwards": True, "limit": 2}, [4, 3], 3),
            ({"after": 3, "before": 6, "backwards": True}, [5, 4], 0),
            ({"since_time": now}, [6, 7, 8], 0),
            ({"tags": {"t": "1"}}, [6, 7, 8], 0),
            ({"limit": 0}, [], 0),
            ({"epoch": "other"}, [], 0),
            ({"after": 8}, [], 0),
        )
        for options, expected, following in wanted:
            page, end = self.ask(core, ann, "mem.1", **options)
            self.assertEqual((offsets(page), end.next, end.last), (expected, following, 8), options)
        page, end = self.ask(core, ann, "mem.2")
        self.assertEqual((page, end), ([], HistoryEnd("-i1", 1, 0)))

    def test_who_may(self):
        """Whoever may subscribe; not where there is none, not the server's own names, not without a seq."""
        core = Core(core_of().config, Permit(subscribe=("mem.1",)))
        ann = core.guest("ann")
        for name, number in (("mem.2", 21), ("plain", 21), ("$x", 21), ("mem.*", 13)):
            self.assertEqual(outcome(ann.answer(ann.send(kinds.HISTORY, name)))[0], number)
        self.assertEqual(outcome(ann.answer(ann.send(kinds.HISTORY, "mem.1", {"limit": -1})))[0], 14)
        ann.send(kinds.HISTORY, "mem.1", seq=0)
        self.assertEqual(ann.take(kinds.ERROR)[-1].get(kinds.ERROR_CODE), 14)
        anybody = core_of().guest()
        self.assertEqual(outcome(anybody.answer(anybody.send(kinds.HISTORY, "plain")))[0], 12)

    def test_requests_at_once(self):
        """A session has at most ``reads_per_session_max`` under way."""
        core = core_of(reads_per_session_max=2)
        ann = core.guest("ann")
        seqs = [ann.send(kinds.HISTORY, "disk.1") for _ in range(3)]
        self.assertEqual(outcome(ann.answer(seqs[2])), (40, True, "not_done"))
        settle(core)
        self.assertEqual(ann.answer(seqs[1]).kind, kinds.REPLY)
        for _ in range(2):
            ann.send(kinds.HISTORY, "disk.1")
        core.sessions.close(ann.connection.session, kinds.KICKED)
        settle(core)
        self.assertEqual(core.durable.waiting, [])

    def test_behind_own_publications(self):
        """Who publishes and reads reads what it published."""
        core = core_of()
        ann = core.guest("ann")
        ann.send(kinds.PUBLISH, "disk.1", b"x", seq=0)
        page, _ = self.ask(core, ann, "disk.1")
        self.assertEqual(offsets(page), [1])
