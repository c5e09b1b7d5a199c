"""Joined writes and slow peers (``relay.core.outbox``)."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.interfaces import IPushProducer
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relay.config import Slow
from relay.core.outbox import CONTROL, DROP_OLDEST, DROPPABLE, JOIN_BYTES_MAX, LATEST, Flusher, Outbox, StraightOutbox


class PlainOutbox:
    """The plain twin: each frame is one write, in order, and nothing is ever left out."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def send(self, frame: bytes) -> None:
        """Write it."""
        self.written.append(frame)


class Turn:
    """A reactor's turn: what is to be run at its end."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def end(self) -> None:
        """Run it."""
        waiting, self.waiting = self.waiting, []
        for function in waiting:
            function()


def outbox(
    policy: str = "disconnect", queue_bytes_max: int = 1000, kind: type[Outbox] = Outbox
) -> tuple[Outbox, Turn, list[bytes], list[str]]:
    """An outbox, the turn it flushes at, what it wrote, and a list that grows when it overflows."""
    turn = Turn()
    written: list[bytes] = []
    overflows: list[str] = []
    slow = Slow(policy=policy, queue_bytes_max=queue_bytes_max)  # type: ignore[arg-type]  # checked by msgspec
    box = kind(Flusher(lambda f: turn.waiting.append(f)), written.append, slow, lambda: overflows.append("overflow"))
    box.skip_frame = lambda count: b"<skip %d>" % count
    return box, turn, written, overflows


class Joining(SynchronousTestCase):
    """Frames of one turn leave in one write."""

    def test_interface(self):
        """The transport can drive it."""
        self.assertTrue(verifyObject(IPushProducer, outbox()[0]))

    def test_one_write_per_turn(self):
        """What is sent in one turn is joined, and written at its end."""
        box, turn, written, _ = outbox()
        box.send(b"a")
        box.send(b"b")
        self.assertEqual(written, [])
        turn.end()
        self.assertEqual(written, [b"ab"])
        turn.end()
        self.assertEqual(written, [b"ab"])

    def test_written_at_once_when_large(self):
        """More than JOIN_BYTES_MAX does not wait for the end of the turn."""
        box, turn, written, _ = outbox()
        box.send(b"x")
        box.send(b"y" * JOIN_BYTES_MAX)
        self.assertEqual(len(written), 1)
        box.send(b"z")
        turn.end()
        self.assertEqual(b"".join(written), b"x" + b"y" * JOIN_BYTES_MAX + b"z")

    @given(
        st.lists(
            st.one_of(st.binary(min_size=1, max_size=40), st.sampled_from(["turn", "pause", "resume"])), max_size=60
        )
    )
    @settings(max_examples=150, deadline=None)
    def test_same_bytes_as_the_plain_twin(self, steps):
        """Whatever the transport pauses and whenever turns end: the same bytes in the same order."""
        box, turn, written, _ = outbox(queue_bytes_max=1 << 20)
        plain = PlainOutbox()
        for step in steps:
            if step == "turn":
                turn.end()
            elif step == "pause":
                box.pauseProducing()
            elif step == "resume":
                box.resumeProducing()
            else:
                box.send(step)
                plain.send(step)
        box.resumeProducing()
        turn.end()
        self.assertEqual(b"".join(written), b"".join(plain.written))
        self.assertEqual(box.queued_bytes, 0)


class Straight(SynchronousTestCase):
    """The outbox over a transport that joins writes itself."""

    def test_written_at_once(self):
        """The transport has every frame as soon as it is sent, and nothing waits for the end of the turn."""
        box, turn, written, _ = outbox(kind=StraightOutbox)
        box.send(b"a")
        box.send(b"b")
        self.assertEqual((written, turn.waiting, box.queued_bytes), ([b"a", b"b"], [], 0))

    def test_closed(self):
        """After ``close``, or the end of the transport, frames go nowhere."""
        for end in (StraightOutbox.close, StraightOutbox.stopProducing):
            box, _, written, _ = outbox(kind=StraightOutbox)
            box.send(b"a")
            end(box)
            box.send(b"b")
            self.assertEqual((written, box.queued_bytes), ([b"a"], 0))

    @given(
        st.sampled_from(["disconnect", "drop_oldest", "latest"]),
        st.lists(
            st.one_of(
                st.tuples(
                    st.binary(min_size=1, max_size=40),
                    st.sampled_from([None, "a", "b"]),
                    st.sampled_from([0, CONTROL, DROPPABLE, DROPPABLE | LATEST, DROPPABLE | DROP_OLDEST]),
                ),
                st.sampled_from(["turn", "pause", "resume", "close", "lost"]),
            ),
            max_size=60,
        ),
    )
    @settings(max_examples=200, deadline=None)
    def test_same_as_the_joining_twin(self, policy, steps):
        """Whatever is sent and however slow the peer is: the bytes, the overflows and the counts of ``Outbox``."""
        twins = [outbox(policy, 200, kind) for kind in (Outbox, StraightOutbox)]
        for step in steps:
            for box, turn, _, _ in twins:
                if step in ("pause", "lost"):
                    turn.end()  # what is still collected here is with the transport there
                if isinstance(step, tuple):
                    box.send(*step)
                else:
                    {
                        "turn": turn.end, "pause": box.pauseProducing, "resume": box.resumeProducing,
                        "close": box.close, "lost": box.stopProducing,
                    }[step]()  # fmt: skip
        seen = []
        for box, turn, written, overflows in twins:
            turn.end()
            held = box.queued_bytes
            box.stopProducing()
            seen.append((b"".join(written), overflows, held, box.skipped, box.unsent()))
        self.assertEqual(seen[0], seen[1])


class SlowPeers(SynchronousTestCase):
    """The policies of a peer that does not take what is sent."""

    def test_disconnect(self):
        """Over ``queue_bytes_max`` it overflows, once."""
        box, _, written, overflows = outbox()
        box.pauseProducing()
        for _ in range(30):
            box.send(b"x" * 100, None, DROPPABLE)
        self.assertEqual(overflows, ["overflow"])
        self.assertEqual(written, [])

    def test_drop_oldest(self):
        """The oldest droppable frames go, a skip stands in their place, the rest keeps its order."""
        box, turn, written, overflows = outbox("drop_oldest", 1000)
        box.pauseProducing()
        box.send(b"[reply]")
        for number in range(20):
            box.send(b"%03d" % number + b"." * 97, None, DROPPABLE)
        self.assertLessEqual(box.queued_bytes, 1000)
        box.resumeProducing()
        turn.end()
        out = b"".join(written)
        self.assertEqual(overflows, [])
        self.assertTrue(out.startswith(b"[reply]<skip "))
        kept = [number for number in range(20) if b"%03d" % number in out]
        self.assertEqual(kept, list(range(20 - len(kept), 20)))
        self.assertIn(b"<skip %d>" % (20 - len(kept)), out)
        self.assertEqual(box.skipped, 20 - len(kept))

    def test_what_must_not_be_dropped_overflows(self):
        """Replies and control frames are never left out: when only those are left, the peer must go."""
        box, _, _, overflows = outbox("drop_oldest", 500)
        box.pauseProducing()
        for _ in range(10):
            box.send(b"r" * 100)
        self.assertEqual(overflows, ["overflow"])
        self.assertEqual(box.skipped, 0)

    def test_latest_keeps_the_newest_of_each_key(self):
        """Of each conflation key only the newest frame waits; each older one is counted."""
        box, turn, written, _ = outbox("latest", 10_000)
        box.pauseProducing()
        for number in range(1000):
            box.send(b"<%s %03d>" % (b"ab"[number % 2 : number % 2 + 1], number), "ab"[number % 2], DROPPABLE)
        self.assertEqual(box.queued_bytes, len(b"<a 998><b 999>"))
        self.assertLess(len(box._held or ()), 200)  # memory: what was left out is merged
        box.resumeProducing()
        turn.end()
        self.assertEqual(b"".join(written), b"<skip 998><a 998><b 999>")

    def test_policy_of_the_frame_counts_first(self):
        """A channel's own policy stands above the listener's."""
        box, turn, written, overflows = outbox("disconnect", 10_000)
        box.pauseProducing()
        for number in range(10):
            box.send(b"%d" % number, "k", DROPPABLE | LATEST)
        box.resumeProducing()
        turn.end()
        self.assertEqual((b"".join(written), overflows), (b"<skip 9>9", []))

    def test_no_progress_overflows(self):
        """A peer that takes nothing for ``stalled_s_max`` must go, however little waits."""
        box, _, _, overflows = outbox()
        flusher = box._flusher
        box.pauseProducing()
        box.send(b"x")
        for now in (0.0, 5.0, 9.9):
            flusher.sweep(now)
        self.assertEqual(overflows, [])
        flusher.sweep(10.1)
        self.assertEqual(overflows, ["overflow"])

    def test_what_close_writes_was_sent(self):
        """Frames that wait are written by ``close``: none of them counts as unsent, before or after."""
        box, _, written, _ = outbox()
        box.pauseProducing()
        box.send(b"pull")
        before = box.unsent()
        box.close()
        self.assertEqual((before, box.unsent(), written), (0, 0, [b"pull"]))

    def test_an_overflow_is_not_looked_at_again(self):
        """After the overflow further frames of the same turn cost no walk over the queue each."""
        box, _, _, overflows = outbox()
        box.pauseProducing()
        while not overflows:
            box.send(b"x" * 100, None, DROPPABLE)
        self.patch(Outbox, "_drop", lambda _: self.fail("looked at again"))
        box.send(b"y", None, DROPPABLE)
        self.assertEqual(overflows, ["overflow"])

    def test_little_room_beside_what_must_stay_overflows(self):
        """Where droppable frames have less than an eighth of the queue, each would cost a walk: the peer must go."""
        box, _, _, overflows = outbox("drop_oldest", 1000)
        box.pauseProducing()
        box.send(b"r" * 950)
        self.assertEqual(overflows, [])
        box.send(b"e" * 100, None, DROPPABLE)
        self.assertEqual(overflows, ["overflow"])

    def test_unsent_counts_session_frames(self):
        """What was certainly not handed over when the transport is gone: session frames, not control frames."""
        box, _, _, _ = outbox()
        box.send(b"maybe a control frame")
        box.pauseProducing()
        box.send(b"a")
        box.send(b"ping", None, CONTROL)
        box.send(b"b")
        self.assertEqual(box.unsent(), 0)  # they may still be written
        box.stopProducing()
        self.assertEqual(box.unsent(), 2)
        box.send(b"c")
        self.assertEqual(box.queued_bytes, 0)
