"""Broken input of all kinds against a real node, while well-behaved clients go on as if nothing were.

    python -m relay.test.garbage --seconds 60 [--seed 1] [--json]

Attackers connect over TCP and WebSocket's port: noise, half logins, wrong length fields, and (most of them) a login
and then mutated frames in both forms; others over UDP, KCP and QUIC: a login, then mutated frames and mutated, doubled,
old and made-up datagrams (``relay.test.garbage_datagrams``). Beside them some connections say nothing, some send a byte
a second, and some subscribe to a flood and never read. Two good clients publish and pull all the while, and one over
each transport of datagrams listens: they must lose nothing. The same inputs go through the parsers in this process
under a coverage tracer, which counts the branches reached.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, Final

import coverage

from relay.client.aio import connect
from relay.dialects.relay_v1 import BinaryStream, JsonLines
from relay.errors import RelayError
from relay.test.garbage_datagrams import attack
from relay.test.garbage_inputs import binary_units, from_nowhere, hello, http_head, json_units, mutated
from relay.test.node_process import NodeProcess, report
from relay.test.transports import Way, client_options, every_transport
from relay.wire import handshake, kinds
from relay.wire.filters import unwrap
from relay.wire.handshake import read
from relay.wire.names import check_pattern
from relay.wire.websocket import WebSocketMachine, client_frame

WORKERS: Final = 24
DATAGRAM_WORKERS: Final = 2
"""For each transport over datagrams."""
UNITS_MAX: Final = 40
SILENT: Final = 500
DRIPPING: Final = 20
DEAF: Final = 5
FLOOD_BYTES: Final = 100_000
BODIES: Final[dict[int, type]] = {
    kinds.HELLO: handshake.Hello, kinds.SUBSCRIBE: handshake.SubscribeOptions, kinds.BIND: handshake.BindOptions,
    kinds.REGISTER: handshake.RegisterOptions, kinds.REFRESH: handshake.RefreshOptions,
    kinds.GOODBYE: handshake.Goodbye,
}  # fmt: skip
PARSERS: Final = ("binary", "text", "websocket", "names", "handshake", "filters")
CONFIG: Final[dict[str, Any]] = {  # Any: a configuration as JSON
    "timing": {"handshake_timeout_s": 3, "drain_s": 0.2},
    "slow": {"queue_bytes_max": 262144, "stalled_s_max": 3},
    "log": {"level": "warn"},
}


class Garbage:
    """The campaign; ``figures`` after ``run``."""

    def __init__(self, node: NodeProcess, ways: dict[str, Way], seconds: float, seed: int) -> None:
        self.node = node
        self.ways = ways
        self.end = time.monotonic() + seconds
        self.rng = random.Random(seed)
        self.tried: Counter[str] = Counter()
        self.samples: list[tuple[str, bytes]] = []
        self.good_sent = self.good_got = self.good_pulls = 0
        self.got_over: Counter[str] = Counter()
        self.trouble: list[str] = []
        self.slowest_s = 0.0

    async def run(self) -> None:
        """Everything at once, until the end."""
        await asyncio.gather(
            *(self._attacker() for _ in range(WORKERS)),
            *(self._silent() for _ in range(SILENT)),
            *(self._dripping() for _ in range(DRIPPING)),
            *(self._deaf() for _ in range(DEAF)),
            *(self._datagrams(way) for way in self.ways.values() if way.datagrams for _ in range(DATAGRAM_WORKERS)),
            self._good(),
        )

    # --- the bad ones ---------------------------------------------------------------------------------------------

    async def _attacker(self) -> None:
        while time.monotonic() < self.end:
            what = self.rng.choices(("binary", "json", "nowhere", "http"), (4, 4, 1, 1))[0]
            port = self.node.web if what == "http" else self.node.stream
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                continue
            with suppress(OSError, asyncio.TimeoutError):
                await self._speak(what, reader, writer)
            writer.transport.abort()

    async def _speak(self, what: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection's worth of garbage; reads what comes until it is closed or a moment has passed."""
        if what in ("binary", "json"):
            make = binary_units if what == "binary" else json_units
            writer.write(hello(what == "binary"))
            await reader.read(10)
            units = make(self.rng, self.rng.randint(1, UNITS_MAX))
            name = f"after login: {what}"
        else:
            units = [from_nowhere(self.rng) if what == "nowhere" else http_head(self.rng)]
            name = f"stranger: {what}"
        for unit in units:
            self.tried[name] += 1
            if len(self.samples) < 20_000:
                self.samples.append((what, unit))
            # Whole, or in two pieces.
            cut = self.rng.randrange(len(unit) + 1) if self.rng.random() < 0.2 else 0
            writer.write(unit[:cut])
            writer.write(unit[cut:])
            await writer.drain()
        async with asyncio.timeout(0.05):
            while await reader.read(65_536):
                pass

    async def _datagrams(self, way: Way) -> None:
        """Over a transport of datagrams."""
        options = client_options(self.node)
        while time.monotonic() < self.end:
            with suppress(OSError):
                await attack(way.url(), options, self.rng, self.tried)

    async def _silent(self) -> None:
        """Connects and says nothing: the node closes it."""
        while time.monotonic() < self.end:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.node.stream)
                self.tried["silent"] += 1
                await reader.read()
                writer.transport.abort()

    async def _dripping(self) -> None:
        """A valid login, a byte a second: too slow for the handshake."""
        data = hello(True)
        while time.monotonic() < self.end:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.node.stream)
                self.tried["byte a second"] += 1
                for at in range(8):
                    writer.write(data[at : at + 1])
                    await writer.drain()
                    await asyncio.sleep(1)
                writer.transport.abort()

    async def _deaf(self) -> None:
        """Subscribes to the flood and never reads."""
        while time.monotonic() < self.end:
            with suppress(OSError, asyncio.TimeoutError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.node.stream, limit=1024)
                self.tried["never reads"] += 1
                writer.write(hello(False) + b'{"kind":"subscribe","seq":1,"name":"flood"}\n')
                await writer.drain()
                async with asyncio.timeout(8):
                    while not reader.at_eof():  # noqa: ASYNC110 - it must not read
                        await asyncio.sleep(0.5)
                writer.transport.abort()

    # --- the good ones --------------------------------------------------------------------------------------------

    async def _good(self) -> None:
        """A publisher, a subscriber and a provider that must notice nothing of all this; and one of each transport
        over datagrams beside those who send garbage there."""
        options = client_options(self.node)
        async with AsyncExitStack() as stack:
            one = await stack.enter_async_context(await connect(self.node.tcp, user="good"))
            two = await stack.enter_async_context(await connect(self.node.websocket))
            await two.subscribe("good", self._heard)
            for name, way in self.ways.items():
                if way.datagrams:
                    three = await stack.enter_async_context(await connect(way.url(), options=options))
                    await three.subscribe("good", partial(self._heard_over, name))
            await two.register("good.echo", lambda call: call.value)
            while time.monotonic() < self.end:
                begun = time.monotonic()
                try:
                    await one.publish("flood", b"x" * FLOOD_BYTES)
                    self.good_sent += 1
                    await one.publish("good", self.good_sent)
                    answer = await one.pull("good.echo", self.good_sent)
                    self.good_pulls += answer.value == self.good_sent
                except RelayError as error:
                    self.trouble.append(str(error))
                self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.5)

    def _heard_over(self, name: str, event: Any) -> None:  # Any: the SDK's event
        self.got_over[name] += 1
        if event.value != self.got_over[name]:
            self.trouble.append(f"heard {event.value} over {name}, expected {self.got_over[name]}")

    def _heard(self, event: Any) -> None:  # Any: the SDK's event
        self.good_got += 1
        if event.value != self.good_got:
            self.trouble.append(f"heard {event.value}, expected {self.good_got}")


