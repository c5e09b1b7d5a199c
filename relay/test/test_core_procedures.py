"""Procedures and pushes: who is asked, who answers, and what becomes of it (``relay.core.procedures``, ``router``)."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from relay import errors
from relay.config import Config, Limits
from relay.config_auth import Permit
from relay.interfaces import IAnswer, ILocalProvider, INode
from relay.test.core_fixture import Core, Guest
from relay.wire import kinds
from relay.wire.filters import wrap
from relay.wire.message import Message


def code(message: Message) -> int | None:
    """The number of an error, None of a reply."""
    return message.get(kinds.ERROR_CODE) if message.kind == kinds.ERROR else None


def asked(guest: Guest) -> Message:
    """The pull that came, and nothing else."""
    (message,) = guest.take(kinds.PULL)
    return message


class Pulling(SynchronousTestCase):
    """A pull is answered exactly once."""

    def setUp(self):
        self.core = Core()
        self.ann, self.bob = self.core.guest("ann"), self.core.guest("bob")
        self.bob.send(kinds.REGISTER, "add")
        self.bob.take()

    def test_pull_and_reply(self):
        """The provider sees who asks; the caller gets the reply under its own seq."""
        seq = self.ann.send(kinds.PULL, "add", [1, 2], ordering_key="k", metadata={"a": "b"})
        pull = asked(self.bob)
        self.assertEqual((pull.name, pull.body, pull.codec), ("add", b"[1,2]", kinds.JSON))
        self.assertEqual(pull.get(kinds.FROM_USER), "ann")
        self.assertEqual(pull.get(kinds.METADATA), {"a": "b"})
        self.bob.send(kinds.REPLY, "", 3, seq=pull.seq, metadata={"c": "d"})
        reply = self.ann.answer(seq)
        self.assertEqual((reply.body, reply.get(kinds.METADATA)), (b"3", {"c": "d"}))
        self.bob.send(kinds.REPLY, "", 4, seq=pull.seq)
        self.assertEqual(self.core.hub.metrics.orphans, 1)
        self.assertEqual(len(self.ann.take()), 1)

    def test_progressive_replies(self):
        """Replies with ``more`` come in order; the one without ends it."""
        seq = self.ann.send(kinds.PULL, "add")
        pull = asked(self.bob)
        for number in range(3):
            self.bob.send(kinds.REPLY, "", number, seq=pull.seq, flags=kinds.MORE)
        self.bob.send(kinds.REPLY, "", 3, seq=pull.seq)
        self.bob.send(kinds.REPLY, "", 4, seq=pull.seq)
        got = self.ann.take()
        self.assertEqual([(m.seq, m.body, m.flags) for m in got],
                         [(seq, b"%d" % n, kinds.MORE if n < 3 else 0) for n in range(4)])  # fmt: skip

    def test_error_of_the_provider(self):
        """A provider's error keeps its code, outcome and data; one without a code is the application's."""
        seq = self.ann.send(kinds.PULL, "add")
        self.bob.send(kinds.ERROR, "", {"message": "no", "data": 7}, seq=asked(self.bob).seq, error=1234,
                      outcome="not_done", temporary=True)  # fmt: skip
        error = self.ann.answer(seq)
        self.assertEqual((code(error), error.get(kinds.OUTCOME), error.get(kinds.TEMPORARY)), (1234, "not_done", True))
        seq = self.ann.send(kinds.PULL, "add")
        self.bob.send(kinds.ERROR, "", b"x", seq=asked(self.bob).seq)
        self.assertEqual(code(self.ann.answer(seq)), 1000)

    def test_deadline(self):
        """Without an answer in time the caller hears so, outcome unknown, and the provider is told to stop."""
        seq = self.ann.send(kinds.PULL, "add", deadline_ms=1000)
        pull = asked(self.bob)
        self.core.pass_time(0.9)
        self.assertEqual(self.ann.take(), [])
        self.core.pass_time(0.3)
        error = self.ann.answer(seq)
        self.assertEqual((code(error), error.get(kinds.OUTCOME)), (33, "unknown"))
        self.assertEqual([(m.kind, m.seq) for m in self.bob.take()], [(kinds.CANCEL, pull.seq)])
        self.assertEqual(len(self.core.hub.wheel), 2)  # the heartbeats of two connections

    def test_cancel(self):
        """A pull taken back ends as cancelled, at both ends; cancelling twice is no mistake."""
        seq = self.ann.send(kinds.PULL, "add")
        pull = asked(self.bob)
        self.ann.send(kinds.CANCEL, seq=seq)
        self.ann.send(kinds.CANCEL, seq=seq)
        self.assertEqual([code(m) for m in self.ann.take()], [34])
        self.assertEqual([(m.kind, m.seq) for m in self.bob.take()], [(kinds.CANCEL, pull.seq)])

    def test_the_caller_leaves(self):
        """Nobody waits any more: the provider is told, its late answer goes nowhere."""
        self.ann.send(kinds.PULL, "add")
        pull = asked(self.bob)
        self.ann.vanish()
        self.assertEqual([(m.kind, m.seq) for m in self.bob.take()], [(kinds.CANCEL, pull.seq)])
        self.bob.send(kinds.REPLY, "", 1, seq=pull.seq)
        self.assertEqual(self.bob.take(), [])

    def test_the_provider_leaves(self):
        """A pull it was sent ends with outcome unknown; one that certainly was not sent with not_done."""
        sent, unsent = self.ann.send(kinds.PULL, "add"), self.ann.send(kinds.PULL, "add")
        self.bob.peer.held = 1
        self.bob.vanish()
        first, second = self.ann.answer(sent), self.ann.answer(unsent)
        self.assertEqual((code(first), first.get(kinds.OUTCOME)), (32, "unknown"))
        self.assertEqual((code(second), second.get(kinds.OUTCOME)), (31, "not_done"))
        self.assertEqual(code(self.ann.answer(self.ann.send(kinds.PULL, "add"))), 31)

    def test_a_provider_that_is_away(self):
        """A user's session that is there is asked before a newer one that is away; what was asked of one that is away
        and does not come back was certainly not done."""
        away = self.core.guest("eve", features=["resume"])
        away.vanish()
        seq = self.ann.send(kinds.PULL, "q", user="eve", deadline_ms=100_000)
        self.assertEqual(self.ann.take(), [])
        there = self.core.guest("eve")
        newer = self.core.guest("eve", features=["resume"])
        newer.vanish()
        self.ann.send(kinds.PULL, "q", user="eve")
        self.assertEqual(len(there.take(kinds.PULL)), 1)
        self.core.pass_time(31)
        error = next(m for m in self.ann.take() if m.seq == seq)
        self.assertEqual((code(error), error.get(kinds.OUTCOME)), (31, "not_done"))

    def test_a_provider_that_is_thrown_out(self):
        """What a session was asked before it was kicked may have been done."""
        seq = self.ann.send(kinds.PULL, "add")
        session = next(s for s in self.core.hub.sessions.values() if s.user == "bob")
        self.core.sessions.close(session, kinds.KICKED)
        self.assertEqual(self.ann.answer(seq).get(kinds.OUTCOME), "unknown")

    def test_refused(self):
        """Pulls without seq, with one in use, without permission, of nobody, and over the limit are refused."""
        core = Core(Config(limits=Limits(pending_pulls_max=2)), Permit(call=("ok",), register=("**",)))
        ann, bob = core.guest("ann"), core.guest("bob")
        bob.send(kinds.REGISTER, "ok")
        self.assertEqual(code(ann.answer(ann.send(kinds.PULL, "other"))), 21)
        self.assertEqual(code(ann.answer(ann.send(kinds.PULL, "ok", seq=0))), 14)
        first = ann.send(kinds.PULL, "ok")
        ann.send(kinds.PULL, "ok", seq=first)
        self.assertEqual(code(ann.answer(first)), 36)
        ann.send(kinds.PULL, "ok")
        self.assertEqual(code(ann.answer(ann.send(kinds.PULL, "ok"))), 41)

    def test_a_client_is_asked_directly(self):
        """A pull to a session or a user reaches that session (the newest of the user), which answers."""
        phone = self.core.guest("bob", device="phone")
        session = next(s for s in self.core.hub.sessions.values() if s.device == "phone")
        for target in ({"user": "bob"}, {"user": "bob", "device": "phone"}, {"session": session.id}):
            seq = self.ann.send(kinds.PULL, "how.are.you", **target)
            pull = asked(phone)
            phone.send(kinds.REPLY, "", b"fine", seq=pull.seq)
            self.assertEqual(self.ann.answer(seq).body, b"fine")
        self.assertEqual(code(self.ann.answer(self.ann.send(kinds.PULL, "x", user="nobody"))), 30)


class Registering(SynchronousTestCase):
    """Who provides what, and who of many is asked."""

    def share(self, policy: str, count: int = 3, **options: Any) -> tuple[Core, Guest, list[Guest]]:
        """A caller, and providers of ``job`` under a policy."""
        core = Core()
        providers = [core.guest(f"p{number}") for number in range(count)]
        for number, guest in enumerate(providers):
            weight = options.get("weights", [1] * count)[number]
            seq = guest.send(kinds.REGISTER, "job", {"policy": policy, "weight": weight})
            assert guest.answer(seq).kind == kinds.REPLY
            guest.take()
        return core, core.guest("ann"), providers

    def load(self, caller: Guest, providers: list[Guest], pulls: int, answer: bool = True, **fields: str) -> list[int]:
        """How many of ``pulls`` each provider got."""
        counts = [0] * len(providers)
        for _ in range(pulls):
            caller.send(kinds.PULL, "job", **fields)
            for number, guest in enumerate(providers):
                for pull in guest.take(kinds.PULL):
                    counts[number] += 1
                    if answer:
                        guest.send(kinds.REPLY, "", b"", seq=pull.seq)
        return counts

    def test_policies(self):
        """Round robin is even, weighted follows the weights, random reaches all, least pending evens out."""
        for policy, weights, expected in (
            ("round_robin", [1, 1, 1], [20, 20, 20]),
            ("weighted", [1, 2, 3], [10, 20, 30]),
            ("least_pending", [1, 1, 1], [20, 20, 20]),
        ):
            _, ann, providers = self.share(policy, weights=weights)
            self.assertEqual(self.load(ann, providers, 60, answer=policy != "least_pending"), expected, policy)
        _, ann, providers = self.share("random")
        self.assertTrue(all(self.load(ann, providers, 60)))

    def test_sticky(self):
        """One ordering key goes to one provider; when another provider leaves, it stays there."""
        _, ann, providers = self.share("sticky")
        place = {}
        for key in map(str, range(30)):
            counts = self.load(ann, providers, 3, ordering_key=key)
            self.assertEqual(sorted(counts), [0, 0, 3])
            place[key] = counts.index(3)
        self.assertEqual(len(Counter(place.values())), 3)
        providers[0].vanish()
        for key, number in place.items():
            if number != 0:
                self.assertEqual(self.load(ann, providers[1:], 1, ordering_key=key)[number - 1], 1)

    def test_one_that_leaves_gets_nothing_more(self):
        """New pulls go to the others, also while the one who left may come back."""
        core = Core()
        ann, eve = core.guest("ann"), core.guest("eve")
        bob = core.guest("bob", features=["resume"])
        for guest in (bob, eve):
            guest.send(kinds.REGISTER, "job", {"policy": "round_robin"})
            guest.take()
        bob.vanish()
        self.assertEqual(self.load(ann, [eve], 10), [10])

    def test_conflicts(self):
        """A second single provider, another policy, a name twice, a bad policy or weight are refused."""
        core = Core()
        ann, bob = core.guest("ann"), core.guest("bob")
        ann.send(kinds.REGISTER, "one")
        ann.send(kinds.REGISTER, "many", {"policy": "random"})
        for guest, name, options, expected in (
            (bob, "one", {}, 36), (bob, "many", {"policy": "sticky"}, 36), (ann, "many", {"policy": "random"}, 36),
            (bob, "x", {"policy": "guess"}, 14), (bob, "x", {"weight": 0}, 14), (bob, "$x", {}, 21), (bob, "", {}, 13),
        ):  # fmt: skip
            self.assertEqual(code(guest.answer(guest.send(kinds.REGISTER, name, options))), expected, (name, options))
        ann.send(kinds.UNREGISTER, "one")
        self.assertIsNone(code(bob.answer(bob.send(kinds.REGISTER, "one"))))
        self.assertEqual(code(ann.answer(ann.send(kinds.UNREGISTER, "one"))), 35)

    def test_limit(self):
        """At ``registrations_max`` the next is refused."""
        core = Core(Config(limits=Limits(registrations_max=1)))
        ann = core.guest("ann")
        ann.send(kinds.REGISTER, "a")
        self.assertEqual(code(ann.answer(ann.send(kinds.REGISTER, "b"))), 41)

    def test_limit_of_patterns(self):
        """At ``patterns_max`` a further pattern is refused, a plain name is not; one given up makes room."""
        ann = Core(Config(limits=Limits(patterns_max=2))).guest("ann")
        for kind, name, expected in (
            (kinds.REGISTER, "a.*", None), (kinds.REGISTER, "b.**", None), (kinds.REGISTER, "plain", None),
            (kinds.REGISTER, "c.*", 41), (kinds.UNREGISTER, "plain", None), (kinds.REGISTER, "c.*", 41),
            (kinds.UNREGISTER, "a.*", None), (kinds.REGISTER, "c.*", None), (kinds.REGISTER, "a.*", 41),
        ):  # fmt: skip
            self.assertEqual(code(ann.answer(ann.send(kind, name))), expected, (kind, name))

    def test_patterns_and_fallback(self):
        """A literal name goes before a pattern, the more literal pattern before the less, ``**`` takes the rest."""
        core = Core()
        ann = core.guest("ann")
        names = ("a.b", "a.*", "*.*", "**")
        guests = {name: core.guest(name) for name in names}
        for name, guest in guests.items():
            guest.send(kinds.REGISTER, name)
            guest.take()
        for wanted, expected in (("a.b", "a.b"), ("a.c", "a.*"), ("b.c", "*.*"), ("z", "**")):
            ann.send(kinds.PULL, wanted)
            self.assertEqual([name for name in names if guests[name].take(kinds.PULL)], [expected])


@implementer(ILocalProvider)
class Upper:
    """A handler in the node: answers in capitals; keeps what it was given when told to wait."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []
        self.pushed: list[bytes] = []

    def pull(self, session: Any, message: Message, answer: Any) -> None:
        """Answer, or wait."""
        if message.body == b"wait":
            self.waiting.append(answer)
        else:
            answer.reply(message.body.upper(), message.codec)

    def push(self, session: Any, message: Message) -> None:
        """Remember, or refuse."""
        if message.body == b"bad":
            raise errors.Refused("bad")
        self.pushed.append(message.body)


