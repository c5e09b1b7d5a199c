"""The commands of ``relay`` that talk to a node: ``pub``, ``sub``, ``history``, ``push``, ``call`` and the others.

    exit status   0 done · 1 failed · 2 wrong usage · 3 cannot connect · 4 refused · 5 timed out

Only the options stand here; what a command does, and all it needs, is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from relay.cli.numbers import FiniteRange

F = TypeVar("F", bound=Callable[..., Any])  # Any: a command's own parameters

DEFAULT_URL = "tcp://127.0.0.1:8000"


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_json = click.option("--json", "as_json", is_flag=True, help="Results, and errors, as one JSON object per line.")
_url = click.option(
    "--url", "urls", multiple=True, envvar="RELAY_URL", default=[DEFAULT_URL], show_default=True,
    help="tcp://, tls://, unix:, udp://, kcp://, quic://, ws://, wss:// or auto://, with ?form=json for the JSON form, "
         "?key=SHA256:… or ?key=first-use for the secure channel, ?cipher=…&profile=… for KCP; several: any of them. "
         "[RELAY_URL]",
)  # fmt: skip
_connection = _options(
    _url,
    click.option("--prefer", is_flag=True, help="Several --url are ways to one server: the first that gets through."),
    click.option("--kcp-key", default="", envvar="RELAY_KCP_KEY",
                 help="The key of kcp://; better by the environment. [RELAY_KCP_KEY]"),
    click.option("--user", default="", envvar="RELAY_USER", help="Who you are. [RELAY_USER]"),
    click.option("--token", default="", envvar="RELAY_TOKEN", help="Bearer token. [RELAY_TOKEN]"),
    click.option("--password", default="", envvar="RELAY_PASSWORD", help="With --user. [RELAY_PASSWORD]"),
    click.option("--realm", default="", envvar="RELAY_REALM", help="Name space. [RELAY_REALM]"),
    click.option("--device", default="", help="Which of your devices this is."),
    click.option("--ca", default="", envvar="RELAY_CA", help="PEM file of the authority to trust. [RELAY_CA]"),
    click.option("--key", default="", envvar="RELAY_KEY",
                 help="PEM file of your own key, for the secure channel; relay key make. [RELAY_KEY]"),
    click.option("--timeout", "timeout_s", type=FiniteRange(min=0.001), default=10.0, show_default=True,
                 help="Seconds to wait for the connection, and for an answer."),
    _json,
)  # fmt: skip
connection = _connection
"""The options of every command that connects, for the commands of other modules."""
_body = _options(
    click.option("--codec", type=click.Choice(["text", "json", "raw"]), default=None,
                 help="How VALUE is sent; default: text, or raw when it is not UTF-8."),
    click.option("--meta", "metadata", multiple=True, metavar="KEY=VALUE", help="Metadata; may be repeated."),
)  # fmt: skip
_target = _options(
    click.option("--to-device", default="", help="This device of the user."),
    click.option("--session", default="", help="This session."),
)


def _run(name: str, options: dict[str, Any]) -> NoReturn:  # Any: each command's own
    from relay.cli.client_run import run

    raise SystemExit(run(name, options))


@click.command()
@click.argument("channel")
@click.argument("value", required=False)
@click.option("--lines", is_flag=True, help="Publish each line of the standard input.")
@click.option("--no-echo", is_flag=True, help="Not to this session itself.")
@click.option("--retain", is_flag=True, help="It is the channel's last value, where history is kept.")
@click.option("--once", default="", metavar="KEY", help="Where history is kept: not again with this KEY.")
@click.option("--ttl-ms", type=click.IntRange(min=1), default=None, help="How long it is worth anything.")
@_body
@_connection
def pub(**options: Any) -> None:  # Any: click's parameters
    """Publish VALUE (without it or with "-": the standard input) to CHANNEL."""
    _run("pub", options)


@click.command()
@click.argument("patterns", nargs=-1, metavar="PATTERN...")
@click.option("--count", type=click.IntRange(min=1), default=None, help="End after so many messages.")
@click.option("--for", "for_s", type=FiniteRange(min=0.001), default=None,
              help="End after so many seconds; with --count: fail (5) when fewer came.")  # fmt: skip
@click.option("--last", type=click.IntRange(min=1), default=None, help="First the newest so many of each channel.")
@click.option("--since", default="", metavar="OFFSET:EPOCH", help="First what one channel published behind this place.")
@click.option("--presence", is_flag=True, help="Also who joins and leaves, and where the first and the last are.")
@click.option("--pushes", multiple=True, metavar="PATTERN", help="Also pushes to this user with such a name.")
@_connection
def sub(**options: Any) -> None:  # Any: click's parameters
    """Print what is published to channels, given by name or by PATTERN ("room.*", "**")."""
    if not options["patterns"] and not options["pushes"]:
        raise click.UsageError("at least one PATTERN is needed")
    if options["since"] and len(options["patterns"]) != 1:
        raise click.UsageError("--since is a place in one channel: exactly one PATTERN is needed")
    _run("sub", options)


@click.command()
@click.argument("channel")
@click.option("--last", type=click.IntRange(min=1), default=None, help="The newest so many.")
@click.option("--after", type=click.IntRange(min=0), default=0, help="Offsets over this.")
@click.option("--before", type=click.IntRange(min=0), default=0, help="Offsets under this.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@click.option("--backwards", is_flag=True, help="The newest first.")
@_connection
def history(**options: Any) -> None:  # Any: click's parameters
    """Print what was published to CHANNEL, where it is kept: offset, time, user and value."""
    if options["last"] and (options["after"] or options["before"] or options["backwards"]):
        raise click.UsageError("--last stands alone")
    _run("history", options)


@click.command()
@click.argument("name")
@click.argument("value", required=False)
@click.option("--to", default="", metavar="USER", help="All sessions of this user.")
@click.option("--procedure", default="", help="A provider of this procedure.")
@click.option("--all", "everybody", is_flag=True, help="Everybody.")
@_target
@_body
@_connection
def push(**options: Any) -> None:  # Any: click's parameters
    """Push VALUE (without it or with "-": the standard input) under NAME to a user, a session or all."""
    targets = [key for key in ("to", "session", "procedure", "everybody") if options[key]]
    if len(targets) != 1:
        raise click.UsageError("one of --to, --session, --procedure and --all is needed")
    _run("push", options)


@click.command()
@click.argument("name")
@click.argument("value", required=False, default="")
@click.option("--to", default="", metavar="USER", help="Ask this user, not the procedure NAME.")
@click.option("--provider", default="", help="Ask this provider (a session).")
@click.option("--stream", is_flag=True, help="Print each of several answers as it comes.")
@_target
@_body
@_connection
def call(**options: Any) -> None:  # Any: click's parameters
    """Call the procedure NAME with VALUE ("-": the standard input) and print the answer."""
    _run("call", options)


@click.command()
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--policy", default="single", show_default=True,
              type=click.Choice(["single", "round_robin", "random", "least_pending", "weighted", "sticky"]),
              help="How several providers share the calls.")  # fmt: skip
@click.option("--parallel", type=click.IntRange(min=1), default=8, show_default=True, help="Commands at once.")
@click.option("--count", type=click.IntRange(min=1), default=None, help="End after so many calls.")
@_connection
def serve(**options: Any) -> None:  # Any: click's parameters
    """Answer the procedure NAME by a shell COMMAND.

    It gets the body on its standard input, and RELAY_PROCEDURE, RELAY_FROM_USER, RELAY_FROM_SESSION and
    RELAY_FROM_METADATA (JSON) in its environment; its standard output is the answer. When it ends with another status
    than 0 the caller gets an error with what it wrote to its standard error. One word is given to the shell; several
    are a program and its arguments (put -- before them).
    """
    _run("serve", options)


@click.command()
@click.argument("channel", required=False, default="")
@click.option("--of", default="", metavar="USER", help="Whether this user is here, and when last.")
@click.option("--count", "count_only", is_flag=True, help="Only how many there are.")
@_connection
def presence(**options: Any) -> None:  # Any: click's parameters
    """Print who is in CHANNEL."""
    if bool(options["channel"]) == bool(options["of"]):
        raise click.UsageError("one of CHANNEL and --of is needed")
    _run("presence", options)


@click.command()
@_url
@click.option("--timeout", "timeout_s", type=FiniteRange(min=0.001), default=5.0, show_default=True)
@_json
def status(urls: tuple[str, ...], timeout_s: float, as_json: bool) -> None:
    """Say how the node is, by its /healthz, /readyz and /metrics.

    --url is the node's page (http://HOST:PORT) or WebSocket; of a stream address the host is taken, with port 8080.
    """
    from relay.cli.client_status import status_of

    raise SystemExit(status_of(urls[0], timeout_s, as_json))
