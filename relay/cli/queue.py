"""``relay queue``: put messages into queues, take them, look after them; exit statuses as ``relay.cli.client``."""

from __future__ import annotations

from typing import Any, Final, NoReturn

import click

from relay.cli.client import _body, _options, connection
from relay.cli.numbers import FiniteRange

YEAR_S: Final = 366 * 86_400
"""No time of relay's is longer."""

_numbers = _options(
    click.option("--offset", "offsets", multiple=True, type=click.IntRange(min=1), help="This one; may be repeated."),
    click.option("--all", "everything", is_flag=True, help="All that are dead."),
)  # fmt: skip
_page = _options(
    click.option("--after", type=click.IntRange(min=0), default=0, help="Messages with higher numbers."),
    click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="So many at most."),
)  # fmt: skip


def _run(name: str, options: dict[str, Any]) -> NoReturn:  # Any: each command's own
    from relay.cli.queue_run import run

    raise SystemExit(run(name, options))


@click.group()
def queue() -> None:
    """Put messages into queues, take them, look after queues.

    A queue keeps a message until somebody has acknowledged it. "$inbox" is your own.
    """


@queue.command()
@click.argument("queue")
@click.argument("value", required=False)
@click.option("--name", default="", help="The route that the consumer sees; default: the queue's name.")
@click.option("--to", default="", metavar="USER", help="Into the inbox of this user; QUEUE is the name then.")
@click.option("--lines", is_flag=True, help="Put each line of the standard input.")
@click.option("--ttl-ms", type=click.IntRange(min=1), default=None, help="How long it is worth anything.")
@click.option("--in", "delay_s", type=FiniteRange(0, YEAR_S), default=0.0, help="Not before so many seconds.")
@click.option("--priority", type=click.IntRange(0, 2), default=None, help="0 is delivered first, 2 last; default: 1.")
@click.option("--order", "ordering_key", default="", help="One after the other with those of the same key.")
@click.option("--once", "idempotency_key", default="", metavar="KEY", help="Stored once, however often it is put.")
@_body
@connection
def put(**options: Any) -> None:  # Any: click's parameters
    """Put VALUE (without it or with "-": the standard input) into QUEUE; done when the server has stored it."""
    _run("put", options)


@queue.command()
@click.argument("queue")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--count", type=click.IntRange(min=1), default=None, help="End after so many messages.")
@click.option("--credits", type=click.IntRange(min=1), default=8, show_default=True, help="Messages at once.")
@click.option("--lease", "lease_s", type=FiniteRange(0.001, YEAR_S), default=None,
              help="Seconds that one message may take; default: the queue's.")  # fmt: skip
@connection
def consume(**options: Any) -> None:  # Any: click's parameters
    """Take messages from QUEUE, print and acknowledge them; or give each to a shell COMMAND.

    The command gets the body on its standard input and what "relay serve" sets in its environment. Status 0
    acknowledges the message, any other gives it back, to be delivered again later.
    """
    _run("consume", options)


def _simple(name: str, text: str, *decorators: Any) -> None:  # Any: decorators of click's
    def command(**options: Any) -> None:  # Any: click's parameters
        if "everything" in options and bool(options["offsets"]) == options["everything"]:
            raise click.UsageError("either --offset or --all is needed")
        _run(name, {**options, "op": name})

    command.__doc__ = text
    for decorator in (connection, *decorators, click.argument("queue")):
        command = decorator(command)
    queue.command(name)(command)


_simple("info", "Say how many messages wait, are held, are dead, and whether QUEUE is paused.")
_simple("peek", "Show messages that wait, without taking them.", _page)
_simple("dead", "Show the dead messages, each with the reason.", _page)
_simple("pause", "Deliver nothing from QUEUE from now on.")
_simple("resume", "Deliver again.")
_simple("purge", "Remove all messages that wait.")
_simple("requeue", "Let dead messages be delivered again.", _numbers)
_simple("remove", "Remove dead messages.", _numbers)
