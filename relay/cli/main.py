"""The ``relay`` command: a group whose commands are imported when they are used, and exit statuses.

======  =============================================================================================
status  meaning
======  =============================================================================================
0       done
1       it failed: an answer was an error, a file is broken
2       the command line or the configuration is wrong
3       no connection
4       refused: not let in, or not allowed
5       no answer in time
6       a write to the cluster whose end is unknown: it may have been done
130     interrupted (Ctrl-C)
======  =============================================================================================

A failure is one line on standard error. A command returns its status, or None for 0, or raises ``RelayError``, whose
status ``relay.cli.exits`` knows.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Final, cast

import click
from click.shell_completion import CompletionItem, get_completion_class

from relay.errors import RelayError

FAILED: Final = 1
INTERRUPTED: Final = 130

COMPLETION_VARIABLE: Final = "_RELAY_COMPLETE"

COMMANDS: Final = {
    "pub": ("relay.cli.client:pub", "Publish a message to a channel."),
    "sub": ("relay.cli.client:sub", "Print what is published to channels."),
    "history": ("relay.cli.client:history", "Print what was published to a channel."),
    "push": ("relay.cli.client:push", "Tell a user, a session or a procedure something."),
    "call": ("relay.cli.client:call", "Call a procedure and print the answer."),
    "serve": ("relay.cli.client:serve", "Answer a procedure with a shell command."),
    "presence": ("relay.cli.client:presence", "Print who is in a channel, or whether a user is here."),
    "queue": ("relay.cli.queue:queue", "Put messages into queues, take them, look after queues."),
    "status": ("relay.cli.client:status", "Show how a node is."),
    "config": ("relay.cli.config:config", "Check and show configurations."),
    "key": ("relay.cli.key:key", "Show and make keys of the secure channel."),
    "raft": ("relay.cli.raft:raft", "Look after a cluster, and read and write its keys."),
    "store": ("relay.cli.store:store", "Look into the store of a node, and repair it."),
    "wal": ("relay.cli.wal:wal", "Look into a write-ahead log."),
    "bench": ("relay.cli.bench:bench", "Load a node and measure it."),
}
"""Name -> (module:attribute, one line of help). The line is here so that ``relay --help`` imports no command."""


class LazyGroup(click.Group):
    """A group of the commands in ``COMMANDS`` beside its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the table's order; commands whose module is not installed are left out."""
        there = [name for name, (target, _) in COMMANDS.items() if _is_there(target)]
        return [*there, *sorted(self.commands)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command; imports its module."""
        if cmd_name not in COMMANDS or not _is_there(COMMANDS[cmd_name][0]):
            return super().get_command(ctx, cmd_name)
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        return cast(click.Command, getattr(importlib.import_module(module), attribute))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        rows = [(name, self._help(name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands and options that begin so, without importing the commands."""
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        commands = [CompletionItem(name, help=self._help(name)) for name in names]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def _help(self, name: str) -> str:
        return COMMANDS[name][1] if name in COMMANDS else self.commands[name].get_short_help_str(100)


def _is_there(target: str) -> bool:
    return importlib.util.find_spec(target.partition(":")[0]) is not None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="relay-messaging", prog_name="relay", message="%(prog)s %(version)s")
def cli() -> None:
    """Talk to a relay node, and look after one.

    The node itself is started with "twistd relay".
    """


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes this command.

    \b
    bash:  eval "$(relay completion bash)"           in ~/.bashrc
    zsh:   eval "$(relay completion zsh)"            in ~/.zshrc
    fish:  relay completion fish | source            in ~/.config/fish/config.fish
    """
    of_shell = get_completion_class(shell)
    assert of_shell is not None  # click knows these three
    click.echo(of_shell(cli, {}, "relay", COMPLETION_VARIABLE).source())


def run(arguments: list[str]) -> int:
    """Run the command; its exit status. What went wrong is one line on standard error."""
    try:
        status = cli.main(arguments, prog_name="relay", standalone_mode=False, complete_var=COMPLETION_VARIABLE)
    except click.exceptions.Abort:
        return INTERRUPTED
    except KeyboardInterrupt:
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except RelayError as error:
        from relay.cli.exits import exit_status  # it imports the client

        return _complain(str(error), exit_status(error))
    except BrokenPipeError:
        # Whoever read our output has enough of it; nothing may be flushed into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}", FAILED)
    return status if isinstance(status, int) else 0


def _complain(sentence: str, status: int) -> int:
    click.echo(f"relay: {' '.join(sentence.split())}", err=True)
    return status


def main() -> None:
    """The entry point ``relay``."""
    sys.exit(run(sys.argv[1:]))
