"""Exit statuses of the commands, and how an error is shown: one line."""

from __future__ import annotations

import json
import sys
from typing import Final

from relay.client.link import CannotConnect
from relay.errors import (
    ConfigError,
    DeadlineExceeded,
    Denied,
    Expired,
    Refused,
    RelayError,
    Unauthenticated,
    number_of,
)

FAILED: Final = 1
USAGE: Final = 2
CANNOT_CONNECT: Final = 3
REFUSED: Final = 4
TIMED_OUT: Final = 5
UNKNOWN: Final = 6
INTERRUPTED: Final = 130

_STATUSES: Final[tuple[tuple[type[RelayError], int], ...]] = (
    (ConfigError, USAGE),
    (CannotConnect, CANNOT_CONNECT),
    (Unauthenticated, REFUSED),
    (Denied, REFUSED),
    (Expired, REFUSED),
    (Refused, REFUSED),
    (DeadlineExceeded, TIMED_OUT),
)


def exit_status(error: RelayError) -> int:
    """The status with which a command ends that failed with ``error``."""
    return next((status for type_, status in _STATUSES if isinstance(error, type_)), FAILED)


def show_error(error: RelayError, as_json: bool) -> None:
    """``error`` on the standard error: a line for people, or a JSON object."""
    text = " ".join(str(error).split())
    if as_json:
        facts = {
            "error": error.label, "code": number_of(error), "message": text, "temporary": error.temporary,
            "outcome": error.outcome,
        }  # fmt: skip
        print(json.dumps(facts, ensure_ascii=False), file=sys.stderr)
    else:
        label = error.label.replace("_", " ")
        print(f"relay: {text}" if label in text else f"relay: {label}: {text}", file=sys.stderr)
