"""What hypothesis makes messages, bytes and chunkings of, for the tests of parsers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from relay.wire.kinds import FIELDS, FILTERS_MAX, KINDS, OUTCOMES
from relay.wire.message import Fields, Message

# Any: strategies of any values are mixed here.
Strategy = st.SearchStrategy[Any]


def runs(examples: int) -> settings:
    """Settings for a property on a shared machine: so many examples, and no clock."""
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


def text(bytes_max: int, bytes_min: int = 0) -> Strategy:
    """Strings by their size in UTF-8."""
    short = st.text(min_size=bytes_min, max_size=min(bytes_max, 12))
    return st.one_of(short, st.text(min_size=bytes_min, max_size=bytes_max)).filter(
        lambda each: bytes_min <= len(each.encode()) <= bytes_max
    )


_VALUES: dict[str, Strategy] = {
    "uint": st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1)),
    "text": text(300),
    "bytes": st.binary(max_size=40),
    "present": st.just(True),
    "outcome": st.sampled_from(OUTCOMES),
    "filters": st.lists(st.integers(0, 255), max_size=FILTERS_MAX).map(tuple),
    "map": st.dictionaries(text(255, 1), text(300), max_size=3),
}


def fields(most: int = 5) -> st.SearchStrategy[Fields | None]:
    """Fields with values of their types; None when there are none."""
    pairs = [st.tuples(st.just(number), _VALUES[type_]) for number, (_, type_) in FIELDS.items()]
    several = st.lists(st.one_of(pairs), max_size=most, unique_by=lambda pair: pair[0])
    return several.map(lambda found: dict(found) or None)


json_bodies: Strategy = st.one_of(
    st.sampled_from(
        [b"", b" ", b"{}", b'{"a":1,"a":2}', b" [1]\n", b'{"a" :\n1}', b"\xff", b'"\xff"', b"tru", b"1e400"]
    ),
    st.sampled_from([b'"\\ud800"', b'"\\u003a:"', b"[" * 400 + b"]" * 400, b"[" * 2000, b'{"kind":"publish"}']),
    st.binary(max_size=20),
    st.text(max_size=20).map(lambda each: each.encode()),
)


def messages() -> st.SearchStrategy[Message]:
    """Messages that both forms can write and that nobody refuses."""
    body_and_codec = st.one_of(
        st.tuples(st.binary(max_size=80), st.integers(0, 255)),
        st.tuples(json_bodies, st.just(2)),
        st.tuples(json_bodies, st.just(1)),
    )
    return st.builds(
        lambda kind, name, body, flags, seq, found: Message(kind, name, body[0], body[1], flags, seq, found),
        st.one_of(st.sampled_from(sorted(KINDS)), st.integers(0, 255)),
        text(255),
        body_and_codec,
        st.integers(0, 0xFF),
        st.one_of(st.just(0), st.integers(0, 2**32 - 1)),
        fields(),
    )


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    """``data`` cut at ``cuts`` (taken modulo its size)."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


cut_places: st.SearchStrategy[list[int]] = st.lists(st.integers(0, 2**20), max_size=8)


@st.composite
def mutated(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of ``valid`` with a few of them changed, left out or doubled."""
    data = bytearray(draw(valid))
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                data[at] = draw(st.one_of(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]), st.integers(0, 255)))
            case 1:
                del data[at]
            case 2:
                data[at:at] = data[at : at + draw(st.integers(1, 20))]
            case _:
                del data[at:]
    return bytes(data)
