"""What a session may do: patterns of names per action, compiled for one user.

    Permit (configuration, token, call-out)  +  user name  ──▶  Permissions  ──▶  allows(action, name)

A permission allows a wanted name, or a wanted *pattern*, when it covers it: when every name that the wanted one stands
for is also one that the permission stands for. For a literal name that is plain matching; a subscription to ``room.*``
needs ``room.*``, ``room.**`` or ``**``, and ``room.1`` is not enough.

``{user}`` in a pattern stands for the session's own name, inside one segment and never as a wildcard: ``%``, ``.`` and
``*`` of the name are written ``%25``, ``%2E`` and ``%2A`` there (the mapping that the other dialects use for names
too), so a user called ``ann.admin`` or ``**`` reaches nothing that a user called ``ann`` could not. While a session
is unbound, patterns with ``{user}`` allow nothing.

Users are named as they are, not escaped: :meth:`Permissions.allows_user` takes the permission's patterns over the
segments of the user's name, and the pattern ``{user}`` alone is the session's own user.

Reference for the grammar: ``docs/protocol.md`` section 4.
"""

from __future__ import annotations

import functools
from typing import Final, Literal, get_args

from relay.config_auth import Permit

Action = Literal[
    "publish", "subscribe", "push", "call", "register", "broadcast", "presence", "bind", "consume", "manage"
]
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)

# Verdicts kept per action. A session seldom uses more names than this; when it does, the table starts again.
VERDICTS_MAX: Final = 512
# Compiled permits that name no user are shared by all sessions that have them.
SHARED_MAX: Final = 1024
OWN_NAME: Final = "{user}"

_ESCAPES: Final = str.maketrans({"%": "%25", ".": "%2E", "*": "%2A"})


def user_segment(user: str) -> str:
    """``user`` as one literal segment of a name; two users never have the same one."""
    return user.translate(_ESCAPES)


def covers(permission_pattern: str, wanted_pattern: str) -> bool:
    """True when every name that ``wanted_pattern`` stands for is one that ``permission_pattern`` stands for.

    Both are well-formed patterns or literal names (``**`` last only).
    """
    return _covers(tuple(permission_pattern.split(".")), wanted_pattern.split("."))


def _covers(permission: tuple[str, ...], wanted: list[str], literal: bool = False) -> bool:
    """As ``covers``, over segments; with ``literal`` the wanted segments are text even where they look like ``*``."""
    last = len(wanted) - 1
    for index, segment in enumerate(permission):
        if index > last:
            return False
        if segment == "**":
            return True
        found = wanted[index]
        if found == "**" and not literal:
            return False  # any number of segments, and only a ``**`` takes them
        if segment == "*":
            continue
        if segment != found or (found == "*" and not literal):
            return False
    return len(permission) == len(wanted)


class Rule:
    """The patterns of one action. ``all`` and ``none`` are the answers that need no look at the name."""

    __slots__ = ("_own_user", "_patterns", "_users", "_verdicts", "all", "none")

    def __init__(self, patterns: tuple[str, ...], user: str) -> None:
        self.all = "**" in patterns
        self._own_user = user if OWN_NAME in patterns else ""
        segment = user_segment(user)
        usable = [each.replace(OWN_NAME, segment) for each in patterns if user or OWN_NAME not in each]
        self._patterns = [tuple(each.split(".")) for each in dict.fromkeys(usable)]
        # ``{user}`` alone is the session's own user as it is written, not somebody whose name looks like the escape.
        escape = segment if self._own_user and segment not in patterns else None
        self._users = [each for each in self._patterns if each != (escape,)]
        self.none = not self._patterns
        self._verdicts: dict[str, bool] = {}

    def allows(self, name: str) -> bool:
        """Whether a name, or all that a pattern stands for, is allowed."""
        if self.all:
            return True
        verdict = self._verdicts.get(name)
        if verdict is None:
            wanted = name.split(".")
            verdict = any(_covers(pattern, wanted) for pattern in self._patterns)
            if len(self._verdicts) >= VERDICTS_MAX:
                self._verdicts.clear()
            self._verdicts[name] = verdict
        return verdict

    def allows_user(self, user: str) -> bool:
        """Whether that user is allowed; not kept, users are asked about less often than names."""
        if self.all or (self._own_user and user == self._own_user):
            return True
        wanted = user.split(".")
        return any(_covers(pattern, wanted, literal=True) for pattern in self._users)


class Permissions:
    """A ``Permit`` for one user. Made once per identity; sessions with the same permit may share one object."""

    __slots__ = ("_rules", "permit")

    def __init__(self, permit: Permit, user: str = "") -> None:
        self.permit = permit
        self._rules: dict[str, Rule] = {action: Rule(getattr(permit, action), user) for action in ACTIONS}

    def allows(self, action: Action, name: str) -> bool:
        """Whether ``action`` on ``name`` is allowed. For ``subscribe`` and ``register``, ``name`` may be a pattern."""
        rule = self._rules[action]
        return rule.all or rule.allows(name)

    def allows_user(self, action: Action, user: str) -> bool:
        """Whether ``action`` (push, call, presence, bind) is allowed on that user."""
        return self._rules[action].allows_user(user)

    def rule(self, action: Action) -> Rule:
        """The rule of one action, for who asks it very often."""
        return self._rules[action]

    def bound_to(self, user: str) -> Permissions:
        """The same permit for another user: what a session has after ``bind``."""
        return permissions_for(self.permit, user)


@functools.lru_cache(maxsize=SHARED_MAX)
def _shared(permit: Permit) -> Permissions:
    return Permissions(permit)


@functools.lru_cache(maxsize=SHARED_MAX)
def _names_user(permit: Permit) -> bool:
    return any(OWN_NAME in pattern for action in ACTIONS for pattern in getattr(permit, action))


def permissions_for(permit: Permit, user: str) -> Permissions:
    """``permit`` compiled for ``user``; one shared object for all users when it does not mention ``{user}``."""
    return Permissions(permit, user) if _names_user(permit) else _shared(permit)
