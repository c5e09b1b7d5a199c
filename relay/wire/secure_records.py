"""Records of the secure channel: what passes after the handshake, sealed, in order on streams, one by one as datagrams.

Source: ``docs/secure.md``. Each direction has a secret; key and IV of its records follow from it, and the next secret
does too (rekeying), so that a key that is stolen opens nothing that was sent before it was made::

    stream     length u16 | sealed                        top bit of length: a control record (1 rekey, 2 end)
    datagram   epoch u8 · number u56 | sealed             epoch: how often the key was changed, modulo 256

The nonce is the IV, its last eight bytes combined with the number of the record (RFC 8446 section 5.3); what stands
before ``sealed`` is authenticated with it. On a stream numbers are not sent: a record that is lost, doubled or out of
its place does not open. Among datagrams each number opens once, within a window.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cryptography.exceptions import InvalidTag

from relay.errors import RemoteProtocolError
from relay.wire.secure import IV_BYTES, KEY_BYTES, SUITES, TAG_BYTES, Suite, expand

RECORD_BYTES_MAX: Final = 16_384
"""Plain bytes in one record of a stream: what a receiver has to hold before it may believe any of it."""
LENGTH_BYTES: Final = 2
DATAGRAM_HEAD_BYTES: Final = 8
OVERHEAD_BYTES: Final = DATAGRAM_HEAD_BYTES + TAG_BYTES
"""By how much a datagram grows."""
REKEY_RECORDS: Final = 2**32
"""So many records under one key at most: AES-GCM's bound with room to spare."""
REKEY_S: Final = 3600.0
"""So long a key is used at most; whoever has a clock calls ``rekey``."""
REPLAY_WINDOW: Final = 1024
"""Numbers behind the newest that may still come; UDP over long paths reorders by some hundreds."""

_CONTROL: Final = 0x8000
_REKEY: Final = b"\x01"
_END: Final = b"\x02"
_NUMBER_BITS: Final = 56


class _Keys:
    """Key and IV of one direction at one time."""

    __slots__ = ("cipher", "iv", "secret", "suite")

    def __init__(self, suite: int, secret: bytes) -> None:
        self.suite = suite
        self.secret = secret
        self.cipher: Suite = SUITES[suite](expand(secret, b"key", KEY_BYTES))
        self.iv = int.from_bytes(expand(secret, b"iv", IV_BYTES))

    def next(self) -> _Keys:
        """The keys after these."""
        return _Keys(self.suite, expand(self.secret, b"next", KEY_BYTES))


class StreamSealer:
    """One direction of a stream, at its sender. ``records_max``: after so many the key is changed."""

    __slots__ = ("_keys", "_number", "records_max")

    def __init__(self, suite: int, secret: bytes, records_max: int = REKEY_RECORDS) -> None:
        self._keys = _Keys(suite, secret)
        self._number = 0
        self.records_max = records_max

    def seal(self, data: bytes) -> bytes:
        """The records for ``data``, of any length."""
        number = self._number
        # Fast path: one record under the same key. Written out, as two calls would cost a tenth of it.
        if len(data) <= RECORD_BYTES_MAX and number < self.records_max - 1:
            self._number = number + 1
            keys = self._keys
            head = (len(data) + TAG_BYTES).to_bytes(LENGTH_BYTES)
            return head + keys.cipher.encrypt((keys.iv ^ number).to_bytes(IV_BYTES), data, head)
        view = memoryview(data)  # the cipher reads from there: what is large is copied once, when it is joined
        pieces: list[bytes] = []
        for at in range(0, len(data) or 1, RECORD_BYTES_MAX):
            # The last number is the rekeying record's own.
            if self._number >= self.records_max - 1:
                pieces.append(self.rekey())
            pieces += self._sealed(view[at : at + RECORD_BYTES_MAX], 0)
        return b"".join(pieces)

    def rekey(self) -> bytes:
        """The record that announces other keys, which are used from the next one on."""
        head, sealed = self._sealed(_REKEY, _CONTROL)
        self._keys = self._keys.next()
        self._number = 0
        return head + sealed

    def end(self) -> bytes:
        """The last record: without it the receiver knows that something was cut off."""
        rekeyed = self.rekey() if self._number >= self.records_max - 1 else b""
        return rekeyed + b"".join(self._sealed(_END, _CONTROL))

    def _sealed(self, data: bytes | memoryview, control: int) -> tuple[bytes, bytes]:
        """A record, in two pieces."""
        keys = self._keys
        head = (len(data) + TAG_BYTES | control).to_bytes(LENGTH_BYTES)
        nonce = (keys.iv ^ self._number).to_bytes(IV_BYTES)
        self._number += 1
        return head, keys.cipher.encrypt(nonce, data, head)


