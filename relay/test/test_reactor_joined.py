"""Joined writes: the same bytes in the same order as writing each at once, in as few sends as turns."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.interfaces import IDelayedCall
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relay.reactor.outgoing import FLUSH_BYTES, JOIN_BYTES_MAX, JoinedOutput
from relay.reactor.tcp import TcpServer
from relay.reactor.turn import IReactorTurn, Turn, TurnClock
from relay.test.reactor_fixture import ReactorTestCase


class Kernel(asyncio.Transport):
    """Stands for uvloop's transport: takes what it is given, or is full until it is drained."""

    def __init__(self) -> None:
        super().__init__()
        self.sends: list[bytes] = []
        self.full = False
        self.output: JoinedOutput | None = None
        self._unsent = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take ``data``, and say so if it has to wait."""
        self.sends.append(bytes(data))
        if self.full:
            self._unsent += len(data)
            assert self.output is not None
            self.output.pause_writing()

    def writelines(self, list_of_data: Any) -> None:  # Any: as in asyncio
        """Take all, as one send."""
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        """Return what has to wait."""
        return self._unsent

    def drain(self) -> None:
        """Have room again."""
        self.full = False
        if self._unsent:
            self._unsent = 0
            assert self.output is not None
            self.output.resume_writing()


class OneTurn:
    """Stands for the loop: keeps the end of the turn until it is asked for."""

    def __init__(self) -> None:
        self._calls: list[Any] = []  # Any: callables of any kind

    def call_soon(self, function: Any) -> None:
        """Keep ``function``."""
        self._calls.append(function)

    def end(self) -> None:
        """Run what was kept."""
        calls, self._calls = self._calls, []
        for call in calls:
            call()


def output_over(kernel: Kernel, loop: OneTurn) -> JoinedOutput:
    """Return an output that is ready to be written to."""
    turn = Turn(loop, None)  # type: ignore[arg-type]  # neither a whole loop nor a reactor is needed
    output = JoinedOutput(turn, kernel)
    output.connected = output._writable = True
    output._blocked = False
    kernel.output = output
    return output


pieces = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda seed, length: seed * length, st.binary(min_size=1, max_size=3), st.integers(1, 40_000)),
)
steps = st.one_of(
    pieces.map(lambda piece: ("write", piece)),
    st.lists(pieces, max_size=4).map(lambda many: ("sequence", many)),
    st.sampled_from([("turn", None), ("full", None), ("drain", None)]),
)


class JoinedOutputTests(SynchronousTestCase):
    """The output side of a stream, over a kernel and a loop that the test plays."""

    @settings(max_examples=150, deadline=None)
    @given(st.lists(steps, max_size=30))
    def test_same_bytes_as_plain(self, script: list[tuple[str, Any]]) -> None:
        """Whatever is written and however full the kernel is, it gets the bytes that plain writes would give it."""
        kernel, loop = Kernel(), OneTurn()
        output = output_over(kernel, loop)
        plain = b""
        for step, argument in script:
            if step == "write":
                output.write(argument)
                plain += argument
            elif step == "sequence":
                output.writeSequence(argument)
                plain += b"".join(argument)
            elif step == "turn":
                loop.end()
            elif step == "full":
                kernel.full = True
            else:
                kernel.drain()
        self.assertTrue(plain.startswith(b"".join(kernel.sends)))
        kernel.drain()
        loop.end()
        self.assertEqual(b"".join(kernel.sends), plain)

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.binary(min_size=1, max_size=64), min_size=1, max_size=50))
    def test_one_send_a_turn(self, written: list[bytes]) -> None:
        """What is written in one turn and is short is one send at its end, and nothing before."""
        kernel, loop = Kernel(), OneTurn()
        output = output_over(kernel, loop)
        for piece in written:
            output.write(piece)
        self.assertEqual(kernel.sends, [])
        loop.end()
        self.assertEqual(kernel.sends, [b"".join(written)])

    def test_much_is_sent_at_once(self) -> None:
        """More than 64 KiB do not wait for the end of the turn."""
        kernel, loop = Kernel(), OneTurn()
        output = output_over(kernel, loop)
        output.write(b"a" * FLUSH_BYTES)
        self.assertEqual(kernel.sends, [])
        output.write(b"b")
        self.assertEqual(kernel.sends, [b"a" * FLUSH_BYTES + b"b"])

    def test_waits_for_the_kernel_joined(self) -> None:
        """While the kernel is full nothing is handed over; then all of it is, in one piece."""
        kernel, loop = Kernel(), OneTurn()
        output = output_over(kernel, loop)
        kernel.full = True
        output.write(b"first")
        loop.end()
        for _ in range(3):
            output.write(b"x" * JOIN_BYTES_MAX)
            loop.end()
        self.assertEqual(kernel.sends, [b"first"])
        self.assertEqual(output.unsent, 5 + 3 * JOIN_BYTES_MAX)
        kernel.drain()
        self.assertEqual(kernel.sends, [b"first", b"x" * 3 * JOIN_BYTES_MAX])
        self.assertEqual(output.unsent, 0)

    def test_only_bytes(self) -> None:
        """Anything but bytes is refused where it is written, and nothing of a sequence is sent then."""
        kernel, loop = Kernel(), OneTurn()
        output = output_over(kernel, loop)
        self.assertRaises(TypeError, output.write, "text")
        self.assertRaises(TypeError, output.write, bytearray(b"mutable"))
        self.assertRaises(TypeError, output.writeSequence, [b"good", "text"])
        loop.end()
        self.assertEqual(kernel.sends, [])


class TurnTests(ReactorTestCase):
    """The end of a turn on a running reactor."""

    def test_interface(self) -> None:
        """The reactor says that it can run a callable at the end of the turn."""
        verifyObject(IReactorTurn, self.reactor)

    def test_order(self) -> None:
        """Callables run at the end of the turn in the order given, and one that they ask for, a turn later."""
        seen: list[str] = []

        async def body() -> None:
            self.reactor.callAtTurnEnd(first)
            self.reactor.callAtTurnEnd(lambda: seen.append("second"))
            self.assertEqual(seen, [])
            await self.turns()

        def first() -> None:
            seen.append("first")
            self.reactor.callAtTurnEnd(lambda: seen.append("again"))

        self.drive(body)
        self.assertEqual(seen, ["first", "second", "again"])

    def test_error_is_logged(self) -> None:
        """An error of one callable is logged, and the others run."""
        seen: list[str] = []

        async def body() -> None:
            self.reactor.callAtTurnEnd(lambda: 1 / 0)
            self.reactor.callAtTurnEnd(lambda: seen.append("second"))
            await self.turns()

        self.drive(body)
        self.assertEqual(seen, ["second"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_before_the_sends(self) -> None:
        """What a callable writes goes out in the send of the turn in which it was asked for."""

        async def body() -> None:
            server, client = await self.pair()
            self.patch(TcpServer, "_send", note)
            server.wire.write(b"one ")
            self.reactor.callAtTurnEnd(lambda: server.wire.write(b"two"))
            self.assertEqual(await client.received(7), b"one two")
            self.assertEqual(sends, [b"one two"])

        def note(stream: TcpServer) -> None:
            sends.append(b"".join(stream._out))
            send(stream)

        sends: list[bytes] = []
        send = TcpServer._send
        self.drive(body)

    def test_clock(self) -> None:
        """The clock for TLS runs a call without delay at the end of the turn, can cancel it, and passes others on."""
        seen: list[str] = []

        async def body() -> None:
            clock = TurnClock(self.reactor.turn)
            clock.callLater(0, seen.append, "now")
            cancelled = clock.callLater(0, seen.append, "never")
            verifyObject(IDelayedCall, cancelled)
            cancelled.cancel()
            self.assertFalse(cancelled.active())
            clock.callLater(0.001, seen.append, "later")
            self.assertEqual(len(clock.getDelayedCalls()), len(self.reactor.getDelayedCalls()))
            await self.later(0.002)

        self.drive(body)
        self.assertEqual(seen, ["now", "later"])


class JoinedOverSocketTests(ReactorTestCase):
    """The same promise over real sockets, where the kernel cuts as it likes."""

    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.lists(pieces, max_size=6), min_size=1, max_size=6))
    def test_same_bytes_as_plain(self, turns: list[list[bytes]]) -> None:
        """What is written in several turns arrives as it was written."""
        case = JoinedOverSocketTests("runTest")
        case.setUp()

        async def body() -> None:
            server, client = await case.pair()
            for written in turns:
                for piece in written:
                    client.wire.write(piece)
                await case.later()
            client.wire.loseConnection()
            await server.ended()
            self.assertEqual(server.data, b"".join(b"".join(written) for written in turns))

        case.drive(body)
        case.doCleanups()

    def runTest(self) -> None:
        """Nothing: the property builds its own cases."""
