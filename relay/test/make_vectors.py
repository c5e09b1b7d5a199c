"""Writes ``docs/protocol-vectors.json``: ``python -m relay.test.make_vectors``.

The frames are put together here from single bytes, as ``docs/protocol.md`` says, and never by ``relay.wire``: the
file is what the encoders of all languages are held against. A test checks that the file is what this module writes.

A vector is an object with ``name``, ``description`` and

- ``message``: what the frame says, or ``messages`` for a stream: ``kind``, ``name``, ``seq``, ``flags``, ``codec`` as
  in the header (absent: 0 or empty), ``body`` in hex, ``fields`` by name (bytes in hex, filters as numbers);
- ``binary``: one frame in hex, ``json``: one object; both mean the message;
- ``stream``: bytes of a binary stream after the preface, in hex, ``lines``: text of a JSON stream;
- ``decode_only``: a decoder takes it, but an encoder writes it in another way (``again``, when there is a JSON form);
- ``refused``: the frame is well-formed and is answered by the error ``unsupported``;
- ``strict_only``: the object is wrong in a way that a general JSON parser may not show (a doubled key, ``5.0``);
- ``frame_bytes_max``: the decoder's limit when it is not that of the file;
- ``error``: the decoder fails with that error once it has given out ``messages``; the connection ends.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from relay.test.vector_bytes import Vector, bad, field, frame, good, inline, lines, pair, sized, stream

FILE = Path(__file__).resolve().parents[2] / "docs" / "protocol-vectors.json"


def connections() -> list[Vector]:
    """The kinds about the connection."""
    hello = b'{"version":"1.0","realm":"default","features":["resume"],"heartbeat_ms":25000}'
    welcome = b'{"version":"1.0","node":"n1","session":"n1.s1","resumed":false,"received":0}'
    goodbye = b'{"reason":2,"name":"drain","reconnect":true,"reconnect_after_ms":1500}'
    return [
        good("hello", "First frame of a client; its body is JSON.", {"kind": 1, "codec": 2, "body": hello.hex()},
             frame(1, body=hello, codec=2), inline("hello", hello)),
        good("hello-empty", "All keys of hello are optional, the body too.", {"kind": 1}, frame(1), '{"kind":"hello"}'),
        good("welcome", "The answer to hello.", {"kind": 2, "codec": 2, "body": welcome.hex()},
             frame(2, body=welcome, codec=2), inline("welcome", welcome)),
        good("ping", "A ping with its number and the count of session frames received.",
             {"kind": 3, "seq": 9, "fields": {"received": 1000}},
             frame(3, fields=field(36, b"\x03\xe8"), seq=9), '{"kind":"ping","seq":9,"received":1000}'),
        good("pong-unasked", "An unasked report: seq 0, 300 frames received, 2 left out.",
             {"kind": 4, "fields": {"received": 300, "skipped": 2}},
             frame(4, fields=field(36, b"\x01\x2c") + field(37, b"\x02")),
             '{"kind":"pong","received":300,"skipped":2}'),
        good("goodbye", "The last frame, with a reason that says to come back.",
             {"kind": 5, "codec": 2, "body": goodbye.hex()},
             frame(5, body=goodbye, codec=2), inline("goodbye", goodbye)),
    ]  # fmt: skip


def headers() -> list[Vector]:
    """The numbers of the header."""
    return [
        good("publish-json", "A publication with an inline JSON body.",
             {"kind": 32, "name": "room.1", "codec": 2, "body": b'{"text":"hello"}'.hex()},
             frame(32, b"room.1", body=b'{"text":"hello"}', codec=2),
             '{"kind":"publish","name":"room.1","body":{"text":"hello"}}'),
        good("publish-specification", "The example of the specification.",
             {"kind": 32, "name": "room.1", "seq": 7, "flags": 0x20, "codec": 2, "fields": {"ttl_ms": 5000},
              "body": b'{"text":"hello"}'.hex()},
             frame(32, b"room.1", field(19, b"\x13\x88"), b'{"text":"hello"}', codec=2, flags=0x20, seq=7),
             '{"kind":"publish","seq":7,"name":"room.1","flags":["no_echo"],"ttl_ms":5000,"body":{"text":"hello"}}'),
        good("header-in-full", "Every byte of the header written out.",
             {"kind": 17, "name": "a.b", "seq": 0x01020304, "flags": 0x41, "codec": 1, "fields": {"hops": 5},
              "body": b"x".hex()},
             bytes.fromhex("11 01 0041 01020304 03 00 0004 612e62 1f 0001 05 78"),
             '{"kind":"pull","seq":16909060,"name":"a.b","flags":["more","retained"],"hops":5,"text":"x"}'),
        good("seq-largest", "The largest seq.", {"kind": 20, "seq": 0xFFFFFFFF}, frame(20, seq=0xFFFFFFFF),
             '{"kind":"cancel","seq":4294967295}'),
        good("flags-all", "All flags that have a name.", {"kind": 32, "name": "c", "flags": 0x7F},
             frame(32, b"c", flags=0x7F),
             '{"kind":"publish","name":"c","flags":["more","unordered","unreliable","latest","independent","no_echo",'
             '"retained"]}'),
        good("reserved-byte", "The reserved byte is ignored when received.", {"kind": 20, "seq": 1},
             frame(20, seq=1, reserved=0xAB), decode_only=True),
        good("kind-by-number", "A kind that has a name may be given by number.", {"kind": 20, "seq": 1},
             None, '{"kind":20,"seq":1}', decode_only=True,
             again='{"kind":"cancel","seq":1}'),
        good("defaults-written-out", "Zero, the empty name and the empty list may be written.", {"kind": 20},
             None, '{"kind":"cancel","seq":0,"name":"","flags":[],"data":""}', decode_only=True,
             again='{"kind":"cancel"}'),
    ]  # fmt: skip


def kinds() -> list[Vector]:
    """One frame of every kind that the others do not have."""
    found = []
    for number, name, route in (
        (33, "event", "room.1"), (34, "subscribe", "room.*"), (35, "unsubscribe", "room.**"), (36, "history", "room.1"),
        (37, "presence", "room.1"), (38, "joined", "room.1"), (39, "left", "room.1"),
        (40, "occupied", "room.1"), (41, "vacated", "room.1"), (48, "register", "calc.add"),
        (49, "unregister", "calc.*"), (56, "bind", ""), (57, "refresh", ""), (64, "ack", ""), (65, "nack", ""),
        (66, "credit", ""), (67, "consume", "jobs"), (68, "unconsume", "jobs"), (69, "queue", "jobs"),
    ):  # fmt: skip
        message: dict[str, Any] = {"kind": number, "seq": number}  # Any: JSON
        text = f'{{"kind":"{name}","seq":{number}'
        if route:
            message["name"] = route
            text += f',"name":"{route}"'
        binary = frame(number, route.encode(), seq=number)
        found.append(good(f"kind-{name}", f"Kind {number}.", message, binary, text + "}"))
    return found


def histories() -> list[Vector]:
    """Channels that keep history (section 10)."""
    since = b'{"since":{"offset":41,"epoch":"a1"},"tags":{"lang":"en"}}'
    answer = b'{"recovered":true,"offset":41,"epoch":"a1"}'
    ask = b'{"after":41,"limit":2,"epoch":"a1"}'
    end = b'{"epoch":"a1","first":1,"last":300,"next":43}'
    place = field(16, b"\x2a") + field(17, b"a1")
    return [
        good("publish-once", "A publication with a key, to be the channel's last value.",
             {"kind": 32, "name": "room.1", "seq": 3, "flags": 0x40, "fields": {"idempotency_key": "k1"}},
             frame(32, b"room.1", field(21, b"k1"), flags=0x40, seq=3),
             '{"kind":"publish","seq":3,"name":"room.1","flags":["retained"],"idempotency_key":"k1"}'),
        good("event-with-position", "An event of a channel with history; its publisher wants no echo.",
             {"kind": 33, "name": "room.1", "codec": 1, "flags": 0x20, "fields": {"offset": 42, "epoch": "a1"},
              "body": b"x".hex()},
             frame(33, b"room.1", place, b"x", codec=1, flags=0x20),
             '{"kind":"event","name":"room.1","flags":["no_echo"],"offset":42,"epoch":"a1","text":"x"}'),
        good("subscribe-since", "Recover what is behind a position, with those tags.",
             {"kind": 34, "seq": 4, "name": "room.1", "codec": 2, "body": since.hex()},
             frame(34, b"room.1", body=since, codec=2, seq=4),
             f'{{"kind":"subscribe","seq":4,"name":"room.1","body":{since.decode()}}}'),
        good("subscribe-recovered", "The answer, before what was missed.",
             {"kind": 18, "seq": 4, "codec": 2, "body": answer.hex()},
             frame(18, body=answer, codec=2, seq=4), f'{{"kind":"reply","seq":4,"body":{answer.decode()}}}'),
        good("history-page", "Ask for a page.", {"kind": 36, "seq": 5, "name": "room.1", "codec": 2, "body": ask.hex()},
             frame(36, b"room.1", body=ask, codec=2, seq=5),
             f'{{"kind":"history","seq":5,"name":"room.1","body":{ask.decode()}}}'),
        good("history-publication", "One publication of the page.",
             {"kind": 18, "seq": 5, "name": "room.1", "codec": 1, "flags": 1,
              "fields": {"offset": 42, "epoch": "a1", "accepted_at": 1000}, "body": b"x".hex()},
             frame(18, b"room.1", place + field(18, b"\x03\xe8"), b"x", codec=1, flags=1, seq=5),
             '{"kind":"reply","seq":5,"name":"room.1","flags":["more"],"offset":42,"epoch":"a1","accepted_at":1000,'
             '"text":"x"}'),
        good("history-end", "The last reply: where the next page begins.",
             {"kind": 18, "seq": 5, "codec": 2, "body": end.hex()},
             frame(18, body=end, codec=2, seq=5), f'{{"kind":"reply","seq":5,"body":{end.decode()}}}'),
    ]  # fmt: skip


def names() -> list[Vector]:
    """Names at their limits. Their grammar is not the frame's affair."""
    longest, accents = "n" * 255, "é" * 128
    return [
        good("name-utf8", "A name outside ASCII.", {"kind": 32, "name": "zürich.日本"},
             frame(32, "zürich.日本".encode()), '{"kind":"publish","name":"zürich.日本"}'),
        good("name-longest", "A name of 255 bytes.", {"kind": 32, "name": longest},
             frame(32, longest.encode()), f'{{"kind":"publish","name":"{longest}"}}'),
        good("name-escaped", "Escapes in a JSON string mean characters.", {"kind": 32, "name": 'a"b:c\\d'},
             frame(32, b'a"b:c\\d'), '{"kind":"publish","name":"a\\"b:c\\\\d"}'),
        good("name-escaped-colon", "A character may be escaped without need.", {"kind": 32, "name": "a:b"},
             None, '{"kind":"publish","name":"a\\u003ab"}', decode_only=True,
             again='{"kind":"publish","name":"a:b"}'),
        bad("name-too-long", "A name of 256 bytes has no place in the header.", None,
            f'{{"kind":"publish","name":"{longest}n"}}'),
        bad("name-too-long-utf8", "Names are measured in bytes: 128 characters of two bytes are too long.", None,
            f'{{"kind":"publish","name":"{accents}"}}'),
        bad("name-not-utf8", "A name that is not UTF-8.", frame(32, b"a\xff")),
        bad("name-surrogate", "Half a surrogate pair is no character, neither in UTF-8 nor as an escape.",
            frame(32, b"\xed\xa0\x80"), '{"kind":"publish","name":"\\ud800"}', strict_only=True),
    ]  # fmt: skip


