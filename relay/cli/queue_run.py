"""What ``relay queue`` does, on the asyncio client."""

from __future__ import annotations

import asyncio
import sys
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable
from typing import Any, Final

from relay.cli.client_run import Options, _count, _print, _shown, _typed, _value, run_command, run_shell
from relay.cli.exits import FAILED
from relay.client.aio import Client
from relay.client.events import Event
from relay.client.queues import Delivery
from relay.errors import RelayError
from relay.wire import kinds
from relay.wire.message import Message


def run(name: str, options: Options) -> int:
    """Run one command; its exit status."""
    return run_command(COMMANDS[name], options, endless=name == "consume")


async def _put(client: Client, options: Options) -> int:
    queue, as_json = options["queue"], options["as_json"]
    extras: dict[str, Any] = {  # Any: by the field's name
        "metadata": options["metadata"], "ttl_ms": options["ttl_ms"], "priority": options["priority"],
        "ordering_key": options["ordering_key"] or None, "idempotency_key": options["idempotency_key"] or None,
    }  # fmt: skip

    async def put(value: Any, codec: str | None) -> None:  # Any: text, bytes or what JSON holds
        at = int((time.time() + options["delay_s"]) * 1000) if options["delay_s"] else None
        if options["to"]:
            level = 2 if options["idempotency_key"] else 1
            pushed = await client.push(
                queue, value, codec=codec, user=options["to"], level=level, **extras, **_without_none(deliver_at=at)
            )
            offset, where = pushed.offset or 0, f"the inbox of {options['to']}"
        else:
            stored = await client.enqueue(queue, value, codec=codec, name=options["name"], deliver_at=at, **extras)
            offset, where = stored.offset, queue
        _print(as_json, {"queue": queue, "offset": offset}, f"stored in {where} as {offset}")

    if not options["lines"]:
        await put(*_value(options))
        return 0
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
        await put(*_typed(line.rstrip(b"\r\n"), None if options["codec"] is None else options["codec"]))
    return 0


def _without_none(**given: Any) -> dict[str, Any]:  # Any: keywords
    return {key: value for key, value in given.items() if value is not None}


async def _consume(client: Client, options: Options) -> int:
    wanted, as_json, command = options["count"], options["as_json"], options["command"]
    over: asyncio.Future[RelayError | None] = asyncio.get_running_loop().create_future()
    begun = done = 0

    def end(error: RelayError | None) -> None:
        if not over.done():
            over.set_result(error)

    async def take(delivery: Delivery) -> None:
        nonlocal begun, done
        if wanted is not None and begun >= wanted:
            await delivery.release()
            return
        begun += 1
        found, line = _described(delivery)
        if command:
            status, _ = await run_shell(command, delivery)
            found["status"] = status
            line = f"{line}  " + ("done" if status == 0 else f"failed with status {status}")
            await (delivery.ack() if status == 0 else delivery.nack(reason=f"status {status}"))
        else:
            await delivery.ack()
        _print(as_json, found, line)
        done += 1
        if done == wanted:
            end(None)

    credits = options["credits"] if wanted is None else min(options["credits"], wanted)
    consumption = client.consume(
        options["queue"], take, credits=credits, lease_s=options["lease_s"], ack="explicit", on_end=end
    )
    await consumption
    if not as_json:
        print(f"relay: taking from {options['queue']}", file=sys.stderr)
    error = await over
    if error is not None:
        raise error
    await consumption.stop()
    return 0


def _described(delivery: Delivery) -> tuple[dict[str, Any], str]:  # Any: what JSON can hold
    value, line = _shown(delivery)
    sender = delivery.sender_user or delivery.sender_session[-8:] or "server"
    found = {
        "queue": delivery.queue, "offset": delivery.offset, "deliveries": delivery.deliveries, "name": delivery.name,
        "user": delivery.sender_user, "codec": delivery.codec, "value": value, "metadata": delivery.metadata,
    }  # fmt: skip
    again = f" ({_count(delivery.deliveries, 'delivery').replace('ys', 'ies')})" if delivery.deliveries > 1 else ""
    return found, f"{delivery.offset}{again}  {delivery.name}  <{sender}>  {line}"


async def _command(client: Client, options: Options) -> int:
    keys: dict[str, Any] = {key: options[key] for key in ("after", "limit") if key in options}  # Any: JSON
    if "everything" in options:
        keys["offsets"] = list(options["offsets"])
    reply = await client.queue(options["queue"], options["op"], **keys)
    if "messages" in reply:
        for each in reply["messages"]:
            _print_stored(each, options["as_json"])
        if reply["more"] and not options["as_json"]:
            print(f"there are more: --after {reply['messages'][-1]['offset']}")
        return 0
    _print(options["as_json"], reply, "\n".join(f"{key:10} {_plain(value)}" for key, value in reply.items()))
    return 0 if options["op"] != "requeue" or reply["requeued"] or options["everything"] else FAILED


def _plain(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _print_stored(found: dict[str, Any], as_json: bool) -> None:  # Any: what JSON can hold
    body = b64decode(found.pop("data"))
    value, line = _shown(Event(Message(kinds.PUSH, found.get("name", ""), body, found.get("codec", kinds.RAW))))
    sender = found.get("from_user", "")
    notes = [f"priority {found['priority']}"] if found["priority"] != 1 else []
    if found["deliveries"]:
        notes.append(f"deliveries {found['deliveries']}")
    if "reason" in found:
        notes.append(found["reason"])
    about = f"  [{'; '.join(notes)}]" if notes else ""
    _print(as_json, {**found, "value": value}, f"{found['offset']}  {found.get('name', '')}  <{sender}>  {line}{about}")


_OPS: Final = ("info", "peek", "dead", "pause", "resume", "purge", "requeue", "remove")
COMMANDS: Final[dict[str, Callable[[Client, Options], Awaitable[int]]]] = {
    "put": _put, "consume": _consume, **dict.fromkeys(_OPS, _command),
}  # fmt: skip
