"""What relay offers to ``twistd``: its reactor.

``twistd`` reads this file to list its commands and reactors, so it imports neither uvloop nor relay.
"""

from twisted.application.reactors import Reactor

uv = Reactor("uv", "relay.reactor.uv", "uvloop, with its own transports for TCP, UNIX sockets and UDP")
