"""The numbers of the protocol: kinds, flags, fields, codecs, filters and close reasons.

Source: ``docs/protocol.md``; the tables there and here are compared by a test. A number is never given twice and
never changes its meaning. Plain integers, not enums: they are compared for every frame.
"""

from __future__ import annotations

from typing import Final, Literal

VERSION: Final = "1.0"
PREFACE: Final = b"\xd2RLY"
SUBPROTOCOL_BINARY: Final = "relay.v1.bin"
SUBPROTOCOL_JSON: Final = "relay.v1.json"

# --- kinds --------------------------------------------------------------------------------------------------------
# Below SESSION_KIND_MIN: about the connection, not counted, never sent again after a resume.
HELLO: Final = 1
WELCOME: Final = 2
PING: Final = 3
PONG: Final = 4
GOODBYE: Final = 5

SESSION_KIND_MIN: Final = 16
PUSH: Final = 16
PULL: Final = 17
REPLY: Final = 18
ERROR: Final = 19
CANCEL: Final = 20
PUBLISH: Final = 32
EVENT: Final = 33
SUBSCRIBE: Final = 34
UNSUBSCRIBE: Final = 35
HISTORY: Final = 36
PRESENCE: Final = 37
JOINED: Final = 38
LEFT: Final = 39
OCCUPIED: Final = 40
VACATED: Final = 41
REGISTER: Final = 48
UNREGISTER: Final = 49
BIND: Final = 56
REFRESH: Final = 57
ACK: Final = 64
NACK: Final = 65
CREDIT: Final = 66
CONSUME: Final = 67
UNCONSUME: Final = 68
QUEUE_KIND: Final = 69
LINK_KIND_MIN: Final = 96
LINK_KIND_MAX: Final = 111

KINDS: Final[dict[int, str]] = {
    HELLO: "hello", WELCOME: "welcome", PING: "ping", PONG: "pong", GOODBYE: "goodbye",
    PUSH: "push", PULL: "pull", REPLY: "reply", ERROR: "error", CANCEL: "cancel",
    PUBLISH: "publish", EVENT: "event", SUBSCRIBE: "subscribe", UNSUBSCRIBE: "unsubscribe",
    HISTORY: "history", PRESENCE: "presence", JOINED: "joined", LEFT: "left",
    OCCUPIED: "occupied", VACATED: "vacated",
    REGISTER: "register", UNREGISTER: "unregister", BIND: "bind", REFRESH: "refresh",
    ACK: "ack", NACK: "nack", CREDIT: "credit", CONSUME: "consume", UNCONSUME: "unconsume", QUEUE_KIND: "queue",
}  # fmt: skip
KIND_NUMBERS: Final[dict[str, int]] = {name: number for number, name in KINDS.items()}

# --- flags: bits 0-7 are ignored by who does not know them, bits 8-15 make it refuse the frame ---------------------
MORE: Final = 0x0001
UNORDERED: Final = 0x0002
UNRELIABLE: Final = 0x0004
LATEST: Final = 0x0008
INDEPENDENT: Final = 0x0010
NO_ECHO: Final = 0x0020
RETAINED: Final = 0x0040

FLAGS: Final[dict[int, str]] = {
    MORE: "more", UNORDERED: "unordered", UNRELIABLE: "unreliable", LATEST: "latest",
    INDEPENDENT: "independent", NO_ECHO: "no_echo", RETAINED: "retained",
}  # fmt: skip
FLAG_NUMBERS: Final[dict[str, int]] = {name: number for number, name in FLAGS.items()}
CRITICAL_FLAGS: Final = 0xFF00

# --- fields: 1-127 on the wire; bit 7 beside the number means "refuse the frame when unknown" ----------------------
CRITICAL_FIELD: Final = 0x80

MESSAGE_ID: Final = 1
FROM_USER: Final = 2
FROM_SESSION: Final = 3
FROM_DEVICE: Final = 4
FROM_REALM: Final = 5
USER: Final = 6
DEVICE: Final = 7
SESSION: Final = 8
PROCEDURE: Final = 9
PROVIDER: Final = 10
NODE: Final = 11
ALL: Final = 12
ROLE: Final = 13
CHANNEL: Final = 14
SUBSCRIPTION: Final = 15
OFFSET: Final = 16
EPOCH: Final = 17
ACCEPTED_AT: Final = 18
TTL_MS: Final = 19
DEADLINE_MS: Final = 20
IDEMPOTENCY_KEY: Final = 21
ORDERING_KEY: Final = 22
CONFLATION_KEY: Final = 23
PRIORITY: Final = 24
DELIVER_AT: Final = 25
CREDITS: Final = 26
LEASE_MS: Final = 27
DELIVERIES: Final = 28
LEVEL: Final = 29
ORIGIN_NODE: Final = 30
HOPS: Final = 31
TRACEPARENT: Final = 32
TRACESTATE: Final = 33
METADATA: Final = 34
FILTERS: Final = 35
RECEIVED: Final = 36
SKIPPED: Final = 37
ERROR_CODE: Final = 38
TEMPORARY: Final = 39
OUTCOME: Final = 40
ADDRESSED: Final = 41
REACHED: Final = 42
TAGS: Final = 43
QUEUE: Final = 44

# Not on the wire: a decoder puts a sentence under this number when the frame must be refused with ``Unsupported``.
REFUSE: Final = 0