class Local(SynchronousTestCase):
    """Handlers in the node."""

    def setUp(self):
        self.core = Core()
        self.upper = Upper()
        self.core.hub.local["upper"] = self.upper
        self.ann = self.core.guest("ann")

    def test_pull_and_push(self):
        """A handler answers pulls and takes pushes; its errors reach the caller."""
        self.assertEqual(self.ann.answer(self.ann.send(kinds.PULL, "upper", b"hi")).body, b"HI")
        reply = self.ann.answer(self.ann.send(kinds.PUSH, "upper", b"x"))
        self.assertEqual(reply.fields, {kinds.ADDRESSED: 1, kinds.REACHED: 1})
        self.assertEqual(code(self.ann.answer(self.ann.send(kinds.PUSH, "upper", b"bad"))), 24)
        self.assertEqual(self.upper.pushed, [b"x"])
        self.assertEqual(code(self.ann.answer(self.ann.send(kinds.REGISTER, "upper"))), 36)

    def test_cancel_and_late_answers(self):
        """A cancelled handler is told; what it says later goes nowhere, and only one end counts."""
        seq = self.ann.send(kinds.PULL, "upper", b"wait")
        (answer,) = self.upper.waiting
        self.assertTrue(verifyObject(IAnswer, answer))
        told: list[int] = []
        answer.on_cancel = lambda: told.append(1)
        self.ann.send(kinds.CANCEL, seq=seq)
        answer.reply(b"late", 0)
        answer.fail(errors.Refused())
        self.assertEqual((told, answer.done), ([1], True))
        self.assertEqual([code(m) for m in self.ann.take()], [34])

    def test_deadline(self):
        """A handler that waits too long is told to stop, and its caller hears of the deadline."""
        seq = self.ann.send(kinds.PULL, "upper", b"wait", deadline_ms=1000)
        (answer,) = self.upper.waiting
        told: list[int] = []
        answer.on_cancel = lambda: told.append(1)
        self.core.pass_time(0.9)
        self.assertEqual((self.ann.take(), told), ([], []))
        self.core.pass_time(0.3)
        self.assertEqual((code(self.ann.answer(seq)), told), (33, [1]))

    def test_an_answer_at_once_leaves_no_deadline(self):
        """A handler that has answered is not waited for: nothing of it stays on the wheel."""
        before = len(self.core.hub.wheel)
        self.ann.answer(self.ann.send(kinds.PULL, "upper", b"hi"))
        self.assertEqual(len(self.core.hub.wheel), before)

    def test_filters_and_metadata(self):
        """A handler gets the body unwrapped; what a client may not send is refused before it."""
        wrapped = wrap(b"hi", [kinds.GZIP])
        for kind in (kinds.PULL, kinds.PUSH):
            self.assertIsNone(code(self.ann.answer(self.ann.send(kind, "upper", wrapped, filters=(kinds.GZIP,)))))
            self.assertEqual(code(self.ann.answer(self.ann.send(kind, "upper", b"x", filters=(kinds.GZIP,)))), 15)
            self.assertEqual(code(self.ann.answer(self.ann.send(kind, "upper", b"x", metadata={"relay.a": ""}))), 14)
        self.assertEqual(self.upper.pushed, [b"hi"])

    def test_unknown_names(self):
        """With a handler for unknown names, nothing is unknown."""
        self.core.hub.local_unknown = self.upper
        self.assertEqual(self.ann.answer(self.ann.send(kinds.PULL, "anything", b"x")).body, b"X")


