"""HTTP on a listener: requests through twisted.web without sockets, its limits, and the way from it to WebSocket."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.static import Data

from relay.config import Http, Timing
from relay.protocols.http import BODY_BYTES_MAX, error_response
from relay.test.entrance_fixture import CLIENT, Door, publication, request_head, websocket_frames
from relay.test.fakes import WireTransport

GET = b"GET %b HTTP/1.1\r\nHost: relay.example\r\n\r\n"


class Who(Resource):
    """Tells whom it sees."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:  # Any: twisted.web has no types
        """The client's host."""
        host: str = request.getClientAddress().host
        return host.encode()


class Later(Resource):
    """Answers when the test says so."""

    isLeaf = True

    def render_GET(self, request: Any) -> int:  # Any: twisted.web has no types
        """Keep the request."""
        self.request = request
        return NOT_DONE_YET


class Broken(Resource):
    """A page that makes a mistake."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:  # Any: twisted.web has no types
        """Fail."""
        raise ZeroDivisionError("the secret of the page")


class HttpCase(SynchronousTestCase):
    """A listener with some pages."""

    def setUp(self) -> None:
        self.later = Later()
        root = Resource()
        root.putChild(b"", Data(b"the page", "text/html"))
        root.putChild(b"who", Who())
        root.putChild(b"later", self.later)
        root.putChild(b"broken", Broken())
        self.root = root
        self.door = self.listener()

    def listener(self, *protocols: str, **options: Any) -> Door:  # Any: of Door and Listener
        """A listener with HTTP."""
        options.setdefault("http", Http(idle_timeout_s=5.0, request_bytes_max=2000))
        options.setdefault("timing", Timing(handshake_timeout_s=3.0))
        return Door(*(protocols or ("http", "websocket")), root=self.root, **options)

    def get(self, transport: WireTransport, path: bytes = b"/") -> bytes:
        """The response to one request."""
        transport.feed(GET % path)
        return transport.take()


class HttpTests(HttpCase):
    """What is served, and what is refused."""

    def test_page(self):
        """A request is answered, and the response does not tell the software."""
        response = self.get(self.door.connect())
        self.assertTrue(
            response.startswith(b"HTTP/1.1 200 OK\r\n") and response.endswith(b"\r\n\r\nthe page"), response
        )
        self.assertIn(b"Server: relay\r\n", response)

    def test_pieces(self):
        """A request may come byte by byte."""
        transport = self.door.connect()
        transport.feed(GET % b"/", step=1)
        self.assertIn(b"the page", transport.take())

    def test_kept_alive(self):
        """Several requests on one connection, also in one read."""
        transport = self.door.connect()
        for _ in range(3):
            self.assertIn(b"the page", self.get(transport))
        transport.feed(GET % b"/" + GET % b"/who")
        self.assertTrue(transport.take().endswith(CLIENT.host.encode()))
        self.assertEqual(self.door.entrance.open, 1)

    def test_not_found(self):
        """What is not there is 404; what fails is 500, logged here and not told there."""
        transport = self.door.connect()
        self.assertIn(b" 404 ", self.get(transport, b"/nothing"))
        response = self.get(transport, b"/broken")
        self.assertIn(b" 500 ", response)
        self.assertNotIn(b"secret", response)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_end(self):
        """A connection that ends is not counted any more, and the time-out of the handshake does not touch one that
        goes on."""
        transport = self.door.connect()
        self.get(transport)
        self.door.pass_time(4.0)
        self.assertEqual((transport.ended, self.door.entrance.expired), ("", 0))
        transport.lose()
        self.assertEqual(self.door.entrance.open, 0)

    def test_idle(self):
        """A connection without a request for ``idle_timeout_s`` is closed."""
        transport = self.door.connect()
        self.get(transport)
        self.door.pass_time(4.0)
        self.get(transport)
        self.door.pass_time(4.5)
        self.assertEqual(transport.ended, "")
        self.door.pass_time(1.0)
        self.assertEqual((transport.ended, self.door.entrance.open), ("lost", 0))

    def test_slow_second_request(self):
        """A further request byte by byte does not prolong the time."""
        transport = self.door.connect()
        self.get(transport)
        for byte in GET % b"/":
            transport.feed(bytes([byte]))
            self.door.pass_time(0.4)
        self.assertEqual((transport.ended, transport.value()), ("lost", b""))

    def test_long_answers(self):
        """A page that takes longer than that to answer is waited for."""
        transport = self.door.connect()
        self.get(transport, b"/later")
        self.door.pass_time(20)
        self.later.request.write(b"at last")
        self.later.request.finish()
        self.assertIn(b"at last", transport.take())

    def test_large_heads(self):
        """A head over ``request_bytes_max`` is refused, the first and every later one."""
        large = b"GET / HTTP/1.1\r\nX: " + b"x" * 3000 + b"\r\n\r\n"
        transport = self.door.connect()
        transport.feed(large)
        self.assertEqual((transport.take()[:13], transport.ended), (b"HTTP/1.1 431 ", "lost"))
        transport = self.door.connect()
        self.get(transport)
        transport.feed(large)
        self.assertEqual(transport.ended, "lost")

    def test_bodies(self):
        """A small body is read over; one over the limit, or of unknown length, is refused before it is kept."""
        for fields, status in (
            (b"Content-Length: 5\r\n\r\nhello", b"405"),
            (b"Content-Length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1) + b"x" * 100, b"413"),
            (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"411"),
            (b"Content-Length: -1\r\n\r\n", b"400"),
            (b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", b"400"),
            (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello", b"400"),
        ):
            transport = self.door.connect()
            transport.feed(b"POST /who HTTP/1.1\r\nHost: x\r\n" + fields)
            self.assertEqual(transport.value()[9:12], status, fields)
            self.assertEqual(transport.ended, "" if status == b"405" else "lost")

    def test_nothing_after_refusal(self):
        """What comes after a refused body is not looked at: TLS delivers until the other side has closed."""
        transport = self.door.connect()
        protocol = transport.protocol
        transport.feed(b"POST /who HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n")
        protocol = transport.protocol
        transport.take()
        protocol.dataReceived(b"x" * 100 + GET % b"/")
        self.assertEqual(transport.value(), b"")

    def test_nothing_after_a_bad_request(self):
        """The same after a request that twisted.web could not read."""
        transport = self.door.connect()
        self.get(transport)
        protocol = transport.protocol
        transport.feed(b"GET  nonsense\r\n")
        self.assertEqual((transport.take()[9:12], transport.ended), (b"400", "lost"))
        protocol.dataReceived(b"Host: x\r\n\r\n" + GET % b"/")
        self.assertEqual(transport.value(), b"")

    def test_mistake_of_the_parser(self):
        """An exception while requests are read is logged and ends this connection."""
        transport = self.door.connect()
        self.get(transport)
        transport.protocol.requestFactory = None
        transport.feed(GET % b"/")
        self.assertEqual((len(self.flushLoggedErrors(TypeError)), transport.ended), (1, "aborted"))

    def test_pipelining_without_reading(self):
        """While the client does not take the answers, its further requests are not read."""
        transport = self.door.connect()
        self.get(transport)
        transport.producer.pauseProducing()
        self.assertEqual(transport.producerState, "paused")
        transport.producer.resumeProducing()
        self.assertEqual(transport.producerState, "producing")

    def test_error_response(self):
        """An error of ours is a whole response."""
        self.assertEqual(
            error_response(426, "ü", [("Upgrade", "websocket")]),
            b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Type: text/plain; charset=utf-8\r\n"
            b"Content-Length: 3\r\nConnection: close\r\n\r\n\xc3\xbc\n",
        )


class WebSocketPathTests(HttpCase):
    """The WebSocket's path, seen from HTTP."""

    def test_without_upgrade(self):
        """Who looks at the WebSocket's path with a browser is told what it is."""
        response = self.get(self.door.connect(), b"/ws")
        self.assertIn(b"HTTP/1.1 426 Upgrade Required\r\n", response)
        self.assertIn(b"Upgrade: websocket\r\n", response)

    def test_upgrade_elsewhere(self):
        """An upgrade at another path is refused."""
        transport = self.door.connect()
        transport.feed(request_head("/"))
        self.assertIn(b" 404 ", transport.take())

    def test_upgrade_after_requests(self):
        """A connection that served requests may become a WebSocket: proxies keep connections."""
        transport = self.door.connect()
        self.get(transport)
        transport.feed(request_head())
        self.assertIn(b"HTTP/1.1 101 ", transport.take())
        transport.feed(websocket_frames(publication("one"), publication("two")))
        self.assertEqual(self.door.gate.last.names, ["one", "two"])
        self.door.pass_time(20)
        self.assertEqual((transport.ended, self.door.entrance.open), ("", 1))
        transport.lose()
        self.assertEqual(self.door.entrance.open, 0)

    def test_refused_after_requests(self):
        """There, too, a handshake that is none is an HTTP error."""
        transport = self.door.connect()
        self.get(transport)
        transport.feed(request_head(headers={"Sec-WebSocket-Key": None}))
        self.assertIn(b"HTTP/1.1 400 ", transport.take())
        self.assertEqual(transport.ended, "lost")

    def test_websocket_alone(self):
        """A listener without ``http`` says what it is to other requests."""
        transport = Door("websocket").connect()
        transport.feed(GET % b"/")
        self.assertIn(b"HTTP/1.1 426 ", transport.take())
