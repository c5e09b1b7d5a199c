"""Transactions: conditions, then steps that happen together or not at all.

What cannot be done as a whole is refused before any of it is: sizes, numbers and leases are looked at first. Reads see
the state before the transaction.
"""

from __future__ import annotations

from collections.abc import Iterable

from relay.cluster.kv.commands import Compare, Delete, DeletePrefix, Get, Put, Result, Step, Txn
from relay.cluster.kv.state import RESERVED, Refused, State


def transact(state: State, txn: Txn) -> Result:
    """Do a transaction. Raises ``Refused``."""
    if len(txn.then) + len(txn.otherwise) + len(txn.compare) > state.limits.txn_operations_max:
        raise Refused("limit", f"a transaction has at most {state.limits.txn_operations_max} operations")
    succeeded = all(_holds(state, each) for each in txn.compare)
    steps = txn.then if succeeded else txn.otherwise
    _check(state, steps)
    # Reads first: they see the state before.
    read = [state.keys.get(step.key) if isinstance(step, Get) else None for step in steps]
    outputs = tuple(
        found if isinstance(step, Get) else _write(state, step) for step, found in zip(steps, read, strict=True)
    )
    return Result(0, succeeded=succeeded, outputs=outputs)


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
    written: set[str] = set()
    prefixes: list[str] = []
    keys, size = len(state.keys), state.keys.bytes
    for step in steps:
        match step:
            case Put(key=key, value=value, lease=lease):
                _check_put(state, key, value, lease)
                before = state.keys.get(key)
                keys += before is None
                size += len(value) + (len(key.encode()) if before is None else -len(before.value))
                _once(key, written)
            case Delete(key=key):
                _check_plain(key)
                _once(key, written)
            case DeletePrefix(prefix=prefix):
                _check_plain(prefix)
                prefixes.append(prefix)
                if len(prefixes) > 1 or _count(state, prefix, limits.delete_keys_max) > limits.delete_keys_max:
                    raise Refused("limit", f"one prefix with at most {limits.delete_keys_max} keys is deleted")
    if any(key.startswith(prefix) for prefix in prefixes for key in written):
        raise Refused("invalid", "a key is written twice")
    if keys > limits.keys_max:
        raise Refused("full", f"{limits.keys_max} keys are the limit")
    if size > limits.bytes_max:
        raise Refused("full", f"{limits.bytes_max} bytes of keys and values are the limit")
    if read_bytes(state, steps) > limits.result_bytes_max:
        raise Refused("limit", f"a transaction reads at most {limits.result_bytes_max} bytes")


def _check_put(state: State, key: str, value: bytes, lease: int) -> None:
    _check_plain(key)
    limits = state.limits
    if not key or len(key.encode()) > limits.key_bytes_max:
        raise Refused("limit", f"a key has 1 to {limits.key_bytes_max} bytes")
    if len(value) > limits.value_bytes_max:
        raise Refused("limit", f"a value has at most {limits.value_bytes_max} bytes")
    if lease and state.leases.get(lease) is None:
        raise Refused("no_lease", f"no lease {lease}")


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
    found = (state.keys.get(step.key) for step in steps if isinstance(step, Get))
    return sum(len(pair.key) + len(pair.value) for pair in found if pair is not None)


def _write(state: State, step: Step) -> int | None:
    match step:
        case Put(key=key, value=value, lease=lease):
            return state.put(key, value, lease)
        case Delete(key=key):
            return state.delete((key,))
        case DeletePrefix(prefix=prefix):
            found = [pair.key for pair in state.keys.with_prefix(prefix) if not pair.key.startswith(RESERVED)]
            return state.delete(found)
    return None


def _check_plain(key: str) -> None:
    if key.startswith(RESERVED):
        raise Refused("invalid", f"keys that begin with {RESERVED} are the state's own")


def _once(key: str, written: set[str]) -> None:
    if key in written:
        raise Refused("invalid", f"{key} is written twice")
    written.add(key)
