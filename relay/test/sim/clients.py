"""Clients: put, get and compare-and-swap through the code that a node's own services use, and the history of it all.

==============  ======================================================================================================
a write         how it is repeated
==============  ======================================================================================================
of the node     under the node's session (``KeyValue.execute``), which repeats what ended as unknown
of a client     under a session of its own, at another node when the end is unknown (``execute_for``)
bare            never, and without a number: no session hides what the group itself did twice, or was wrong about
==============  ======================================================================================================

What ended as not done must not have happened; what ended as unknown may happen at any time. A lease lasts, granted or
renewed, at least as long as it says.

A key is used for ``WINDOW_S``, so that the history of each is short; then other keys are. The model of a key is its
value and its version: a write that was done twice shows in the version.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Coroutine
from random import Random
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from relay.cluster.keyvalue import KeyValue, check
from relay.cluster.kv.commands import Compare, Get, Grant, Keep, Open, Pair, Put, Result, Txn
from relay.errors import NotFound, RelayError, Unavailable
from relay.test.linearizability import Operation, linearizable
from relay.test.sim.faults import DRIFT

if TYPE_CHECKING:
    from relay.test.sim.world import World

WINDOW_S: Final = 1.0
KEYS: Final = 6
HOT_KEYS: Final = 3
SESSIONS: Final = 12
PATIENCE: Final = 3  # times that a client with a session of its own tries again
BURST_MAX: Final = 12
BARE: Final = 0.25
"""Share of the writes."""
LEASE_MS: Final = (300, 900, 2500)
TURNS_S: Final = (0, 1, 6)
"""Of several groups one at a time is used for so long, while the others are idle, as most groups of a node are; 0: all
are used at once. In whole windows."""
SURGE: Final = 60
SURGES: Final = 0.02
"""Size and share of large bursts."""
POLL_S: Final = 0.01
LONG: Final = 0.08
LONG_BYTES_MAX: Final = 1500
"""Share and size of values that fill messages, windows and segments."""
LULLS: Final = 0.005
"""How often nobody wants anything for so long that groups become quiet: a share of the bursts."""

Value = tuple[bytes, int]
NEW: Final[Value] = (b"", 0)
STEPS_MAX: Final = 200_000
"""Of the search through one key's history."""


class Undecided(Exception):
    """The search through a history takes too long."""


def key_model(state: Value, operation: Operation) -> Value | None:
    """A key: value and version. Every answer tells the state before, so it fits one state only; of a write without an
    answer the argument has the versions that it may have made."""
    value, version = state
    if operation.action == "get":
        return state if operation.result == state else None
    if operation.action == "put":
        new, at = operation.argument
    else:
        old, new, at = operation.argument
        if version == 0 or value != old:
            return state if operation.returned is not None and operation.result == state else None
    if operation.returned is None:
        return (new, version + 1) if version + 1 in at else None
    return (new, version + 1) if operation.result == state else None


def explained(history: list[Operation]) -> bool:
    """Whether the history of one key is linearizable.

    A search over all places of all writes without an answer would take for ever. But every answer shows a value and
    its version, no two writes have the same value, and so the place of a write that was seen is known. A write that
    nobody saw can only have one of the versions that are not accounted for; if there are none, it did not happen.
    Raises ``Undecided``.
    """
    at: dict[bytes, int] = {}
    for each in history:
        if each.returned is None:
            continue
        seen = [each.result]
        if each.action == "put" or (each.action == "cas" and _swapped(each)):
            seen.append((each.argument[-1], each.result[1] + 1))
        for value, version in seen:
            if at.setdefault(value, version) != version:
                return False  # done twice
    gaps = frozenset(range(max(at.values(), default=0))) - set(at.values())
    operations = []
    for each in history:
        argument = each.argument
        if each.action != "get":
            place = at.get(argument[-1])
            if each.returned is None and place is None and not gaps:
                continue
            argument = (*argument, gaps if place is None else (place,))
        operations.append(Operation(each.action, argument, each.result, each.called, each.returned))
    steps = 0

    def counted(state: Value, operation: Operation) -> Value | None:
        nonlocal steps
        steps += 1
        if steps > STEPS_MAX:
            raise Undecided
        return key_model(state, operation)

    return linearizable(operations, NEW, counted)


