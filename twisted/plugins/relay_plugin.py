"""What relay adds to twistd: the service ``relay`` and the reactor ``uv``.

Neither line imports what it names; twistd reads all plugins at every start.
"""

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker

relay_service = ServiceMaker("relay", "relay.tap", "Real-time messaging: users, channels, procedures.", "relay")
relay_reactor = Reactor("uv", "relay.reactor.uv", "Twisted on uvloop's native transports.")
