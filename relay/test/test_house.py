"""The rules of the house, checked on the source with ``ast``: floors, purity, sizes, docstrings.

======  ==============================================================================================================
floor   modules
======  ==============================================================================================================
0       errors
1       config, wire, dialects, cluster.raft, cluster.kv, nat.ice, client.core and its parts
2       interfaces
3       core, app, hooks
4       protocols, store, cluster, nat, bridges, admin, plugins
5       tap and its parts, the configuration's reader, logs, client
6       cli, bench
-       reactor: imports nothing of relay; tap alone names it
======  ==============================================================================================================

Imports go downwards or stay on their floor; packages of floor 4 never import one another; the longest prefix of a
module's name decides its floor. Imports for type checking count like others. What breaks a rule stands in
``EXCEPTIONS`` with its reason, and that list may only shrink: an entry that is not needed any more fails the test.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
from twisted.trial.unittest import SynchronousTestCase

import relay

ROOT: Final = Path(relay.__file__).parent
MODULE_LINES_MAX: Final = 500
FUNCTION_LINES_MAX: Final = 60
CLASS_METHODS_MAX: Final = 20

FLOORS: Final = {
    "relay": 0,
    "relay.errors": 0,
    "relay.config": 1,
    "relay.config_auth": 1,
    "relay.config_cluster": 1,
    "relay.config_history": 1,
    "relay.config_kcp": 1,
    "relay.config_queues": 1,
    "relay.config_quic": 1,
    "relay.config_keys": 1,
    "relay.config_store": 1,
    "relay.config_types": 1,
    "relay.config_udp": 1,
    "relay.config_webhooks": 1,
    "relay.records": 1,
    "relay.wire": 1,
    "relay.dialects": 1,
    "relay.cluster.raft": 1,
    "relay.cluster.kv": 1,
    "relay.nat.ice": 1,
    "relay.interfaces": 2,
    "relay.core": 3,
    "relay.app": 3,
    "relay.app_bodies": 3,
    "relay.app_routes": 3,
    "relay.hooks": 3,
    "relay.protocols": 4,
    "relay.store": 4,
    "relay.cluster": 4,
    "relay.nat": 4,
    "relay.bridges": 4,
    "relay.admin": 4,
    "relay.plugins": 4,
    "relay.tap": 5,
    "relay.parts": 5,
    "relay.cluster_parts": 5,
    "relay.cluster_metrics": 5,
    "relay.signals": 5,
    "relay.plugin_load": 5,
    "relay.logs": 5,
    "relay.config_shape": 5,
    "relay.config_files": 5,
    "relay.config_mistakes": 5,
    "relay.config_env": 5,
    "relay.config_load": 5,
    "relay.config_check": 5,
    "relay.key_files": 5,
    "relay.client": 5,
    "relay.cli": 6,
    "relay.bench": 6,
}
CLIENT_CORE: Final = "relay.client.core"
"""This module and those of ``relay.client`` that it imports, directly or not, follow the rules of floor 1."""
REACTOR: Final = "relay.reactor"
REACTOR_NAMED_BY: Final = ("relay.tap", REACTOR)
TESTS: Final = "relay.test"

IMPURE_MODULES: Final = (
    "twisted", "socket", "asyncio", "time", "random", "secrets", "uuid", "threading", "selectors", "ssl", "OpenSSL",
    "subprocess", "signal",
)  # fmt: skip
IMPURE_CALLS: Final = ("os.urandom", "os.getrandom", "datetime.now", "datetime.utcnow", "date.today", "uuid.uuid4")
IMPURE_NAMES: Final = ("urandom", "getrandom", "generate_private_key")

EXCEPTIONS: Final[dict[str, str]] = {
    "floor relay.interfaces imports relay.core.identity": "IAuthenticator promises an Identity; for type checking only",
}
"""What breaks a rule, as the test says it, and why it may."""


@attrs.frozen
class Module:
    """One source file."""

    name: str
    path: Path
    package: bool = attrs.field(default=False)

    @property
    def text(self) -> str:
        """Its source."""
        return self.path.read_text("utf-8")

    @property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return _parsed(self.path)


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


@functools.cache
def modules() -> tuple[Module, ...]:
    """All of the package, tests too."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = ("relay", *path.relative_to(ROOT).with_suffix("").parts)
        package = parts[-1] == "__init__"
        found.append(Module(".".join(parts[:-1] if package else parts), path, package))
    return tuple(found)