FieldType = Literal["uint", "text", "bytes", "present", "map", "filters", "outcome"]

FIELDS: Final[dict[int, tuple[str, FieldType]]] = {
    MESSAGE_ID: ("message_id", "bytes"),
    FROM_USER: ("from_user", "text"),
    FROM_SESSION: ("from_session", "text"),
    FROM_DEVICE: ("from_device", "text"),
    FROM_REALM: ("from_realm", "text"),
    USER: ("user", "text"),
    DEVICE: ("device", "text"),
    SESSION: ("session", "text"),
    PROCEDURE: ("procedure", "text"),
    PROVIDER: ("provider", "text"),
    NODE: ("node", "text"),
    ALL: ("all", "present"),
    ROLE: ("role", "text"),
    CHANNEL: ("channel", "text"),
    SUBSCRIPTION: ("subscription", "uint"),
    OFFSET: ("offset", "uint"),
    EPOCH: ("epoch", "text"),
    ACCEPTED_AT: ("accepted_at", "uint"),
    TTL_MS: ("ttl_ms", "uint"),
    DEADLINE_MS: ("deadline_ms", "uint"),
    IDEMPOTENCY_KEY: ("idempotency_key", "text"),
    ORDERING_KEY: ("ordering_key", "text"),
    CONFLATION_KEY: ("conflation_key", "text"),
    PRIORITY: ("priority", "uint"),
    DELIVER_AT: ("deliver_at", "uint"),
    CREDITS: ("credits", "uint"),
    LEASE_MS: ("lease_ms", "uint"),
    DELIVERIES: ("deliveries", "uint"),
    LEVEL: ("level", "uint"),
    ORIGIN_NODE: ("origin_node", "text"),
    HOPS: ("hops", "uint"),
    TRACEPARENT: ("traceparent", "text"),
    TRACESTATE: ("tracestate", "text"),
    METADATA: ("metadata", "map"),
    FILTERS: ("filters", "filters"),
    RECEIVED: ("received", "uint"),
    SKIPPED: ("skipped", "uint"),
    ERROR_CODE: ("error", "uint"),
    TEMPORARY: ("temporary", "present"),
    OUTCOME: ("outcome", "outcome"),
    ADDRESSED: ("addressed", "uint"),
    REACHED: ("reached", "uint"),
    TAGS: ("tags", "map"),
    QUEUE: ("queue", "text"),
}
FIELD_NUMBERS: Final[dict[str, int]] = {name: number for number, (name, _) in FIELDS.items()}
OUTCOMES: Final = ("not_done", "unknown")

# --- codecs of bodies; 64-127 belong to applications ---------------------------------------------------------------
RAW: Final = 0
TEXT: Final = 1
JSON: Final = 2
MSGPACK: Final = 3
PROTOBUF: Final = 4
FORM: Final = 5
CBOR: Final = 6
WAMP: Final = 7

CODECS: Final[dict[int, str]] = {
    RAW: "raw", TEXT: "text", JSON: "json", MSGPACK: "msgpack", PROTOBUF: "protobuf",
    FORM: "form", CBOR: "cbor", WAMP: "wamp",
}  # fmt: skip
CODEC_NUMBERS: Final[dict[str, int]] = {name: number for number, name in CODECS.items()}

# --- transfer filters; 64-127 belong to applications ---------------------------------------------------------------
GZIP: Final = 1
ZSTD: Final = 2
CRC32C: Final = 3
MD5: Final = 4

FILTER_NAMES: Final[dict[int, str]] = {GZIP: "gzip", ZSTD: "zstd", CRC32C: "crc32c", MD5: "md5"}
FILTER_NUMBERS: Final[dict[str, int]] = {name: number for number, name in FILTER_NAMES.items()}
FILTERS_MAX: Final = 8

# --- close reasons: number -> (name, whether the client should reconnect) ------------------------------------------
NORMAL: Final = 1
DRAIN: Final = 2
SLOW_CONSUMER: Final = 3
EXPIRED: Final = 4
KICKED: Final = 5
REPLACED: Final = 6
PROTOCOL: Final = 7
IDLE: Final = 8
TOO_LARGE: Final = 9
RATE: Final = 10
UNAUTHORIZED: Final = 11
HANDSHAKE_TIMEOUT: Final = 12
REVOKED: Final = 13
LIMIT: Final = 14
INTERNAL: Final = 15
VERSION_MISMATCH: Final = 16
UNAVAILABLE: Final = 17

CLOSE_REASONS: Final[dict[int, tuple[str, bool]]] = {
    NORMAL: ("normal", False),
    DRAIN: ("drain", True),
    SLOW_CONSUMER: ("slow_consumer", True),
    EXPIRED: ("expired", False),
    KICKED: ("kicked", False),
    REPLACED: ("replaced", False),
    PROTOCOL: ("protocol", False),
    IDLE: ("idle", True),
    TOO_LARGE: ("too_large", False),
    RATE: ("rate", True),
    UNAUTHORIZED: ("unauthorized", False),
    HANDSHAKE_TIMEOUT: ("handshake_timeout", True),
    REVOKED: ("revoked", False),
    LIMIT: ("limit", True),
    INTERNAL: ("internal", True),
    VERSION_MISMATCH: ("version_mismatch", False),
    UNAVAILABLE: ("unavailable", True),
}
WEBSOCKET_CLOSE_BASE: Final = 4000
