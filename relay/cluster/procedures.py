"""The procedures ``$raft.…``: what clients and the command ``relay raft`` may ask of the cluster, on any node.

======================================  ==============================================================================
procedure                               arguments (an object) ─▶ answer
======================================  ==============================================================================
put                                     key, value or data, lease, absent or revision or equals ─▶ revision, previous
get                                     key, stale ─▶ a pair, or ``not_found``
range                                   prefix, start, end, limit, stale ─▶ revision, pairs, next
delete                                  key or prefix, revision ─▶ revision, deleted
txn                                     compare, then, otherwise ─▶ revision, succeeded, outputs
watch                                   prefix, revision ─▶ answers of many: revision, events; ends with the deadline
lease_grant / lease_keep / lease_revoke ttl_s / leases / lease ─▶ lease / lost / deleted
session_open / session_close            - / session ─▶ session
campaign / resign / election            election, candidate, lease, value / … / election ─▶ candidate, token, state
status                                  - ─▶ node, leader, term, members …
member_add / _promote / _remove         node ─▶ members: voters, learners, outgoing
transfer                                node (0: the best) ─▶ leader
snapshot                                - ─▶ index
======================================  ==============================================================================

Values: ``value`` is text, ``data`` bytes (base64 in JSON). Answers give ``value`` when the bytes are UTF-8 without
control characters (but tab and newline), else ``data``. Writes take ``client``, ``seq`` and ``ack`` of a session
(``session_open``): then the same command again, also on another node, is done once. Reads are linearizable; with
``stale`` they show what this node has, at once.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import closing
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType
from twisted.internet.defer import Deferred

from relay import app, errors
from relay.cluster.keyvalue import KeyValue
from relay.cluster.kv import ballots
from relay.cluster.kv import commands as c
from relay.cluster.raft.types import ConfState

PAIRS_MAX: Final = 1000
"""That one answer to ``range`` lists; ``next`` says where to go on."""
ANSWER_BYTES_MAX: Final = 262_144
"""Of keys and values in one answer, if there is more than one: with escapes and base64, half of the default frame."""
EVENTS_MAX: Final = 256
"""In one answer to ``watch``."""
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""What makes a value no text: JSON would write each of them as six bytes."""
PREFIX: Final = "$raft"

Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Text = Annotated[str, Meta(max_length=4096)]


class PairShown(msgspec.Struct, omit_defaults=True):
    """A pair in an answer."""

    key: str
    revision: int
    create_revision: int
    version: int
    value: str | UnsetType = UNSET
    data: bytes | UnsetType = UNSET
    lease: int = 0


class EventShown(msgspec.Struct, omit_defaults=True):
    """A change in an answer."""

    type: Literal["put", "delete"]
    key: str
    revision: int
    value: str | UnsetType = UNSET
    data: bytes | UnsetType = UNSET
    version: int = 0
    lease: int = 0


class CompareGiven(msgspec.Struct, forbid_unknown_fields=True):
    """A condition of ``txn``: ``what`` of ``key`` compared with ``number``, or with ``value`` or ``data``."""

    key: Text
    what: Literal["create", "mod", "version", "lease", "value"]
    relation: Literal["=", "!=", "<", ">"] = "="
    number: Number = 0
    value: str | None = None
    data: bytes | None = None


class StepGiven(msgspec.Struct, forbid_unknown_fields=True):
    """A step of ``txn``."""

    do: Literal["put", "delete", "delete_prefix", "get"]
    key: Text
    value: str | None = None
    data: bytes | None = None
    lease: Number = 0


class LeaseGiven(msgspec.Struct, forbid_unknown_fields=True):
    """Which lease."""

    lease: Number


class LeasesGiven(msgspec.Struct, forbid_unknown_fields=True):
    """Which leases."""

    leases: list[Number]


class TtlGiven(msgspec.Struct, forbid_unknown_fields=True):
    """How long a lease lasts."""

    ttl_s: Annotated[float, Meta(gt=0, le=1e6)]


class SessionGiven(msgspec.Struct, forbid_unknown_fields=True):
    """Which session."""

    session: Number