def fields() -> list[Vector]:
    """Every field that is an integer or a text."""
    found = []
    for number, name in (
        (15, "subscription"), (16, "offset"), (18, "accepted_at"), (19, "ttl_ms"), (20, "deadline_ms"),
        (24, "priority"), (25, "deliver_at"), (26, "credits"), (27, "lease_ms"), (28, "deliveries"), (29, "level"),
        (31, "hops"), (36, "received"), (37, "skipped"), (38, "error"), (41, "addressed"), (42, "reached"),
    ):  # fmt: skip
        value = 0x0100 + number
        found.append(
            good(f"field-{name}", f"Field {number}, an integer of two bytes.", {"kind": 16, "fields": {name: value}},
                 frame(16, fields=field(number, bytes((1, number)))), f'{{"kind":"push","{name}":{value}}}')
        )  # fmt: skip
    for number, name in (
        (2, "from_user"), (3, "from_session"), (4, "from_device"), (5, "from_realm"), (6, "user"), (7, "device"),
        (8, "session"), (9, "procedure"), (10, "provider"), (11, "node"), (13, "role"), (14, "channel"), (17, "epoch"),
        (21, "idempotency_key"), (22, "ordering_key"), (23, "conflation_key"), (30, "origin_node"), (32, "traceparent"),
        (33, "tracestate"), (44, "queue"),
    ):  # fmt: skip
        found.append(
            good(f"field-{name}", f"Field {number}, a text.", {"kind": 16, "fields": {name: "é:1"}},
                 frame(16, fields=field(number, b"\xc3\xa9:1")), f'{{"kind":"push","{name}":"é:1"}}')
        )  # fmt: skip
    return found


