"""One Twisted test module, run against one reactor in a process of its own, reporting each test as it goes.

Started by ``relay.test.reactor_suite``, which reads one JSON object per line from the descriptor it passed::

    {"start": id}                                   before each test
    {"end": id, "outcome": "passed" | "failed" | "skipped", "why": text, "counts": {…}}
    {"done": true}                                  last

``counts`` says what went over native transports during the test and what over add_reader.

Ids are the same for all reactors: the name of the reactor is cut out of them.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any
from unittest import TestCase

from relay.reactor.datagram import NativeDatagrams
from relay.reactor.port import NativePort
from relay.reactor.stream import Stream
from relay.reactor.uv import UvReactor

#: What the reactors of the current test opened: "native …" and "add_reader …".
counts: Counter[str] = Counter()


class CountedUvReactor(UvReactor):
    """The reactor under test, counting what its sockets are served by."""

    def opened(self, native: Stream | NativePort | NativeDatagrams) -> None:
        """Count a native transport."""
        if native not in self._native:
            counts[f"native {_kind(native)}"] += 1
        super().opened(native)

    def addReader(self, reader: Any) -> None:  # noqa: N802 - Twisted's name
        """Count what is watched by add_reader."""
        if not isinstance(reader, Stream | NativePort | NativeDatagrams):
            counts[f"add_reader {_kind(reader)}"] += 1
        super().addReader(reader)


def _kind(descriptor: object) -> str:
    from twisted.internet import tcp, udp

    if isinstance(descriptor, Stream | tcp.Connection):
        return "connections"
    if isinstance(descriptor, tcp.Port):
        return "ports"
    return "datagrams" if isinstance(descriptor, udp.Port) else "others"


def install(name: str) -> str:
    """Install the reactor ``uv`` or ``epoll`` as Twisted's; return the full name of its class."""
    from twisted.internet.main import installReactor

    if name == "uv":
        installReactor(CountedUvReactor())
        return "relay.test.reactor_child.CountedUvReactor"
    from twisted.internet.epollreactor import EPollReactor

    installReactor(EPollReactor())
    return "twisted.internet.epollreactor.EPollReactor"


def close_loops_after_tests() -> None:
    """Let each reactor that a test built close its loop, which holds descriptors, when the test is over."""
    from twisted.internet.test.reactormixins import ReactorBuilder

    unbuild = ReactorBuilder._unbuildReactor

    def unbuild_and_close(self: Any, reactor: Any) -> None:
        unbuild(self, reactor)
        if isinstance(reactor, UvReactor):
            loop = reactor.turn.loop
            loop.call_soon(loop.stop)
            loop.run_forever()  # what was being closed is closed
            loop.close()

    ReactorBuilder._unbuildReactor = unbuild_and_close  # type: ignore[method-assign]  # that is the point


def tests_of(module: str, reactor: str) -> Iterator[tuple[str, TestCase]]:
    """Yield the tests of ``module`` with their ids, built for the reactor class ``reactor``."""
    from twisted.internet.test.reactormixins import ReactorBuilder
    from twisted.trial.runner import TestLoader

    ReactorBuilder._reactors = [reactor]
    close_loops_after_tests()
    for test in _flatten(TestLoader().loadByName(module)):
        yield re.sub(rf"_{reactor.rpartition('.')[2]}Tests\b", "", test.id()), test


def _flatten(suite: Any) -> Iterator[TestCase]:
    if isinstance(suite, TestCase):
        yield suite
    else:
        for part in suite:
            yield from _flatten(part)


def outcome_of(test: TestCase) -> tuple[str, str]:
    """Run ``test``; return how it ended, and why if it did not pass."""
    from twisted.trial.reporter import TestResult

    result = TestResult()
    test.run(result)
    for _, failure in [*result.failures, *result.errors]:
        text = failure if isinstance(failure, str) else failure.getTraceback()
        return "failed", text
    for _, reason in result.skips:
        return "skipped", str(reason)
    return "passed", ""


def main() -> None:
    """Run: arguments are the reactor, the module, the descriptor to report to, and ids not to run."""
    reactor, module, descriptor, *done = sys.argv[1:]
    report: IO[str] = os.fdopen(int(descriptor), "w", buffering=1)
    for identity, test in tests_of(module, install(reactor)):
        if identity not in done:
            print(json.dumps({"start": identity}), file=report)
            outcome, why = outcome_of(test)
            print(json.dumps({"end": identity, "outcome": outcome, "why": why, "counts": counts}), file=report)
            counts.clear()
    print(json.dumps({"done": True}), file=report)
    report.close()
    os._exit(0)  # threads and reactors of the tests are left as they are