class Pushing(SynchronousTestCase):
    """Pushes tell users, devices, sessions, everybody, or a procedure; the reply counts."""

    def test_targets(self):
        """Each target reaches whom it names, and the reply says how many there were."""
        core = Core()
        ann, phone, laptop = core.guest("ann"), core.guest("bob", device="phone"), core.guest("bob", device="laptop")
        laptop.send(kinds.REGISTER, "job")
        laptop.take()
        session = next(s.id for s in core.hub.sessions.values() if s.device == "phone")
        for target, phones, laptops in (
            ({"user": "bob"}, 1, 1), ({"user": "bob", "device": "phone"}, 1, 0), ({"session": session}, 1, 0),
            ({"procedure": "job"}, 0, 1),
        ):  # fmt: skip
            reply = ann.answer(ann.send(kinds.PUSH, "note", b"x", **target))
            total = phones + laptops
            self.assertEqual(reply.fields, {kinds.ADDRESSED: total, kinds.REACHED: total}, target)
            got = [len(guest.take(kinds.PUSH)) for guest in (phone, laptop)]
            self.assertEqual(got, [phones, laptops], target)
        reply = ann.answer(ann.send(kinds.PUSH, "note", b"x", all=True, flags=kinds.NO_ECHO))
        self.assertEqual(reply.fields, {kinds.ADDRESSED: 3, kinds.REACHED: 2})
        self.assertEqual([m.name for m in phone.take(kinds.PUSH)], ["note"])

    def test_refused(self):
        """Without permission, or with nobody there, the sender hears so."""
        core = Core(permit=Permit(push=("bob", "{user}"), broadcast=("news",)))
        ann = core.guest("ann")
        core.guest("eve")
        for target, expected in (({"user": "eve"}, 21), ({"user": "bob"}, 30), ({"session": "s-2"}, 21),
                                 ({"all": True}, 21), ({"procedure": "x"}, 21)):  # fmt: skip
            self.assertEqual(code(ann.answer(ann.send(kinds.PUSH, "note", b"", **target))), expected, target)
        self.assertIsNone(code(ann.answer(ann.send(kinds.PUSH, "news", b"", all=True))))
        self.assertIsNone(code(ann.answer(ann.send(kinds.PUSH, "note", b"", user="ann"))))

    def test_names(self):
        """A route is a name, whatever the target: no pattern, no control characters, none of the server's own."""
        core = Core()
        ann = core.guest("ann")
        for kind in (kinds.PUSH, kinds.PULL):
            for target in ({}, {"user": "ann"}, {"procedure": "p"}):
                for name, expected in (("$relay.kick", 21), ("a\nb", 13), ("a.*", 13)):
                    self.assertEqual(code(ann.answer(ann.send(kind, name, b"", **target))), expected, (name, target))
            self.assertEqual(code(ann.answer(ann.send(kind, "n", b"", procedure="$p"))), 21)

    def test_no_echo_to_oneself(self):
        """A push to one's own user reaches the other devices; with no_echo not the one that sent it."""
        core = Core()
        one, two = core.guest("ann"), core.guest("ann")
        one.send(kinds.PUSH, "n", b"", user="ann", flags=kinds.NO_ECHO)
        self.assertEqual((len(one.take(kinds.PUSH)), len(two.take(kinds.PUSH))), (0, 1))

    def test_unknown_kinds(self):
        """A reserved or unknown kind with a seq is answered as unsupported; without one it is ignored."""
        core = Core()
        ann = core.guest("ann")
        for kind in (kinds.LINK_KIND_MIN, 200):
            self.assertEqual(code(ann.answer(ann.send(kind, "x"))), 12)
            ann.take()
            ann.send(kind, "x", seq=0)
            self.assertEqual(ann.take(), [])
        seq = ann.send(kinds.PUBLISH, "x", b"")
        self.assertIsNone(code(ann.answer(seq)))