def other_fields() -> list[Vector]:
    """Fields of the other types, and the types at their limits."""
    metadata = pair(b"content", b"text/plain; a:b") + pair(b"k", b"")
    return [
        good("field-message_id", "Field 1, bytes.", {"kind": 33, "fields": {"message_id": "00ff10"}},
             frame(33, fields=field(1, b"\x00\xff\x10")), '{"kind":"event","message_id":"AP8Q"}'),
        good("field-all", "Field 12 is only present.", {"kind": 16, "name": "r", "fields": {"all": True}},
             frame(16, b"r", field(12, b"")), '{"kind":"push","name":"r","all":true}'),
        good("field-metadata", "Field 34, a map; values may be empty and hold colons.",
             {"kind": 16, "fields": {"metadata": {"content": "text/plain; a:b", "k": ""}}},
             frame(16, fields=field(34, metadata)),
             '{"kind":"push","metadata":{"content":"text/plain; a:b","k":""}}'),
        good("field-tags-empty", "Field 43, a map without entries.", {"kind": 16, "fields": {"tags": {}}},
             frame(16, fields=field(43, b"")), '{"kind":"push","tags":{}}'),
        good("field-filters", "Field 35: gzip outside, then an application's. A filtered body is never inline.",
             {"kind": 32, "codec": 2, "fields": {"filters": [1, 64]}, "body": b"{}".hex()},
             frame(32, fields=field(35, b"\x01\x40"), body=b"{}", codec=2),
             '{"kind":"publish","filters":["gzip",64],"codec":"json","data":"e30="}'),
        good("field-filters-eight", "Eight filters are the most.",
             {"kind": 32, "fields": {"filters": [1, 2, 3, 4, 1, 2, 3, 4]}, "body": "00"},
             frame(32, fields=field(35, b"\1\2\3\4\1\2\3\4"), body=b"\0"),
             '{"kind":"publish","filters":["gzip","zstd","crc32c","md5","gzip","zstd","crc32c","md5"],"data":"AA=="}'),
        good("field-outcomes", "An error of a request: number, temporary, outcome unknown.",
             {"kind": 19, "seq": 3, "codec": 1, "fields": {"error": 33, "temporary": True, "outcome": "unknown"},
              "body": b"too late".hex()},
             frame(19, fields=field(38, b"\x21") + field(39, b"") + field(40, b"\x01"), body=b"too late", codec=1,
                   seq=3),
             '{"kind":"error","seq":3,"error":33,"temporary":true,"outcome":"unknown","text":"too late"}'),
        good("field-outcome-not-done", "Outcome not_done is the byte 0; error numbers may be any.",
             {"kind": 19, "name": "x", "fields": {"error": 70000, "outcome": "not_done"}},
             frame(19, b"x", field(38, b"\x01\x11\x70") + field(40, b"\x00")),
             '{"kind":"error","name":"x","error":70000,"outcome":"not_done"}'),
        good("uint-zero", "Zero has one byte.", {"kind": 18, "seq": 1, "fields": {"reached": 0}},
             frame(18, fields=field(42, b"\x00"), seq=1), '{"kind":"reply","seq":1,"reached":0}'),
        good("uint-largest", "The largest integer has eight bytes.",
             {"kind": 33, "fields": {"offset": 18446744073709551615}},
             frame(33, fields=field(16, b"\xff" * 8)), '{"kind":"event","offset":18446744073709551615}'),
        good("uint-longer-form", "Leading zeros are accepted, up to eight bytes.",
             {"kind": 33, "fields": {"offset": 5}}, frame(33, fields=field(16, b"\0\0\0\0\0\0\0\5")), decode_only=True),
        good("critical-known", "A critical field that is known is an ordinary field.",
             {"kind": 16, "fields": {"user": "ann"}}, frame(16, fields=field(6 | 0x80, b"ann")),
             '{"kind":"push","!user":"ann"}', decode_only=True,
             again='{"kind":"push","user":"ann"}'),
    ]  # fmt: skip


