"""Which methods of an object answer which routes.

    prefix "group", class Home, method test        →  group.home.test

Every public method of the class (and of its bases) is a route, in snake_case; the decorators of ``relay.app`` leave
their marks on functions and classes, which are read here. Without a mark a method answers pulls and takes pushes; a
method that gives several replies (``async def`` with ``yield``) answers pulls only.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs

from relay.errors import BadName, ConfigError
from relay.wire.names import check_name

MARKS: Final = "__relay_marks__"
CLASS_ROUTE: Final = "__relay_route__"

_WORD: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@attrs.define
class Marks:
    """What decorators say about a method."""

    pull: bool = False
    push: bool = False
    unknown: bool = False
    route: str | None = None
    aliases: tuple[str, ...] = ()


@attrs.frozen
class Found:
    """One method. ``names``: its route and its aliases; for ``unknown`` what its names begin with, '' for all."""

    names: tuple[str, ...]
    function: Callable[..., Any]  # Any: an application's method
    pull: bool
    push: bool
    unknown: bool
    stream: bool
    where: str


def marks_of(function: Any) -> Marks:  # Any: a function takes any attribute
    """The marks of ``function``, made when it has none."""
    marks: Marks | None = function.__dict__.get(MARKS)
    if marks is None:
        marks = Marks()
        setattr(function, MARKS, marks)
    return marks


def snake_case(name: str) -> str:
    """``HomePage`` and ``homePage`` as ``home_page``."""
    return _WORD.sub("_", name).lower()


def routes_of(instance: object, prefix: str, own: bool = False) -> Iterator[Found]:
    """The routes of an object; ``own``: relay's own, whose names begin with $. Raises ``ConfigError``."""
    class_ = type(instance)
    if isinstance(instance, type):
        raise ConfigError(f"{instance.__name__}: an instance is expected, not the class")
    base = _joined(prefix, getattr(class_, CLASS_ROUTE, snake_case(class_.__name__)))
    for name in dir(class_):
        plain = inspect.getattr_static(class_, name)
        if isinstance(plain, (staticmethod, classmethod)):
            plain = plain.__func__
        if not name.startswith("_") and inspect.isfunction(plain):
            yield _found(getattr(instance, name), plain.__dict__.get(MARKS, Marks()), base, name, class_, own)


def _found(
    function: Callable[..., Any], marks: Marks, base: str, name: str, class_: type, own: bool
) -> Found:  # Any: as in Found
    where = f"{class_.__module__}.{class_.__qualname__}.{name}"
    stream = inspect.isasyncgenfunction(function)
    if inspect.isgeneratorfunction(function):
        raise ConfigError(f"{where}: a generator must be 'async def'")
    if stream and marks.push:
        raise ConfigError(f"{where}: a push takes no replies")
    any_ = not marks.pull and not marks.push
    route = base if marks.unknown else _joined(base, snake_case(name) if marks.route is None else marks.route)
    for each in (route, *marks.aliases):
        if each or not marks.unknown:
            _check(each, where, own)
    return Found(
        names=(route, *marks.aliases),
        function=function,
        pull=marks.pull or any_,
        push=marks.push or (any_ and not stream),
        unknown=marks.unknown,
        stream=stream,
        where=where,
    )


def _check(name: str, where: str, own: bool) -> None:
    try:
        check_name(name)
    except BadName as error:
        raise ConfigError(f"{where}: {error}") from None
    if name.startswith("$") and not own:
        raise ConfigError(f"{where}: names that begin with $ are relay's own")


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)
