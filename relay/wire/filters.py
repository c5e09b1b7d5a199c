"""Transfer filters on bodies: gzip, zstd, crc32c, md5, and those that applications register.

Source: ``docs/protocol.md`` section 4, "Bodies". A list of filters names the outermost first. gzip is one member of
RFC 1952, zstd one frame of RFC 8878; the checksums stand before the body, big-endian. Unwrapping inflates step by
step and stops at the limit, so that a bomb costs no more than the limit.
"""

from __future__ import annotations

import hashlib
import sys
import zlib
from collections.abc import Iterable
from typing import Final

import crc32c

from relay.errors import FilterError
from relay.wire import kinds
from relay.wire.contracts import Filter

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

APPLICATION_NUMBERS: Final = range(64, 128)
GZIP_WINDOW: Final = 31  # zlib's way of saying "32 KiB window, gzip header and trailer"
GZIP_LEVEL: Final = 6
# RFC 8878 section 3.1.1.1.2 recommends that decoders support windows of 8 MiB; what asks for more is refused.
ZSTD_WINDOW_LOG_MAX: Final = 23


class GzipFilter:
    """gzip, RFC 1952: exactly one member."""

    name = "gzip"
    number = kinds.GZIP

    def wrap(self, body: bytes) -> bytes:
        """``body`` as a gzip member."""
        machine = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WINDOW)
        return machine.compress(body) + machine.flush()

    def unwrap(self, body: bytes, bytes_max: int) -> bytes:
        """The body back; ``FilterError``."""
        machine = zlib.decompressobj(GZIP_WINDOW)
        try:
            # One byte over the limit is enough to see that it is passed (and 0 would mean "no limit").
            found = machine.decompress(body, bytes_max + 1)
        except zlib.error as error:
            raise FilterError(f"gzip: {error}") from None
        if len(found) > bytes_max:
            raise _too_large(bytes_max)
        if not machine.eof or machine.unused_data:
            raise FilterError("gzip: not exactly one whole member")
        return found


class ZstdFilter:
    """Zstandard, RFC 8878: exactly one frame."""

    name = "zstd"
    number = kinds.ZSTD

    def wrap(self, body: bytes) -> bytes:
        """``body`` as a zstd frame."""
        return zstd.compress(body)

    def unwrap(self, body: bytes, bytes_max: int) -> bytes:
        """The body back; ``FilterError``."""
        machine = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX})
        try:
            found = machine.decompress(body, bytes_max + 1)
        except zstd.ZstdError as error:
            raise FilterError(f"zstd: {error}") from None
        if len(found) > bytes_max:
            raise _too_large(bytes_max)
        if not machine.eof or machine.unused_data:
            raise FilterError("zstd: not exactly one whole frame")
        return found


class Crc32cFilter:
    """CRC-32C (Castagnoli, RFC 3720 appendix B.4) in 4 bytes before the body."""

    name = "crc32c"
    number = kinds.CRC32C

    def wrap(self, body: bytes) -> bytes:
        """The checksum, then ``body``."""
        checksum: int = crc32c.crc32c(body)
        return checksum.to_bytes(4) + body

    def unwrap(self, body: bytes, bytes_max: int) -> bytes:
        """The body back; ``FilterError`` when the checksum is another."""
        rest = body[4:]
        if len(body) < 4 or crc32c.crc32c(rest) != int.from_bytes(body[:4]):
            raise FilterError("crc32c: the checksum is wrong")
        return rest


class Md5Filter:
    """MD5 (RFC 1321) in 16 bytes before the body: against accidents, not against people."""

    name = "md5"
    number = kinds.MD5

    def wrap(self, body: bytes) -> bytes:
        """The digest, then ``body``."""
        return hashlib.md5(body, usedforsecurity=False).digest() + body

    def unwrap(self, body: bytes, bytes_max: int) -> bytes:
        """The body back; ``FilterError`` when the digest is another."""
        rest = body[16:]
        if hashlib.md5(rest, usedforsecurity=False).digest() != body[:16]:
            raise FilterError("md5: the digest is wrong")
        return rest


def _too_large(bytes_max: int) -> FilterError:
    return FilterError(f"the body grows over {bytes_max} bytes when it is unwrapped")


_own: Final[tuple[Filter, ...]] = (GzipFilter(), ZstdFilter(), Crc32cFilter(), Md5Filter())
_by_number: Final[dict[int, Filter]] = {each.number: each for each in _own}


def register(filter_: Filter) -> None:
    """Makes an application's filter known: ``number`` in 64-127, number and name not yet taken; else ``ValueError``."""
    if filter_.number not in APPLICATION_NUMBERS:
        raise ValueError(f"filter {filter_.name}: number {filter_.number} is not in 64-127")
    if filter_.number in _by_number or any(filter_.name == each.name for each in _by_number.values()):
        raise ValueError(f"filter {filter_.name} ({filter_.number}) is there already")
    _by_number[filter_.number] = filter_


def unregister(filter_: Filter) -> None:
    """Takes back what ``register`` did; ``ValueError`` when it was not registered."""
    if filter_.number not in APPLICATION_NUMBERS or _by_number.get(filter_.number) is not filter_:
        raise ValueError(f"filter {filter_.name} is not registered")
    del _by_number[filter_.number]


def known() -> dict[str, int]:
    """Names and numbers of the filters that work here, in the order of their numbers."""
    return {each.name: number for number, each in sorted(_by_number.items())}


def _chosen(numbers: Iterable[int]) -> list[Filter]:
    found = []
    for number in numbers:
        each = _by_number.get(number)
        if each is None:
            raise FilterError(f"filter {number} is not known here")
        found.append(each)
    if len(found) > kinds.FILTERS_MAX:
        raise FilterError(f"{len(found)} filters, at most {kinds.FILTERS_MAX} are allowed")
    return found


def wrap(body: bytes, numbers: Iterable[int]) -> bytes:
    """``body`` under the filters ``numbers``, the outermost first; ``FilterError`` for an unknown one."""
    for each in reversed(_chosen(numbers)):
        body = each.wrap(body)
    return body


def unwrap(body: bytes, numbers: Iterable[int], ratio_max: int, bytes_max: int) -> bytes:
    """The body inside the filters ``numbers``, the outermost first.

    ``FilterError`` when a filter is unknown, a check fails, or at any step the body would be larger than
    ``bytes_max`` bytes or than ``ratio_max`` times the ``body`` given.
    """
    bytes_max = min(bytes_max, len(body) * ratio_max)
    for each in _chosen(numbers):
        body = each.unwrap(body, bytes_max)
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
    return body
