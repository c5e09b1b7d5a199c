"""A proxy for datagrams that behaves like a bad network: loses, doubles, reorders, changes addresses, goes silent.

Runs on an asyncio loop of the caller, with the methods of ``relay.test.bad_network.BadNetwork``. Each address that
sends to it is a flow with a socket of its own towards the target, as behind a NAT; who has been silent for ``FORGET_S``
is forgotten. ``break_one`` does one of:

- *rebind*: the flow gets another socket, so that the target sees another address;
- *silence*: nothing passes for some seconds;
- *gone*: nothing passes any more; whoever is there has to come again from another port.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

LOSS: Final = 0.02
TWICE: Final = 0.01
LATE: Final = 0.05
LATE_S_MAX: Final = 0.03
SILENCE_S_MAX: Final = 3.0
BUFFER_BYTES: Final = 1_048_576
FORGET_S: Final = 60.0
FORGET_FROM: Final = 256  # flows
ENDS: Final = ("rebind", "silence", "gone")

Place = tuple[str, int]


class Flow(asyncio.DatagramProtocol):
    """One client through the proxy: the socket towards the target."""

    def __init__(self, network: BadDatagrams, place: Place) -> None:
        self.network = network
        self.place = place
        self.far: asyncio.DatagramTransport | None = None
        self.silent_until = 0.0
        self.heard_at = 0.0
        self.early: list[bytes] = []  # what came before the socket was there

    async def open(self) -> None:
        """(Re)bind: a new socket, from which the target hears us from now on."""
        loop = asyncio.get_running_loop()
        before = self.far
        made, _ = await loop.create_datagram_endpoint(lambda: self, remote_addr=self.network.target)
        self.far = made
        if before is not None:
            before.close()
        for data in self.early:
            self.far.sendto(data)
        self.early.clear()

    def close(self) -> None:
        """Carry nothing any more."""
        if self.far is not None:
            self.far.close()

    def up(self, data: bytes) -> None:
        """To the target."""
        if self.far is None:
            self.early.append(data)
        elif not self.far.is_closing():
            self.far.sendto(data)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """From the target."""
        self.network.carry(self, data, up=False)

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there: silence, as on a real way."""


class BadDatagrams(asyncio.DatagramProtocol):
    """Listens on ``port`` (of the system's choice) and sends to ``target``. ``lost_bytes``: swallowed so far."""

    def __init__(self, target: tuple[str, int], seed: int = 1) -> None:
        self.target = target
        self.port = 0
        self.lost_bytes = 0
        self.breaks = 0
        self.rng = random.Random(seed)
        self._near: asyncio.DatagramTransport | None = None
        self._flows: dict[Place, Flow] = {}
        self._forget_from = FORGET_FROM
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def links(self) -> set[Flow]:
        """Those through which something passes, or will again."""
        return {flow for flow in self._flows.values() if flow.silent_until != float("inf")}

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        made, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", self.port))
        self._near = made
        sock = made.get_extra_info("socket")
        sock.setsockopt(1, 8, BUFFER_BYTES)  # SOL_SOCKET, SO_RCVBUF
        self.port = sock.getsockname()[1]

    async def stop(self) -> None:
        """Carry nothing any more."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._near is not None:
            self._near.close()
        for flow in self._flows.values():
            flow.close()

    def break_one(self, link: Flow, swallow: int) -> None:
        """One of the three; ``swallow`` chooses."""
        self.breaks += 1
        what = ENDS[swallow % len(ENDS)]
        if what == "rebind":
            self._spawn(link)
        elif what == "silence":
            silence_s = self.rng.uniform(0.1, SILENCE_S_MAX)
            link.silent_until = max(link.silent_until, asyncio.get_running_loop().time() + silence_s)
        else:
            link.silent_until = float("inf")

    def carry(self, flow: Flow, data: bytes, up: bool) -> None:
        """One datagram: on, twice, later, or never."""
        loop, rng = asyncio.get_running_loop(), self.rng
        if loop.time() < flow.silent_until or rng.random() < LOSS:
            self.lost_bytes += len(data)
            return
        for _ in range(2 if rng.random() < TWICE else 1):
            if rng.random() < LATE:
                loop.call_later(rng.random() * LATE_S_MAX, self._deliver, flow, data, up)
            else:
                self._deliver(flow, data, up)

    def _deliver(self, flow: Flow, data: bytes, up: bool) -> None:
        if up:
            flow.up(data)
        elif self._near is not None and not self._near.is_closing():
            self._near.sendto(data, flow.place)

    def _forget(self, now: float) -> None:
        """Let go of who is gone. Looked at whenever there are twice as many flows as were left the last time."""
        for flow in [each for each in self._flows.values() if now - each.heard_at > FORGET_S]:
            del self._flows[flow.place]
            flow.close()
        self._forget_from = max(FORGET_FROM, 2 * len(self._flows))

    def _spawn(self, flow: Flow) -> None:
        task = asyncio.get_running_loop().create_task(flow.open())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- asyncio.DatagramProtocol -------------------------------------------------------------------------------------

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """From a client."""
        now = asyncio.get_running_loop().time()
        flow = self._flows.get(addr)
        if flow is None:
            if len(self._flows) >= self._forget_from:
                self._forget(now)
            flow = self._flows[addr] = Flow(self, addr)
            self._spawn(flow)
        flow.heard_at = now
        self.carry(flow, data, up=True)
