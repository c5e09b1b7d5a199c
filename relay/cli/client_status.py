"""``relay status``: a node's /healthz, /readyz and /metrics in a few lines."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from typing import Final
from urllib.parse import urlsplit

from relay.cli.exits import FAILED, exit_status, show_error
from relay.client.link import CannotConnect
from relay.errors import ConfigError

HTTP_PORT: Final = 8080
BYTES_MAX: Final = 4_194_304  # of a page of metrics
_SAMPLE: Final = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)")
_SHOWN: Final = (
    ("relay_sessions", "sessions"),
    ("relay_sessions_detached", "detached"),
    ("relay_connections", "connections"),
    ("relay_users", "users"),
    ("relay_channels", "channels"),
    ("relay_procedures", "procedures"),
    ("relay_frames_in_total", "frames in"),
    ("relay_frames_out_total", "frames out"),
    ("relay_queue_bytes", "bytes queued"),
    ("relay_dropped_frames_total", "dropped"),
    ("relay_event_loop_lag_max_seconds", "worst lag (s)"),
    ("process_resident_memory_bytes", "memory (bytes)"),
)


def page_of(url: str) -> str:
    """The address of the node's HTTP pages that ``url`` points at. Raises ``ConfigError``."""
    parts = urlsplit(url)
    scheme = {"ws": "http", "wss": "https", "http": "http", "https": "https", "tcp": "http", "tls": "https"}.get(
        parts.scheme
    )
    if scheme is None or not parts.hostname:
        raise ConfigError(f"{url}: give the node's page, http://HOST:PORT")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = HTTP_PORT if parts.scheme in ("tcp", "tls") else parts.port
    return f"{scheme}://{host}" + (f":{port}" if port else "")


def samples(text: str) -> dict[str, float]:
    """The sum of each metric over its labels, from Prometheus' text format; lines that are none of it are left out."""
    sums: dict[str, float] = {}
    for line in text.splitlines():
        found = _SAMPLE.fullmatch(line)
        if found is not None:
            name = found["name"]
            try:
                sums[name] = sums.get(name, 0.0) + float(found["value"])
            except ValueError:
                continue
    return sums


def _get(url: str, timeout_s: float) -> tuple[int, str]:
    """Status and text of one page. Raises ``CannotConnect``."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return answer.status, answer.read(BYTES_MAX).decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(BYTES_MAX).decode(errors="replace")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise CannotConnect(f"cannot reach {url}: {getattr(reason, 'strerror', None) or reason}") from None


def status_of(url: str, timeout_s: float, as_json: bool) -> int:
    """Print the node's state; the exit status: 0 healthy and ready, 1 not, 3 not to be reached."""
    try:
        page = page_of(url)
        health, health_text = _get(f"{page}/healthz", timeout_s)
        ready, ready_text = _get(f"{page}/readyz", timeout_s)
        metrics_status, metrics_text = _get(f"{page}/metrics", timeout_s)
    except (CannotConnect, ConfigError) as error:
        show_error(error, as_json)
        return exit_status(error)
    sums = samples(metrics_text) if metrics_status == 200 else {}
    numbers = {label: sums[name] for name, label in _SHOWN if name in sums}
    healthy, is_ready = health == 200, ready == 200
    if as_json:
        keyed = {name: sums[name] for name, _ in _SHOWN if name in sums}
        print(json.dumps({"url": page, "healthy": healthy, "ready": is_ready, "metrics": keyed}))
    else:
        words = "ready" if healthy and is_ready else "running, not ready" if healthy else "not healthy"
        detail = "" if healthy and is_ready else f": {(ready_text if healthy else health_text).strip()[:200]}"
        print(f"{page} is {words}{detail}")
        for label, value in numbers.items():
            print(f"  {label:<16} {value:,.0f}" if value == int(value) else f"  {label:<16} {value:.4f}")
        if not numbers:
            print("  no metrics: " + ("not a relay node?" if metrics_status == 200 else f"HTTP {metrics_status}"))
    if not numbers and metrics_status == 200:
        return FAILED
    return 0 if healthy and is_ready else FAILED
