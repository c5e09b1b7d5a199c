"""The linearizability checker: small histories by hand, and a twin that tries every order."""

from __future__ import annotations

import contextlib
import io
from itertools import permutations
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.test.linearizability import (
    NIL,
    BadHistory,
    Operation,
    linearizable,
    linearizable_by_key,
    main,
    read_history,
    register,
)


def write(value: str, called: int, returned: int | None) -> Operation:
    """A write that returned, or did not."""
    return Operation("write", value, None, called, returned)


def read(value: str, called: int, returned: int | None) -> Operation:
    """A read that saw ``value``."""
    return Operation("read", None, value, called, returned)


def cas(old: str, new: str, swapped: bool, called: int, returned: int | None) -> Operation:
    """A compare-and-swap and what it answered."""
    return Operation("cas", (old, new), swapped, called, returned)


class HistoryTests(SynchronousTestCase):
    """Histories of one register."""

    def holds(self, *operations: Operation) -> bool:
        """Whether they are linearizable on a register that begins empty."""
        return linearizable(operations, NIL, register)

    def test_nothing_happened(self) -> None:
        """The empty history is linearizable."""
        self.assertTrue(self.holds())

    def test_one_after_the_other(self) -> None:
        """A read after a write sees it, and not what was before."""
        self.assertTrue(self.holds(write("1", 0, 1), read("1", 2, 3)))
        self.assertFalse(self.holds(write("1", 0, 1), read(NIL, 2, 3)))

    def test_at_the_same_time(self) -> None:
        """A read during a write may see it or not."""
        self.assertTrue(self.holds(write("1", 0, 3), read("1", 1, 2)))
        self.assertTrue(self.holds(write("1", 0, 3), read(NIL, 1, 2)))

    def test_no_way_back(self) -> None:
        """Once a read has seen the new value, none that begins later sees the old one."""
        during = write("1", 0, 9)
        self.assertTrue(self.holds(during, read(NIL, 1, 2), read("1", 3, 4)))
        self.assertFalse(self.holds(during, read("1", 1, 2), read(NIL, 3, 4)))

    def test_two_readers_agree_on_the_order(self) -> None:
        """Two writes at the same time have one order, the same for everybody."""
        writes = (write("1", 0, 2), write("2", 1, 3))
        self.assertTrue(self.holds(*writes, read("1", 4, 5), read("1", 6, 7)))
        self.assertFalse(self.holds(*writes, read("1", 4, 5), read("2", 6, 7)))

    def test_an_operation_without_an_answer_may_have_happened(self) -> None:
        """At any moment after its call, or never; but not before, and not twice."""
        lost = write("1", 2, None)
        self.assertTrue(self.holds(lost, read(NIL, 3, 4), read(NIL, 5, 6)))
        self.assertTrue(self.holds(lost, read(NIL, 3, 4), read("1", 5, 6)))
        self.assertFalse(self.holds(lost, read("1", 0, 1)))
        self.assertFalse(self.holds(lost, read("1", 3, 4), write("2", 5, 6), read("1", 7, 8)))

    def test_compare_and_swap(self) -> None:
        """Its answer says what the value was."""
        self.assertTrue(self.holds(write("1", 0, 1), cas("1", "2", True, 2, 3), read("2", 4, 5)))
        self.assertFalse(self.holds(write("1", 0, 1), cas("3", "2", True, 2, 3)))
        self.assertTrue(self.holds(write("1", 0, 1), cas("3", "2", False, 2, 3), read("1", 4, 5)))
        self.assertFalse(self.holds(write("1", 0, 1), cas("1", "2", False, 2, 3)))
        self.assertFalse(self.holds(write("1", 0, 1), cas("1", "2", True, 2, 5), cas("1", "3", True, 3, 4)))

    def test_many_lost_writes_do_not_explode(self) -> None:
        """The cache keeps a set of operations from being tried in every order."""
        lost = [write(str(number % 3), number, None) for number in range(9)]
        reads = [read(str(number % 3), 100 + 2 * number, 101 + 2 * number) for number in range(9)]
        self.assertTrue(self.holds(*lost, *reads))
        self.assertFalse(self.holds(*lost, *reads, read("7", 200, 201)))

    def test_keys_are_judged_apart(self) -> None:
        """A history over several keys is linearizable if that of each key is."""
        first = Operation("write", "1", None, 0, 1)
        other = Operation("read", None, NIL, 2, 3)
        keys = {id(first): "a", id(other): "b"}
        self.assertFalse(linearizable([first, other], NIL, register))
        self.assertTrue(linearizable_by_key([first, other], lambda one: keys[id(one)], NIL, register))


