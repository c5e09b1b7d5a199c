"""The types that the configuration's structs are made of: numbers with bounds, names, secrets by reference.

Units: ``_s`` seconds, ``_ms`` milliseconds, ``_bytes`` bytes, ``_per_s`` a second. ``_max`` and ``_min`` are limits; a
number without a unit counts things.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

WHOLE_MAX: Final = 2**53 - 1
"""The largest whole number that every JSON parser reads exactly."""
SECONDS_MAX: Final = 366 * 24 * 3600
"""The longest time that can be configured, a year; also keeps infinity out."""
NAME_BYTES_MAX: Final = 255

Count = Annotated[int, Meta(ge=0, le=WHOLE_MAX)]
Positive = Annotated[int, Meta(gt=0, le=WHOLE_MAX)]
Seconds = Annotated[float, Meta(ge=0, le=SECONDS_MAX)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=SECONDS_MAX)]
Text = Annotated[str, Meta(min_length=1)]
Name = Annotated[str, Meta(min_length=1, max_length=NAME_BYTES_MAX)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown keys are mistakes."""


class SecretRef(Section, frozen=True, kw_only=True):
    """A secret kept elsewhere: exactly one of the two."""

    file: Annotated[str, Meta(description="file whose content is the secret; newlines at its end do not count")] = ""
    env: Annotated[str, Meta(description="environment variable that holds the secret")] = ""


Secret = str | SecretRef
