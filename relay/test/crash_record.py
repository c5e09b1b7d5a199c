"""What the crash campaign knows by itself, and whether a node's store agrees: the checker, apart from nodes.

The campaign writes down what it sent, what was answered and what was seen; after each restart it reads what is there
and asks for ``problems``. Nothing here is taken from the node but what is to be judged.

====================  =================================================================================================
of a channel          offsets are 1, 2, 3 … without gap; what was acknowledged is at its offset; what was refused is
                      nowhere; what a subscriber saw is there, as it saw it; one publisher's are in its order, each
                      once; an offset that was ever told, by an acknowledgement, an event or an earlier reading, is the
                      same for ever
of a queue            what was acknowledged is delivered in the end; what a consumer has settled is not delivered again;
                      what was refused is never delivered; a number belongs to one message
====================  =================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

PROBLEMS_MAX: Final = 20
"""More of them say nothing more."""


@attrs.define
class Outcomes:
    """How what was sent ended."""

    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0


@attrs.define
class ChannelRecord:
    """One durable channel. Bodies are unique; ``sent`` by publisher in its order."""

    sent: dict[str, list[bytes]] = attrs.field(factory=dict)
    acknowledged: dict[bytes, int] = attrs.field(factory=dict)
    refused: set[bytes] = attrs.field(factory=set)
    told: dict[int, bytes] = attrs.field(factory=dict)
    epochs: set[str] = attrs.field(factory=set)
    problems: list[str] = attrs.field(factory=list)
    outcomes: Outcomes = attrs.field(factory=Outcomes)
    stored: int = 0
    """As of the last reading."""
    survived: int = 0
    """Stored, though their outcome was unknown."""

    def send(self, publisher: str, body: bytes) -> None:
        """It is on its way."""
        self.sent.setdefault(publisher, []).append(body)

    def ack(self, body: bytes, offset: int, epoch: str) -> None:
        """It was acknowledged."""
        self.outcomes.acknowledged += 1
        self.acknowledged[body] = offset
        self.tell(offset, body, epoch)

    def refuse(self, body: bytes) -> None:
        """It was refused, for certain."""
        self.outcomes.refused += 1
        self.refused.add(body)

    def tell(self, offset: int, body: bytes, epoch: str) -> None:
        """Somebody was told that ``body`` has this offset."""
        self.epochs.add(epoch)
        known = self.told.setdefault(offset, body)
        if known != body:
            self._problem(f"offset {offset} was given to {known!r} and to {body!r}")

    def read(self, history: Iterable[tuple[int, bytes]], epoch: str, first: int = 1) -> None:
        """The history from offset ``first`` on, to its end, as it is after a restart."""
        rows = list(history)
        offsets = [offset for offset, _ in rows]
        if offsets != list(range(first, first + len(rows))):
            self._problem(f"offsets from {first} on are not consecutive: {offsets[:3]} … {offsets[-3:]}")
        for offset, body in rows:
            self.tell(offset, body, epoch)
            if body in self.refused:
                self._problem(f"{body!r} was refused and is stored at {offset}")
        if len(self.epochs) > 1:
            self._problem(f"there are several epochs: {sorted(self.epochs)}")
        last = offsets[-1] if offsets else first - 1
        for offset, body in self.told.items():
            if offset > last:
                self._problem(f"{body!r} was told to have offset {offset}, the last that is stored is {last}")
        if first == 1:
            self._whole(rows)

    def _whole(self, rows: list[tuple[int, bytes]]) -> None:
        place = {body: offset for offset, body in rows}
        self.stored = len(rows)
        self.survived = sum(body not in self.acknowledged for body in place)
        if len(place) != len(rows):
            self._problem(f"{len(rows) - len(place)} publications are stored twice")
        for body, offset in self.acknowledged.items():
            if place.get(body) != offset:
                self._problem(f"{body!r} was acknowledged at {offset} and is at {place.get(body)}")
        known = {body for bodies in self.sent.values() for body in bodies}
        for body in place.keys() - known:
            self._problem(f"{body!r} was never sent")
        for publisher, bodies in self.sent.items():
            offsets = [place[body] for body in bodies if body in place]
            if offsets != sorted(offsets):
                self._problem(f"publications of {publisher} are out of their order")

    def _problem(self, text: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(text)


@attrs.define
class QueueRecord:
    """One queue. Bodies are unique."""

    acknowledged: dict[bytes, int] = attrs.field(factory=dict)
    refused: set[bytes] = attrs.field(factory=set)
    delivered: dict[bytes, int] = attrs.field(factory=dict)
    settled: set[bytes] = attrs.field(factory=set)
    numbers: dict[int, bytes] = attrs.field(factory=dict)
    outcomes: Outcomes = attrs.field(factory=Outcomes)
    problems: list[str] = attrs.field(factory=list)
    repeated: int = 0
    """Deliveries of what was delivered before and not known to be settled: allowed."""

    def ack(self, body: bytes, number: int) -> None:
        """A put was acknowledged."""
        self.outcomes.acknowledged += 1
        self.acknowledged[body] = number
        self._tell(number, body)

    def refuse(self, body: bytes) -> None:
        """A put was refused, for certain."""
        self.outcomes.refused += 1
        self.refused.add(body)

    def deliver(self, body: bytes, number: int) -> None:
        """A consumer got it."""
        self._tell(number, body)
        if body in self.settled:
            self._problem(f"{body!r} was settled and is delivered again")
        if body in self.refused:
            self._problem(f"{body!r} was refused and is delivered")
        times = self.delivered.get(body, 0)
        self.repeated += times > 0
        self.delivered[body] = times + 1

    def settle(self, body: bytes) -> None:
        """The node has said that the acknowledgement is stored."""
        self.settled.add(body)

    def drained(self) -> None:
        """The queue is empty: everything has been delivered."""
        lost = [body for body in self.acknowledged if body not in self.delivered]
        if lost:
            self._problem(f"{len(lost)} acknowledged messages were never delivered, {lost[0]!r} for one")

    def _tell(self, number: int, body: bytes) -> None:
        known = self.numbers.setdefault(number, body)
        if known != body:
            self._problem(f"number {number} was given to {known!r} and to {body!r}")

    def _problem(self, text: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(text)