@functools.cache
def names() -> frozenset[str]:
    """The names of all modules."""
    return frozenset(each.name for each in modules())


def is_test(name: str) -> bool:
    """Whether a module is one of the tests."""
    return within(name, TESTS)


def within(name: str, package: str) -> bool:
    """Whether ``name`` is ``package`` or in it."""
    return name == package or name.startswith(f"{package}.")


def imported(module: Module) -> Iterator[tuple[str, ast.stmt]]:
    """Every module that is imported, wherever in the file, with the statement."""
    known = names()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.name.split(".")
                parts = parts[: len(parts) - node.level + module.package]
                base = ".".join([*parts, base] if base else parts)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner if inner in known else base), node


@functools.cache
def client_core() -> frozenset[str]:
    """The modules of the client's core."""
    by_name = {each.name: each for each in modules()}
    found: set[str] = set()
    waiting = [CLIENT_CORE] if CLIENT_CORE in by_name else []
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            theirs = {each for each, _ in imported(by_name[name])}
            waiting += [each for each in theirs if within(each, "relay.client") and each != "relay.client"]
    return frozenset(found)


def floor(name: str) -> int | None:
    """The floor of a module; None where the table has no place for it."""
    if name in client_core():
        return 1
    while name != "relay":
        if name in FLOORS:
            return FLOORS[name]
        name = name.rpartition(".")[0]
    return None


def house(name: str) -> str:
    """The package of floor 4 that a module is in."""
    return ".".join(name.split(".")[:2])


# --- the rules: each gives sentences about what breaks it -----------------------------------------------------------


def broken_floors(module: Module) -> Iterator[str]:
    """Imports go downwards; what is on no floor has no place."""
    if is_test(module.name) or module.name == "relay":
        return
    if within(module.name, REACTOR):
        for name in sorted({each for each, _ in imported(module)}):
            if within(name, "relay") and not within(name, REACTOR):
                yield f"floor {module.name} imports {name}"
        return
    mine = floor(module.name)
    if mine is None:
        yield f"floor {module.name} is on none"
        return
    for name in sorted({each for each, _ in imported(module)}):
        if not within(name, "relay") or name == "relay":
            continue
        theirs = floor(name)
        not_for_me = is_test(name) or (within(name, REACTOR) and module.name not in REACTOR_NAMED_BY)
        if not_for_me or (theirs is not None and theirs > mine):
            yield f"floor {module.name} imports {name}"
        elif theirs == mine == 4 and house(name) != house(module.name):
            yield f"siblings {module.name} imports {name}"


def broken_purity(module: Module) -> Iterator[str]:
    """Floors 0 and 1 take time, randomness and keys as arguments."""
    if is_test(module.name) or within(module.name, REACTOR):
        return
    mine = floor(module.name)
    if mine is None or mine > 1:
        return
    for name in sorted({each for each, _ in imported(module)}):
        if any(within(name, impure) for impure in IMPURE_MODULES):
            yield f"purity {module.name} imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute):
            called = ast.unparse(node)
            if node.attr in IMPURE_NAMES or any(called.endswith(each) for each in IMPURE_CALLS):
                yield f"purity {module.name} uses {called}"
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name in IMPURE_NAMES:
                    yield f"purity {module.name} uses {alias.name}"


