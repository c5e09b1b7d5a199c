"""Pulls that a handler in the node answers: what is known of them until then (``relay.core.pending``)."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from relay import errors
from relay.config import Config, Limits
from relay.config_auth import Permit
from relay.core import procedures
from relay.core.pending import LocalPull, Pending
from relay.interfaces import ILocalProvider
from relay.test.core_fixture import Core, Guest
from relay.wire import kinds
from relay.wire.message import Fields, Message


class PlainPull(LocalPull):
    """The plain twin: in its caller's table and on the wheel from the beginning, out of both with the answer."""

    def __init__(self, hub: Any, caller: Any, seq: int) -> None:
        super().__init__(hub, caller, seq)
        caller.calls[seq] = self
        hub.wheel.add(self, hub.config.limits.deadline_s_default)

    def wait(self, deadline_s: float) -> None:
        """It is there already."""

    def reply(self, body: bytes, codec: int, more: bool = False, fields: Fields | None = None) -> None:
        """As ``Pending`` has it."""
        flags = kinds.MORE if more else 0
        self.answer(Message(kinds.REPLY, "", body, codec, flags, 0, fields))


@implementer(ILocalProvider)
class Script:
    """A handler that does what the body says, letter by letter; ``then`` goes on where it waits."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.waiting: list[tuple[Any, Any, str]] = []
        self.cancelled = 0

    def pull(self, session: Any, message: Message, answer: Any) -> None:
        """Begin."""
        self._do(session, answer, message.body.decode())

    def push(self, session: Any, message: Message) -> None:
        """Nothing."""

    def _cancel(self) -> None:
        self.cancelled += 1

    def _do(self, session: Any, answer: Any, script: str) -> None:
        for place, letter in enumerate(script):
            if letter == "m":
                answer.reply(b"more", kinds.RAW, more=True)
            elif letter == "r":
                answer.reply(b"reply", kinds.RAW)
            elif letter == "f":
                answer.fail(errors.Refused("no"))
            elif letter == "e":
                self.core.sessions.close(session, kinds.NORMAL, "")
            else:
                self.waiting.append((session, answer, script[place + 1 :]))
                answer.on_cancel = self._cancel
                if answer.done:
                    self._cancel()
                return

    def then(self) -> None:
        """All that wait go on."""
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            self._do(*each)


def transcript(script: str, later: list[str], pull: type[LocalPull], case: SynchronousTestCase) -> list[object]:
    """What a caller sees, and what is left of the pull in the end."""
    core = Core(Config(limits=Limits(deadline_s_default=0.2)))
    handler = Script(core)
    core.hub.local["do"] = handler
    ann: Guest = core.guest("ann")
    session = ann.connection.session
    before = len(core.hub.wheel)
    case.patch(procedures, "LocalPull", pull)
    seq = ann.send(kinds.PULL, "do", script.encode())
    for step in later:
        if step == "then":
            handler.then()
        elif step == "cancel":
            if ann.peer.closed is None:
                ann.send(kinds.CANCEL, seq=seq)
        else:
            core.pass_time(core.config.limits.deadline_s_default + 0.1)
    left: list[Pending] = list(session.calls.values())
    return [
        [(m.kind, m.body, m.flags, m.seq, m.fields) for m in ann.got],
        [type(each).__name__ for each in left] and "waits",
        handler.cancelled,
        session.ended,
        len(core.hub.wheel) - before if not session.ended and left else "-",
    ]


class Waiting(SynchronousTestCase):
    """A pull is in its caller's table while its handler waits, and never before or after."""

    @given(st.text("mrfew", max_size=5), st.lists(st.sampled_from(["then", "cancel", "late"]), max_size=4))
    def test_same_as_the_plain_twin(self, script: str, later: list[str]) -> None:
        """Whatever a handler does at once and later, its caller sees what a table kept from the beginning gives."""
        fast = transcript(script, later, LocalPull, self)
        self.assertEqual(fast, transcript(script, later, PlainPull, self))

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["do", "do.not", "nobody", "$do", "a..b", "", "x" * 255]),
                st.integers(0, 2),
                st.sampled_from(["r", "w", "f", "mr"]),
            ),
            max_size=5,
        )
    )
    def test_pulls_of_handlers_as_any_other(self, pulls: list[tuple[str, int, str]]) -> None:
        """The short way to a handler gives what the long one gives, which a pull with fields takes, if only none."""
        seen = []
        ways: tuple[Fields | None, ...] = (None, {})
        for fields in ways:
            core = Core(Config(limits=Limits(pending_pulls_max=2)), Permit(call=("do", "nobody", "$do")))
            core.hub.local.update(dict.fromkeys(["do", "do.not"], Script(core)))
            ann = core.guest("ann")
            for name, seq, script in pulls:
                ann.connection.receive(Message(kinds.PULL, name, script.encode(), kinds.RAW, 0, seq, fields))
            seen.append([(m.kind, m.seq, m.body, m.flags, m.fields) for m in ann.got])
        self.assertEqual(seen[0], seen[1])

    def test_nothing_is_kept_of_an_answer_at_once(self) -> None:
        """While a handler runs the table is empty, and so it is after its answer."""
        core = Core()
        handler = Script(core)
        core.hub.local["do"] = handler
        ann = core.guest("ann")
        before = len(core.hub.wheel)
        ann.send(kinds.PULL, "do", b"r")
        self.assertEqual((ann.connection.session.calls, len(core.hub.wheel)), ({}, before))

    def test_a_handler_that_ends_its_caller_is_cancelled(self) -> None:
        """One that closes the session and then waits hears that nobody does, as nobody would tell it later."""
        core = Core()
        handler = Script(core)
        core.hub.local["do"] = handler
        ann = core.guest("ann")
        session = ann.connection.session
        ann.send(kinds.PULL, "do", b"ew")
        self.assertEqual((handler.cancelled, session.calls, session.ended), (1, {}, True))
