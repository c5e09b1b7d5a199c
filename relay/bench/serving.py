"""What the bench needs on the other side: a procedure that echoes, and a server that does nothing but echo.

    python -m relay.bench.serving REACTOR PORT      a bare echo on Twisted's ``epoll`` or relay's ``uv`` reactor

The procedure is the plugin ``relay.bench.serving:plugin``. It answers ``bench.echo`` with the body that it got.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any


class Bench:
    """The class and its method name the procedure ``bench.echo``."""

    def echo(self, body: bytes) -> bytes:
        """The body, as it came."""
        return body


class EchoPlugin:
    """Offers ``bench.echo``."""

    name = "bench"

    def routes(self) -> Iterable[object]:
        """The procedure."""
        return [Bench()]


plugin = EchoPlugin()


def serve(reactor_name: str, port: int) -> None:
    """Echo whatever comes on a loopback port, until the process is ended."""
    from twisted.application.reactors import installReactor

    installReactor(reactor_name)
    from twisted.internet import protocol
    from twisted.internet import reactor as installed

    reactor: Any = installed  # Any: a module, as far as types go
    factory: Any = protocol.Factory.forProtocol  # Any: untyped

    class Back(protocol.Protocol):
        """One write for each read."""

        def dataReceived(self, data: bytes) -> None:
            """Send it back."""
            assert self.transport is not None
            self.transport.write(data)

    reactor.listenTCP(port, factory(Back), 4096, "127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