class StreamOpener:
    """One direction of a stream, at its receiver. ``ended``: the other side has said that nothing follows."""

    __slots__ = ("_held", "_keys", "_number", "ended")

    def __init__(self, suite: int, secret: bytes) -> None:
        self._keys = _Keys(suite, secret)
        self._number = 0
        self._held = b""
        self.ended = False

    def receive(self, data: bytes) -> Iterator[bytes]:
        """What the records that ``data`` completes hold, in order. Raises ``RemoteProtocolError`` behind the last good
        one; nothing may be received then. Holds back at most one record."""
        held = self._held + data if self._held else data
        at, end = 0, len(held)
        while end - at >= LENGTH_BYTES:
            head = held[at : at + LENGTH_BYTES]
            word = int.from_bytes(head)
            length = word & ~_CONTROL
            if not TAG_BYTES <= length <= RECORD_BYTES_MAX + TAG_BYTES or self.ended:
                raise RemoteProtocolError("secure channel: a record of a wrong length, or after the end")
            next_at = at + LENGTH_BYTES + length
            if next_at > end:
                break
            keys = self._keys
            nonce = (keys.iv ^ self._number).to_bytes(IV_BYTES)
            try:
                plain = keys.cipher.decrypt(nonce, held[at + LENGTH_BYTES : next_at], head)
            except InvalidTag:
                raise RemoteProtocolError("secure channel: a record was changed on its way") from None
            self._number += 1
            at = next_at
            if word & _CONTROL:
                self._control(plain)
            else:
                yield plain
        self._held = held[at:]

    def _control(self, what: bytes) -> None:
        if what == _REKEY:
            self._keys = self._keys.next()
            self._number = 0
        elif what == _END:
            self.ended = True
        else:
            raise RemoteProtocolError("secure channel: an unknown control record")


class DatagramSealer:
    """One direction of datagrams, at their sender."""

    __slots__ = ("_epoch", "_keys", "_number", "records_max")

    def __init__(self, suite: int, secret: bytes, records_max: int = REKEY_RECORDS) -> None:
        self._keys = _Keys(suite, secret)
        self._epoch = 0
        self._number = 0
        self.records_max = records_max

    def seal(self, data: bytes, context: bytes = b"") -> bytes:
        """One datagram. ``context``: bytes that go in clear beside it and may not be changed either."""
        if self._number >= self.records_max:
            self.rekey()
        keys, number = self._keys, self._number
        head = (self._epoch << _NUMBER_BITS | number).to_bytes(DATAGRAM_HEAD_BYTES)
        self._number = number + 1
        return head + keys.cipher.encrypt((keys.iv ^ number).to_bytes(IV_BYTES), data, head + context)

    def rekey(self) -> None:
        """Use other keys from the next datagram on; the receiver sees it from the epoch."""
        self._keys = self._keys.next()
        self._epoch = (self._epoch + 1) % 256
        self._number = 0


class _Window:
    """The keys of one epoch, and which of its numbers have come: bit n of ``seen`` is number ``newest - n``."""

    __slots__ = ("keys", "newest", "seen")

    def __init__(self, keys: _Keys) -> None:
        self.keys = keys
        self.newest = -1
        self.seen = 0

    def fresh(self, number: int) -> bool:
        """Whether it has not come yet and is not too old to tell."""
        behind = self.newest - number
        return behind < 0 or (behind < REPLAY_WINDOW and not self.seen >> behind & 1)

    def mark(self, number: int) -> None:
        """It has come."""
        ahead = number - self.newest
        if ahead > 0:
            # A jump over the whole window leaves nothing of it; the shift must not grow with the jump.
            self.seen = (self.seen << ahead | 1) & (1 << REPLAY_WINDOW) - 1 if ahead < REPLAY_WINDOW else 1
            self.newest = number
        else:
            self.seen |= 1 << -ahead


class DatagramOpener:
    """One direction of datagrams, at their receiver: this epoch, the one before, and the next once it authenticates.

    ``refused``: datagrams that were forged, doubled or too old.
    """

    __slots__ = ("_before", "_epoch", "_next", "_now", "refused")

    def __init__(self, suite: int, secret: bytes) -> None:
        self._epoch = 0
        self._before: _Window | None = None
        self._now = _Window(_Keys(suite, secret))
        self._next: _Window | None = None
        self.refused = 0

    def open(self, datagram: bytes, context: bytes = b"") -> bytes | None:
        """What is in it; None for one to be ignored. Never raises: anybody can send a datagram."""
        head = datagram[:DATAGRAM_HEAD_BYTES]
        word = int.from_bytes(head)
        number = word & (1 << _NUMBER_BITS) - 1
        window = self._window(word >> _NUMBER_BITS)
        if len(datagram) < OVERHEAD_BYTES or window is None or not window.fresh(number):
            self.refused += 1
            return None
        keys = window.keys
        nonce = (keys.iv ^ number).to_bytes(IV_BYTES)
        try:
            plain = keys.cipher.decrypt(nonce, datagram[DATAGRAM_HEAD_BYTES:], head + context)
        except InvalidTag:
            self.refused += 1
            return None
        window.mark(number)
        if window is self._next:
            self._before, self._now, self._next = self._now, window, None
            self._epoch = (self._epoch + 1) % 256
        return plain

    def _window(self, epoch: int) -> _Window | None:
        # Fast path: the epoch of the last one.
        if epoch == self._epoch:
            return self._now
        if epoch == (self._epoch + 1) % 256:
            if self._next is None:
                self._next = _Window(self._now.keys.next())
            return self._next
        return self._before if epoch == (self._epoch - 1) % 256 else None
