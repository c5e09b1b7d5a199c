"""``relay bench``: load a node and measure it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from relay.bench.load import PARTS, Result, compiled_for, generator, run_all
from relay.bench.plot import chart
from relay.bench.server import Server, node, resident_bytes
from relay.bench.target import QUEUE_RATE_LEAST, Figure
from relay.bench.workloads import NAMES, loads
from relay.cli.numbers import FiniteRange
from relay.client.plan import parse
from relay.errors import ConfigError

TRANSPORTS = ("tcp", "unix", "ws", "tls", "secure", "udp", "udps", "kcp", "quic")
SCHEMES = ("tcp", "unix", "ws", "wss", "tls", "udp", "kcp", "quic")
DIALECTS = {"binary": "relay", "json": "relay-json"}
RAFT = "raft"
FIGURES = ("history", "recovery", "queues")
"""Measured here, not by a generator; so is ``durable``, where a node is started."""


@click.command()
@click.argument("workload", type=click.Choice((*NAMES, *FIGURES, RAFT)))
@click.option("--url", help="A node that runs already, as clients name it. Without: one is started.")
@click.option("--transport", type=click.Choice(TRANSPORTS), default="tcp", show_default=True)
@click.option("--form", type=click.Choice(list(DIALECTS)), default="binary", show_default=True)
@click.option("--reactor", default="auto", show_default=True, help="Of the node that is started.")
@click.option("--connections", type=click.IntRange(1), help="Connections, subscribers or pairs.")
@click.option("--window", type=click.IntRange(1), help="In flight: per connection (echo), or in all.")
@click.option("--rate", type=FiniteRange(0), help="Open loop: so many a second, timed from when each was due.")
@click.option("--channels", type=click.IntRange(1), help="Channels, for the workload channels.")
@click.option("--payload", type=click.IntRange(16), help="Bytes of a body.")
@click.option("--seconds", type=FiniteRange(0.1), default=5.0, show_default=True)
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Of the workload raft.")
@click.option("--warmup", type=FiniteRange(0), default=1.0, show_default=True)
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
    durable          publications answered when they are on the disk; with a
                     node that is started, beside bare SQLite
    history          what a history in memory costs (the core, in this process)
    recovery         10 000 publications sent to who comes back
    queues           a start with 100 000 queues of one message each
    mixed            echo, fan-out-paced and one-to-one at once
    raft             writes to a cluster of three, 1, 100 and 1000 (or --window)
                     outstanding, with fsync, beside etcd's

    Without --url a node is started, on a core of its own where there are two. Transports: secure is a stream in the
    secure channel, udps UDP in it; for tls and quic at a --url RELAY_CA names the PEM file of the authority. The key of
    kcp:// may stand in RELAY_KCP_KEY.
    history, recovery and queues take none of the options but --reactor, --seconds and --json.
    """
    if workload == RAFT:
        _raft(reactor, rounds, as_json, given)
        return
    if workload in FIGURES or (workload == "durable" and url is None):
        if url is not None:
            raise ConfigError(f"{workload} starts what it measures; it takes no --url")
        _figures(workload, transport, reactor, as_json, given)
        return
    _bench(workload, url, transport, DIALECTS[form], reactor, processes, as_json, plot, given)


def _bench(
    workload: str, url: str | None, transport: str, dialect: str, reactor: str, processes: int, as_json: bool,
    plot: str | None, given: dict[str, Any],  # Any: values of the other options
) -> None:  # fmt: skip
    """What the command does; a node that was started ends with it."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(node(reactor, transport=transport)) if url is None else None
        address = server.addresses[transport] if server is not None else _checked(url or "")
        asked = loads(workload, address, processes, dialect=dialect, **given)
        why = generator()[1] if compiled_for(address) else "the compiled one does not speak this transport"
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
    reached = _reached(workload, result)
    if as_json:
        beside: dict[str, Any] = {"figures": [each.as_json() for each in reached]}  # Any: JSON
        beside |= {"bytes_per_connection": each, "progress": seen, "generator": "python" if why else "go"}
        click.echo(json.dumps({"workload": workload, **result.as_json(), **beside}))
    else:
        _print(workload, result, each)
        for figure in reached:
            click.echo(figure.line())
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


def _figures(
    workload: str, transport: str, reactor: str, as_json: bool, given: dict[str, Any]  # Any: values of the options
) -> None:  # fmt: skip
    """Figures with what must be reached, each workload by its module."""
    # Imported here: the stores and the core are a third of a second that no other workload needs.
    from relay.bench import history, stored

    seconds: float = given["seconds"]
    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if workload == "history":
        found = history.measure(seconds)
    elif workload == "queues":
        found = stored.queues(reactor)
    else:
        with node(reactor) as server:
            found = stored.recovery(server) if workload == "recovery" else _durable(server, transport, given)
    if as_json:
        text = {"workload": workload, "load": load_before, "figures": [each.as_json() for each in found]}
        click.echo(json.dumps(text))
        return
    for each in found:
        click.echo(each.line())
    if load_before is not None:
        click.echo(f"load of the machine before: {load_before:.1f}")


def _durable(server: Server, transport: str, given: dict[str, Any]) -> list[Figure]:  # Any: as above
    from relay.bench import durable

    wanted = {name: given[name] for name in ("connections", "window", "channels") if given[name] is not None}
    return durable.measure(server, transport, given["seconds"], given["payload"] or 200, **wanted)


def _reached(workload: str, result: Result) -> list[Figure]:
    """What of a workload must be reached."""
    if workload != "queue":
        return []
    found = [Figure("put, delivered and acknowledged", result.rate, "/s", least=QUEUE_RATE_LEAST)]
    if result.cpu_us:
        found.append(Figure("the same in a second of the node's", 1e6 / result.cpu_us, "/s", least=QUEUE_RATE_LEAST))
    return found


def _checked(url: str) -> str:
    """The address of a node that runs already. Raises ``ConfigError``."""
    if url.partition("://")[0] not in SCHEMES:
        raise ConfigError(f"--url: one of {', '.join(each + '://' for each in SCHEMES)} is expected")
    if not compiled_for(url):
        parse(url)
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
