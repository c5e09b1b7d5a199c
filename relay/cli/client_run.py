"""What ``relay pub``, ``sub``, ``push``, ``call``, ``serve`` and ``presence`` do, on the asyncio client."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from base64 import b64encode
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from msgspec import to_builtins

from relay.cli.exits import FAILED, INTERRUPTED, USAGE, exit_status, show_error
from relay.client.aio import Client, ClientOptions, connect
from relay.client.effects import Changed
from relay.client.events import Answer, Event, Pull
from relay.client.options import KcpSettings, SecureChannel, TlsFiles
from relay.client.plan import FIRST_USE
from relay.errors import ApplicationError, BadBody, ConfigError, DeadlineExceeded, FrameTooLarge, RelayError
from relay.key_files import KnownKeys, read_identity
from relay.wire.names import is_pattern

OUTPUT_BYTES_MAX: Final = 8_388_608
"""Of a command's standard output: more is refused before it fills the memory."""
STDERR_BYTES_SHOWN: Final = 1000
COMMAND_FAILED: Final = 1000
"""The application's error number of a command that did not end with 0."""

Options = dict[str, Any]  # Any: click's parameters, each command's own
Command = Callable[[Client, Options], Awaitable[int]]


def run(name: str, options: Options) -> int:
    """Run one command; its exit status."""
    return run_command(_COMMANDS[name], options, endless=name in ("sub", "serve"))


def run_command(command: Command, options: Options, endless: bool = False) -> int:
    """Connect, run ``command`` and disconnect; the exit status. ``endless``: to be interrupted is no failure."""
    try:
        return asyncio.run(_guarded(command, options, endless))
    except BrokenPipeError:
        # Whoever read the output has gone (`relay sub … | head`): that is no failure, and Python must not try again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


async def _guarded(command: Command, options: Options, endless: bool) -> int:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await _connected(command, options)
    except RelayError as error:
        show_error(error, options["as_json"])
        return exit_status(error)
    except asyncio.CancelledError:
        return 0 if endless else INTERRUPTED


async def _connected(command: Command, options: Options) -> int:
    metadata = {}
    for pair in options.get("metadata", ()):
        key, equals, value = pair.partition("=")
        if not equals or not key:
            show_error(ConfigError(f"--meta {pair}: KEY=VALUE expected"), options["as_json"])
            return USAGE
        metadata[key] = value
    timeout_s = options["timeout_s"]
    settings = ClientOptions(
        connect_timeout_s=timeout_s, request_timeout_s=timeout_s, tls=TlsFiles(ca=options["ca"]),
        secure=_secure(options), kcp=KcpSettings(key=options["kcp_key"]),
        close_timeout_s=min(timeout_s, 5.0),
    )  # fmt: skip
    client = await connect(
        *options["urls"], prefer=options["prefer"],
        user=options["user"], token=options["token"], password=options["password"], realm=options["realm"],
        device=options["device"], options=settings, on_state=_State(options["as_json"]),
        on_recovered=_recovered,
    )  # fmt: skip
    async with client:
        return await command(client, {**options, "metadata": metadata})


def _secure(options: Options) -> SecureChannel:
    """The client's own key, and the file of the servers that were met before."""
    private = read_identity(Path(options["key"])) if options["key"] else b""
    if not any(f"key={FIRST_USE}" in url for url in options["urls"]):
        return SecureChannel(private=private)
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return SecureChannel(private=private, known=KnownKeys(home / "relay" / "known_keys.json"))


