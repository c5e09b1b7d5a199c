"""What the commands of ``relay raft`` do, by the procedures ``$raft.…`` of the nodes."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

from relay.cli.client_run import Command, Options, run_command
from relay.cli.exits import FAILED, UNKNOWN, exit_status, show_error
from relay.client.aio import Client
from relay.errors import ConnectionClosed, DeadlineExceeded, RelayError, Unavailable

WATCH_S: Final = 300.0
"""A watch is asked for again after this, from where it ended."""
AGAIN_S: Final = 0.2

Answer = dict[str, Any]  # Any: JSON


def run(name: str, options: Options) -> int:
    """Run one command; its exit status."""
    if name == "status":
        return _status(options)
    if name in _ON_THE_LEADER:
        return _on_the_leader(name, options)
    if name in _READS:
        return run_command(_READS[name], options, endless=name == "watch")
    return run_command(guarded(_WRITES[name]), options)


async def ask(client: Client, name: str, **arguments: Any) -> Answer:  # Any: JSON
    """The answer of ``$raft.name``; arguments that are None are left out."""
    given = {key: value for key, value in arguments.items() if value is not None}
    answer: Answer = (await client.pull(f"$raft.{name}", given)).value
    return answer


def guarded(command: Command) -> Command:
    """``command``, with an exit status of its own for an error that leaves open whether it was done."""

    async def write(client: Client, options: Options) -> int:
        try:
            return await command(client, options)
        except RelayError as error:
            show_error(error, options["as_json"])
            if error.outcome != "unknown":
                return exit_status(error)
            if not options["as_json"]:
                print("relay: it may have been done", file=sys.stderr)
            return UNKNOWN

    return write


def _print(options: Options, answer: Answer | list[Answer], line: str) -> None:
    print(json.dumps(answer, ensure_ascii=False) if options["as_json"] else line, flush=True)


# --- keys ---------------------------------------------------------------------------------------------------------


async def _put(client: Client, options: Options) -> int:
    given = options["value"]
    value = sys.stdin.buffer.read() if given in (None, "-") else os.fsencode(given)
    text, data = None, None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        data = base64.b64encode(value).decode()
    answer = await ask(
        client, "put", key=options["name"], value=text, data=data, lease=options["lease"],
        absent=options["absent"] or None, revision=options["revision"], equals=options["equals"],
    )  # fmt: skip
    _print(options, answer, f"{options['name']} is set at revision {answer['revision']}")
    return 0


async def _get(client: Client, options: Options) -> int:
    if not options["prefix"]:
        pair = await ask(client, "get", key=options["name"], stale=options["stale"])
        if options["as_json"]:
            _print(options, pair, "")
        elif options["keys"]:
            print(pair["key"])
        else:
            _write(_value(pair))
        return 0
    start = ""
    while True:
        answer = await ask(client, "range", prefix=options["name"], start=start, stale=options["stale"])
        for pair in answer["pairs"]:
            name = json.dumps(pair["key"], ensure_ascii=False)[1:-1]
            _print(options, pair, name if options["keys"] else f"{name}\t{_shown(pair)}")
        start = answer["next"]
        if not start:
            return 0


async def _delete(client: Client, options: Options) -> int:
    which = {"prefix": options["name"]} if options["prefix"] else {"key": options["name"]}
    answer = await ask(client, "delete", revision=options["revision"], **which)
    _print(options, answer, f"{answer['deleted']} deleted at revision {answer['revision']}")
    return 0 if answer["deleted"] else FAILED


async def _watch(client: Client, options: Options) -> int:
    revision: int = options["revision"]
    printed = 0
    while True:
        asked = {"prefix": options["prefix"], "revision": revision}
        try:
            async with client.pull_stream("$raft.watch", asked, timeout_s=WATCH_S) as answers:
                async for event in answers:
                    if not event.body:
                        continue  # the end
                    answer: Answer = event.value
                    if not answer["events"] and not revision and not options["as_json"]:
                        print(f"relay: watching from revision {answer['revision']}", file=sys.stderr, flush=True)
                    for change in answer["events"]:
                        _print(options, change, _change(change))
                        printed += 1
                        if printed == options["count"]:
                            return 0
                    revision = answer["revision"]
        except DeadlineExceeded:
            continue
        except (Unavailable, ConnectionClosed):
            if client.state == "closed":
                raise
        await asyncio.sleep(AGAIN_S)


def _change(change: Answer) -> str:
    name = json.dumps(change["key"], ensure_ascii=False)[1:-1]
    if change["type"] == "delete":
        return f"{change['revision']}\tdelete\t{name}"
    return f"{change['revision']}\tput\t{name}\t{_shown(change)}"


def _value(pair: Answer) -> bytes:
    return str(pair["value"]).encode() if "value" in pair else base64.b64decode(pair["data"])


def _shown(pair: Answer) -> str:
    """A value on one line."""
    if "value" not in pair:
        return f"({len(base64.b64decode(pair['data']))} bytes)"
    return json.dumps(pair["value"], ensure_ascii=False)[1:-1]


def _write(value: bytes) -> None:
    sys.stdout.buffer.write(value)
    if sys.stdout.isatty() and not value.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


# --- the group ----------------------------------------------------------------------------------------------------


def _status(options: Options) -> int:
    """Ask each node on a connection of its own."""
    statuses = []
    for url in options["urls"]:
        found: list[Answer] = []

        async def one(client: Client, _: Options, found: list[Answer] = found) -> int:
            found.append(await ask(client, "status"))
            return 0

        status = run_command(one, {**options, "urls": [url]})
        statuses.append(status or (0 if found[0]["leader"] else FAILED))
        if found:
            _print(options, {"url": url, **found[0]}, _describe(url, found[0]))
    return max(statuses)


def _describe(url: str, answer: Answer) -> str:
    """A node's view in a few lines."""
    led_by = f"node {answer['leader']} leads" if answer["leader"] else "no leader"
    lines = [
        f"{url}  node {answer['node']} of {answer['cluster']}: {answer['role']}, {led_by}, term {answer['term']}",
        f"  voters {_listed(answer['voters'])}, learners {_listed(answer['learners'])}"
        + (f", leaving {_listed(answer['outgoing'])}" if answer["outgoing"] else ""),
        f"  log {answer['first']} to {answer['last']}, committed {answer['committed']}, applied {answer['applied']}, "
        f"snapshot {answer['snapshot'] or '-'}",
        f"  revision {answer['revision']}, history from {answer['compacted'] + 1}: {answer['keys']} keys, "
        f"{answer['bytes']} bytes, {answer['leases']} leases, {answer['sessions']} sessions",
    ]
    lines += [
        f"  member {each['node']} {'learner' if each['learner'] else 'voter'} {_words(each['state'])}, "
        + f"has {each['match']}"
        + ("" if each["active"] else ", silent")
        for each in answer["progress"]
    ]
    return "\n".join(lines)