def _swapped(operation: Operation) -> bool:
    value, version = operation.result
    return version > 0 and bool(value == operation.argument[0])


class _Call:
    """An operation under way."""

    __slots__ = ("action", "argument", "called", "key", "node")

    def __init__(self, key: str, action: str, argument: Any, called: int, node: int) -> None:  # Any: of the action
        self.key = key
        self.action = action
        self.argument = argument
        self.called = called
        self.node = node


class _Client:
    """One with a session of its own."""

    __slots__ = ("busy", "group", "seq", "session")

    def __init__(self, group: int) -> None:
        self.group = group
        self.session = 0
        self.seq = 0
        self.busy = False


class Clients:
    """All of them. ``rate``: operations a second."""

    def __init__(self, world: World, dice: Random, rate: float) -> None:
        self._world = world
        self._dice = dice
        self._rate = rate
        self._moment = 0
        self._value = 0
        self._keys: dict[str, int] = {}  # every key that was ever written, and its group
        self._history: dict[str, list[Operation]] = {}
        self._calls: dict[_Call, None] = {}
        self._last: dict[str, bytes] = {}  # a value that the key may have
        self._gates: dict[Deferred[Any], int] = {}  # what waits for an answer of which node
        self._clients = [_Client(group) for group in world.group_numbers for _ in range(SESSIONS)]
        self._turn_s = dice.choice(TURNS_S)
        self.demanded = 0
        """Operations that had to succeed."""
        self.running = True
        self.hot_until_s = 0.0
        """Until then few keys are used, so that what one client did is seen by another."""
        self.outcomes: Counter[str] = Counter()

    # --- the load -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The first burst."""
        self._next()

    def _next(self) -> None:
        size = self._dice.randrange(1, BURST_MAX + 1) if self._dice.random() > SURGES else SURGE
        wait_s = size / self._rate * 2 * self._dice.random()
        if self._dice.random() < LULLS:
            wait_s += 1.0 + 2 * self._dice.random()
        self._world.schedule.later(wait_s, None, self._burst, size)

    def _burst(self, size: int) -> None:
        if not self.running:
            return
        nodes = [node for node in self._world.nodes.values() if node.groups is not None and node.keys]
        if nodes:
            node = self._dice.choice(nodes)
            if node.paused_until_s > self._world.schedule.now_s:
                node = self._dice.choice(nodes)
            self._world.schedule.later(0.0, node, self._begin, node.number, size)
        else:
            self.outcomes["nowhere"] += size
        self._next()

    def _begin(self, number: int, size: int) -> None:
        node = self._world.nodes[number]
        dice, schedule = self._dice, self._world.schedule
        window = int(schedule.now_s / WINDOW_S)
        hot = schedule.now_s < self.hot_until_s
        for _ in range(size):
            place = dice.randrange(HOT_KEYS if hot and size < SURGE else max(KEYS, size // 2))
            turn = window // self._turn_s if self._turn_s else place
            group = self._world.group_numbers[turn % len(self._world.group_numbers)]
            key = f"k{window % 40:02}/{window}.{place}"
            self._keys[key] = group
            self._operation(node.number, node.keys[group], group, key)

    def poll(self, seconds: float) -> None:
        """Reads of all nodes in turn, one after the other: what many readers ask for comes close together."""
        running = [node for node in self._world.nodes.values() if node.groups is not None and node.keys]
        if running and self.running:
            node = self._dice.choice(running)
            if node.paused_until_s <= self._world.schedule.now_s:
                node.enter(self._poll, (node.keys[self._dice.choice(self._world.group_numbers)],))
        if seconds > 0:
            self._world.schedule.later(POLL_S, None, self.poll, seconds - POLL_S)

    def _poll(self, keys: KeyValue) -> None:
        keys.barrier().addErrback(lambda failure: failure.trap(RelayError))

    def must_succeed(self, number: int) -> None:
        """Writes of each group on a node, where nothing stands in their way: one with a session, some without."""
        for group, keys in self._world.nodes[number].keys.items():
            for write in (self._write, self._bare, self._bare, self._bare):
                self._value += 1
                self.demanded += 1
                key, new = f"last/{self._value}", b"%d" % self._value
                self._keys[key] = group
                self._go(write(keys, self._call(key, "put", (new,), number), Txn((Get(key), Put(key, new)))))

    def _operation(self, number: int, keys: KeyValue, group: int, key: str) -> None:
        dice = self._dice
        chance = dice.random()
        if chance < 0.35:
            self._go(self._get(keys, self._call(key, "get", None, number)))
            return
        if chance > 0.985:
            self._go(self._lease(number, keys, dice.choice(LEASE_MS), dice.random() < 0.5))
            return
        self._value += 1
        new = b"%d" % self._value
        if dice.random() < LONG:
            new += b"." * dice.randrange(LONG_BYTES_MAX)
        if chance < 0.70:
            action, argument = "put", (new,)
            operation = Txn((Get(key), Put(key, new)))
        else:
            old = self._last.get(key, b"")
            action, argument = "cas", (old, new)  # type: ignore[assignment]  # a longer tuple
            operation = Txn((Get(key), Put(key, new)), (Compare(key, "value", "=", old),), (Get(key),))
        self._last[key] = new
        if dice.random() < BARE:
            self._go(self._bare(keys, self._call(key, action, argument, number), operation))
            return
        client = dice.choice(self._clients)
        if dice.random() < 0.5 and not client.busy and client.group == group:
            client.busy = True
            self._go(self._own(client, number, self._call(key, action, argument, 0), operation))
        else:
            self._go(self._write(keys, self._call(key, action, argument, number), operation))

    def _go(self, coroutine: Coroutine[Any, Any, None]) -> None:
        Deferred.fromCoroutine(coroutine).addErrback(self._mistake)

    def _mistake(self, failure: Any) -> None:  # Any: Failure
        if failure.check(GeneratorExit) is None:
            self._world.failed = self._world.failed or failure.value

    # --- operations -----------------------------------------------------------------------------------------------

    async def _get(self, keys: KeyValue, call: _Call) -> None:
        try:
            await keys.barrier()
        except RelayError:
            self._failed(call)
            return
        self._done(call, _look(keys, call.key))

    async def _write(self, keys: KeyValue, call: _Call, operation: Txn) -> None:
        try:
            result = await keys.execute(operation)
        except RelayError as error:
            self._unknown(call) if error.outcome == "unknown" else self._failed(call)
            return
        self._done(call, _before(result))

    async def _own(self, client: _Client, number: int, call: _Call, operation: Txn) -> None:
        """Under a session that is the client's own, at other nodes when one does not know the end."""
        unknown = False
        client.seq += 1
        seq = client.seq
        for _ in range(PATIENCE):
            try:
                keys = self._keys_of(number, client.group)
                if not client.session:
                    client.session = (await self._at(number, keys.execute(Open()))).ids[0]
                command = keys.execute_for(operation, client.session, seq, seq - 1)
                result = await self._at(number, command)
            except RelayError as error:
                unknown = unknown or error.outcome == "unknown"
                if error.label == "not_found":  # the session ended
                    client.session = client.seq = 0
                    break
                nodes = [node.number for node in self._world.nodes.values() if client.group in node.keys]
                if not nodes or not error.temporary:
                    break
                number = self._dice.choice(nodes)
                continue
            client.busy = False
            self._done(call, _before(result))
            return
        client.busy = False
        if unknown:
            # Its number may still be done: what follows comes under another session.
            client.session = client.seq = 0
            self._unknown(call)
        else:
            self._failed(call)

    def _keys_of(self, number: int, group: int) -> KeyValue:
        keys = self._world.nodes[number].keys.get(group)
        if keys is None:
            raise Unavailable("nobody listens there")
        return keys

    async def _at(self, number: int, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """As ``coroutine``; when the node ends before it, the connection to it breaks."""
        gate: Deferred[Any] = Deferred()
        self._gates[gate] = number

        def told(result: Any) -> None:  # Any: a Result or a Failure
            if not gate.called:
                gate.callback(result)

        Deferred.fromCoroutine(coroutine).addBoth(told)
        try:
            found: Result = await gate
            return found
        finally:
            del self._gates[gate]

    async def _bare(self, keys: KeyValue, call: _Call, operation: Txn) -> None:
        waiting: Deferred[Result] = Deferred()

        def done(result: Result, error: RelayError | None) -> None:
            waiting.callback(result) if error is None else waiting.errback(error)

        keys.propose_unnumbered(operation, done)
        try:
            result = check(await waiting)
        except RelayError as error:
            self._unknown(call) if error.outcome == "unknown" else self._failed(call)
            return
        self._done(call, _before(result))

    async def _lease(self, number: int, keys: KeyValue, ttl_ms: int, renew: bool) -> None:
        """A key that goes with its lease, and not before."""
        schedule, clock = self._world.schedule, keys.clock
        since_s = schedule.now_s
        try:
            lease = (await keys.execute(Grant(ttl_ms))).ids[0]
            await keys.execute(Txn((Put(f"lease/{lease}", b"", lease),)))
            gone = False
            if renew:
                await deferLater(clock, ttl_ms / 2000 * self._dice.random())
                renewed_s = schedule.now_s
                gone = bool((await keys.execute(Keep((lease,)))).ids)
                since_s = since_s if gone else renewed_s
            if not gone:
                await deferLater(clock, 0.7 * ttl_ms / 1000 * self._world.nodes[number].rate)
                await keys.barrier()
                gone = keys.state.keys.get(f"lease/{lease}") is None
        except NotFound:
            gone = True
        except RelayError:
            return
        lasted_s = schedule.now_s - since_s
        if gone and lasted_s * (1 + DRIFT) * 1000 < ttl_ms:  # by the fastest of all clocks
            self._world.invariants.violated(f"a lease of {ttl_ms} ms is over after {lasted_s * 1000:.0f} ms")

    # --- the history ----------------------------------------------------------------------------------------------

    def _now(self) -> int:
        self._moment += 1
        return self._moment

    def _call(self, key: str, action: str, argument: Any, node: int) -> _Call:  # Any: of the action
        call = _Call(key, action, argument, self._now(), node)
        self._calls[call] = None
        return call

    def _done(self, call: _Call, result: Any) -> None:  # Any: of the action
        if self._calls.pop(call, self) is not None:
            return  # its node had ended
        self.outcomes["ok"] += 1
        moment = self._now()
        self._history.setdefault(call.key, []).append(
            Operation(call.action, call.argument, result, call.called, moment)
        )
        self._world.digest.update(b"%d %d" % (call.called, moment))

    def _failed(self, call: _Call) -> None:
        if self._calls.pop(call, self) is None:
            self.outcomes["failed"] += 1

    def _unknown(self, call: _Call) -> None:
        if self._calls.pop(call, self) is None:
            self.outcomes["unknown"] += 1
            if call.action != "get":
                self._history.setdefault(call.key, []).append(
                    Operation(call.action, call.argument, None, call.called, None)
                )

    def ended(self, number: int) -> None:
        """The process of a node ended: what went through it alone has no outcome."""
        for call in [each for each in self._calls if each.node == number]:
            self._unknown(call)
        for gate in [each for each, at in self._gates.items() if at == number]:
            self._world.schedule.later(0.002, None, _break, gate)

    # --- the end --------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Operations under way."""
        return len(self._calls)

    def last_reads(self, keys: dict[int, KeyValue]) -> None:
        """Read every key, after all has come to rest; what is still under way has no outcome."""
        for call in list(self._calls):
            self._unknown(call)
        for key, group in self._keys.items():
            self._done(self._call(key, "get", None, 0), _look(keys[group], key))

    def unexplained(self) -> str:
        """The first key whose history is not linearizable, or ''."""
        for key, history in self._history.items():
            try:
                found = explained(history)
            except Undecided:
                self.outcomes["undecided"] += 1
                continue
            if not found:
                lines = [f"{each.called}-{each.returned} {each.action} {each.argument} {each.result}"
                         for each in sorted(history, key=lambda each: each.called)]  # fmt: skip
                return f"the history of {key} is not linearizable:\n  " + "\n  ".join(lines)
        return ""


def _before(result: Result) -> Value:
    pair = result.outputs[0]
    assert pair is None or isinstance(pair, Pair)
    return NEW if pair is None else (pair.value, pair.version)


def _break(gate: Deferred[Any]) -> None:
    if not gate.called:
        gate.errback(Unavailable("the connection broke", outcome="unknown"))


def _look(keys: KeyValue, key: str) -> Value:
    pair = keys.state.keys.get(key)
    return NEW if pair is None else (pair.value, pair.version)