def bodies() -> list[Vector]:
    """Codecs, and the ways of a body in JSON."""
    verbatim = b'{"b":1.50e3,"a":"\\u0041","b":[]}'
    return [
        good("body-none", "An empty raw body has no key.", {"kind": 32, "name": "c"}, frame(32, b"c"),
             '{"kind":"publish","name":"c"}'),
        good("body-raw", "Bytes go as base64; raw is the default codec.", {"kind": 32, "body": "00017f80ff"},
             frame(32, body=b"\x00\x01\x7f\x80\xff"), '{"kind":"publish","data":"AAF/gP8="}'),
        good("body-text", "Text goes as a string.", {"kind": 32, "codec": 1, "body": 'say "é"\n'.encode().hex()},
             frame(32, body=b'say "\xc3\xa9"\n', codec=1), '{"kind":"publish","text":"say \\"é\\"\\n"}'),
        good("body-text-empty", "An empty text is not the same as no body.", {"kind": 32, "codec": 1},
             frame(32, codec=1), '{"kind":"publish","text":""}'),
        good("body-json-verbatim", "Inline JSON is carried byte for byte: the number's form, the order of the keys, "
             "keys given twice inside it.", {"kind": 32, "codec": 2, "body": verbatim.hex()},
             frame(32, body=verbatim, codec=2),
             '{"kind":"publish","body":{"b":1.50e3,"a":"\\u0041","b":[]}}'),
        good("body-json-null", "null is a body of four bytes.", {"kind": 32, "codec": 2, "body": b"null".hex()},
             frame(32, body=b"null", codec=2), '{"kind":"publish","body":null}'),
        good("body-json-empty", "No bytes are not JSON.", {"kind": 32, "codec": 2}, frame(32, codec=2),
             '{"kind":"publish","codec":"json","data":""}'),
        good("body-json-broken", "A JSON body that is not JSON goes as base64.",
             {"kind": 32, "codec": 2, "body": b'{"a":'.hex()}, frame(32, body=b'{"a":', codec=2),
             '{"kind":"publish","codec":"json","data":"eyJhIjo="}'),
        good("body-json-not-utf8", "So does one that is not UTF-8.", {"kind": 32, "codec": 2, "body": "22ff22"},
             frame(32, body=b'"\xff"', codec=2), '{"kind":"publish","codec":"json","data":"Iv8i"}'),
        good("body-text-not-utf8", "And a text.", {"kind": 32, "codec": 1, "body": "ff"},
             frame(32, body=b"\xff", codec=1), '{"kind":"publish","codec":"text","data":"/w=="}'),
        good("body-msgpack", "Other codecs go as base64 with the codec's name.",
             {"kind": 32, "codec": 3, "body": "81a16101"}, frame(32, body=b"\x81\xa1a\x01", codec=3),
             '{"kind":"publish","codec":"msgpack","data":"gaFhAQ=="}'),
        good("body-application-codec", "A codec without a name goes by its number.",
             {"kind": 32, "codec": 64, "body": "01"}, frame(32, body=b"\x01", codec=64),
             '{"kind":"publish","codec":64,"data":"AQ=="}'),
        good("body-codec-agrees", "codec beside body or text may say what they say anyway.",
             {"kind": 32, "codec": 2, "body": b"1".hex()}, frame(32, body=b"1", codec=2),
             '{"kind":"publish","codec":"json","body":1}', decode_only=True,
             again='{"kind":"publish","body":1}'),
        good("body-space-around", "White space around inline JSON is no part of it.",
             {"kind": 32, "codec": 2, "body": b'{"a": 1}'.hex()}, None,
             ' { "kind" : "publish" ,\r\n "body" :\t{"a": 1} }\n', decode_only=True,
             again='{"kind":"publish","body":{"a": 1}}'),
        bad("body-codec-contradicts", "codec beside body says another thing.", None,
            '{"kind":"publish","codec":"msgpack","body":{}}'),
        bad("body-twice", "body and text at once.", None, '{"kind":"publish","body":1,"text":"1"}'),
        bad("body-base64", "Wrong base64.", None, '{"kind":"publish","data":"AA=A"}'),
        bad("body-base64-url", "The other alphabet of base64.", None, '{"kind":"publish","data":"_-8="}'),
    ]  # fmt: skip


