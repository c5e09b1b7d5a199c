"""The workloads of ``relay bench``: what each is called, and what it asks of the generator.

=============  =======================================================================================================
echo           each connection asks the handler ``bench.echo`` of the node, ``window`` calls in flight
fan-out        one publisher, N subscribers, ``window`` publications in flight: writes are joined
fan-out-paced  the same at ``rate`` publications a second: nothing to join
one-to-one     N pairs of users, ``window`` pushes in flight over all of them
rpc            one client asks another through the router, ``window`` calls in flight
connect        ``window`` workers open sessions and drop them
idle           N connections that do nothing: memory of each
channels       publications to many channels with one subscriber each
queue          N pairs put into a durable queue and take from it, ``window`` puts unanswered in all; counted is what was
               delivered and acknowledged (by the generator in Python)
durable        N publishers, ``window`` publications in all that are not answered yet: a channel that keeps its history
               on the disk answers when they are there; beside bare SQLite, see ``relay.bench.durable``
mixed          echo, fan-out-paced and one-to-one at once, a third of the connections each
=============  =======================================================================================================
"""

from __future__ import annotations

from typing import Final

import attrs

from relay.bench.load import Load

WORKLOADS: Final = {
    "echo": {"workload": "echo", "connections": 100, "window": 1, "payload": 553},
    "fan-out": {"workload": "fanout", "connections": 1000, "window": 20},
    "fan-out-paced": {"workload": "fanout", "connections": 1000, "rate": 20.0},
    "one-to-one": {"workload": "push", "connections": 200, "window": 50},
    "rpc": {"workload": "rpc", "connections": 1, "window": 64, "procedure": "bench.rpc"},
    "connect": {"workload": "connect", "window": 16},
    "idle": {"workload": "idle", "connections": 5000},
    "queue": {"workload": "queue", "connections": 1, "window": 2000, "payload": 200},
    "durable": {
        "workload": "store", "connections": 100, "window": 100, "payload": 200, "channels": 10,
        "channel": "durable.bench",
    },
    "channels": {"workload": "spread", "connections": 100, "window": 50, "channels": 1000},
}
"""Defaults; the payload of echo with its header, name and length makes frames of 581 bytes."""

MIXED: Final = "mixed"
NAMES: Final = (*WORKLOADS, MIXED)
SPLIT: Final = ("echo", "fan-out-paced", "one-to-one")
MIXED_CONNECTIONS: Final = 300


def loads(name: str, address: str, processes: int = 1, **given: object) -> list[Load]:
    """One ``Load`` for each generator process; what is ``given`` and not None replaces the default.

    With several processes the connections are divided among them, and each has names of its own.
    """
    wanted = {key: value for key, value in given.items() if value is not None}
    if name == MIXED:
        count = int(str(wanted.pop("connections", MIXED_CONNECTIONS))) // len(SPLIT)
        return [load for each in SPLIT for load in loads(each, address, 1, connections=max(1, count), **wanted)]
    base = Load(address=address, **{**WORKLOADS[name], **wanted})  # type: ignore[arg-type]  # a table of keywords
    if processes == 1:
        return [base]
    return [
        attrs.evolve(
            base,
            connections=max(1, base.connections // processes),
            rate=base.rate / processes,
            user=f"{base.user}{number}-",
            channel=f"{base.channel}{number}",
            procedure=base.procedure if base.workload == "echo" else f"{base.procedure}{number}",
        )
        for number in range(processes)
    ]
