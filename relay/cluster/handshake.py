"""How two nodes begin a link: who they are, that they are of one cluster, and that both know its secret.

A link carries frames one way, from the node that dialled; each node of a pair dials the other. Every frame is
``length u32`` (little-endian) and so many bytes. The first four of a link are MessagePack arrays::

    dialler                                                  acceptor
    [1, version, cluster, node, incarnation, boot, to, address, founders, nonce]  ─▶
                                                       ◀─  the same of its own, with ``to`` the dialler
    [2, proof]  ─▶                                           HMAC-SHA-256 under the secret, of side and hellos
                                                       ◀─  [2, proof]: the link stands; frames may follow
    either: [3, code, reason]                                refused; the link ends

======================  ==============================================================================================
refused, code           when
======================  ==============================================================================================
version (1)             another version of the link
cluster (2)             another cluster's name
node (3)                not the node that was dialled, or the dialler's own id
incarnation (4)         a node that comes back with another data directory
secret (5)              the proof is another one
protocol (6)            anything else: no such message, not in this order, too long
======================  ==============================================================================================

The secret proves who may link. It does not hide or protect what follows: where others can touch the wire, run the links
through a VPN or the like.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import sha256
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from relay.errors import RemoteProtocolError

VERSION: Final = 1
NONCE_BYTES: Final = 16
HELLO_BYTES_MAX: Final = 2048
"""The longest frame before the link stands."""

REFUSED_VERSION: Final = 1
REFUSED_CLUSTER: Final = 2
REFUSED_NODE: Final = 3
REFUSED_INCARNATION: Final = 4
REFUSED_SECRET: Final = 5
REFUSED_PROTOCOL: Final = 6


class Hello(msgspec.Struct, array_like=True, tag=1, frozen=True, forbid_unknown_fields=True):
    """Who speaks. ``boot`` is another number in each life of the process; ``address`` is where it is dialled;
    ``founders`` with whom the cluster was founded, empty before that."""

    version: Annotated[int, Meta(ge=0)]
    cluster: Annotated[str, Meta(max_length=255)]
    node: Annotated[int, Meta(ge=1)]
    incarnation: Annotated[bytes, Meta(max_length=16)]
    boot: Annotated[int, Meta(ge=0)]
    to: Annotated[int, Meta(ge=1)]
    address: Annotated[str, Meta(max_length=255)]
    founders: Annotated[tuple[int, ...], Meta(max_length=64)]
    nonce: Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]


class Proof(msgspec.Struct, array_like=True, tag=2, frozen=True, forbid_unknown_fields=True):
    """That the speaker knows the secret."""

    proof: Annotated[bytes, Meta(min_length=32, max_length=32)]


class Refusal(msgspec.Struct, array_like=True, tag=3, frozen=True, forbid_unknown_fields=True):
    """The link ends."""

    code: Annotated[int, Meta(ge=0)]
    reason: Annotated[str, Meta(max_length=500)]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Hello | Proof | Refusal).decode


class LinkRefused(RemoteProtocolError):
    """The link does not come to be. ``code`` of the table; ``theirs``: the other side said so."""

    def __init__(self, refusal: int, reason: str, *, theirs: bool = False) -> None:
        super().__init__(reason)
        self.refusal = refusal
        self.theirs = theirs


class Handshake:
    """One side of one link, without I/O: frames in, frames out, until ``peer`` is known and ``done``.

    ``hello(to)`` gives this node's; ``check(hello)`` says (code, reason) for one that is not let in, or None.
    """

    __slots__ = ("_check", "_dialled", "_make", "_mine", "_secret", "done", "peer")

    def __init__(
        self,
        secret: bytes,
        make: Callable[[int], Hello],
        check: Callable[[Hello], tuple[int, str] | None],
        dialled: int = 0,
    ) -> None:
        self.peer: Hello | None = None
        self.done = False
        self._secret = secret
        self._make = make
        self._check = check
        self._dialled = dialled  # the node that is called; 0: this side was called
        self._mine: Hello | None = None

    def begin(self) -> bytes:
        """The dialler's first frame."""
        self._mine = self._make(self._dialled)
        return _encode(self._mine)

    def receive(self, frame: bytes) -> bytes | None:
        """The next frame; what is to be answered. Raises LinkRefused, which :func:`refusal_frame` tells the other side
        unless it came from there."""
        try:
            message = _decode(frame)
        except (msgspec.DecodeError, RecursionError):
            raise LinkRefused(REFUSED_PROTOCOL, "not a relay link") from None
        if isinstance(message, Refusal):
            raise LinkRefused(message.code, message.reason, theirs=True)
        if isinstance(message, Hello) and self.peer is None:
            return self._receive_hello(message)
        if isinstance(message, Proof) and self.peer is not None and not self.done:
            return self._receive_proof(message)
        raise LinkRefused(REFUSED_PROTOCOL, "a message of the handshake out of its order")

    def _receive_hello(self, hello: Hello) -> bytes:
        refused = self._check_version(hello) or self._check(hello)
        if refused is not None:
            raise LinkRefused(*refused)
        self.peer = hello
        if self._dialled:
            return _encode(Proof(self._proof(dialler=True)))
        self._mine = self._make(hello.node)
        return _encode(self._mine)

    def _receive_proof(self, message: Proof) -> bytes | None:
        expected = self._proof(dialler=not self._dialled)
        if not hmac.compare_digest(message.proof, expected):
            raise LinkRefused(REFUSED_SECRET, "the secrets of the two nodes are not the same")
        self.done = True
        return None if self._dialled else _encode(Proof(self._proof(dialler=False)))

    def _check_version(self, hello: Hello) -> tuple[int, str] | None:
        if hello.version != VERSION:
            return REFUSED_VERSION, f"node {hello.node} speaks version {hello.version} of the link, not {VERSION}"
        if self._dialled and hello.node != self._dialled:
            return REFUSED_NODE, f"node {hello.node} answers where node {self._dialled} was expected"
        return None

    def _proof(self, *, dialler: bool) -> bytes:
        assert self._mine is not None and self.peer is not None
        first, second = (self._mine, self.peer) if self._dialled else (self.peer, self._mine)
        side = b"dialler" if dialler else b"acceptor"
        text = side + sha256(_encode(first)).digest() + sha256(_encode(second)).digest()
        return hmac.digest(self._secret, text, "sha256")


def refusal_frame(error: LinkRefused) -> bytes:
    """What tells the other side."""
    return _encode(Refusal(error.refusal, str(error)[:500]))
