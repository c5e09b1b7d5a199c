"""What Autobahn's handshake alone allows, on relay's reactor: python handshake_server.py REACTOR PORT"""

import sys

from twisted.application.reactors import installReactor

installReactor(sys.argv[1])

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol  # noqa: E402
from twisted.internet import reactor  # noqa: E402

factory = WebSocketServerFactory()
factory.protocol = WebSocketServerProtocol
factory.setProtocolOptions(autoPingInterval=0, openHandshakeTimeout=0)
reactor.listenTCP(int(sys.argv[2]), factory, 4096, "127.0.0.1")
reactor.run()
