"""Several ways to one server: which is tried when, who gets the hello, and what is remembered."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial import unittest

from relay.client import effects
from relay.client.core import Core
from relay.client.link import CannotConnect
from relay.client.options import ClientOptions, Identity
from relay.client.plan import FENCED, OPEN, PROVED, REMEMBER_S, Address, Plan, parse, preferred
from relay.errors import ConfigError
from relay.test.client_fixture import Bench
from relay.wire import handshake, kinds

KEY = "SHA256:" + "A" * 43
WAYS = ("udp://one:1", "kcp://one:2", "tcp://one:3")
WELCOME = handshake.write(
    kinds.WELCOME, handshake.Welcome(session="s1", secret="x", features=("resume",), resume_ack_bytes=65_536)
)


class Track(Bench):
    """A bench whose core has one address with ``ways``."""

    def __init__(self, *ways: str, **options: Any) -> None:
        super().__init__()
        self.core = Core([preferred([parse(way) for way in ways])], Identity(), ClientOptions(**options), lambda: 0.5)
        self.link = self.core.link
        self.link.start(self.now)

    def number(self, way: str) -> int:
        """The newest attempt on that way."""
        return int([each.attempt for each in self.of(effects.Connect) if str(each.address) == way][-1])

    def hellos(self) -> list[int]:
        """For which attempts a hello was sent; 0: the chosen one."""
        return [each.attempt for each in self.of(effects.Send) if each.message.kind == kinds.HELLO]

    def given_up(self) -> list[int]:
        """The attempts that were hung up."""
        return [each.attempt for each in self.of(effects.Hangup)]

    @property
    def chosen(self) -> list[int]:
        """The attempts that were chosen."""
        return [each.attempt for each in self.of(effects.Chosen)]


class RaceTests(unittest.TestCase):
    """``relay.client.race`` in the link."""

    def test_the_next_begins_after_a_while(self) -> None:
        """While nothing answers, each way begins fallback_delay_s after the one before."""
        track = Track(*WAYS)
        self.assertEqual(track.attempts, ["udp://one:1"])
        track.wait(0.2)
        self.assertEqual(len(track.attempts), 1)
        track.wait(0.1)
        self.assertEqual(track.attempts, list(WAYS[:2]))
        track.wait(0.25)
        self.assertEqual(track.attempts, list(WAYS))
        track.wait(5)
        self.assertEqual((track.attempts, track.hellos()), (list(WAYS), []))

    def test_an_answer_in_time_begins_no_other(self) -> None:
        """The best way works: nothing else is tried, also when the welcome takes its time."""
        track = Track(*WAYS)
        track.link.connected(track.number("udp://one:1"), track.now)
        track.wait(3)
        track.say(WELCOME)
        self.assertEqual((track.attempts, track.hellos(), track.link.state), (["udp://one:1"], [0], "ready"))

    def test_the_first_answer_wins(self) -> None:
        """Who answers first gets the hello and the others are hung up; what they report later is ignored."""
        track = Track(*WAYS)
        track.wait(0.6)
        track.link.connected(3, track.now)
        self.assertEqual((track.chosen, track.hellos(), track.given_up()), ([3], [0], [1, 2]))
        track.link.connected(1, track.now)
        track.link.lost(2, "late", track.now)
        track.say(WELCOME)
        (ready,) = [each for each in track.of(effects.Changed) if each.state == "ready"]
        self.assertEqual((str(ready.address), track.hellos()), ("tcp://one:3", [0]))

    def test_a_failure_begins_the_next_at_once(self) -> None:
        """A way that fails is not waited out; the error names every way and its reason."""
        track = Track(*WAYS)
        for number, reason in enumerate(("refused", "no cipher", "unreachable"), 1):
            self.assertEqual(len(track.attempts), number)
            track.link.lost(number, reason, track.now)
        (closed,) = track.of(effects.Closed)
        self.assertIsInstance(closed.error, CannotConnect)
        for each in ("udp://one:1: refused", "kcp://one:2: no cipher", "tcp://one:3: unreachable"):
            self.assertIn(each, str(closed.error))

    def test_a_transport_without_handshake_is_asked_by_the_hello(self) -> None:
        """KCP: the hello goes out at once, and once; the race goes on until something comes back."""
        track = Track("kcp://one:2", "tcp://one:3")
        track.link.connected(1, track.now, reached=False)
        self.assertEqual((track.hellos(), track.chosen), ([1], []))
        track.wait(0.3)
        self.assertEqual(len(track.attempts), 2)
        track.link.connected(1, track.now)
        track.say(WELCOME)
        self.assertEqual((track.hellos(), track.chosen, track.given_up()), ([1], [1], [2]))
        self.assertEqual(track.link.state, "ready")

    def test_a_hello_without_answer_is_overtaken(self) -> None:
        """KCP is blocked: the hello is sent again to the one that answers, the other transport is dropped."""
        track = Track("kcp://one:2", "tcp://one:3")
        track.link.connected(1, track.now, reached=False)
        track.wait(0.3)
        track.link.connected(2, track.now)
        track.link.connected(1, track.now)
        self.assertEqual((track.hellos(), track.chosen, track.given_up()), ([1, 0], [2], [1]))

    def test_messages_are_an_answer(self) -> None:
        """A welcome that comes with the first answer counts."""
        track = Track("kcp://one:2", "tcp://one:3")
        track.link.connected(1, track.now, reached=False)
        track.link.received(1, [WELCOME], track.now)
        self.assertEqual((track.link.state, track.chosen), ("ready", [1]))

    def test_a_winner_that_disappoints(self) -> None:
        """No welcome, another protocol, or a break before it: the next way is tried, those that were dropped too."""
        for disappoint in ("lost", "silence", "nonsense"):
            track = Track(*WAYS)
            track.wait(0.3)
            track.link.connected(2, track.now)
            if disappoint == "lost":
                track.link.lost(2, "broken", track.now)
            elif disappoint == "silence":
                track.wait(11)
            else:
                track.say(handshake.write(kinds.REFRESH, {}))
            self.assertEqual(track.attempts[:3], ["udp://one:1", "kcp://one:2", "udp://one:1"], disappoint)
            track.link.lost(3, "refused", track.now)
            self.assertEqual(track.attempts[3:], ["tcp://one:3"], disappoint)
            track.link.connected(4, track.now)
            track.say(WELCOME)
            self.assertEqual(track.link.state, "ready", disappoint)

    def test_all_silent(self) -> None:
        """When none answers the time-out ends them all, and the client."""
        track = Track(*WAYS, connect_timeout_s=2.0)
        track.wait(2.4)
        self.assertEqual(track.of(effects.Closed), [])
        track.wait(0.2)
        self.assertEqual(sorted(track.given_up()), [1, 2, 3])
        self.assertEqual(len(track.of(effects.Closed)), 1)
        self.assertEqual(track.core.next_timer(), float("inf"))

    def test_a_delay_over_the_time_out(self) -> None:
        """fallback_delay_s may be longer than an attempt: then they come one after the other."""
        track = Track(*WAYS, connect_timeout_s=1.0, fallback_delay_s=5.0)
        track.wait(3.5)
        self.assertEqual(track.attempts, list(WAYS))
        self.assertEqual(len(track.of(effects.Closed)), 1)

    def test_finishing_ends_them_all(self) -> None:
        """A client that is closed while it connects leaves no attempt."""
        track = Track(*WAYS)
        track.wait(0.6)
        track.link.finish()
        self.assertEqual(sorted(track.given_up()), [1, 2, 3])
        self.assertEqual(track.core.next_timer(), float("inf"))

    def test_what_worked_goes_first(self) -> None:
        """After a lost connection the way that worked is tried first, until it is time to look at the best again."""
        track = Track(*WAYS, backoff_s_min=0.001)
        track.wait(0.6)
        track.link.connected(3, track.now)
        track.say(WELCOME)
        track.lose()
        track.retry()
        self.assertEqual(track.attempts[3:], ["tcp://one:3"])
        track.link.connected(4, track.now)
        track.say(handshake.write(kinds.WELCOME, handshake.Welcome(session="s1", resumed=True)))
        track.now += REMEMBER_S
        track.lose()
        track.retry()
        self.assertEqual(track.attempts[4:], ["udp://one:1"])

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from(("open", "maybe", "lost", "welcome", "wait")),
                              st.integers(1, 8)), max_size=40))  # fmt: skip
    def test_any_order(self, steps: list[tuple[str, int]]) -> None:
        """Whatever the transports do: at most one is in use, each attempt is hung up or lost or chosen once at most,
        and no timer is overdue."""
        track = Track(*WAYS, connect_rounds_max=0)
        for step, number in steps:
            link = track.link
            if step == "open":
                link.connected(number, track.now)
            elif step == "maybe":
                link.connected(number, track.now, reached=False)
            elif step == "lost":
                link.lost(number, "broken", track.now)
            elif step == "welcome":
                link.received(number, [WELCOME], track.now)
            else:
                track.wait(number / 8)
            track.take()
            self.assertGreaterEqual(track.core.next_timer(), track.now)
            ended = track.given_up()
            self.assertEqual(len(ended), len(set(ended)))
            self.assertEqual(len(track.chosen), len(set(track.chosen)))
            running = list(link._race.running)
            self.assertEqual([each for each in running if each in ended or each in track.chosen], [])
            self.assertEqual(bool(running), link.state == "connecting")


class AddressTests(unittest.TestCase):
    """What the URLs say."""

    def test_auto(self) -> None:
        """auto is UDP, else TCP, at one port; with a key both are in the secure channel."""
        self.assertEqual([str(way) for way in parse("auto://host").ways], ["udp://host:8000", "tcp://host:8000"])
        ways = parse(f"auto://host:9?key={KEY}").ways
        self.assertEqual([(way.scheme, way.port, way.key) for way in ways], [("udp", 9, KEY), ("tcp", 9, KEY)])
        self.assertEqual(parse(f"auto://host:9?key={KEY}").protection, PROVED)
        self.assertRaises(ConfigError, parse, "auto://host?form=json")

    def test_several_are_one(self) -> None:
        """Ways of ways are flat, and each is there once."""
        both = preferred([parse("auto://host"), parse("tcp://host:8000"), parse("ws://host/ws")])
        self.assertEqual([each.scheme for each in both.ways], ["udp", "tcp", "ws"])
        self.assertRaises(ConfigError, preferred, [])

    def test_protection_is_that_of_the_least(self) -> None:
        """A client is sent only where it is protected as well as where it was told to go."""
        for url, expected in (
            ("tcp://a", OPEN), ("kcp://a", FENCED), ("tcp://a?key=first-use", FENCED), (f"udp://a?key={KEY}", PROVED),
            ("tls://a", PROVED), ("unix:/a", PROVED), ("auto://a", OPEN),
        ):  # fmt: skip
            self.assertEqual(parse(url).protection, expected, url)
        mixed = preferred([parse("tls://a"), parse("ws://a/ws")])
        self.assertEqual(mixed.protection, OPEN)

    def test_a_pinned_client_is_not_led_astray(self) -> None:
        """A server that names an address without a key, or with one to be taken at first use, is not followed."""
        plan = Plan([parse(f"tcp://a?key={KEY}")], ClientOptions(), lambda: 0.0)
        plan.learn(("tcp://b", "auto://b", "tcp://b?key=first-use", "kcp://b"))
        self.assertEqual([str(each) for each in plan.addresses], ["tcp://a:8000"])
        plan.learn((f"tcp://b?key={KEY}", "tls://c"))
        self.assertEqual([each.host for each in plan.addresses], ["a", "b", "c"])

    def test_a_learned_address_keeps_a_form_that_it_has(self) -> None:
        """JSON clients do not ask UDP for the JSON form, which it has not."""
        plan = Plan([parse("tcp://a?form=json")], ClientOptions(), lambda: 0.0)
        plan.learn(("udp://b", "tcp://b"))
        self.assertEqual([each.form for each in plan.addresses], ["json", "binary", "json"])

    def test_kcp_options(self) -> None:
        """The query of a kcp address says its options; secrets are in no message."""
        address = parse("kcp://host?key=s+ecret&cipher=aes-128-gcm&profile=game&mtu=1200&form=json")
        self.assertEqual(dict(address.kcp), {
            "key": "s+ecret", "cipher": "aes-128-gcm", "profile": "game", "mtu": "1200",
        })  # fmt: skip
        self.assertEqual((address.port, address.form), (8000, "json"))
        for shown in (str(address), repr(address)):
            self.assertNotIn("ecret", shown)
        for wrong in ("kcp://host?key=secret&nope=1", "kcp://host?key=secret&mtu=x", "kcp://host:x?key=secret",
                      "kcp://?key=secret", "kcp://host/path?key=secret", "kcp://host?key=secret&form=x"):  # fmt: skip
            error = self.assertRaises(ConfigError, parse, wrong)
            self.assertNotIn("secret", str(error))

    def test_a_key_is_known_for_every_transport(self) -> None:
        """A server that was met over UDP is not met for the first time over TCP."""
        names = {parse(f"{scheme}://host:9?key=first-use").known_as for scheme in ("udp", "tcp")}
        self.assertEqual(names, {"host:9"})
        self.assertEqual(Address("unix", "", 0, "/run/x").known_as, "/run/x")