class _State:
    """Tells of a lost connection and of its return, on the standard error."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._ready = False
        self._lost = False

    def __call__(self, changed: Changed) -> None:
        if changed.state == "ready":
            if self._lost and not self._as_json:
                how = "nothing was missed" if changed.resumed else "as a new session; what is not kept may be missing"
                print(f"relay: connected again, {how}", file=sys.stderr)
            self._ready, self._lost = True, False
        elif changed.state == "waiting" and self._ready and not self._lost:
            self._lost = True
            if not self._as_json:
                print(f"relay: {changed.reason}; trying again", file=sys.stderr)


def _recovered(channel: str, recovered: bool) -> None:
    """Tells what became of a channel with history, on the standard error."""
    how = "nothing was missed" if recovered else "what was missed is not kept any more"
    print(f"relay: {channel}: {how}", file=sys.stderr)


# --- values -------------------------------------------------------------------------------------------------------


def _value(options: Options) -> tuple[Any, str | None]:  # Any: text, bytes or what JSON holds
    """The value of the command line or the standard input, and its codec."""
    given: str | None = options["value"]
    return _typed(sys.stdin.buffer.read() if given in (None, "-") else os.fsencode(given), options["codec"])


def _typed(data: bytes, codec: str | None) -> tuple[Any, str | None]:  # Any: as above
    if codec == "raw":
        return data, codec
    try:
        text = data.decode()
        return (json.loads(text) if codec == "json" else text), codec
    except ValueError as error:
        if codec is None:
            return data, "raw"
        raise BadBody(f"the value is no {codec}: {error}") from None


def _shown(event: Event) -> tuple[Any, str]:  # Any: what JSON can hold
    """The value for JSON output, and as a line for people."""
    try:
        value = event.value
    except RelayError as error:
        return None, f"({error})"
    if isinstance(value, bytes):
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return {"base64": b64encode(value).decode()}, f"({len(value)} bytes)"
        return text, text
    if isinstance(value, str):
        return value, value
    return value, json.dumps(value, ensure_ascii=False)


def _print(as_json: bool, result: dict[str, Any], line: str) -> None:  # Any: what JSON can hold
    print(json.dumps(result, ensure_ascii=False) if as_json else line, flush=True)


def _print_event(event: Event, as_json: bool) -> None:
    value, line = _shown(event)
    found = {
        "kind": event.kind, "name": event.name, "user": event.sender_user, "session": event.sender_session,
        "codec": event.codec, "value": value, "metadata": event.metadata,
    }  # fmt: skip
    if event.offset is not None:
        found |= {"offset": event.offset, "epoch": event.epoch}
    sender = event.sender_user or event.sender_session[-8:] or "server"
    if event.kind in ("joined", "left", "occupied", "vacated"):
        line = event.kind
    _print(as_json, found, f"{event.name}  <{sender}>  {line}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# --- the commands -------------------------------------------------------------------------------------------------


async def _pub(client: Client, options: Options) -> int:
    channel, as_json = options["channel"], options["as_json"]
    flags = (*(("no_echo",) if options["no_echo"] else ()), *(("retained",) if options["retain"] else ()))

    async def publish(value: Any, codec: str | None) -> None:  # Any: as above
        extras = {"metadata": options["metadata"]} | ({"ttl_ms": options["ttl_ms"]} if options["ttl_ms"] else {})
        if options["once"]:
            extras["idempotency_key"] = options["once"]
        done = await client.publish(channel, value, codec=codec, flags=flags, **extras)
        assert done is not None
        place = {} if done.offset is None else {"offset": done.offset, "epoch": done.epoch}
        _print(
            as_json, {"channel": channel, "reached": done.reached, **place},
            f"published to {channel}, {_count(done.reached, 'session')} reached",
        )  # fmt: skip

    if not options["lines"]:
        await publish(*_value(options))
        return 0
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
        await publish(*_typed(line.rstrip(b"\r\n"), options["codec"]))
    return 0


async def _sub(client: Client, options: Options) -> int:
    wanted, as_json = options["count"], options["as_json"]
    over: asyncio.Future[RelayError | None] = asyncio.get_running_loop().create_future()
    printed = 0

    def end(error: RelayError | None) -> None:
        if not over.done():
            over.set_result(error)

    def show(event: Event) -> None:
        nonlocal printed
        if over.done():
            return
        try:
            _print_event(event, as_json)
        except BrokenPipeError as error:
            over.set_exception(error)
            return
        printed += 1
        if printed == wanted:
            end(None)

    for pattern in options["pushes"]:
        client.on_push(pattern, show)
    recover = _recover(options)
    subscriptions = [
        client.subscribe(
            pattern, show, presence=options["presence"], on_end=end, **({} if is_pattern(pattern) else recover)
        )
        for pattern in options["patterns"]
    ]
    for each in subscriptions:
        await each
        if recover and each.recovered is False:
            print(f"relay: {each.name}: its history is not kept, or not so far back", file=sys.stderr)
    if not as_json:
        print(f"relay: listening as {client.welcome.user or 'nobody'}", file=sys.stderr)
    closed = asyncio.ensure_future(client.wait_closed())
    closed.add_done_callback(lambda done: None if done.cancelled() else end(done.result()))
    try:
        error = await asyncio.wait_for(over, options["for_s"])
    except TimeoutError:
        if wanted is None:
            return 0
        raise DeadlineExceeded(f"{printed} of {wanted} messages came in {options['for_s']:g} s") from None
    finally:
        closed.cancel()
    if error is not None:
        raise error
    return 0


def _recover(options: Options) -> dict[str, Any]:  # Any: of Client.subscribe
    """What ``--since`` and ``--last`` ask for."""
    if options["since"]:
        offset, colon, epoch = options["since"].partition(":")
        if not colon or not offset.isdecimal():
            raise ConfigError(f"--since {options['since']}: OFFSET:EPOCH expected")
        return {"since": (int(offset), epoch)}
    return {"last": options["last"]} if options["last"] else {}


async def _history(client: Client, options: Options) -> int:
    last, as_json = options["last"], options["as_json"]
    backwards = options["backwards"] or bool(last)
    found = await client.history(
        options["channel"], after=options["after"], before=options["before"], limit=last or options["limit"],
        backwards=backwards,
    )  # fmt: skip
    for event in reversed(found.events) if last else found.events:
        value, line = _shown(event)
        at_ms = event.fields.get("accepted_at", 0)
        at = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat("T", "milliseconds")
        _print(
            as_json,
            {"offset": event.offset, "epoch": event.epoch, "accepted_at": at_ms, "user": event.sender_user,
             "session": event.sender_session, "codec": event.codec, "value": value, "metadata": event.metadata},
            f"{event.offset}  {at}  <{event.sender_user or event.sender_session[-8:] or 'server'}>  {line}",
        )  # fmt: skip
    if found.next and not last and not as_json:
        print(f"relay: more with --{'before' if backwards else 'after'} {found.next}", file=sys.stderr)
    return 0


async def _push(client: Client, options: Options) -> int:
    value, codec = _value(options)
    targets: dict[str, Any] = {  # Any: see relay.client.events.Targets
        "user": options["to"], "device": options["to_device"], "session": options["session"],
        "procedure": options["procedure"], "all": options["everybody"], "metadata": options["metadata"],
    }  # fmt: skip
    done = await client.push(
        options["name"], value, codec=codec, **{key: value for key, value in targets.items() if value}
    )
    if done.offset is not None:  # the rule of its name says so
        where = f"stored in the inbox of {options['to']} as {done.offset}"
        _print(options["as_json"], {"user": options["to"], "offset": done.offset}, where)
        return 0
    _print(
        options["as_json"], {"addressed": done.addressed, "reached": done.reached},
        f"{done.reached} of {_count(done.addressed, 'session')} reached",
    )  # fmt: skip
    return 0 if done.reached else FAILED


async def _call(client: Client, options: Options) -> int:
    value, codec = _value(options)
    targets: dict[str, Any] = {  # Any: see relay.client.events.Targets
        "user": options["to"], "device": options["to_device"], "session": options["session"],
        "provider": options["provider"], "metadata": options["metadata"],
    }  # fmt: skip
    targets = {key: value for key, value in targets.items() if value}
    name, as_json = options["name"], options["as_json"]

    def show(event: Event) -> None:
        shown, line = _shown(event)
        if as_json:
            _print(True, {"value": shown, "codec": event.codec, "metadata": event.metadata}, "")
        elif event.codec == "raw" and not sys.stdout.isatty():
            sys.stdout.buffer.write(event.body)
            sys.stdout.buffer.flush()
        else:
            print(line, flush=True)

    if options["stream"]:
        async with client.pull_stream(name, value, codec=codec, **targets) as replies:
            async for event in replies:
                show(event)
    else:
        show(await client.pull(name, value, codec=codec, **targets))
    return 0


async def _serve(client: Client, options: Options) -> int:
    wanted, as_json = options["count"], options["as_json"]
    over: asyncio.Future[RelayError | None] = asyncio.get_running_loop().create_future()
    room = asyncio.Semaphore(options["parallel"])
    answered = 0

    async def answer(pull: Pull) -> Answer:
        nonlocal answered
        async with room:
            status, result = await run_shell(options["command"], pull)
        answered += 1
        who = pull.sender_user or pull.sender_session[-8:]
        _print(
            as_json, {"name": pull.name, "user": pull.sender_user, "session": pull.sender_session, "status": status},
            f"{pull.name}  <{who}>  " + ("answered" if status == 0 else f"failed with status {status}"),
        )  # fmt: skip
        if answered == wanted and not over.done():
            over.set_result(None)
        if isinstance(result, RelayError):
            raise result
        return result

    def end(error: RelayError | None) -> None:
        if not over.done():
            over.set_result(error)

    await client.register(options["name"], answer, policy=options["policy"], on_end=end)
    if not as_json:
        print(f"relay: answering {options['name']}", file=sys.stderr)
    error = await over
    if error is not None:
        raise error
    return 0


async def run_shell(command: tuple[str, ...], pull: Event) -> tuple[int, Answer | RelayError]:
    """Run ``command`` for one pull (or delivery): its exit status, and the answer or what the caller gets instead."""
    environment = {
        **os.environ, "RELAY_PROCEDURE": pull.name, "RELAY_FROM_USER": pull.sender_user,
        "RELAY_FROM_SESSION": pull.sender_session, "RELAY_FROM_METADATA": json.dumps(pull.metadata),
    }  # fmt: skip
    words = ("/bin/sh", "-c", command[0]) if len(command) == 1 else command
    try:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=environment, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        text = f"{words[0]}: {error.strerror}"
        return 127, ApplicationError(text, app_code=COMMAND_FAILED, outcome="not_done")
    try:
        output, complaint, _ = await asyncio.gather(_read(process.stdout), _read(process.stderr), _feed(process, pull))
        status = await process.wait()
    except FrameTooLarge as error:
        return -signal.SIGKILL, error
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if status != 0:
        text = complaint[-STDERR_BYTES_SHOWN:].decode(errors="replace").strip() or f"the command ended with {status}"
        return status, ApplicationError(text, app_code=COMMAND_FAILED, data={"status": status})
    value, codec = _typed(output, None)
    return 0, Answer(value, codec)


async def _feed(process: asyncio.subprocess.Process, pull: Event) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(pull.body)
        await process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        pass  # a command need not read what it is given
    finally:
        process.stdin.close()


async def _read(stream: asyncio.StreamReader | None) -> bytes:
    assert stream is not None
    parts: list[bytes] = []
    size = 0
    while part := await stream.read(65_536):
        parts.append(part)
        size += len(part)
        if size > OUTPUT_BYTES_MAX:
            raise FrameTooLarge(f"the command wrote more than {OUTPUT_BYTES_MAX} bytes")
    return b"".join(parts)


async def _presence(client: Client, options: Options) -> int:
    channel, as_json = options["channel"], options["as_json"]
    if not channel:
        found = await client.online(options["of"])
        line = f"here, {_count(found.sessions, 'session')}"
        if not found.online:
            line = f"last seen {_time(found.last_seen)}" if found.last_seen else "never seen"
        _print(
            as_json, {
                "user": options["of"], "online": found.online, "sessions": found.sessions, "last_seen": found.last_seen,
            }, line,
        )  # fmt: skip
        return 0
    members = await client.presence(channel, count_only=options["count_only"])
    if options["count_only"]:
        _print(as_json, {"channel": channel, "count": members.count}, str(members.count))
        return 0
    for member in members.members:
        words = [member.user or "(nobody)", member.device, member.role, f"since {_time(member.since)}", member.session]
        if member.info is not None:
            words.append(json.dumps(member.info, ensure_ascii=False))
        _print(as_json, to_builtins(member), "  ".join(filter(None, words)))
    if members.count > len(members.members) and not as_json:
        print(f"relay: {members.count} in all", file=sys.stderr)
    return 0


def _time(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000).astimezone().isoformat(" ", "seconds")


_COMMANDS: Final[dict[str, Command]] = {
    "pub": _pub, "sub": _sub, "history": _history, "push": _push, "call": _call, "serve": _serve, "presence": _presence,
}  # fmt: skip
