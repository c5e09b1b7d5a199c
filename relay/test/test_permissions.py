"""Permissions: which names a session may use, and that no user name widens what it may."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.config_auth import EVERYTHING, Permit
from relay.core import permissions
from relay.core.permissions import ACTIONS, Permissions, covers, permissions_for, user_segment
from relay.wire import names

SEGMENTS = ("a", "b")
# Two segments more than the longest pattern: enough to tell ``**`` from every fixed length.
NAMES = [".".join(each) for length in range(1, 6) for each in itertools.product(SEGMENTS, repeat=length)]


@st.composite
def patterns(draw: st.DrawFn) -> str:
    parts = draw(st.lists(st.sampled_from([*SEGMENTS, "*"]), max_size=3))
    if not parts or draw(st.booleans()):
        parts.append(draw(st.sampled_from(["**", "*", *SEGMENTS])))
    return ".".join(parts[:3])


class CoversTests(SynchronousTestCase):
    """``covers`` against its meaning, on a small alphabet."""

    @settings(max_examples=600, deadline=None)
    @given(patterns(), patterns())
    def test_covers_means_every_name(self, permission: str, wanted: str):
        """A permission covers a pattern exactly when it allows each of the names that the pattern stands for."""
        every = all(names.matches(permission, name) for name in NAMES if names.matches(wanted, name))
        self.assertEqual(covers(permission, wanted), every)

    def test_examples(self):
        """The examples of the documentation."""
        for permission, wanted, expected in [
            ("room.*", "room.1", True),
            ("room.*", "room.*", True),
            ("room.*", "room.**", False),
            ("room.**", "room.*", True),
            ("room.**", "room.**", True),
            ("room.**", "room", False),
            ("room.1", "room.*", False),
            ("**", "**", True),
            ("*", "**", False),
            ("*.*", "room.1", True),
            ("room", "room.1", False),
            ("*.a", "b.*", False),
        ]:
            self.assertEqual(covers(permission, wanted), expected, (permission, wanted))


class PermissionsTests(SynchronousTestCase):
    """A permit and a user."""

    def test_nothing_by_default(self):
        """An empty permit allows nothing."""
        empty = Permissions(Permit(), "ann")
        for action in ACTIONS:
            self.assertFalse(empty.allows(action, "room.1"))
            self.assertFalse(empty.allows_user(action, "ann"))
            self.assertTrue(empty.rule(action).none)

    def test_everything(self):
        """``**`` allows every name and every pattern."""
        all_of_it = Permissions(EVERYTHING, "ann")
        for action in ACTIONS:
            if action != "bind":
                self.assertTrue(all_of_it.allows(action, "a.b.c"))
                self.assertTrue(all_of_it.allows(action, "**"))
        self.assertFalse(all_of_it.allows_user("bind", "bob"))

    def test_actions_are_apart(self):
        """A permission for one action says nothing about another."""
        may = Permissions(Permit(publish=("room.*",)), "ann")
        self.assertTrue(may.allows("publish", "room.1"))
        self.assertFalse(may.allows("subscribe", "room.1"))

    def test_own_name(self):
        """``{user}`` is the session's own name, in a segment or in a part of one."""
        may = Permissions(Permit(subscribe=("user.{user}.**", "inbox-{user}")), "ann")
        self.assertTrue(may.allows("subscribe", "user.ann.mail"))
        self.assertTrue(may.allows("subscribe", "inbox-ann"))
        self.assertFalse(may.allows("subscribe", "user.bob.mail"))
        self.assertFalse(may.allows("subscribe", "user.*.mail"))

    def test_unbound(self):
        """Without a user, patterns with ``{user}`` allow nothing, the others stay."""
        may = Permissions(Permit(subscribe=("user.{user}.**", "{user}", "news")), "")
        self.assertTrue(may.allows("subscribe", "news"))
        self.assertFalse(may.allows("subscribe", "user..mail"))
        self.assertFalse(may.allows_user("subscribe", ""))

    def test_own_user_is_literal(self):
        """The pattern ``{user}`` alone is the own user, whatever characters the name has."""
        may = Permissions(Permit(bind=("{user}",)), "ann@example.com")
        self.assertTrue(may.allows_user("bind", "ann@example.com"))
        self.assertFalse(may.allows_user("bind", "bob@example.com"))
        self.assertFalse(may.allows("bind", "ann@example.com"))

    def test_users_by_pattern(self):
        """Users are matched over the segments of their names; nothing in a user's name is a wildcard."""
        may = Permissions(Permit(push=("team.*",)), "ann")
        self.assertTrue(may.allows_user("push", "team.bob"))
        self.assertTrue(may.allows_user("push", "team.**"))
        self.assertFalse(may.allows_user("push", "team.bob.phone"))
        self.assertFalse(may.allows_user("push", "**"))

    @settings(max_examples=300, deadline=None)
    @given(st.text("ab.*%{}user", min_size=1, max_size=6), st.sampled_from(NAMES))
    def test_no_user_name_widens(self, user: str, name: str):
        """What ``x.{user}.y`` allows a user is one name, which no other user is allowed."""
        may = Permissions(Permit(publish=("{user}", "{user}.b", "a.{user}.**")), user)
        own = user_segment(user)
        self.assertTrue(may.allows("publish", f"{own}.b"))
        expected = name in (own, f"{own}.b") or (name.startswith(f"a.{own}.") and name != f"a.{own}.")
        self.assertEqual(may.allows("publish", name), expected)
        self.assertFalse(may.allows("publish", "*.b"))
        self.assertFalse(may.allows("publish", "a.*.b"))
        self.assertNotIn(".", own)
        self.assertNotIn("*", own)

    @settings(max_examples=200, deadline=None)
    @given(st.text("a.*%2E5", max_size=6), st.text("a.*%2E5", max_size=6))
    def test_user_segments_differ(self, one: str, other: str):
        """Two users never share a segment."""
        self.assertEqual(user_segment(one) == user_segment(other), one == other)

    def test_verdicts_are_bounded(self):
        """Asking for many names keeps a bounded number of verdicts, and the same answers."""
        may = Permissions(Permit(publish=("room.*",)), "ann")
        rule = may.rule("publish")
        for number in range(3 * permissions.VERDICTS_MAX):
            self.assertEqual(may.allows("publish", f"room.{number}"), True)
            self.assertEqual(may.allows("publish", f"hall.{number}"), False)
            self.assertLessEqual(len(rule._verdicts), permissions.VERDICTS_MAX)

    def test_kept_verdict_is_the_first(self):
        """The second question for a name has the answer of the first."""
        may = Permissions(Permit(call=("a.*",)), "ann")
        for name, expected in [("a.b", True), ("a.b.c", False), ("a.*", True), ("a.**", False)]:
            self.assertEqual([may.allows("call", name), may.allows("call", name)], [expected, expected])

    def test_shared_without_user(self):
        """A permit that does not mention the user is compiled once for all users; the others per user."""
        plain, own = Permit(publish=("room.*",)), Permit(publish=("{user}",))
        self.assertIs(permissions_for(plain, "ann"), permissions_for(plain, "bob"))
        self.assertIsNot(permissions_for(own, "ann"), permissions_for(own, "bob"))
        self.assertTrue(permissions_for(own, "ann").bound_to("bob").allows("publish", "bob"))
        self.assertFalse(permissions_for(own, "ann").bound_to("bob").allows("publish", "ann"))