def broken_fields() -> list[Vector]:
    """Frames and fields, in both forms, that break the protocol."""
    return [
        bad("frame-empty", "A frame of no bytes.", b""),
        bad("frame-short", "A frame of 11 bytes.", frame(20)[:11]),
        bad("frame-name-over", "The name is longer than the frame.", bytes.fromhex("20000000000000000200000061")),
        bad("frame-fields-over", "The field section is longer than the frame.",
            bytes.fromhex("2000000000000000 0000ffff 0c0000")),
        bad("field-zero", "A field with the number 0.", frame(16, fields=field(0, b""))),
        bad("field-zero-critical", "A critical field with the number 0.", frame(16, fields=field(0x80, b""))),
        bad("field-cut-in-header", "The section ends after an id.", frame(16, fields=b"\x0c")),
        bad("field-cut-in-value", "The section ends inside a value.", frame(16, fields=b"\x06\x00\x03an")),
        bad("field-twice", "A field given twice.", frame(16, fields=field(12, b"") * 2),
            '{"kind":"push","all":true,"all":true}', strict_only=True),
        bad("field-twice-once-critical", "Given twice, once as critical.",
            frame(16, fields=field(6, b"a") + field(0x86, b"a")), '{"kind":"push","user":"a","!user":"a"}'),
        bad("field-unknown-twice", "Also an unknown field is given once.", frame(16, fields=field(120, b"") * 2),
            '{"kind":"push","shape":1,"shape":2}', strict_only=True),
        bad("uint-empty", "An integer of no bytes.", frame(16, fields=field(19, b""))),
        bad("uint-nine-bytes", "An integer of nine bytes.", frame(16, fields=field(19, b"\0" * 9)),
            '{"kind":"push","ttl_ms":18446744073709551616}', strict_only=True),
        bad("uint-negative", "A negative integer.", None, '{"kind":"push","ttl_ms":-1}'),
        bad("uint-fraction", "A number with a fraction.", None, '{"kind":"push","ttl_ms":5.0}', strict_only=True),
        bad("uint-string", "A number as a string.", None, '{"kind":"push","ttl_ms":"5"}'),
        bad("text-not-utf8", "A text that is not UTF-8.", frame(16, fields=field(6, b"\xc3"))),
        bad("text-null", "null is no text.", None, '{"kind":"push","user":null}'),
        bad("present-value", "A field that is only present has a value.", frame(16, fields=field(12, b"\x01")),
            '{"kind":"push","all":1}'),
        bad("present-false", "Absent is written by leaving it out.", None, '{"kind":"push","all":false}'),
        bad("outcome-unknown-number", "An outcome that there is not.", frame(19, fields=field(40, b"\x02")),
            '{"kind":"error","outcome":"maybe"}'),
        bad("outcome-empty", "An outcome of no bytes.", frame(19, fields=field(40, b""))),
        bad("filters-nine", "Nine filters.", frame(32, fields=field(35, b"\x01" * 9)),
            '{"kind":"publish","filters":[1,1,1,1,1,1,1,1,1]}'),
        bad("map-empty-key", "An empty key in a map.", frame(16, fields=field(34, pair(b"", b"x"))),
            '{"kind":"push","metadata":{"":"x"}}'),
        bad("map-key-twice", "A key of a map given twice.", frame(16, fields=field(34, pair(b"k", b"1") * 2)),
            '{"kind":"push","metadata":{"k":"1","k":"1"}}', strict_only=True),
        bad("map-cut", "A map that ends inside a value.", frame(16, fields=field(34, pair(b"k", b"value")[:-1]))),
        bad("map-cut-in-length", "A map that ends after a key.", frame(16, fields=field(34, b"\x01k\x00"))),
        bad("map-not-utf8", "A value of a map that is not UTF-8.", frame(16, fields=field(34, pair(b"k", b"\xff")))),
        bad("map-number", "A value of a map that is no string.", None, '{"kind":"push","metadata":{"k":1}}'),
        bad("message-id-base64", "Bytes that are not base64.", None, '{"kind":"event","message_id":"%"}'),
    ]  # fmt: skip


