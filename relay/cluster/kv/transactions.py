"""Transactions: conditions, then steps that happen together or not at all.

What cannot be done as a whole is refused before any of it is: sizes, numbers and leases are looked at first. Reads see
the state before the transaction.
"""

from __future__ import annotations

from collections.abc import Iterable

from relay.cluster.kv.commands import (
    Compare,
    Delete,
    DeletePrefix,
    Get,
    Pair,
    Put,
    Result,
    Step,
    Txn,
    pair_bytes,
    utf8_bytes,
)
from relay.cluster.kv.state import RESERVED, Refused, State


def transact(state: State, txn: Txn) -> Result:
    """Do a transaction. Raises ``Refused``."""
    if len(txn.then) + len(txn.otherwise) + len(txn.compare) > state.limits.txn_operations_max:
        raise Refused("limit", f"a transaction has at most {state.limits.txn_operations_max} operations")
    succeeded = True
    for compare in txn.compare:
        if not _holds(state, compare):
            succeeded = False
            break
    steps = txn.then if succeeded else txn.otherwise
    _check(state, steps)
    # Reads first: they see the state before.
    get = state.keys.get
    outputs: list[Pair | int | None] = [get(step.key) if isinstance(step, Get) else None for step in steps]
    for place, step in enumerate(steps):
        if not isinstance(step, Get):
            outputs[place] = _write(state, step)
    return Result(0, succeeded=succeeded, outputs=tuple(outputs))


def _holds(state: State, compare: Compare) -> bool:
    pair = state.keys.get(compare.key)
    found: int | bytes | None
    match compare.what:
        case "value":
            found = None if pair is None else pair.value
        case "create":
            found = 0 if pair is None else pair.create_revision
        case "mod":
            found = 0 if pair is None else pair.mod_revision
        case "version":
            found = 0 if pair is None else pair.version
        case "lease":
            found = 0 if pair is None else pair.lease
    if isinstance(compare.operand, bytes) != (compare.what == "value"):
        raise Refused("invalid", f"{compare.what} of {compare.key} is compared with the wrong type")
    match compare.relation:
        case "=":
            return found == compare.operand
        case "!=":
            return found != compare.operand
        case "<":
            return found is not None and found < compare.operand  # type: ignore[operator]  # checked above
        case ">":
            return found is not None and found > compare.operand  # type: ignore[operator]  # checked above


def _check(state: State, steps: tuple[Step, ...]) -> None:
    """Refuse what cannot be done as a whole, before any of it is."""
    limits = state.limits
    get = state.keys.get
    written: set[str] = set()
    prefix: str | None = None
    keys, size, read = len(state.keys), state.keys.bytes, 0
    for step in steps:
        if isinstance(step, DeletePrefix):
            _check_plain(step.prefix)
            if prefix is not None or _count(state, step.prefix, limits.delete_keys_max) > limits.delete_keys_max:
                raise Refused("limit", f"one prefix with at most {limits.delete_keys_max} keys is deleted")
            prefix = step.prefix
            continue
        key = step.key
        before = get(key)
        if isinstance(step, Get):
            if before is not None:
                read += pair_bytes(before)
            continue
        _check_plain(key)
        if isinstance(step, Put):
            value = step.value
            key_bytes = utf8_bytes(key)
            if not 0 < key_bytes <= limits.key_bytes_max:
                raise Refused("limit", f"a key has 1 to {limits.key_bytes_max} bytes")
            if len(value) > limits.value_bytes_max:
                raise Refused("limit", f"a value has at most {limits.value_bytes_max} bytes")
            if step.lease and state.leases.get(step.lease) is None:
                raise Refused("no_lease", f"no lease {step.lease}")
            if before is None:
                keys += 1
                size += key_bytes + len(value)
            else:
                size += len(value) - len(before.value)
        if key in written:
            raise Refused("invalid", f"{key} is written twice")
        written.add(key)
    if prefix is not None and any(key.startswith(prefix) for key in written):
        raise Refused("invalid", "a key is written twice")
    if keys > limits.keys_max:
        raise Refused("full", f"{limits.keys_max} keys are the limit")
    if size > limits.bytes_max:
        raise Refused("full", f"{limits.bytes_max} bytes of keys and values are the limit")
    if read > limits.result_bytes_max:
        raise Refused("limit", f"a transaction reads at most {limits.result_bytes_max} bytes")


def _count(state: State, prefix: str, enough: int) -> int:
    """How many keys begin with ``prefix``; counting ends beyond ``enough``. The state's own do not count."""
    count = 0
    for pair in state.keys.with_prefix(prefix):
        count += not pair.key.startswith(RESERVED)
        if count > enough:
            break
    return count


def read_bytes(state: State, steps: Iterable[Step]) -> int:
    """How much the values are that these steps would read."""
    size = 0
    for step in steps:
        if isinstance(step, Get):
            pair = state.keys.get(step.key)
            if pair is not None:
                size += pair_bytes(pair)
    return size


def _write(state: State, step: Put | Delete | DeletePrefix) -> int:
    if isinstance(step, Put):
        return state.put(step.key, step.value, step.lease)
    if isinstance(step, Delete):
        return state.delete((step.key,))
    found = [pair.key for pair in state.keys.with_prefix(step.prefix) if not pair.key.startswith(RESERVED)]
    return state.delete(found)


def _check_plain(key: str) -> None:
    if key.startswith(RESERVED):
        raise Refused("invalid", f"keys that begin with {RESERVED} are the state's own")