def _words(state: str) -> str:
    return state.removeprefix("State").lower()


def _on_the_leader(name: str, options: Options) -> int:
    """Try the nodes of --url in turn until the one that leads has done it."""
    command, urls = _ON_THE_LEADER[name], options["urls"]
    status = FAILED
    for url in urls:
        leads: list[bool] = []

        async def one(client: Client, given: Options, leads: list[bool] = leads, last: bool = url == urls[-1]) -> int:
            leads.append((await ask(client, "status"))["leading"])
            # The last one is asked in any case: it says who leads.
            return await command(client, given) if leads[0] or last else 0

        status = run_command(guarded(one), {**options, "urls": [url]})
        if leads and leads[0]:
            return status
    return status


def _members(name: str) -> Callable[[Client, Options], Awaitable[int]]:
    async def change(client: Client, options: Options) -> int:
        answer = await ask(client, name, node=options["node"])
        members = answer["members"]
        _print(options, answer, "  ".join(f"{key} {_listed(value)}" for key, value in members.items()))
        return 0

    return change


def _listed(value: object) -> str:
    return " ".join(map(str, value)) or "-" if isinstance(value, list) else str(value)


async def _transfer(client: Client, options: Options) -> int:
    answer = await ask(client, "transfer", node=options["node"])
    _print(options, answer, f"node {answer['leader']} leads")
    return 0


async def _snapshot(client: Client, options: Options) -> int:
    answer = await ask(client, "snapshot")
    _print(options, answer, f"snapshot at index {answer['index']}")
    return 0


_READS: Final[dict[str, Command]] = {"get": _get, "watch": _watch}
_WRITES: Final[dict[str, Command]] = {"put": _put, "delete": _delete, "snapshot": _snapshot}
_ON_THE_LEADER: Final[dict[str, Command]] = {
    "member_add": _members("member_add"),
    "member_promote": _members("member_promote"),
    "member_remove": _members("member_remove"),
    "transfer": _transfer,
}
