"""What relay offers to ``twistd``: the service ``relay`` and the reactor ``uv``.

``twistd`` reads this file to list its commands and reactors, so it imports neither uvloop nor relay.
"""

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker

relay = ServiceMaker("relay", "relay.tap", "Real-time messaging: users, channels, procedures.", "relay")
uv = Reactor("uv", "relay.reactor.uv", "uvloop, with its own transports for TCP, UNIX sockets and UDP")