def broken_objects() -> list[Vector]:
    """Objects that break the protocol."""
    return [
        bad("object-no-kind", "An object without a kind.", None, '{"seq":1}'),
        bad("object-kind-range", "A kind over 255.", None, '{"kind":256}'),
        bad("object-seq-range", "A seq of more than four bytes.", None, '{"kind":"cancel","seq":4294967296}'),
        bad("object-seq-negative", "A negative seq.", None, '{"kind":"cancel","seq":-1}'),
        bad("object-flags-string", "Flags are a list.", None, '{"kind":"publish","flags":"no_echo"}'),
        bad("object-flags-two-bits", "A number is the value of one bit.", None, '{"kind":"publish","flags":[36]}'),
        bad("object-flags-zero", "0 is no flag.", None, '{"kind":"publish","flags":[0]}'),
        bad("object-flags-range", "There are sixteen flags.", None, '{"kind":"publish","flags":[65536]}'),
        bad("object-kind-twice", "A key given twice.", None, '{"kind":"publish","kind":"publish"}', strict_only=True),
        bad("object-body-twice", "A key given twice, which hides a body.", None,
            '{"kind":"publish","name":"c","body":{"a":1},"body":{"a":2}}', strict_only=True),
        bad("object-key-twice-escaped", "The same key in two spellings.", None,
            '{"kind":"publish","n\\u0061me":"a","name":"a"}', strict_only=True),
        bad("object-array", "A line that is no object.", None, '["publish"]'),
        bad("object-cut", "An object that is cut off.", None, '{"kind":"publish","body":{"a":1}'),
        bad("object-more", "Something after the object.", None, '{"kind":"publish"}{"kind":"publish"}'),
        bad("object-number-form", "A number that JSON does not know.", None, '{"kind":"publish","body":01}'),
        bad("object-control-character", "A control character inside a string.", None,
            '{"kind":"publish","text":"a\tb"}'),
    ]  # fmt: skip