def broken_sizes(module: Module) -> Iterator[str]:
    """Modules, functions and classes are small; tests only have to be short modules."""
    lines = module.text.count("\n")
    if lines > MODULE_LINES_MAX:
        yield f"size {module.name} has more than {MODULE_LINES_MAX} lines"
    if is_test(module.name):
        return
    for node, path in definitions(module.tree, ""):
        if isinstance(node, ast.ClassDef):
            methods = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
            if len(methods) > CLASS_METHODS_MAX:
                yield f"size {module.name}.{path} has more than {CLASS_METHODS_MAX} methods"
        else:
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            if (node.end_lineno or first) - first + 1 > FUNCTION_LINES_MAX:
                yield f"size {module.name}.{path} has more than {FUNCTION_LINES_MAX} lines"


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions(node: ast.AST, prefix: str) -> Iterator[tuple[Definition, str]]:
    """Every class and function in ``node``, also inside others, with its dotted name."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, Definition):
            yield each, prefix + each.name
            yield from definitions(each, f"{prefix}{each.name}.")
        else:
            yield from definitions(each, prefix)


def broken_docstrings(module: Module) -> Iterator[str]:
    """Modules, public classes and public functions say what they are; methods that Twisted calls may be silent."""
    if not ast.get_docstring(module.tree):
        yield f"docstring {module.name} has none"
    if is_test(module.name):
        return
    for node, path in public(module.tree.body, ""):
        if not ast.get_docstring(node):
            yield f"docstring {module.name}.{path} has none"


def public(body: list[ast.stmt], prefix: str) -> Iterator[tuple[Definition, str]]:
    """What others may use: no underscore, not nested in a function, no overload, setter or Twisted's own name."""
    for each in body:
        if not isinstance(each, Definition) or each.name.startswith("_"):
            continue
        if isinstance(each, ast.ClassDef):
            yield each, prefix + each.name
            yield from public(each.body, f"{prefix}{each.name}.")
        elif not any(_is_repeat(one) for one in each.decorator_list) and each.name == each.name.lower():
            yield each, prefix + each.name


def _is_repeat(decorator: ast.expr) -> bool:
    """Whether a decorator marks a function that is described elsewhere."""
    return ast.unparse(decorator).rpartition(".")[2] in ("overload", "setter", "deleter")


def broken_inits(module: Module) -> Iterator[str]:
    """``__init__.py`` holds a docstring."""
    if module.package and not is_test(module.name):
        body = module.tree.body
        if len(body) != 1 or not ast.get_docstring(module.tree):
            yield f"init {module.name} holds more than a docstring"


