"""``relay bench``: load a node and measure it."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from relay.bench.load import PARTS, Result, generator, run_all
from relay.bench.plot import chart
from relay.bench.server import node, resident_bytes
from relay.bench.workloads import NAMES, loads
from relay.errors import ConfigError

TRANSPORTS = ("tcp", "unix", "ws")
DIALECTS = {"binary": "relay", "json": "relay-json"}
RAFT = "raft"


@click.command()
@click.argument("workload", type=click.Choice((*NAMES, RAFT)))
@click.option("--url", help="A node that runs already: tcp://, unix:// or ws://. Without: one is started.")
@click.option("--transport", type=click.Choice(TRANSPORTS), default="tcp", show_default=True)
@click.option("--form", type=click.Choice(list(DIALECTS)), default="binary", show_default=True)
@click.option("--reactor", default="auto", show_default=True, help="Of the node that is started.")
@click.option("--connections", type=click.IntRange(1), help="Connections, subscribers or pairs.")
@click.option("--window", type=click.IntRange(1), help="In flight: per connection (echo), or in all.")
@click.option("--rate", type=click.FloatRange(0), help="Open loop: so many a second, timed from when each was due.")
@click.option("--channels", type=click.IntRange(1), help="Channels, for the workload channels.")
@click.option("--payload", type=click.IntRange(16), help="Bytes of a body.")
@click.option("--seconds", type=click.FloatRange(0.1), default=5.0, show_default=True)
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Of the workload raft.")
@click.option("--warmup", type=click.FloatRange(0), default=1.0, show_default=True)
@click.option("--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Load processes.")
@click.option("--token", help="Bearer token for the sessions.")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.option("--plot", type=click.Path(dir_okay=False), help="Write the latencies as an SVG.")
def bench(
    workload: str, url: str | None, transport: str, form: str, reactor: str, as_json: bool, plot: str | None,
    processes: int, rounds: int, **given: Any,  # Any: the options above by name
) -> None:  # fmt: skip
    """Load a node with WORKLOAD and measure rate, latency and processor time.

    \b
    echo             calls to a handler in the node
    fan-out[-paced]  one publisher, many subscribers; at a steady 20 a second
    one-to-one       pushes between pairs of users
    rpc              calls from client to client, through the router
    connect, idle    sessions opened a second; memory of idle connections
    channels         publications to many channels
    queue            through a durable queue: put, delivered, acknowledged
    mixed            echo, fan-out-paced and one-to-one at once
    raft             writes to a cluster of three, 1, 100 and 1000 (or --window)
                     outstanding, with fsync, beside etcd's

    Without --url a node is started, on a core of its own where there are two.
    """
    if workload == RAFT:
        _raft(reactor, rounds, as_json, given)
        return
    _bench(workload, url, transport, DIALECTS[form], reactor, processes, as_json, plot, given)


def _bench(
    workload: str, url: str | None, transport: str, dialect: str, reactor: str, processes: int, as_json: bool,
    plot: str | None, given: dict[str, Any],  # Any: values of the other options
) -> None:  # fmt: skip
    """What the command does; a node that was started ends with it."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(node(reactor)) if url is None else None
        address = server.addresses[transport] if server is not None else _checked(url or "")
        asked = loads(workload, address, processes, dialect=dialect, **given)
        why = generator()[1]
        if why:
            click.echo(f"relay: the load comes from Python and may be the limit: {why}", err=True)
        before = resident_bytes(server.pid) if server is not None else 0
        seen: list[tuple[float, float]] = []
        shown = sys.stderr.isatty() and not as_json
        result = run_all(asked, server.pid if server is not None else None, _progress(seen, shown))
        if shown:
            click.echo("\r" + " " * 32 + "\r", nl=False, err=True)
    each = None
    if workload == "idle" and result.resident_bytes is not None:
        each = (result.resident_bytes - before) / sum(load.connections for load in asked)
    if as_json:
        beside = {"bytes_per_connection": each, "progress": seen, "generator": "python" if why else "go"}
        click.echo(json.dumps({"workload": workload, **result.as_json(), **beside}))
    else:
        _print(workload, result, each)
    if plot:
        Path(plot).write_text(_latencies(workload, result), "utf-8")


def _raft(reactor: str, rounds: int, as_json: bool, given: dict[str, Any]) -> None:  # Any: values of the options
    """The clusters of ``relay.bench.raft``, which are started here."""
    from relay.bench import raft

    outstanding = raft.OUTSTANDING if given["window"] is None else (given["window"],)
    payload = given["payload"] or raft.PAYLOAD_BYTES
    figures = raft.measure(outstanding, payload, given["seconds"], given["warmup"], rounds, reactor)
    if as_json:
        click.echo(json.dumps({"workload": RAFT, **figures}))
    else:
        click.echo("\n".join(raft.table(figures)))


def _checked(url: str) -> str:
    """The address of a node that runs already. Raises ``ConfigError``."""
    if url.partition("://")[0] not in TRANSPORTS:
        raise ConfigError(f"--url: one of {', '.join(each + '://' for each in TRANSPORTS)} is expected")
    return url


def _progress(seen: list[tuple[float, float]], shown: bool) -> Callable[[float, float], None]:
    """What is called once a second: keeps the rates, and shows them when somebody looks."""

    def progress(at_s: float, rate: float) -> None:
        seen.append((at_s, rate))
        if shown:
            click.echo(f"\r{at_s:5.0f} s  {rate:12,.0f}/s ", nl=False, err=True)

    return progress


def _print(workload: str, result: Result, per_connection: float | None) -> None:
    """A table for people."""
    rows = [("workload", workload), ("measured", f"{result.seconds:.1f} s")]
    if workload == "idle":
        if per_connection is not None:
            rows.append(("memory", f"{per_connection / 1024:.1f} KiB per connection"))
    else:
        rows.append(("rate", f"{result.rate:,.0f}/s"))
        if result.load.rate == 0:
            rows.append(("ceiling", f"{result.ceiling:,.0f}/s of the generator"))
        if result.latency_us["max"]:
            rows.append(("latency", "  ".join(f"{name} {result.latency_us[name] / 1000:.3f} ms" for name in PARTS)))
    if result.cpu_us is not None:
        rows.append(("server", f"{result.cpu_us:.2f} µs of processor time each"))
    if result.errors:
        rows.append(("errors", f"{result.errors}: {result.first_error}"))
    for name, text in rows:
        click.echo(f"{name:9} {text}")
    if result.generator_is_limit:
        click.echo("the generator was busy all the time: the server can do more than this")


def _latencies(workload: str, result: Result) -> str:
    """The latency at each part of the messages: the tail is the right side."""
    if not result.histogram_ns:
        raise ConfigError(f"{workload} measures no latency to plot")
    points = []
    total = sum(result.histogram_ns.values())
    seen = 0
    for ns, count in sorted(result.histogram_ns.items()):
        seen += count
        # 1 / (the part that is slower): 10 is the 90th percentile, 100 the 99th.
        points.append((total / max(total - seen, 0.5), max(ns, 1) / 1e6))
    return chart(
        f"relay bench {workload}",
        "percentile as 1 / (1 - q): 100 is p99",
        "ms",
        {"latency": points},
        log_x=True,
        log_y=True,
    )
