"""The commands of the interaction scenarios: a table from the name to a function over the bench."""

from __future__ import annotations

from collections.abc import Callable

from relay.cluster.raft.confchange import parse_conf_changes
from relay.cluster.raft.describe import describe_entries, describe_message
from relay.cluster.raft.errors import RaftError, RaftInvariantError
from relay.cluster.raft.logger import LEVEL_NAMES, SILENT
from relay.cluster.raft.options import Options
from relay.cluster.raft.tracker import describe_progress
from relay.cluster.raft.types import (
    MESSAGE_NAMES,
    MSG_SNAP,
    NO_LIMIT,
    READ_ONLY_LEASE_BASED,
    READ_ONLY_SAFE,
    ROLE_NAMES,
    TRANSITION_AUTO,
    TRANSITION_JOINT_EXPLICIT,
    TRANSITION_JOINT_IMPLICIT,
    ConfChange,
    ConfChangeV2,
    ConfState,
    Message,
    Snapshot,
)
from relay.errors import RelayError
from relay.test.raft_bench import Bench, BenchNode, BenchStorage, node_ids
from relay.test.raft_datadriven import Argument, Directive, ScenarioError, parse_command

ELECTION_TICK = 3
HEARTBEAT_TICK = 1
INFLIGHT_MAX = 2**31 - 1
TRANSITIONS = {
    "auto": TRANSITION_AUTO,
    "implicit": TRANSITION_JOINT_IMPLICIT,
    "explicit": TRANSITION_JOINT_EXPLICIT,
}
TRUE = {"1", "t", "T", "true", "TRUE", "True"}
FALSE = {"0", "f", "F", "false", "FALSE", "False"}


def run(bench: Bench, directive: Directive) -> str:
    """The output of one directive; :class:`RaftInvariantError` if a node lost an invariant in it."""
    bench.output.take()
    failure: str | None = None
    try:
        if directive.command == "propose-conf-change":
            _propose_conf_change(bench, directive.arguments, directive.input)
        else:
            _run_all(bench, directive)
    except RaftInvariantError:
        raise
    except RelayError as error:
        failure = str(error)
    if failure is not None:
        # Errors are told even at level NONE.
        if bench.output.level == SILENT:
            return failure
        bench.output.print(failure)
    return bench.output.take() or "ok"


def _run_all(bench: Bench, directive: Directive) -> None:
    """The command, then those in the lines of its input."""
    _run_one(bench, directive.command, directive.arguments)
    for line in directive.input.splitlines():
        try:
            _run_one(bench, *parse_command(line))
        except RaftInvariantError:
            raise
        except RelayError as error:
            if bench.output.level == SILENT:
                raise
            bench.output.print(str(error))


def _run_one(bench: Bench, command: str, arguments: list[Argument]) -> None:
    if command in COMMANDS:
        COMMANDS[command](bench, arguments)
    elif command != "_breakpoint":
        raise RaftError("unknown command")


def _propose_conf_change(bench: Bench, arguments: list[Argument], text: str) -> None:
    first_format, transition = False, TRANSITION_AUTO
    for argument in arguments[1:]:
        for value in argument.values:
            if argument.key == "v1":
                first_format = _bool(value)
            elif argument.key != "transition":
                raise RaftError(f"unknown command {argument.key}")
            elif value not in TRANSITIONS:
                raise RaftError(f"unknown transition {value}")
            else:
                transition = TRANSITIONS[value]
    changes = parse_conf_changes(text)
    node = _node(bench, arguments).raw
    if not first_format:
        node.propose_conf_change(ConfChangeV2(transition, changes))
    elif len(changes) != 1 or transition != TRANSITION_AUTO:
        raise RaftError("v1 conf change can only have one operation and no transition")
    else:
        node.propose_conf_change(ConfChange(changes[0].type, changes[0].node_id))


def _node(bench: Bench, arguments: list[Argument]) -> BenchNode:
    return bench.by_id(int(arguments[0].key))


