"""A URL that gets the hello and decides.

POST url   {version, realm, user, device, token, password, client, info,
            address, transport, dialect, listener, certificate}

200        {user, realm?, device?, permissions?, subscriptions?, expires_in_s?, token_id?}     the session is that
401, 403   refused; a body in text, or JSON {message}, is told to the client
other, no answer within timeout_s, too large, not understood                                  auth_unavailable
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.iweb import IAgent
from zope.interface import implementer

from relay.config_auth import CallOut
from relay.core.auth.fetch import FetchFailed, fetch
from relay.core.auth.grant import Grant, check_permit, identity_of, secret_text
from relay.core.identity import Identity
from relay.core.seldom import Seldom
from relay.errors import AuthUnavailable, BadBody, BadName, ConfigError, Unauthenticated
from relay.interfaces import IAuthenticator, IPeer
from relay.wire.handshake import Hello

REASON_CHARACTERS_MAX: Final = 200
REFUSED: Final = (401, 403)

log = Logger()


class Question(msgspec.Struct, frozen=True):
    """The body of the request. The secret of a session to be resumed is not in it."""

    version: str
    realm: str
    user: str
    device: str
    token: str
    password: str
    client: str
    info: Any  # Any: the client's JSON value
    address: str
    transport: str
    dialect: str
    listener: str
    certificate: str


class _Refusal(msgspec.Struct):
    message: str = ""


@implementer(IAuthenticator)
class CallOutAuthenticator:
    """One entry of ``auth.http``. ``unix_time`` gives Unix seconds."""

    def __init__(self, config: CallOut, *, agent: IAgent, clock: IReactorTime, unix_time: Callable[[], float]) -> None:
        where = f"auth.http {config.name!r}"
        check_permit(config.permissions, where)
        if not config.url.startswith(("http://", "https://")) or not config.url.isascii():
            raise ConfigError(f"{where}: an http:// or https:// URL is expected")
        self.name = config.name
        self._config = config
        self._agent = agent
        self._clock = clock
        self._unix_time = unix_time
        self._headers = {b"Content-Type": b"application/json", b"Accept": b"application/json"}
        if config.secret is not None:
            self._headers[b"Authorization"] = b"Bearer " + secret_text(config.secret, where).encode()
        self._seldom = Seldom(clock)
        self.pending = 0
        self.failures = 0

    def authenticate(self, hello: Hello, peer: IPeer) -> Awaitable[Identity]:
        """Takes every hello."""
        if self.pending >= self._config.pending_max:
            raise AuthUnavailable("too many sessions wait to be let in")
        return self._ask(
            Question(
                hello.version,
                hello.realm,
                hello.user,
                hello.device,
                hello.token,
                hello.password,
                hello.client,
                hello.info,
                peer.address,
                peer.transport,
                peer.dialect,
                peer.listener,
                peer.certificate,
            )
        )

    async def _ask(self, question: Question) -> Identity:
        self.pending += 1
        try:
            status, body = await fetch(
                self._agent,
                self._clock,
                b"POST",
                self._config.url,
                headers=self._headers,
                body=msgspec.json.encode(question),
                timeout_s=self._config.timeout_s,
                bytes_max=self._config.response_bytes_max,
            )
        except FetchFailed as error:
            raise self._unavailable(str(error)) from None
        finally:
            self.pending -= 1
        if status in REFUSED:
            raise Unauthenticated(_reason(body))
        if status != 200:
            raise self._unavailable(f"status {status}")
        try:
            return self._identity(msgspec.json.decode(body, type=Grant))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, BadBody, BadName) as error:
            raise self._unavailable(f"an answer that is not understood: {error}") from None

    def _identity(self, grant: Grant) -> Identity:
        expires_at = None if grant.expires_in_s is None else self._unix_time() + grant.expires_in_s
        return identity_of(grant, method=self.name, permit=self._config.permissions, expires_at=expires_at)

    def _unavailable(self, why: str) -> AuthUnavailable:
        self.failures += 1
        others = self._seldom.due("unavailable")
        if others is not None:
            log.warn(
                "{url} did not decide: {why} ({others} more since the last report)",
                url=self._config.url,
                why=why,
                others=others,
            )
        return AuthUnavailable()


def _reason(body: bytes) -> str:
    """What a refusal says, for the client: a short line of text."""
    try:
        text = msgspec.json.decode(body, type=_Refusal).message
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body.decode("utf-8", "replace")
    text = "".join(each for each in text if each.isprintable())
    return text[:REASON_CHARACTERS_MAX]