class NodeGiven(msgspec.Struct, forbid_unknown_fields=True):
    """Which node of the cluster."""

    node: Number


class SuccessorGiven(msgspec.Struct, forbid_unknown_fields=True):
    """Which node is to lead; 0: the best of the others."""

    node: Number = 0


@app.route(PREFIX)
class KeyValueProcedures:
    """The key-value state."""

    def __init__(self, keys: KeyValue) -> None:
        self._keys = keys

    # --- writing --------------------------------------------------------------------------------------------------

    @app.pull
    async def put(
        self,
        key: Text,
        value: str | None = None,
        data: bytes | None = None,
        lease: Number = 0,
        absent: bool = False,
        revision: Number | None = None,
        equals: str | None = None,
        client: Number = 0,
        seq: Number = 0,
        ack: Number = 0,
    ) -> dict[str, int]:
        """Set a key. ``absent``: only a new one; ``revision``: only when last changed there; ``equals``: only when it
        holds this text. Raises ``Conflict`` when that is not so."""
        compare = []
        if absent:
            compare.append(c.Compare(key, "create", "=", 0))
        if revision is not None:
            compare.append(c.Compare(key, "mod", "=", revision))
        if equals is not None:
            compare.append(c.Compare(key, "value", "=", equals.encode()))
        put = c.Put(key, _bytes(value, data), lease)
        otherwise = (c.Get(key),) if compare else ()
        result = await self._write(c.Txn((put,), tuple(compare), otherwise), client, seq, ack)
        if not result.succeeded:
            found = result.outputs[0]
            there = f"was changed at revision {found.mod_revision}" if isinstance(found, c.Pair) else "does not exist"
            raise errors.Conflict(f"{key} {there}")
        previous = result.outputs[0]
        assert isinstance(previous, int)
        return {"revision": result.revision, "previous": previous}

    @app.pull
    async def delete(
        self,
        key: Text | None = None,
        prefix: Text | None = None,
        revision: Number | None = None,
        client: Number = 0,
        seq: Number = 0,
        ack: Number = 0,
    ) -> dict[str, int]:
        """Remove a key (``revision``: only when last changed there), or all that begin with ``prefix``."""
        if (key is None) == (prefix is None):
            raise errors.BadBody("one of key and prefix is needed")
        step: c.Step = c.Delete(key) if key is not None else c.DeletePrefix(prefix or "")
        compare = (c.Compare(key, "mod", "=", revision),) if key is not None and revision is not None else ()
        result = await self._write(c.Txn((step,), compare), client, seq, ack)
        if not result.succeeded:
            raise errors.Conflict(f"{key} was not last changed at revision {revision}")
        deleted = result.outputs[0]
        assert isinstance(deleted, int)
        return {"revision": result.revision, "deleted": deleted}

    @app.pull
    async def txn(
        self,
        then: list[StepGiven],
        compare: list[CompareGiven] | None = None,
        otherwise: list[StepGiven] | None = None,
        client: Number = 0,
        seq: Number = 0,
        ack: Number = 0,
    ) -> dict[str, object]:
        """Several steps together: ``then`` when all of ``compare`` hold, else ``otherwise``."""
        operation = c.Txn(
            tuple(map(_step, then)), tuple(map(_compare, compare or ())), tuple(map(_step, otherwise or ()))
        )
        result = await self._write(operation, client, seq, ack)
        outputs = [shown(each) if isinstance(each, c.Pair) else each for each in result.outputs]
        return {"revision": result.revision, "succeeded": result.succeeded, "outputs": outputs}

    async def _write(self, operation: c.Operation, client: int = 0, seq: int = 0, ack: int = 0) -> c.Result:
        if not client:
            return await self._keys.execute(operation)
        if not seq or ack >= seq:
            raise errors.BadBody("a session's command has a seq from 1 on, and an ack below it")
        return await self._keys.execute_for(operation, client, seq, ack)

    # --- reading --------------------------------------------------------------------------------------------------

    @app.pull
    async def get(self, key: Text, stale: bool = False) -> PairShown:
        """One key. Raises ``NotFound``."""
        if not stale:
            await self._keys.barrier()
        pair = self._keys.state.keys.get(key)
        if pair is None:
            raise errors.NotFound(f"no key {key}")
        return shown(pair)

    @app.pull
    async def range(
        self,
        prefix: Text = "",
        start: Text = "",
        end: Text | None = None,
        limit: Annotated[int, Meta(ge=1, le=PAIRS_MAX)] = PAIRS_MAX,
        stale: bool = False,
    ) -> dict[str, object]:
        """Keys in order. ``next``: the key to go on from (as ``start``), '' at the end."""
        if not stale:
            await self._keys.barrier()
        pairs, following = self._keys.range(prefix, start, end, limit, ANSWER_BYTES_MAX)
        return {"revision": self._keys.state.keys.revision, "pairs": [*map(shown, pairs)], "next": following}

    @app.pull
    async def watch(self, prefix: Text = "", revision: Number = 0) -> AsyncGenerator[dict[str, object], None]:
        """Changes from ``revision`` on (0: from now on), without a gap. The first answer has no events and says that
        the watch has begun. Raises ``Gone`` when the history begins later."""
        if not revision:
            await self._keys.barrier()
        with closing(self._keys.watch(prefix, revision)) as watch:
            yield {"revision": watch.revision, "events": []}
            while True:
                events = await watch.read(EVENTS_MAX, ANSWER_BYTES_MAX)
                # ``revision``: from where to watch to go on behind these.
                yield {"revision": watch.revision, "events": [*map(_event, events)]}

    # --- leases and sessions --------------------------------------------------------------------------------------

    @app.pull
    async def lease_grant(self, asked: TtlGiven) -> dict[str, int]:
        """A lease: its keys go when it is not renewed for ``ttl_s``."""
        return {"lease": (await self._write(c.Grant(int(asked.ttl_s * 1000)))).ids[0]}

    @app.pull
    async def lease_keep(self, asked: LeasesGiven) -> dict[str, object]:
        """Renew leases; ``lost``: those that do not exist any more."""
        return {"lost": list((await self._write(c.Keep(tuple(asked.leases)))).ids)}

    @app.pull
    async def lease_revoke(self, asked: LeaseGiven) -> dict[str, object]:
        """End a lease; how many keys went with it."""
        return {"deleted": (await self._write(c.Revoke(asked.lease))).outputs[0]}

    @app.pull
    async def session_open(self) -> dict[str, int]:
        """A session for commands that are numbered: its id is ``client`` in them."""
        return {"session": (await self._write(c.Open())).ids[0]}

    @app.pull
    async def session_close(self, asked: SessionGiven) -> dict[str, int]:
        """End it."""
        await self._write(c.Close(asked.session))
        return {"session": asked.session}

    # --- elections ------------------------------------------------------------------------------------------------

    @app.pull
    async def campaign(
        self, election: Text, candidate: Text, lease: Number, value: str | None = None, data: bytes | None = None
    ) -> dict[str, object]:
        """Become a candidate for as long as ``lease`` lasts; who is on duty. Watch ``$election/NAME/`` for changes."""
        await self._write(c.Campaign(election, candidate, lease, _bytes(value, data, optional=True)))
        return self._duty(election, candidate)

    @app.pull
    async def resign(self, election: Text, candidate: Text, lease: Number = 0) -> dict[str, object]:
        """Give up: the next candidate is on duty when this is answered."""
        await self._write(c.Resign(election, candidate, lease))
        return self._duty(election, candidate)

    @app.pull
    async def election(self, election: Text, candidate: Text = "", stale: bool = False) -> dict[str, object]:
        """Who is on duty, and what ``candidate`` is."""
        if not stale:
            await self._keys.barrier()
        return self._duty(election, candidate)

    def _duty(self, election: str, candidate: str) -> dict[str, object]:
        keys = self._keys.state.keys
        duty = ballots.duty_of(keys, election)
        queue = [
            pair.key.removeprefix(ballots.candidates_prefix(election))
            for pair in keys.with_prefix(ballots.candidates_prefix(election))
        ]
        state = "out"
        if duty is not None and duty.candidate == candidate:
            state = "on-duty"
        elif candidate in queue:
            state = "standby"
        return {
            "election": election,
            "candidate": "" if duty is None else duty.candidate,
            "token": None if duty is None else duty.token,
            "value": "" if duty is None else duty.value.decode(errors="replace"),
            "state": state,
            "candidates": queue[:PAIRS_MAX],
        }


