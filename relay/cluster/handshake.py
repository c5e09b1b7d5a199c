"""How two nodes begin a link: who they are, that they are of one cluster, that both know its secret, and the keys of
what follows.

A link carries frames one way, from the node that dialled; each node of a pair dials the other. Every frame is
``length u32`` (little-endian) and so many bytes. The first four of a link are MessagePack arrays::

    dialler                                                  acceptor
    [1, version, cluster, node, incarnation, boot, to, address, founders, nonce, key]  ─▶
                                                       ◀─  the same of its own, with ``to`` the dialler
    [2, proof]  ─▶                                         HMAC-SHA-256 under the secret, of side and hellos
                                                       ◀─  [2, proof]: the link stands; frames may follow
    either: [3, code, reason] or [3, code, reason, proof]    refused; the link ends

======================  ==============================================================================================
refused, code           when
======================  ==============================================================================================
version (1)             another version of the link
cluster (2)             another cluster's name
node (3)                not the node that was dialled, or the dialler's own id
incarnation (4)         a node that comes back with another data directory
secret (5)              the proof is another one, or one side has a secret and the other has none
protocol (6)            anything else: no such message, not in this order, too long
======================  ==============================================================================================

``key`` is the public part of an X25519 key made for this link; without a secret there is none, and what follows is in
clear. With one, the keys of what follows come from both: from the exchange, so that who learns the secret later opens
nothing that was recorded, and from the secret, so that nobody else has them. ``docs/cluster.md`` has the derivation.

A node ends when it hears that its data directory is another one (4). Where there is a secret, that is believed only
with a proof, which the acceptor gives after the dialler's: it gives none to strangers, as they could try out secrets.

No randomness here: the ephemeral key comes in as 32 random bytes, good for one handshake.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import sha256
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from relay.errors import RemoteProtocolError
from relay.wire.secure import AES_256_GCM, KEY_BYTES, ChannelKeys, agree, ephemeral_public, expand

VERSION: Final = 2
NONCE_BYTES: Final = 16
HELLO_BYTES_MAX: Final = 2048
"""The longest frame before the link stands."""
REASON_LENGTH_MAX: Final = 500

REFUSED_VERSION: Final = 1
REFUSED_CLUSTER: Final = 2
REFUSED_NODE: Final = 3
REFUSED_INCARNATION: Final = 4
REFUSED_SECRET: Final = 5
REFUSED_PROTOCOL: Final = 6


class Hello(msgspec.Struct, array_like=True, tag=1, frozen=True, forbid_unknown_fields=True):
    """Who speaks. ``boot`` is another number in each life of the process; ``address`` is where it is dialled;
    ``founders`` with whom the cluster was founded, empty before that. ``key`` is put in by the handshake."""

    version: Annotated[int, Meta(ge=0)]
    cluster: Annotated[str, Meta(max_length=255)]
    node: Annotated[int, Meta(ge=1)]
    incarnation: Annotated[bytes, Meta(max_length=16)]
    boot: Annotated[int, Meta(ge=0)]
    to: Annotated[int, Meta(ge=1)]
    address: Annotated[str, Meta(max_length=255)]
    founders: Annotated[tuple[int, ...], Meta(max_length=64)]
    nonce: Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
    key: Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)] | None = None


class Proof(msgspec.Struct, array_like=True, tag=2, frozen=True, forbid_unknown_fields=True):
    """That the speaker knows the secret."""

    proof: Annotated[bytes, Meta(min_length=32, max_length=32)]


class Refusal(msgspec.Struct, array_like=True, tag=3, frozen=True, forbid_unknown_fields=True):
    """The link ends. ``proof``: it comes from a node that knows the secret."""

    code: Annotated[int, Meta(ge=0)]
    reason: Annotated[str, Meta(max_length=REASON_LENGTH_MAX)]
    proof: Annotated[bytes, Meta(min_length=32, max_length=32)] | None = None


class _OtherHello(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """As much of a hello as all versions have."""

    version: Annotated[int, Meta(ge=0)]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Hello | Proof | Refusal).decode
_decode_other = msgspec.msgpack.Decoder(_OtherHello).decode


class LinkRefused(RemoteProtocolError):
    """The link does not come to be. ``refusal``: code of the table; ``theirs``: the other side said so; ``sure``: and
    it is no stranger; ``proof``: what makes the other side sure."""

    def __init__(
        self, refusal: int, reason: str, *, theirs: bool = False, sure: bool = False, proof: bytes | None = None
    ) -> None:
        super().__init__(reason)
        self.refusal = refusal
        self.theirs = theirs
        self.sure = sure
        self.proof = proof


class Handshake:
    """One side of one link, without I/O: frames in, frames out, until ``peer`` is known and ``done``. Then, with a
    secret, ``take_keys`` has the keys of what follows.

    ``ephemeral``: 32 fresh random bytes, b'' without a secret. ``hello(to)`` gives this node's; ``check(hello)`` says
    (code, reason) for one that is not let in, or None; it is asked again when the other side has proved, just before
    ``done``.
    """

    __slots__ = (
        "_check", "_dialled", "_ephemeral", "_heard", "_keys", "_make", "_said", "_secret", "done", "peer",
    )  # fmt: skip

    def __init__(
        self,
        secret: bytes,
        ephemeral: bytes,
        make: Callable[[int], Hello],
        check: Callable[[Hello], tuple[int, str] | None],
        dialled: int = 0,
    ) -> None:
        assert len(ephemeral) == (KEY_BYTES if secret else 0)
        self.peer: Hello | None = None
        self.done = False
        self._secret = secret
        self._ephemeral = ephemeral
        self._make = make
        self._check = check
        self._dialled = dialled  # the node that is called; 0: this side was called
        self._keys: ChannelKeys | None = None
        self._said = b""  # the two hellos, as they are on the wire
        self._heard = b""

    def begin(self) -> bytes:
        """The dialler's first frame."""
        return self._hello(self._dialled)

    def receive(self, frame: bytes) -> bytes | None:
        """The next frame; what is to be answered. Raises LinkRefused, which :func:`refusal_frame` tells the other side
        unless it came from there."""
        try:
            message = _decode(frame)
        except (msgspec.DecodeError, RecursionError):
            raise _unreadable(frame) from None
        if isinstance(message, Refusal):
            raise LinkRefused(message.code, message.reason, theirs=True, sure=self._is_sure(message))
        if isinstance(message, Hello) and self.peer is None:
            return self._receive_hello(message, frame)
        if isinstance(message, Proof) and self.peer is not None and not self.done:
            return self._receive_proof(message)
        raise LinkRefused(REFUSED_PROTOCOL, "a message of the handshake out of its order")

    def take_keys(self) -> ChannelKeys | None:
        """The keys of what follows, once: kept here, the first ones would open everything to who steals them later."""
        keys, self._keys = self._keys, None
        return keys

    def _hello(self, to: int) -> bytes:
        hello = self._make(to)
        if self._secret:
            hello = msgspec.structs.replace(hello, key=ephemeral_public(self._ephemeral))
        self._said = encode_hello(hello)
        return self._said

    def _receive_hello(self, hello: Hello, frame: bytes) -> bytes:
        refused = self._check_version(hello) or self._check(hello)
        if refused is not None and refused[0] == REFUSED_INCARNATION and self._secret and not self._dialled:
            refused = None  # not before it has proved that it may know
        refused = refused or self._check_key(hello)
        if refused is not None:
            raise LinkRefused(*refused)
        self.peer = hello
        self._heard = frame
        if self._dialled:
            return _encode(Proof(self._mac(b"dialler")))
        return self._hello(hello.node)

    def _receive_proof(self, message: Proof) -> bytes | None:
        expected = self._mac(b"acceptor" if self._dialled else b"dialler")
        if not hmac.compare_digest(message.proof, expected):
            raise LinkRefused(REFUSED_SECRET, "the secrets of the two nodes are not the same")
        assert self.peer is not None
        # Again: another one with the same id may have been the first to prove.
        code, reason = self._check(self.peer) or (0, "")
        if code == REFUSED_INCARNATION and self._secret and not self._dialled:
            reason = reason[:REASON_LENGTH_MAX]
            raise LinkRefused(code, reason, proof=self._mac(b"refused", reason.encode()))
        if code:
            raise LinkRefused(code, reason)
        if self._secret:
            # Not earlier: who does not know the secret does not have this side exchange keys.
            self._keys = self._agree()
        self.done = True
        return None if self._dialled else _encode(Proof(self._mac(b"acceptor")))

    def _check_version(self, hello: Hello) -> tuple[int, str] | None:
        if hello.version != VERSION:
            return REFUSED_VERSION, f"node {hello.node} speaks version {hello.version} of the link, not {VERSION}"
        if self._dialled and hello.node != self._dialled:
            return REFUSED_NODE, f"node {hello.node} answers where node {self._dialled} was expected"
        return None

    def _check_key(self, hello: Hello) -> tuple[int, str] | None:
        """A link in clear and one that is sealed are never taken for one another."""
        if self._secret and hello.key is None:
            return REFUSED_SECRET, f"node {hello.node} has no secret, the node that it meets has one"
        if not self._secret and hello.key is not None:
            return REFUSED_SECRET, f"node {hello.node} has a secret, the node that it meets has none"
        return None

    def _agree(self) -> ChannelKeys:
        """The keys of both directions. Raises LinkRefused."""
        assert self.peer is not None and self.peer.key is not None
        try:
            secret = agree(self._ephemeral, self.peer.key, self._mac(b"records"))
        except RemoteProtocolError:
            raise LinkRefused(REFUSED_PROTOCOL, f"node {self.peer.node} has a key that no key exchange gives") from None
        self._ephemeral = b""
        dialler, acceptor = (expand(secret, label, KEY_BYTES) for label in (b"link dialler", b"link acceptor"))
        sending, receiving = (dialler, acceptor) if self._dialled else (acceptor, dialler)
        return ChannelKeys(AES_256_GCM, sending, receiving, b"")

    def _is_sure(self, message: Refusal) -> bool:
        if not self._secret:
            return True
        if message.proof is None or self.peer is None:
            return False
        return hmac.compare_digest(message.proof, self._mac(b"refused", message.reason.encode()))

    def _mac(self, label: bytes, more: bytes = b"") -> bytes:
        """Of both hellos and ``more``, under the secret."""
        first, second = (self._said, self._heard) if self._dialled else (self._heard, self._said)
        assert first and second
        return hmac.digest(self._secret, label + sha256(first).digest() + sha256(second).digest() + more, "sha256")


def _unreadable(frame: bytes) -> LinkRefused:
    """What is wrong with a frame that is no message of this version."""
    try:
        version = _decode_other(frame).version
    except (msgspec.DecodeError, RecursionError):
        version = VERSION
    if version != VERSION:
        return LinkRefused(REFUSED_VERSION, f"the other node speaks version {version} of the link, not {VERSION}")
    return LinkRefused(REFUSED_PROTOCOL, "not a relay link")


def encode_hello(hello: Hello) -> bytes:
    """Array 1 or 2. Without a key it ends before it, as in the first version, whose nodes can read it then."""
    fields = (1, *msgspec.structs.astuple(hello))
    return _encode(fields if hello.key is not None else fields[:-1])


def refusal_frame(error: LinkRefused) -> bytes:
    """What tells the other side."""
    fields = (3, error.refusal, str(error)[:REASON_LENGTH_MAX])
    # Three elements, if it needs no proof: as many as the first version can read.
    return _encode(fields if error.proof is None else (*fields, error.proof))
