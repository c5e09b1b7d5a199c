"""What is replicated: the commands of the key-value state, their results, and their encoding.

An entry is a version byte and a MessagePack array ``[operation, client, seq, ack]``, an operation an array that begins
with its name. Nodes of one group must read the same commands: an entry that this node cannot read stops it
(:class:`UnreadableCommand`), for a state that leaves commands out is not the others' state any more.

=========  ===========================================================================================================
operation  meaning
=========  ===========================================================================================================
txn        if all ``compare`` hold do ``then``, else ``otherwise``; one revision for all of it
grant      a lease of ``ttl_ms``; its id is the entry's index
keep       leases are renewed: their time begins anew at the next ``time``
revoke     a lease ends, its keys are deleted
time       the leader's clock has reached ``now_ms``: leases end
campaign   a candidate joins an election; the first becomes on duty
resign     a candidate leaves it
open       a client session begins; its id is the entry's index, of a node's own session its negative
close      it ends
limits     the limits of the state from here on
=========  ===========================================================================================================
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from relay.errors import InternalError

VERSION: Final = 1
_PREFIX: Final = bytes((VERSION,))


class UnreadableCommand(InternalError):
    """An entry of a newer version, or none of ours: this node cannot follow and has to stop."""


class _Value(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """The base of what is sent as an array."""


class Limits(_Value, frozen=True, array_like=True):
    """What the state may hold. Part of the state, because nodes that judged by their own settings would differ."""

    keys_max: int = 100_000
    bytes_max: int = 67_108_864
    """Of keys and values together."""
    key_bytes_max: int = 512
    value_bytes_max: int = 131_072
    txn_operations_max: int = 128
    """Also of comparisons."""
    delete_keys_max: int = 10_000
    """That one ``delete_prefix`` removes."""
    result_bytes_max: int = 262_144
    """Of the values that one transaction reads."""
    leases_max: int = 10_000
    lease_ttl_ms_min: int = 100
    lease_ttl_ms_max: int = 86_400_000
    candidates_max: int = 1000
    """Of one election."""
    sessions_max: int = 1000
    """The one that was idle longest makes room."""
    session_results_max: int = 1024
    """Unacknowledged results that one session may have."""
    session_bytes_max: int = 16_777_216
    """Of the values in results that all sessions keep."""
    history_events_max: int = 10_000
    history_bytes_max: int = 8_388_608


class Pair(_Value, frozen=True, array_like=True):
    """A key with its value. ``create_revision`` and ``mod_revision``: when it was made and last changed; ``version``:
    how often since it was made, from 1; ``lease``: the lease it goes with, 0 for none."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


def pair_bytes(pair: Pair) -> int:
    """What a pair counts for the limits of results and of the history."""
    return len(pair.key) + len(pair.value)


def utf8_bytes(text: str) -> int:
    """The length of ``text`` in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


class Compare(_Value, frozen=True, array_like=True):
    """A condition on one key. Of a key that does not exist all numbers are 0 and no comparison of values holds but
    ``!=``."""

    key: str
    what: Literal["create", "mod", "version", "lease", "value"]
    relation: Literal["=", "!=", "<", ">"]
    operand: int | bytes


class Put(_Value, frozen=True, array_like=True, tag="put"):
    """Set a key. Gives the revision at which it was changed before, 0 when it is new."""

    key: str
    value: bytes
    lease: int = 0


class Delete(_Value, frozen=True, array_like=True, tag="delete"):
    """Remove a key. Gives how many were removed."""

    key: str


class DeletePrefix(_Value, frozen=True, array_like=True, tag="delete_prefix"):
    """Remove all keys that begin with ``prefix``. Gives how many were removed."""

    prefix: str


class Get(_Value, frozen=True, array_like=True, tag="get"):
    """Read a key as it was before the transaction. Gives a ``Pair`` or None."""

    key: str


Step = Put | Delete | DeletePrefix | Get


class Txn(_Value, frozen=True, array_like=True, tag="txn"):
    """Several steps that happen together or not at all. No key is written by two of them."""

    then: tuple[Step, ...]
    compare: tuple[Compare, ...] = ()
    otherwise: tuple[Step, ...] = ()


class Grant(_Value, frozen=True, array_like=True, tag="grant"):
    """A new lease."""

    ttl_ms: int


class Keep(_Value, frozen=True, array_like=True, tag="keep"):
    """Renew leases; ``Result.ids`` names those that do not exist."""

    leases: tuple[int, ...]


class Revoke(_Value, frozen=True, array_like=True, tag="revoke"):
    """End a lease now."""

    lease: int


class Time(_Value, frozen=True, array_like=True, tag="time"):
    """The leader's time; it never goes back. It counts only in an entry of ``term``, that of the leader who says it (0:
    in any, as before there was this field): what a former leader says late, and has forwarded, is ahead by as long as
    nobody led."""

    now_ms: int
    term: int = 0


class Campaign(_Value, frozen=True, array_like=True, tag="campaign"):
    """Join an election. The same candidate with the same lease again: nothing changes; with another: it joins anew."""

    election: str
    candidate: str
    lease: int
    value: bytes = b""


class Resign(_Value, frozen=True, array_like=True, tag="resign"):
    """Leave an election; with ``lease`` only the candidacy that goes with it."""

    election: str
    candidate: str
    lease: int = 0


class Open(_Value, frozen=True, array_like=True, tag="open"):
    """A new client session. ``own``: a node's, whose id is negative, so that no client's command can come under it."""

    own: bool = False


class Close(_Value, frozen=True, array_like=True, tag="close"):
    """The end of one."""

    session: int


class SetLimits(_Value, frozen=True, array_like=True, tag="limits"):
    """Proposed by a leader whose configuration says otherwise than the state."""

    limits: Limits


Operation = Txn | Grant | Keep | Revoke | Time | Campaign | Resign | Open | Close | SetLimits


class Command(_Value, frozen=True, array_like=True):
    """An operation and who wants it. ``client`` 0: nobody who would ask again. ``ack``: results up to this ``seq`` have
    arrived and need not be kept (thesis 6.3)."""

    operation: Operation
    client: int = 0
    seq: int = 0
    ack: int = 0


ErrorLabel = Literal["", "invalid", "limit", "full", "no_lease", "no_session", "forgotten", "not_found"]


class Result(_Value, frozen=True, array_like=True):
    """What became of a command. With ``error`` nothing has changed. ``forgotten``: it was done before, or was not;
    its result is not kept any more."""

    revision: int
    """Of the state afterwards."""
    error: ErrorLabel = ""
    text: str = ""
    succeeded: bool = True
    """Whether the comparisons of a transaction held."""
    outputs: tuple[Pair | int | None, ...] = ()
    """Of the steps, in their order."""
    ids: tuple[int, ...] = ()
    """The new lease or session; the leases that ``keep`` did not find."""


class Event(_Value, frozen=True, array_like=True):
    """A change of one key. Of a deleted one ``pair`` has an empty value, version 0 and the revision of the deletion."""

    pair: Pair
    deleted: bool = False

    @property
    def revision(self) -> int:
        """When it happened."""
        return self.pair.mod_revision


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Command)


def encode(command: Command) -> bytes:
    """The entry for ``command``."""
    return _PREFIX + _encoder.encode(command)


def decode(data: bytes) -> Command:
    """The command in an entry. Raises ``UnreadableCommand``."""
    if data[:1] != _PREFIX:
        raise UnreadableCommand(f"an entry of version {data[0] if data else 'none'}, this node reads {VERSION}")
    try:
        return _decoder.decode(memoryview(data)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableCommand(f"an entry that cannot be read: {error}") from None