def reach(samples: list[tuple[str, bytes]]) -> tuple[int, int, list[str]]:
    """Feed the inputs to the parsers here: (branches reached, branches there are, exceptions other than RelayError)."""
    import relay.wire

    folder = relay.wire.__path__[0]
    tracer = coverage.Coverage(branch=True, data_file=None, include=[f"{folder}/{name}.py" for name in PARSERS])
    escaped: Counter[str] = Counter()
    tracer.start()
    rng = random.Random(len(samples))
    for what, unit in samples:
        try:
            _parse(what, unit, rng)
        except RelayError:
            continue
        except Exception as error:  # noqa: BLE001 - counting them is the point
            escaped[f"{type(error).__name__}: {error}"] += 1
    tracer.stop()
    reached = possible = 0
    for name in PARSERS:
        numbers = tracer._analyze(f"{folder}/{name}.py").numbers
        possible += numbers.n_branches
        reached += numbers.n_branches - numbers.n_missing_branches
    return reached, possible, list(escaped)


def _parse(what: str, unit: bytes, rng: random.Random) -> None:
    """What the node does with the input until it is a message, and with the message's parts."""
    if what == "http":
        frame = client_frame(rng.choice((0, 1, 2, 8, 9, 10)), unit[:200], rng.randbytes(4))
        machine = WebSocketMachine(True, 65_536)
        machine.receive(frame)
        machine.receive(mutated(frame, rng))
        return
    dialect: Any = JsonLines() if what == "json" else BinaryStream()  # Any: either of two dialects
    if what == "binary":
        dialect.receive(hello(True))
    cut = rng.randrange(len(unit) + 1)
    for message in [*dialect.receive(unit[:cut]), *([] if dialect.failed else dialect.receive(unit[cut:]))]:
        check_pattern(message.name)
        body_type = BODIES.get(message.kind)
        if body_type is not None:
            read(message, body_type)
        if message.get(kinds.FILTERS):
            unwrap(message.body, message.get(kinds.FILTERS), 100, 65_536)