def _add_nodes(bench: Bench, arguments: list[Argument]) -> None:
    ids: dict[str, list[int]] = {"voters": [], "learners": []}
    options: dict[str, object] = {}
    index, content = 0, b""
    for argument in arguments[1:]:
        for value in argument.values:
            if argument.key in ids:
                ids[argument.key].append(int(value))
            elif argument.key == "index":
                index = options["applied"] = int(value)
            elif argument.key == "content":
                content = value.encode()
            elif argument.key == "read-only":
                if value not in ("safe", "lease-based"):
                    raise RaftError(f'invalid read-only option "{value}"')
                options["read_only"] = READ_ONLY_SAFE if value == "safe" else READ_ONLY_LEASE_BASED
            elif argument.key in _NUMBERS:
                options[_NUMBERS[argument.key]] = int(value)
            elif argument.key in _SWITCHES:
                options[_SWITCHES[argument.key]] = _bool(value)
            else:
                raise ScenarioError(f"unknown option {argument.key}")
    state = ConfState(tuple(ids["voters"]), tuple(ids["learners"]))
    bootstrap = bool(index or content or state != ConfState())
    if bootstrap and index <= 1:
        raise RaftError("index must be specified as > 1 due to bootstrap")
    snapshot = Snapshot(content, index, 1 if bootstrap else 0, state)
    for _ in range(int(arguments[0].key)):
        storage = BenchStorage(snapshot)
        if bootstrap:
            storage.apply_snapshot(snapshot)
        defaults = {"message_size_max": NO_LIMIT, "inflight_max": INFLIGHT_MAX}
        node_options = Options(
            id=len(bench.nodes) + 1,
            storage=storage,
            random_below=lambda count: 0,
            election_tick=ELECTION_TICK,
            heartbeat_tick=HEARTBEAT_TICK,
            logger=bench.output,
            **(defaults | options),  # type: ignore[arg-type]  # the values are of the types that the tables below say
        )
        bench.nodes.append(BenchNode(node_options, storage))


_NUMBERS = {"inflight": "inflight_max", "max-committed-size-per-ready": "committed_size_max"}
_SWITCHES = {
    "async-storage-writes": "async_storage_writes",
    "prevote": "pre_vote",
    "checkquorum": "check_quorum",
    "disable-conf-change-validation": "disable_conf_change_validation",
    "step-down-on-removal": "step_down_on_removal",
}


def _set_log_level(bench: Bench, arguments: list[Argument]) -> None:
    name = arguments[0].key.upper()
    if name not in LEVEL_NAMES:
        raise RaftError(f"log levels must be either of [{' '.join(LEVEL_NAMES)}]")
    bench.output.level = LEVEL_NAMES.index(name)


def _tick(bench: Bench, arguments: list[Argument], count: int) -> None:
    for _ in range(count):
        _node(bench, arguments).raw.tick()


def _set_timeout(bench: Bench, arguments: list[Argument]) -> None:
    _node(bench, arguments).raw.raft.randomized_election_timeout = int(_value(arguments, "timeout"))


def _transfer(bench: Bench, arguments: list[Argument]) -> None:
    bench.by_id(int(_value(arguments, "from"))).raw.transfer_leadership(int(_value(arguments, "to")))


def _propose(bench: Bench, arguments: list[Argument]) -> None:
    _node(bench, arguments).raw.propose(arguments[1].key.encode())


def _deliver(bench: Bench, arguments: list[Argument]) -> None:
    kind: int | None = None
    receivers: list[tuple[int, bool]] = []
    for argument in arguments:
        if not argument.values:
            receivers.append((int(argument.key), False))
        for value in argument.values:
            if argument.key == "drop":
                if (int(value), False) in receivers:
                    raise ScenarioError(f"can't both deliver and drop msgs to {value}")
                receivers.append((int(value), True))
            elif argument.key == "type":
                if value not in MESSAGE_NAMES:
                    raise ScenarioError(f"unknown message type {value}")
                kind = MESSAGE_NAMES.index(value)
    if not sum(bench.deliver(node, kind, drop=drop) for node, drop in receivers):
        bench.output.print("no messages\n")