def every_order(operations: list[Operation]) -> bool:
    """The twin: try every order of every choice of the operations that never returned."""
    finished = [one for one in operations if one.returned is not None]
    pending = [one for one in operations if one.returned is None]
    for chosen in range(1 << len(pending)):
        extra = [one for number, one in enumerate(pending) if chosen >> number & 1]
        for order in permutations(finished + extra):
            in_time = all(
                later.returned is None or later.returned > earlier.called
                for position, earlier in enumerate(order)
                for later in order[position + 1 :]
            )
            state: str | None = NIL
            for one in order:
                state = register(state, one) if state is not None else None
            if in_time and state is not None:
                return True
    return not finished


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    """Up to five operations over two values, overlapping at random."""
    count = draw(st.integers(0, 5))
    moments = draw(st.permutations(range(2 * count)))
    value = st.sampled_from(["0", "1"])
    operations = []
    for number in range(count):
        called, returned = sorted(moments[2 * number : 2 * number + 2])
        end = None if draw(st.integers(0, 4)) == 0 else returned
        action = draw(st.sampled_from(["read", "write", "cas"]))
        if action == "cas":
            operations.append(cas(draw(value), draw(value), draw(st.booleans()), called, end))
        elif action == "write":
            operations.append(write(draw(value), called, end))
        else:
            operations.append(read(draw(st.sampled_from([NIL, "0", "1"])), called, end))
    return operations


class TwinTests(SynchronousTestCase):
    """The search against the plain definition."""

    @settings(max_examples=200, deadline=None)
    @given(histories())
    def test_agrees_with_every_order(self, operations: list[Operation]) -> None:
        """The search finds an order exactly when there is one."""
        self.assertIs(linearizable(operations, NIL, register), every_order(operations))


GOOD = """\
INFO  jepsen.util - 0\t:invoke\t:write\t3
INFO  jepsen.util - 1\t:invoke\t:cas\t[3 4]
INFO  jepsen.util - 0\t:ok\t:write\t3
INFO  jepsen.util - 1\t:info\t:cas\t:timed-out
INFO  jepsen.util - 2\t:invoke\t:cas\t[9 1]
INFO  jepsen.util - 2\t:fail\t:cas\t[9 1]
INFO  jepsen.util - 2\t:invoke\t:read\tnil
INFO  jepsen.util - 2\t:ok\t:read\t4
"""


class CommandTests(SynchronousTestCase):
    """``python -m relay.test.linearizability DIR``."""

    def run_main(self, verdicts: str) -> tuple[int, str]:
        """Exit status and output for the history above and one that is not linearizable."""
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "etcd_000.log").write_text(GOOD)
        (folder / "etcd_001.log").write_text(GOOD.replace(":read\t4", ":read\t5"))
        (folder / "verdicts.txt").write_text(verdicts)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            status = main([str(folder)])
        return status, output.getvalue()

    def test_agreement(self) -> None:
        """Only the count is printed."""
        self.assertEqual(self.run_main("etcd_000.log true\netcd_001.log false\n"), (0, "2 of 2\n"))

    def test_disagreement(self) -> None:
        """The history is named and the status is 1."""
        self.assertEqual(
            self.run_main("etcd_000.log true\netcd_001.log true\n"),
            (1, "etcd_001.log: found false, verdict true\n1 of 2\n"),
        )

    def test_what_failed_did_not_happen(self) -> None:
        """``:fail`` leaves nothing, ``:info`` and a missing end leave an operation that may have happened."""
        operations = read_history([*GOOD.splitlines(), "INFO  jepsen.util - 5\t:invoke\t:write\t1"])
        self.assertEqual(
            [(one.action, one.argument, one.returned) for one in operations],
            [("write", "3", 2), ("cas", ("3", "4"), None), ("read", "nil", 7), ("write", "1", None)],
        )

    def test_a_history_that_makes_no_sense(self) -> None:
        """A process that calls twice, and an end without a call."""
        line = "INFO  jepsen.util - 0\t:invoke\t:write\t3"
        self.assertRaises(BadHistory, read_history, [line, line])
        self.assertRaises(BadHistory, read_history, [line.replace("invoke", "ok")])