def newer() -> list[Vector]:
    """A made-up peer of version 1.9: kinds, flags, fields, codecs and filters that version 1.0 does not know."""
    hello = b'{"version":"1.9","features":["resume","teleport"],"shape":{"corners":3}}'
    return [
        good("v1.9-hello", "Unknown keys in the body of hello are ignored.",
             {"kind": 1, "codec": 2, "body": hello.hex()}, frame(1, body=hello, codec=2),
             inline("hello", hello)),
        good("v1.9-kind", "An unknown kind is decoded; the core answers or ignores it.",
             {"kind": 90, "seq": 4, "name": "x"}, frame(90, b"x", seq=4), '{"kind":90,"seq":4,"name":"x"}'),
        good("v1.9-kind-0", "Kind 0 has no meaning, but is well-formed.", {"kind": 0}, frame(0), '{"kind":0}'),
        good("v1.9-kind-255", "Kind 255 likewise.", {"kind": 255}, frame(255), '{"kind":255}'),
        good("v1.9-flag", "An unknown flag in bits 0-7 is ignored.", {"kind": 32, "name": "c", "flags": 0x80},
             frame(32, b"c", flags=0x80), '{"kind":"publish","name":"c","flags":[128]}'),
        good("v1.9-critical-flag", "A flag in bits 8-15 makes the frame refused.",
             {"kind": 32, "name": "c", "seq": 5, "flags": 0x0121}, frame(32, b"c", seq=5, flags=0x0121),
             '{"kind":"publish","seq":5,"name":"c","flags":["more","no_echo",256]}', refused=True),
        good("v1.9-field", "An unknown field is ignored and not forwarded.",
             {"kind": 32, "name": "c", "fields": {"ttl_ms": 9}},
             frame(32, b"c", field(100, b"anything \xff") + field(19, b"\x09")),
             '{"kind":"publish","name":"c","shape":{"corners":[3,{"a":"b:c"}]},"ttl_ms":9}', decode_only=True,
             again='{"kind":"publish","name":"c","ttl_ms":9}'),
        good("v1.9-field-only", "Ignored fields leave nothing behind.", {"kind": 32, "name": "c"},
             frame(32, b"c", field(127, b"")), '{"kind":"publish","name":"c","a:b":"c:d"}', decode_only=True,
             again='{"kind":"publish","name":"c"}'),
        good("v1.9-critical-field", "A critical field that is not known makes the frame refused.",
             {"kind": 32, "name": "c", "seq": 6, "fields": {"ttl_ms": 9}},
             frame(32, b"c", field(19, b"\x09") + field(100 | 0x80, b"\x01"), seq=6),
             '{"kind":"publish","seq":6,"name":"c","ttl_ms":9,"!shape":1}', refused=True, decode_only=True),
        good("v1.9-codec", "An unknown codec is carried as it is.", {"kind": 32, "codec": 40, "body": "beef"},
             frame(32, body=b"\xbe\xef", codec=40), '{"kind":"publish","codec":40,"data":"vu8="}'),
        good("v1.9-filter", "An unknown filter is carried as it is.",
             {"kind": 32, "fields": {"filters": [9]}, "body": "beef"},
             frame(32, fields=field(35, b"\x09"), body=b"\xbe\xef"), '{"kind":"publish","filters":[9],"data":"vu8="}'),
        good("v1.9-error", "An unknown error number keeps its text, temporary and outcome.",
             {"kind": 19, "seq": 2, "codec": 1, "fields": {"error": 77, "temporary": True, "outcome": "not_done"},
              "body": b"new".hex()},
             frame(19, fields=field(38, b"\x4d") + field(39, b"") + field(40, b"\x00"), body=b"new", codec=1, seq=2),
             '{"kind":"error","seq":2,"error":77,"temporary":true,"outcome":"not_done","text":"new"}'),
        good("v1.9-kind-name", "A name of a kind that is not known makes the frame refused: its number is not known.",
             {"kind": 0, "seq": 8}, None, '{"kind":"teleport","seq":8}', refused=True, decode_only=True),
        good("v1.9-flag-name", "A name of a flag likewise: whether it is critical is not known.",
             {"kind": 32, "seq": 8}, None, '{"kind":"publish","seq":8,"flags":["sideways"]}', refused=True,
             decode_only=True),
        good("v1.9-codec-name", "A name of a codec likewise.", {"kind": 32, "seq": 8, "body": "00"}, None,
             '{"kind":"publish","seq":8,"codec":"avro","data":"AA=="}', refused=True, decode_only=True),
        good("v1.9-filter-name", "A name of a filter likewise.", {"kind": 32, "seq": 8, "body": "00"}, None,
             '{"kind":"publish","seq":8,"filters":["lz9"],"data":"AA=="}', refused=True, decode_only=True),
    ]  # fmt: skip