def _stabilize(bench: Bench, arguments: list[Argument]) -> None:
    level = bench.output.level
    try:
        for argument in arguments:
            if argument.key == "log-level":
                _set_log_level(bench, [Argument(argument.values[0])])
        ids = node_ids(arguments)
        bench.stabilize([bench.by_id(node) for node in ids] if ids else bench.nodes)
    finally:
        bench.output.level = level


def _show_log(bench: Bench, arguments: list[Argument]) -> None:
    storage = _node(bench, arguments).storage
    first, last = storage.first_index(), storage.last_index()
    if last < first:
        bench.output.print(f"log is empty: first index={first}, last index={last}")
    else:
        bench.output.print(describe_entries(storage.entries(first, last + 1, NO_LIMIT)))


def _show_state(bench: Bench, arguments: list[Argument]) -> None:
    for node in bench.nodes:
        status = node.raw.status()
        voter = "(Voter)" if status.id in status.configuration.voters() else "(Non-Voter)"
        bench.output.print(
            f"{status.id}: {ROLE_NAMES[status.soft_state.role]} {voter} "
            f"Term:{status.hard_state.term} Lead:{status.soft_state.lead}\n"
        )


def _show_status(bench: Bench, arguments: list[Argument]) -> None:
    bench.output.print(describe_progress(_node(bench, arguments).raw.status().progress))


def _compact(bench: Bench, arguments: list[Argument]) -> None:
    _node(bench, arguments).storage.compact(int(arguments[1].key))
    _show_log(bench, arguments)


def _send_snapshot(bench: Bench, arguments: list[Argument]) -> None:
    sender, receiver = node_ids(arguments)
    node = bench.by_id(sender)
    snapshot = node.storage.snapshot()
    message = Message(MSG_SNAP, receiver, sender, node.raw.status().hard_state.term, snapshot=snapshot)
    bench.pile.append(message)
    bench.output.print(describe_message(message))


def _report_unreachable(bench: Bench, arguments: list[Argument]) -> None:
    reporter, lost = node_ids(arguments)
    bench.by_id(reporter).raw.report_unreachable(lost)


COMMANDS: dict[str, Callable[[Bench, list[Argument]], None]] = {
    "add-nodes": _add_nodes,
    "campaign": lambda bench, arguments: _node(bench, arguments).raw.campaign(),
    "compact": _compact,
    "deliver-msgs": _deliver,
    "forget-leader": lambda bench, arguments: _node(bench, arguments).raw.forget_leader(),
    "log-level": _set_log_level,
    "process-append-thread": lambda bench, arguments: bench.each(
        arguments, "processing append thread", bench.process_append_thread
    ),
    "process-apply-thread": lambda bench, arguments: bench.each(
        arguments, "processing apply thread", bench.process_apply_thread
    ),
    "process-ready": lambda bench, arguments: bench.each(arguments, "handling Ready", bench.process_ready),
    "propose": _propose,
    "raft-log": _show_log,
    "raft-state": _show_state,
    "report-unreachable": _report_unreachable,
    "send-snapshot": _send_snapshot,
    "set-randomized-election-timeout": _set_timeout,
    "stabilize": _stabilize,
    "status": _show_status,
    "tick-election": lambda bench, arguments: _tick(bench, arguments, ELECTION_TICK),
    "tick-heartbeat": lambda bench, arguments: _tick(bench, arguments, HEARTBEAT_TICK),
    "transfer-leadership": _transfer,
}


def _value(arguments: list[Argument], key: str) -> str:
    for argument in arguments:
        if argument.key == key and argument.values:
            return argument.values[0]
    raise ScenarioError(f"no {key}=")


def _bool(value: str) -> bool:
    if value in TRUE:
        return True
    if value in FALSE:
        return False
    raise ScenarioError(f"{value} is neither true nor false")
