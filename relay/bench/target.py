"""Figures that have to reach something: what was measured, and what must be."""

from __future__ import annotations

from typing import Any, Final

import attrs

QUEUE_RATE_LEAST: Final = 20_000.0
"""Messages a second that are put, delivered and acknowledged."""


@attrs.frozen
class Figure:
    """One of them. ``value`` in ``unit`` may be ``most`` at most, or must be ``least`` at least; None: no such bound.

    ``beside``: what else is known, for who wants to reckon.
    """

    name: str
    value: float
    unit: str
    most: float | None = None
    beside: dict[str, Any] = attrs.field(factory=dict)  # Any: JSON
    least: float | None = None

    def line(self) -> str:
        """For people."""
        bound = ""
        if self.met is not None:
            target = f"at most {self.most:g}" if self.most is not None else f"at least {self.least:g}"
            bound = f"   {target}: {'met' if self.met else 'missed'}"
        return f"{self.name:68} {self.value:10.4g} {self.unit}{bound}"

    def as_json(self) -> dict[str, Any]:  # Any: JSON
        """All of it."""
        return {**attrs.asdict(self), "met": self.met}

    @property
    def met(self) -> bool | None:
        """Whether it is reached; None where nothing was asked for."""
        if self.most is None and self.least is None:
            return None
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)