def broken_reactor_imports(module: Module) -> Iterator[str]:
    """Importing a module never chooses the reactor. Trial has chosen it before it imports a test."""
    if is_test(module.name):
        return
    inside = {
        id(inner)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
    }
    for node in ast.walk(module.tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.ImportFrom):
            found = {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
        elif isinstance(node, ast.Import):
            found = {alias.name for alias in node.names}
        else:
            continue
        if "twisted.internet.reactor" in found:
            yield f"reactor {module.name} imports it at module level"


RULES: Final = (
    broken_floors, broken_purity, broken_sizes, broken_docstrings, broken_inits, broken_reactor_imports,
)  # fmt: skip


def broken() -> list[str]:
    """Everything that breaks a rule."""
    return list(dict.fromkeys(each for rule in RULES for module in modules() for each in rule(module)))


class HouseTests(SynchronousTestCase):
    """The whole package against the rules."""

    def test_rules_hold(self):
        """Nothing breaks a rule but what the list of exceptions names."""
        found = [each for each in broken() if each not in EXCEPTIONS]
        if found:
            self.fail("\n".join(found))

    def test_exceptions_are_needed(self):
        """The list of exceptions only shrinks: what does not break a rule any more is taken off it."""
        needless = sorted(set(EXCEPTIONS) - set(broken()))
        self.assertEqual(needless, [])

    def test_exceptions_have_reasons(self):
        """Each exception says why."""
        self.assertTrue(all(len(reason.split()) >= 3 for reason in EXCEPTIONS.values()))


class RuleTests(SynchronousTestCase):
    """Each rule notices what it is there for."""

    def found(self, rule, name, source):
        path = Path(self.mktemp())
        path.write_text(source)
        return list(rule(Module(name, path, package=name == "relay.made_up_package")))

    def test_upward_import(self):
        """An import of a higher floor is found, wherever it stands and however it is written."""
        for source in (
            "import relay.core.session",
            "from relay.core import session",
            "def f():\n    from ..core.session import Session",
        ):
            self.assertEqual(
                self.found(broken_floors, "relay.wire.made_up", source),
                ["floor relay.wire.made_up imports relay.core.session"],
            )

    def test_siblings(self):
        """Packages of floor 4 do not import one another; within one they do."""
        self.assertEqual(
            self.found(broken_floors, "relay.store.made_up", "import relay.protocols.listen"),
            ["siblings relay.store.made_up imports relay.protocols.listen"],
        )
        self.assertEqual(self.found(broken_floors, "relay.store.made_up", "import relay.store.wal"), [])

    def test_nearest_rule(self):
        """Raft is on floor 1 though its package is on floor 4."""
        self.assertEqual((floor("relay.cluster.raft.node"), floor("relay.cluster.links")), (1, 4))
        self.assertIsNone(floor("relay.made_up"))

    def test_no_place(self):
        """A module that the table does not know has to get a floor."""
        self.assertEqual(self.found(broken_floors, "relay.made_up", ""), ["floor relay.made_up is on none"])

    def test_reactor_package(self):
        """The reactor imports nothing of relay, and only tap names it."""
        self.assertEqual(
            self.found(broken_floors, "relay.reactor.made_up", "import relay.errors"),
            ["floor relay.reactor.made_up imports relay.errors"],
        )
        self.assertEqual(
            self.found(broken_floors, "relay.core.made_up", "import relay.reactor.uv"),
            ["floor relay.core.made_up imports relay.reactor.uv"],
        )

    def test_purity(self):
        """Clocks, randomness, sockets and Twisted are found on floors 0 and 1, and nowhere else."""
        source = "import time\nfrom os import urandom\nimport os, datetime\nos.urandom(1)\ndatetime.datetime.now()\n"
        self.assertEqual(
            sorted(self.found(broken_purity, "relay.wire.made_up", source)),
            [
                "purity relay.wire.made_up imports time",
                "purity relay.wire.made_up uses datetime.datetime.now",
                "purity relay.wire.made_up uses os.urandom",
                "purity relay.wire.made_up uses urandom",
            ],
        )
        self.assertEqual(self.found(broken_purity, "relay.core.made_up", source), [])

    def test_sizes(self):
        """Long modules, long functions and wide classes are found; decorators count."""
        wide = "class A:\n" + "".join(f"    def m{n}(self): ...\n" for n in range(CLASS_METHODS_MAX + 1))
        long = "@deco\ndef f():\n" + "    pass\n" * (FUNCTION_LINES_MAX - 1)
        self.assertEqual(
            self.found(broken_sizes, "relay.core.made_up", wide + long),
            ["size relay.core.made_up.A has more than 20 methods", "size relay.core.made_up.f has more than 60 lines"],
        )
        self.assertEqual(
            self.found(broken_sizes, "relay.test.made_up", "\n" * 501),
            ["size relay.test.made_up has more than 500 lines"],
        )
        self.assertEqual(self.found(broken_sizes, "relay.core.made_up", "\n" * 500), [])

    def test_docstrings(self):
        """Modules, public classes, functions and methods need one; private ones and Twisted's do not."""
        source = (
            "class A:\n    def f(self): ...\n    def _g(self): ...\n    def connectionMade(self): ...\ndef h(): ...\n"
        )
        self.assertEqual(
            self.found(broken_docstrings, "relay.core.made_up", source),
            [f"docstring relay.core.made_up{each} has none" for each in ("", ".A", ".A.f", ".h")],
        )

    def test_inits(self):
        """A package's own file has a docstring and nothing else."""
        self.assertEqual(
            self.found(broken_inits, "relay.made_up_package", '"""x"""\nimport os\n'),
            ["init relay.made_up_package holds more than a docstring"],
        )

    def test_reactor_imports(self):
        """The reactor is imported inside functions or not at all."""
        for source in ("from twisted.internet import reactor", "class A:\n    import twisted.internet.reactor"):
            self.assertEqual(
                self.found(broken_reactor_imports, "relay.tap", source),
                ["reactor relay.tap imports it at module level"],
            )
        self.assertEqual(
            self.found(broken_reactor_imports, "relay.tap", "def f():\n    from twisted.internet import reactor"), []
        )