async def campaign(
    node: NodeProcess, ways: dict[str, Way], seconds: float, seed: int
) -> dict[str, Any]:  # Any: figures for printing
    """Run it all; the figures."""
    warm = Garbage(node, ways, min(5.0, seconds / 4), seed + 1)
    await warm.run()
    rss_before = node.rss()
    garbage = Garbage(node, ways, seconds, seed)
    await garbage.run()
    rss_after = node.rss()
    metrics = node.metrics()
    reached, possible, escaped = reach(garbage.samples)
    frames = sum(garbage.tried.values())
    mutated = sum(count for name, count in garbage.tried.items() if name.startswith("after login"))
    closes = {name.split('"')[1]: int(n) for name, n in metrics.items() if name.startswith("relay_closes_total")}
    before = {
        name.split('reason="')[1].rstrip('"}'): int(n) for name, n in metrics.items()
        if name.startswith('relay_dropped_total{listener="stream"')
    }  # fmt: skip
    errors = {name.split('"')[1]: int(n) for name, n in metrics.items() if name.startswith("relay_errors_total")}
    unhandled = node.log.count("Traceback") + len(escaped)
    got = {garbage.good_got, garbage.good_pulls, *(garbage.got_over[name] for name in ways if ways[name].datagrams)}
    good = not garbage.trouble and got == {garbage.good_sent}
    return {
        "frames tried": frames,
        "of them after a valid login": f"{mutated} ({mutated / frames:.0%})",
        "by way": dict(garbage.tried),
        "branches of the parsers reached": f"{reached} of {possible}",
        "closes by reason": closes,
        "closed before they were peers": before,
        "errors answered": errors,
        "unhandled errors": unhandled,
        "escaped from the parsers": escaped,
        "good clients": f"{garbage.good_sent} published, {garbage.good_got} heard, {garbage.good_pulls} pulled",
        "heard over": dict(garbage.got_over),
        "slowest round of a good client (s)": round(garbage.slowest_s, 3),
        "trouble of good clients": garbage.trouble[:5],
        "rss before, after (MB)": f"{rss_before / 1e6:.1f}, {rss_after / 1e6:.1f}",
        "sessions left": int(metrics["relay_sessions_detached"]) + len(
            [name for name in metrics if name.startswith("relay_sessions{")]
        ),
        "ok": not unhandled and good and mutated / frames >= 0.3,
    }  # fmt: skip


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    node = NodeProcess(CONFIG)
    ways = every_transport(node)
    try:
        node.start()
        figures = asyncio.run(campaign(node, ways, options.seconds, options.seed))
        if not figures["ok"]:
            print(node.log[-4000:], file=sys.stderr)
    finally:
        node.close()
    return report(figures, options.json)


if __name__ == "__main__":
    sys.exit(main())
