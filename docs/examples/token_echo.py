"""A plugin with an authenticator of its own, and a service that talks back to its caller.

handlers: {plugins: ["token_echo:TokenEcho"]}      with this directory on PYTHONPATH, and RELAY_ECHO_KEY set

token            echo:USER:HEX, with HEX = HMAC-SHA256 of USER under the key
demo.say         the body, as it came
demo.greet       asks its caller for a name ("name?") and greets it
demo.countdown   {"start": 3, "every_s": 1.0}: several replies
demo.login       binds the caller's session to the user of a token
demo.**          anything else: what there is
"""

from __future__ import annotations

import hmac
import os
from collections.abc import AsyncIterator

from zope.interface import implementer

from relay.app import Context, Reply, pull, route, unknown
from relay.config_auth import Permit
from relay.core.identity import Identity
from relay.core.permissions import permissions_for
from relay.errors import Unauthenticated
from relay.interfaces import IPeer, IRelayPlugin
from relay.wire.handshake import Hello

PERMIT = Permit(publish=("**",), subscribe=("**",), call=("demo.**",))
START_MAX = 1000


@route("")
class Demo:
    """Its procedures follow the prefix at once: demo.say, not demo.demo.say."""

    prefix = "demo"

    def __init__(self, plugin: TokenEcho) -> None:
        self._plugin = plugin

    def say(self, ctx: Context, body: bytes) -> Reply:
        """``bytes`` are the body whatever its codec; a ``Reply`` says its codec itself."""
        return Reply(body, ctx.message.codec, ctx.metadata)

    async def greet(self, ctx: Context) -> str:
        """A handler may ask its own caller. The node goes on meanwhile; the caller's deadline ends it."""
        name = await ctx.pull("name?", type=str, deadline_s=5)
        return f"hello {name}"

    async def countdown(self, ctx: Context, start: int, every_s: float = 1.0) -> AsyncIterator[int]:
        """Several arguments are keys of the body. Each ``yield`` is a reply that others follow."""
        for number in range(min(start, START_MAX), 0, -1):
            yield number
            await ctx.sleep(every_s)

    @pull
    def login(self, ctx: Context, token: str) -> str:
        """From now on the session speaks for the token's user."""
        ctx.bind(self._plugin.user_of(token))
        return ctx.user

    @unknown
    @pull
    def what_is_there(self, ctx: Context) -> dict[str, object]:
        """Takes the names below ``demo`` that nothing else answers."""
        return {"asked": ctx.message.name, "there is": ["say", "greet", "countdown", "login"]}


@implementer(IRelayPlugin)
class TokenEcho:
    """The plugin. ``key`` signs tokens; without one it is read from the environment."""

    name = "token_echo"

    def __init__(self, key: str = "") -> None:
        self._key = (key or os.environ["RELAY_ECHO_KEY"]).encode()

    def routes(self) -> list[object]:
        """Objects whose methods become procedures."""
        return [Demo(self)]

    def token_for(self, user: str) -> str:
        """A token, as whoever issues them would make it."""
        return f"echo:{user}:{self._sign(user)}"

    def authenticate(self, hello: Hello, peer: IPeer) -> Identity | None:
        """None leaves the hello to the next authenticator; raising refuses it for good."""
        if not hello.token.startswith("echo:"):
            return None
        user = self.user_of(hello.token)
        return Identity(user=user, realm="", permissions=permissions_for(PERMIT, user), method=self.name)

    def user_of(self, token: str) -> str:
        """The user of a token. Raises ``Unauthenticated``."""
        kind, _, rest = token.partition(":")
        user, _, signature = rest.rpartition(":")
        if kind != "echo" or not user or not hmac.compare_digest(signature.encode(), self._sign(user).encode()):
            raise Unauthenticated("that token is not good")
        return user

    def _sign(self, user: str) -> str:
        return hmac.new(self._key, user.encode(), "sha256").hexdigest()
