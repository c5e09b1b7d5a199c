"""The configuration of who may come in: the authenticators, and what their sessions may do."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from relay.config_types import Name, Positive, PositiveSeconds, Seconds, Secret, Section, Text

DuplicateDevice = Literal["replace", "refuse"]


class Permit(Section, frozen=True, kw_only=True):
    """Patterns of names per action; what no pattern matches is denied.

    In a pattern `*` stands for one segment and a last `**` for all that follow; `{user}` is the session's own user.
    """

    publish: Annotated[tuple[Name, ...], Meta(description="channels to publish to")] = ()
    subscribe: Annotated[tuple[Name, ...], Meta(description="channels, or patterns of them, to be a member of")] = ()
    push: Annotated[tuple[Name, ...], Meta(description="users, procedures and queues to push to")] = ()
    call: Annotated[tuple[Name, ...], Meta(description="procedures and users to pull from")] = ()
    register: Annotated[tuple[Name, ...], Meta(description="procedures to provide")] = ()
    broadcast: Annotated[tuple[Name, ...], Meta(description="routes of pushes to all sessions of the realm")] = ()
    presence: Annotated[tuple[Name, ...], Meta(description="channels of which to see who is there")] = ()
    bind: Annotated[tuple[Name, ...], Meta(description="users whose name the session may take")] = ()
    consume: Annotated[tuple[Name, ...], Meta(description="queues to take messages from; one's own inbox always")] = ()
    manage: Annotated[
        tuple[Name, ...], Meta(description="queues to look into, pause, purge and requeue; one's own inbox always")
    ] = ()


EVERYTHING = Permit(
    publish=("**",),
    subscribe=("**",),
    push=("**",),
    call=("**",),
    register=("**",),
    presence=("**",),
    broadcast=("**",),
    consume=("**",),
    manage=("**",),
)


class Anonymous(Section, frozen=True, kw_only=True):
    """Sessions without proof of identity."""

    enabled: Annotated[bool, Meta(description="let them in, from loopback or with `auth.allow_anonymous`")] = True
    names: Annotated[
        bool, Meta(description="believe the user's name in the hello; false: a hello with a name is refused")
    ] = True
    permissions: Annotated[Permit, Meta(description="what they may do")] = EVERYTHING


class StaticUser(Section, frozen=True, kw_only=True):
    """A user of the configuration. `relay config password` makes the hash."""

    name: Annotated[Name, Meta(description="the user")]
    password_scrypt: Annotated[Secret, Meta(description="hash of the password: `scrypt$N$r$p$salt$hash`")]
    realm: Annotated[Name, Meta(description="the user's realm")] = "default"
    permissions: Annotated[Permit, Meta(description="what the user's sessions may do")] = EVERYTHING
    subscriptions: Annotated[tuple[Name, ...], Meta(description="channels that every session of the user is in")] = ()


class KeyUser(Section, frozen=True, kw_only=True):
    """A user who proves a key of their own in the secure channel. `relay key make` makes one."""

    name: Annotated[Name, Meta(description="the user")]
    key: Annotated[
        str, Meta(pattern="^[A-Za-z0-9+/]{43}=$", description="the user's public key: 32 bytes of Ed25519 in base64")
    ]
    realm: Annotated[Name, Meta(description="the user's realm")] = "default"
    permissions: Annotated[Permit, Meta(description="what the user's sessions may do")] = EVERYTHING
    subscriptions: Annotated[tuple[Name, ...], Meta(description="channels that every session of the user is in")] = ()


class Jwt(Section, frozen=True, kw_only=True):
    """JSON Web Tokens of one issuer. Exactly one of `secret`, `public_key_file` and `jwks_url` is given."""

    name: Annotated[Name, Meta(description="label in logs and metrics, and for `auth.order`")] = "jwt"
    algorithms: Annotated[
        tuple[Literal["HS256", "RS256", "ES256", "EdDSA"], ...],
        Meta(min_length=1, description="accepted algorithms; a token's own header cannot widen them"),
    ]
    secret: Annotated[Secret | None, Meta(description="shared secret for HS256, at least 32 bytes")] = None
    public_key_file: Annotated[str, Meta(description="PEM file with the issuer's public key or certificate")] = ""
    jwks_url: Annotated[str, Meta(description="URL of the issuer's key set (RFC 7517)")] = ""
    jwks_cache_s: Annotated[PositiveSeconds, Meta(description="a fetched key set is used for this long")] = 300.0
    jwks_timeout_s: Annotated[PositiveSeconds, Meta(description="time for fetching it")] = 5.0
    audience: Annotated[str, Meta(description="what the claim `aud` has to contain; empty: not checked")] = ""
    issuer: Annotated[str, Meta(description="what the claim `iss` has to be; empty: not checked")] = ""
    leeway_s: Annotated[Seconds, Meta(description="tolerance for `exp` and `nbf`")] = 5.0
    user_claim: Annotated[Text, Meta(description="claim that names the user")] = "sub"
    realm_claim: Annotated[Text, Meta(description="claim that names the realm; absent: the listener's")] = "realm"
    permissions_claim: Annotated[
        Text, Meta(description="claim with an object like `permissions`; absent: `permissions` below")
    ] = "permissions"
    subscriptions_claim: Annotated[Text, Meta(description="claim with a list of channels that the session is in")] = (
        "subscriptions"
    )
    permissions: Annotated[Permit, Meta(description="for tokens that do not say")] = EVERYTHING
    token_bytes_max: Annotated[Positive, Meta(description="largest token")] = 8192


class CallOut(Section, frozen=True, kw_only=True):
    """A URL that is asked who a session is.

    It gets the hello as JSON by POST and answers 200 with
    `{user, realm?, device?, permissions?, subscriptions?, expires_in_s?, token_id?}`, or 401 or 403 to refuse.
    """

    name: Annotated[Name, Meta(description="label in logs and metrics, and for `auth.order`")] = "http"
    url: Annotated[Text, Meta(description="`http://` or `https://` URL")]
    secret: Annotated[Secret | None, Meta(description="sent along as a bearer token")] = None
    timeout_s: Annotated[PositiveSeconds, Meta(description="time for the answer")] = 5.0
    pending_max: Annotated[Positive, Meta(description="questions under way at once")] = 256
    response_bytes_max: Annotated[Positive, Meta(description="largest answer")] = 65_536
    permissions: Annotated[Permit, Meta(description="for answers that do not say")] = EVERYTHING


class Auth(Section, frozen=True, kw_only=True):
    """Who may come in; asked in the order `order`."""

    order: Annotated[
        tuple[Text, ...],
        Meta(
            description="authenticators in turn: `key`, `static`, `jwt`, `http`, `anonymous`, or the name of one entry "
            "of `jwt` or `http`; plugins are asked before them"
        ),
    ] = ("key", "static", "jwt", "http", "anonymous")
    keys: Annotated[tuple[KeyUser, ...], Meta(description="users who prove a key in the secure channel")] = ()
    static: Annotated[tuple[StaticUser, ...], Meta(description="users of the configuration, with passwords")] = ()
    jwt: Annotated[tuple[Jwt, ...], Meta(description="issuers of tokens")] = ()
    http: Annotated[tuple[CallOut, ...], Meta(description="URLs that are asked")] = ()
    anonymous: Anonymous = Anonymous()
    allow_anonymous: Annotated[
        bool, Meta(description="let anonymous sessions in from other machines too; else such listeners are refused")
    ] = False
    duplicate_device: Annotated[
        DuplicateDevice,
        Meta(description="a user's device comes a second time: `replace` the first session or `refuse` the second"),
    ] = "replace"
    scrypt_threads_max: Annotated[Positive, Meta(description="passwords checked at once, each in a thread")] = 2
    pending_max: Annotated[Positive, Meta(description="sessions that wait to be let in")] = 4096
    expiry_warning_s: Annotated[
        Seconds, Meta(description="the client is asked for a new token this long before its proof expires")
    ] = 30.0