class NodeAsks(SynchronousTestCase):
    """Code in the node pushes, pulls, publishes and binds (``relay.core.node``)."""

    def setUp(self):
        self.core = Core()
        self.ann = self.core.guest("ann")
        (self.session,) = self.core.hub.sessions.values()

    def test_interface(self):
        """It provides ``INode``."""
        self.assertTrue(verifyObject(INode, self.core.node))

    def test_pull(self):
        """The reply fires the Deferred, an error fails it, a deadline too, cancelling tells the client."""
        waiting = self.core.node.pull_session(self.session, Message(kinds.PULL, "q"), None)
        self.ann.send(kinds.REPLY, "", b"yes", seq=asked(self.ann).seq)
        self.assertEqual(self.successResultOf(waiting).body, b"yes")
        waiting = self.core.node.pull_session(self.session, Message(kinds.PULL, "q"), None)
        self.ann.send(kinds.ERROR, "", b"no", seq=asked(self.ann).seq, error=21)
        self.failureResultOf(waiting, errors.Denied)
        waiting = self.core.node.pull_session(self.session, Message(kinds.PULL, "q"), 0.5)
        self.core.pass_time(1)
        self.failureResultOf(waiting, errors.DeadlineExceeded)
        self.ann.take()
        waiting = self.core.node.pull_session(self.session, Message(kinds.PULL, "q"), None)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual([m.kind for m in self.ann.take()], [kinds.PULL, kinds.CANCEL])
        waiting = self.core.node.pull_session(self.session, Message(kinds.PULL, "q"), None)
        self.ann.vanish()
        self.failureResultOf(waiting, errors.ProviderLost)
        with self.assertRaises(errors.NoReceiver):
            self.core.node.pull_session(self.session, Message(kinds.PULL, "q"), None)

    def test_push_publish_bind(self):
        """Each does what a client's frame would."""
        self.ann.send(kinds.SUBSCRIBE, "c")
        self.ann.take()
        self.assertEqual(self.core.node.publish("default", Message(kinds.PUBLISH, "c", b"1")), 1)
        self.assertEqual(self.core.node.publish("other", Message(kinds.PUBLISH, "c", b"1")), 0)
        self.assertEqual(self.core.node.push_user("default", "ann", "", Message(kinds.PUSH, "n", b"2")), (1, 1))
        self.core.node.push_session(self.session, Message(kinds.PUSH, "n", b"3"))
        self.assertEqual([m.body for m in self.ann.take()], [b"1", b"2", b"3"])
        self.core.node.bind(self.session, "eve")
        self.assertEqual(self.core.node.push_user("default", "ann", "", Message(kinds.PUSH, "n")), (0, 0))
        self.assertEqual(self.core.node.push_user("default", "eve", "", Message(kinds.PUSH, "n")), (1, 1))

    def test_members(self):
        """A session or a user becomes a member with a role; a user's later sessions too, until it is one no longer."""
        node = self.core.node
        node.subscribe(self.session, "a", "host")
        node.subscribe_user("default", "ann", "b.*", "guest")
        self.assertEqual({name: each.options.role for name, each in self.session.subscriptions.items()},
                         {"a": "host", "b.*": "guest"})  # fmt: skip
        later = Guest(self.core)
        self.assertEqual(later.hello(user="ann").subscriptions, ("b.*",))
        node.bind(self.session, "eve")
        self.assertEqual(list(self.session.subscriptions), ["a"])
        self.assertEqual(node.publish("default", Message(kinds.PUBLISH, "b.1")), 1)
        self.assertTrue(node.unsubscribe_user("default", "ann", "b.*"))
        self.assertFalse(node.unsubscribe_user("default", "ann", "b.*"))
        self.assertTrue(node.unsubscribe(self.session, "a"))
        self.assertEqual(node.publish("default", Message(kinds.PUBLISH, "b.1")), 0)
        self.assertEqual(self.core.hub.realms["default"].channels, {})

    def test_memberships_are_bounded(self):
        """At ``memberships_max`` the next is refused; one given up makes room."""
        node = Core(Config(limits=Limits(memberships_max=1))).node
        node.subscribe_user("default", "ann", "a")
        node.subscribe_user("default", "ann", "a", "host")
        with self.assertRaises(errors.LimitExceeded):
            node.subscribe_user("default", "bob", "a")
        node.unsubscribe_user("default", "ann", "a")
        node.subscribe_user("default", "bob", "a")