@app.route(PREFIX)
class ClusterProcedures:
    """The group itself. ``status`` gives what is to be shown of the node."""

    def __init__(self, keys: KeyValue, status: Callable[[], dict[str, object]]) -> None:
        self._group = keys.group
        self._status = status

    @app.pull
    async def status(self) -> dict[str, object]:
        """How this node sees the group."""
        return self._status()

    @app.pull
    async def member_add(self, asked: NodeGiven) -> dict[str, object]:
        """Make a node a learner: it gets the log, without a vote."""
        return _members(await told(lambda done: self._group.add_learner(asked.node, done)))

    @app.pull
    async def member_promote(self, asked: NodeGiven) -> dict[str, object]:
        """Make a learner that has caught up a voter."""
        return _members(await told(lambda done: self._group.promote(asked.node, done)))

    @app.pull
    async def member_remove(self, asked: NodeGiven) -> dict[str, object]:
        """Take a node out for good."""
        return _members(await told(lambda done: self._group.remove(asked.node, done)))

    @app.pull
    async def transfer(self, asked: SuccessorGiven) -> dict[str, int]:
        """Hand the leadership to a node, or to the best of the others."""
        await told(lambda done: self._group.transfer(asked.node, done))
        return {"leader": self._group.leader}

    @app.pull
    async def snapshot(self) -> dict[str, object]:
        """Snapshot on this node now."""
        return {"index": await told(self._group.take_snapshot)}


