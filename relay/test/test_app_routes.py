"""Which method answers which name."""

from __future__ import annotations

from typing import Any

from zope.interface.verify import verifyObject

from relay.app import (
    Context,
    alias,
    pull,
    push,
    route,
    unknown,
)
from relay.errors import (
    ConfigError,
    NoProvider,
)
from relay.interfaces import IAnswer, ILocalProvider
from relay.test.app_fixture import AppTestCase
from relay.test.fakes_app import FakeAnswer
from relay.wire import kinds
from relay.wire.message import Message


class Home:
    """Routes of several kinds."""

    _seen: list[str]

    def __init__(self) -> None:
        self._seen = []

    def test(self) -> str:
        return "test"

    def getUser2(self) -> str:  # noqa: N802 - the case is what is tested
        return "user"

    @route("short")
    def a_long_name(self) -> str:
        return "short"

    @alias("old.name", "older.name")
    def now(self) -> str:
        return "now"

    @pull
    @route("both")
    def both_pulled(self) -> str:
        return "pulled"

    @push
    @route("both")
    def both_pushed(self) -> None:
        self._seen.append("pushed")

    @pull
    def only_pull(self) -> str:
        return "pull"

    @push
    def only_push(self) -> None:
        self._seen.append("only push")

    @staticmethod
    def fixed() -> str:
        return "fixed"

    @property
    def attribute(self) -> str:
        raise AssertionError("properties are no routes, and not read")

    def _helper(self) -> str:
        raise AssertionError("not a route")


@route("")
class Bare:
    """Its methods follow the prefix."""

    def here(self) -> None:
        return None


@route("page")
class Renamed(Bare):
    """It has its base's method too."""

    def there(self) -> None:
        return None


class HTTPPage:
    """Its name is written http_page."""

    prefix = "group"

    def here(self) -> None:
        return None


class RouteTests(AppTestCase):
    """Names."""

    def setUp(self):
        super().setUp()
        self.home = Home()
        self.app.add(self.home, "group")

    def test_names(self):
        """A method answers prefix, class and method in snake_case; decorators name it otherwise."""
        self.assertEqual(
            set(self.app.providers()),
            {
                "group.home.test", "group.home.get_user2", "group.home.short", "group.home.now", "old.name",
                "older.name", "group.home.both", "group.home.only_pull", "group.home.only_push", "group.home.fixed",
            },
        )  # fmt: skip
        for name, expected in [
            ("group.home.test", "test"), ("group.home.get_user2", "user"), ("group.home.short", "short"),
            ("old.name", "now"), ("older.name", "now"), ("group.home.fixed", "fixed"),
        ]:  # fmt: skip
            self.assertEqual(self.result(name), expected)
        verifyObject(ILocalProvider, self.provider("old.name"))
        verifyObject(IAnswer, FakeAnswer())

    def test_pull_and_push_apart(self):
        """A name may have one method for pulls and another for pushes; one that is missing is no provider."""
        self.assertEqual(self.result("group.home.both"), "pulled")
        self.told("group.home.both")
        self.told("group.home.only_push")
        self.assertEqual(self.home._seen, ["pushed", "only push"])
        error = self.call("group.home.only_push").error
        self.assertIsInstance(error, NoProvider)
        assert error is not None
        self.assertFalse(error.temporary)
        self.assertRaises(NoProvider, self.told, "group.home.only_pull")

    def test_class_names(self):
        """The class's part may be another or left out; methods of bases are routes too."""
        self.app.add(Renamed(), "a")
        self.app.add(Bare(), "b")
        self.assertLessEqual({"a.page.here", "a.page.there", "b.here"}, set(self.app.providers()))

    def test_plugins(self):
        """``routes()`` of plugins gives the objects; their attribute ``prefix`` begins the names."""

        class Plugin:
            name = "p"

            def routes(self) -> list[object]:
                return [HTTPPage()]

        self.app.use([object(), Plugin()])
        self.assertIn("group.http_page.here", self.app.providers())

    def test_mistakes(self):
        """What cannot work stops the start, with the method's name."""

        class Generator:
            def numbers(self) -> Any:
                yield 1

        class Stars:
            def numbers(self, *args: int) -> None:
                return None

        class PushedStream:
            @push
            async def numbers(self) -> Any:
                yield 1

        class Unresolved:
            def numbers(self, x: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821, UP037
                return None

        class Reserved:
            @alias("$own.numbers")
            def numbers(self) -> None:
                return None

        for wrong in (Generator(), Stars(), PushedStream(), Unresolved(), Reserved(), Home):
            error = self.assertRaises(ConfigError, self.app.add, wrong)
            self.assertIn("Home" if wrong is Home else "numbers", str(error))
        for prefix in ("a.*", "x" * 255, "a\n"):
            self.assertRaises(ConfigError, self.app.add, Home(), prefix)
        error = self.assertRaises(ConfigError, self.app.add, Home(), "group")
        self.assertIn("group.home", str(error))


class Unknowns:
    """Takes what nobody else does, below its own name."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def known(self) -> str:
        return "known"

    @push
    def only_push(self) -> None:
        return None

    @unknown
    @pull
    def other(self, ctx: Context) -> str:
        return f"unknown {ctx.message.name}"

    @unknown
    @push
    def other_push(self, ctx: Context) -> None:
        self.seen.append(ctx.message.name)


@route("")
class Everything:
    """Takes all of it."""

    @unknown
    @pull
    def rest(self, ctx: Context) -> str:
        return f"rest {ctx.message.name}"


class UnknownTests(AppTestCase):
    """Names without a route."""

    def test_none(self):
        """Without such handlers there is nothing to ask."""
        self.assertIsNone(self.app.unknown())

    def test_below_its_name(self):
        """An unknown-route method takes what is below its class's name, pulls and pushes apart."""
        handlers = Unknowns()
        self.app.add(handlers, "p")
        self.assertEqual(self.result("p.unknowns.known"), "known")
        self.assertEqual(self.result("p.unknowns.x.y"), "unknown p.unknowns.x.y")
        self.assertEqual(self.result("p.unknowns.only_push"), "unknown p.unknowns.only_push")
        self.told("p.unknowns.z")
        self.assertEqual(handlers.seen, ["p.unknowns.z"])
        for name in ("p.unknowns", "p.unknownsx", "q", "p.other.x"):
            self.assertIsInstance(self.call(name).error, NoProvider)
            self.assertRaises(NoProvider, self.told, name)

    def test_longest_first(self):
        """The nearest one takes it; one without a name takes all the rest."""
        self.app.add(Everything())
        self.app.add(Unknowns())
        self.assertEqual(self.result("unknowns.x"), "unknown unknowns.x")
        self.assertEqual(self.result("other"), "rest other")
        provider = self.app.unknown()
        assert provider is not None
        verifyObject(ILocalProvider, provider)

    def test_target(self):
        """The procedure that was asked for counts, not the name that it sees."""
        self.app.add(Unknowns())
        answer = FakeAnswer()
        provider = self.app.unknown()
        assert provider is not None
        provider.pull(self.session, Message(kinds.PULL, "seen", fields={kinds.PROCEDURE: "unknowns.x"}), answer)
        self.assertEqual(answer.replies[0][0], b"unknown seen")
