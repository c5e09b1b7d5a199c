"""``relay raft``: look after a cluster, and read and write its keys.

    exit status   0 done · 1 failed, or no such key · 2 wrong usage · 3 cannot connect · 4 refused · 5 timed out
                  6 the end of a write is unknown: it may have been done

Only the options stand here; what a command does, and all it needs, is imported when it runs. A node lets in who may
call ``$raft.…``: with the default ``cluster.api: local`` that is this machine, over a plain stream listener.
"""

from __future__ import annotations

from typing import Any, NoReturn

import click

from relay.cli.client import connection


@click.group()
def raft() -> None:
    """Look after a cluster, and read and write its keys."""


@raft.group()
def member() -> None:
    """Change who belongs to the cluster; on the node that leads, so give --url of several."""


def _run(name: str, options: dict[str, Any]) -> NoReturn:  # Any: each command's own
    from relay.cli.raft_run import run

    raise SystemExit(run(name, options))


@raft.command()
@click.argument("directory", type=click.Path(file_okay=False))
@click.option("--nodes", type=click.IntRange(1, 9), default=3, show_default=True, help="How many; an odd number.")
@click.option("--host", "hosts", multiple=True, default=["127.0.0.1"], show_default=True,
              help="Where nodes listen for one another: one address for all, or one for each node.")  # fmt: skip
@click.option("--port", type=click.IntRange(1, 65_000), default=8000, show_default=True,
              help="For clients; on one machine node N has this + N. The web's is 80 above.")  # fmt: skip
@click.option("--cluster-port", type=click.IntRange(1, 65_000), default=7400, show_default=True,
              help="For the other nodes; on one machine node N has this + N.")  # fmt: skip
@click.option("--name", default="relay", show_default=True, help="The cluster's name.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
@click.option("--json", "as_json", is_flag=True, help="Print the files' names as JSON.")
def init(**options: Any) -> int:  # Any: click's parameters
    """Write the configuration of each node of a new cluster into DIRECTORY: n1.yaml, n2.yaml …"""
    from relay.cli.raft_init import write_files

    return write_files(**options)


@raft.command()
@connection
def status(**options: Any) -> None:  # Any: click's parameters
    """Show how the cluster is, as each node of --url sees it; fails when one cannot be asked or knows no leader."""
    _run("status", options)


@raft.command()
@click.argument("name", metavar="KEY")
@click.argument("value", required=False)
@click.option("--lease", type=click.IntRange(min=1), default=None, help="The key goes with this lease.")
@click.option("--absent", is_flag=True, help="Only a new key.")
@click.option("--revision", type=click.IntRange(min=0), default=None, help="Only when last changed at this revision.")
@click.option("--equals", default=None, metavar="TEXT", help="Only when it holds this text.")
@connection
def put(**options: Any) -> None:  # Any: click's parameters
    """Set KEY to VALUE (without it or with "-": the standard input)."""
    _run("put", options)


@raft.command()
@click.argument("name", metavar="KEY")
@click.option("--prefix", is_flag=True, help="All keys that begin with KEY.")
@click.option("--keys", is_flag=True, help="Their names only.")
@click.option("--stale", is_flag=True, help="What this node has, without asking the others.")
@connection
def get(**options: Any) -> None:  # Any: click's parameters
    """Print the value of KEY; with --prefix a line for each key."""
    _run("get", options)


@raft.command()
@click.argument("name", metavar="KEY")
@click.option("--prefix", is_flag=True, help="All keys that begin with KEY.")
@click.option("--revision", type=click.IntRange(min=0), default=None, help="Only when last changed at this revision.")
@connection
def delete(**options: Any) -> None:  # Any: click's parameters
    """Remove KEY."""
    if options["prefix"] and options["revision"] is not None:
        raise click.UsageError("--revision is for one key")
    _run("delete", options)


@raft.command()
@click.argument("prefix", required=False, default="")
@click.option("--revision", type=click.IntRange(min=0), default=0, help="From this revision on; default: from now on.")
@click.option("--count", type=click.IntRange(min=1), default=None, help="End after so many changes.")
@connection
def watch(**options: Any) -> None:  # Any: click's parameters
    """Print changes of keys that begin with PREFIX (default: all), without a gap, over lost connections too."""
    _run("watch", options)


@member.command("add")
@click.argument("node", type=click.IntRange(min=1))
@connection
def member_add(**options: Any) -> None:  # Any: click's parameters
    """Make NODE a learner: it gets the log, without a vote."""
    _run("member_add", options)


@member.command("promote")
@click.argument("node", type=click.IntRange(min=1))
@connection
def member_promote(**options: Any) -> None:  # Any: click's parameters
    """Make the learner NODE a voter, once it has caught up."""
    _run("member_promote", options)


@member.command("remove")
@click.argument("node", type=click.IntRange(min=1))
@connection
def member_remove(**options: Any) -> None:  # Any: click's parameters
    """Take NODE out for good: it comes back only under another id, with an empty directory."""
    _run("member_remove", options)


@raft.command()
@click.argument("node", type=click.IntRange(min=1), required=False, default=None)
@connection
def transfer(**options: Any) -> None:  # Any: click's parameters
    """Hand the leadership to NODE, or to the best of the others."""
    _run("transfer", options)


@raft.command()
@connection
def snapshot(**options: Any) -> None:  # Any: click's parameters
    """Have the node snapshot its state and compact its log."""
    _run("snapshot", options)