def _members(found: ConfState) -> dict[str, object]:
    return {"members": {"voters": found.voters, "learners": found.learners, "outgoing": found.voters_outgoing}}


def told(ask: Callable[[Callable[[Any, errors.RelayError | None], object]], object]) -> Deferred[Any]:
    """What ``ask`` tells the callback that it is given. Any: its result."""
    waiting: Deferred[Any] = Deferred()

    def done(result: Any, error: errors.RelayError | None) -> None:  # Any: as above
        if waiting.called:
            return  # cancelled: the caller has gone
        if error is None:
            waiting.callback(result)
        else:
            waiting.errback(error)

    ask(done)
    return waiting


# --- from and to the wire -----------------------------------------------------------------------------------------


def shown(pair: c.Pair) -> PairShown:
    """A pair as answers have it."""
    text, data = _value(pair.value)
    return PairShown(pair.key, pair.mod_revision, pair.create_revision, pair.version, text, data, pair.lease)


def _event(event: c.Event) -> EventShown:
    pair = event.pair
    if event.deleted:
        return EventShown("delete", pair.key, pair.mod_revision)
    text, data = _value(pair.value)
    return EventShown("put", pair.key, pair.mod_revision, text, data, pair.version, pair.lease)


def _value(value: bytes) -> tuple[str | UnsetType, bytes | UnsetType]:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return UNSET, value
    return (UNSET, value) if _CONTROL.search(text) else (text, UNSET)


def _bytes(value: str | None, data: bytes | None, optional: bool = False) -> bytes:
    if value is not None and data is not None:
        raise errors.BadBody("one of value and data, not both")
    if value is not None:
        return value.encode()
    if data is None and not optional:
        raise errors.BadBody("value or data is needed")
    return data or b""


def _step(given: StepGiven) -> c.Step:
    match given.do:
        case "put":
            return c.Put(given.key, _bytes(given.value, given.data), given.lease)
        case "delete":
            return c.Delete(given.key)
        case "delete_prefix":
            return c.DeletePrefix(given.key)
        case "get":
            return c.Get(given.key)


def _compare(given: CompareGiven) -> c.Compare:
    operand = _bytes(given.value, given.data) if given.what == "value" else given.number
    return c.Compare(given.key, given.what, given.relation, operand)