def streams() -> list[Vector]:
    """Lengths and line ends."""
    one, other = frame(32, b"c", body=b"1"), frame(20, seq=1)
    messages: list[Vector] = [{"kind": 32, "name": "c", "body": b"1".hex()}, {"kind": 20, "seq": 1}]
    line, line2 = '{"kind":"publish","name":"c","data":"MQ=="}', '{"kind":"cancel","seq":1}'
    return [
        stream("stream-two", "Two frames.", sized(one) + sized(other), messages),
        stream("stream-smallest", "A frame of 12 bytes.", "0000000c 14000000 00000000 00000000", [{"kind": 20}]),
        stream("stream-largest", "A frame of frame_bytes_max.", sized(one), messages[:1], frame_bytes_max=len(one)),
        stream("stream-incomplete", "The second frame lacks its last byte: it is waited for.",
               sized(one) + sized(other)[:-1], messages[:1]),
        stream("stream-length-0", "Length 0, after a good frame.", sized(one) + bytes(4), messages[:1],
               error="protocol"),
        stream("stream-length-11", "Length 11.", "0000000b", [], error="protocol"),
        stream("stream-length-over", "One byte over frame_bytes_max, seen from the length alone.", "00010001", [],
               error="too_large"),
        stream("stream-length-minus-1", "Length -1.", sized(one) + b"\xff\xff\xff\xff", messages[:1],
               error="too_large"),
        stream("stream-name-over", "The name is longer than the frame.", "0000000c 14000000 00000000 ff000000", [],
               error="protocol"),
        stream("stream-fields-over", "The field section is longer than the frame.",
               "0000000c 14000000 00000000 0000ffff", [], error="protocol"),
        lines("lines-two", "Two lines, one with each line end, and empty lines.", f"\n{line}\r\n\n \r\n{line2}\n",
              messages),
        lines("lines-incomplete", "A line without its end is waited for.", f"{line}\n{line2}", messages[:1]),
        lines("lines-largest", "A line of frame_bytes_max.", line + "\n", messages[:1], frame_bytes_max=len(line)),
        lines("lines-broken", "A line that is no object, after a good one.", f"{line}\nhello\n{line2}\n", messages[:1],
              error="protocol"),
        lines("lines-too-long", "A line over frame_bytes_max, before its end is seen.", line, [], error="too_large",
              frame_bytes_max=len(line) - 1),
    ]  # fmt: skip


PARTS = (
    connections, headers, kinds, histories, names, fields, other_fields, bodies, broken_fields, broken_objects, newer,
    streams,
)  # fmt: skip


def vectors() -> list[Vector]:
    """All vectors, in the order of the file."""
    return [vector for part in PARTS for vector in part()]


def text() -> str:
    """The file: one vector per line."""
    each = ",\n".join("  " + json.dumps(vector, ensure_ascii=False) for vector in vectors())
    return '{\n "version": "1.0",\n "frame_bytes_max": 65536,\n "vectors": [\n' + each + "\n ]\n}\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(f"{FILE.name}: {len(vectors())} vectors")
