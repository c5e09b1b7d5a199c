"""Elections of both kinds: one on duty, hand-over, failures; by a fake clock, members in one process."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relay.cluster import election_beats
from relay.cluster.candidacy import BUSY, ON_DUTY, OUT, STANDBY
from relay.cluster.election_beats import HeartbeatElections
from relay.cluster.elections import RaftElections
from relay.cluster.kv.commands import Close
from relay.errors import BadName, Conflict, LimitExceeded, RelayError, RemoteProtocolError
from relay.interfaces import ICandidacy, IElections, IRaftGroup
from relay.test.fakes_raft import FakeCluster

GIVE_UP_S = 0.1
"""The promise: after so long at most the next one is on duty."""


class RaftElectionTests(SynchronousTestCase):
    """Three nodes, each with its elections."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.cluster = FakeCluster(self.clock, write_timeout_s=1.0)
        self.elections = {node: RaftElections(self.cluster.keys[node], f"n{node}", 2.0) for node in (1, 2, 3)}
        self.changes: list[tuple[str, str]] = []

    def campaign(self, node: int, election: str = "job") -> Any:
        """Let a node campaign; what becomes of it is noted."""

        def changed(candidacy: ICandidacy) -> None:
            self.changes.append((f"n{node}", candidacy.state))

        return self.elections[node].campaign(election, changed)

    def test_shapes(self) -> None:
        """The classes keep what their interfaces promise; so does the fake group."""
        verifyObject(IElections, self.elections[1])
        verifyObject(ICandidacy, self.campaign(1))
        verifyObject(IRaftGroup, self.cluster.members[1])

    def test_first_is_on_duty(self) -> None:
        """Busy until the state has spoken; then the first is on duty and the others stand by."""
        first, second = self.campaign(1), self.campaign(2)
        self.assertEqual((first.state, second.state), (BUSY, BUSY))
        self.cluster.run(0.1)
        self.assertEqual((first.state, second.state), (ON_DUTY, STANDBY))
        self.assertEqual((first.duty, second.duty), ("n1", "n1"))
        self.assertIsNone(second.token)

    def test_many_elections(self) -> None:
        """Elections do not concern one another."""
        some = [self.campaign(node, f"job.{n}") for n in range(20) for node in (n % 3 + 1, (n + 1) % 3 + 1)]
        self.cluster.run(0.2)
        for pair in zip(some[::2], some[1::2], strict=True):
            self.assertEqual(sorted(each.state for each in pair), [ON_DUTY, STANDBY])

    def test_give_up(self) -> None:
        """After giving up the next is on duty, within 100 ms, with a larger token; never two at once."""
        first, second, third = self.campaign(1), self.campaign(2), self.campaign(3)
        self.cluster.run(0.2)
        tokens = [first.token]
        began_s = self.clock.seconds()
        first.give_up()
        self.assertEqual(first.state, OUT)
        while second.state != ON_DUTY:
            self.assertLess(self.clock.seconds() - began_s, GIVE_UP_S)
            self.clock.advance(0.001)
        tokens.append(second.token)
        self.assertEqual((third.state, third.duty), (STANDBY, "n2"))
        second.give_up()
        self.cluster.run(0.1)
        tokens.append(third.token)
        self.assertEqual(tokens, sorted({*tokens}))

    def test_again(self) -> None:
        """Who gave up may campaign again at once, and begins at the end."""
        first, second = self.campaign(1), self.campaign(2)
        self.cluster.run(0.1)
        first.give_up()
        again = self.campaign(1)
        self.cluster.run(0.3)
        self.assertEqual((second.state, again.state, first.state), (ON_DUTY, STANDBY, OUT))

    def test_crash(self) -> None:
        """The lease of a node that is gone ends by the leader's time, not before it is over; then the next follows."""
        first = self.campaign(3)
        self.cluster.run(0.1)
        second = self.campaign(2)
        self.cluster.run(0.1)
        self.assertEqual((first.state, second.state), (ON_DUTY, STANDBY))
        self.cluster.cut.add(3)
        self.cluster.run(1.0)
        self.assertEqual(second.state, STANDBY)
        while second.state != ON_DUTY:
            self.assertLess(self.clock.seconds(), 10)
            self.clock.advance(0.01)
            # The one that is cut off does not believe to be on duty any more when the other is.
            self.assertFalse(first.state == second.state == ON_DUTY)
        self.assertEqual(first.state, BUSY)

    def test_return(self) -> None:
        """A node that comes back after its lease ended is a candidate again, behind the others."""
        first = self.campaign(3)
        self.cluster.run(0.1)
        second = self.campaign(2)
        self.cluster.run(0.1)
        self.cluster.cut.add(3)
        self.cluster.run(4.0)
        self.cluster.cut.clear()
        self.cluster.spread()
        self.cluster.run(2.0)
        self.assertEqual((first.state, second.state), (STANDBY, ON_DUTY))

    def test_change_of_leader(self) -> None:
        """A change of the group's leader, and a while without any, changes no duty while leases last."""
        first, second = self.campaign(1), self.campaign(2)
        self.cluster.run(0.1)
        token = first.token
        self.cluster.lead(0)
        self.cluster.run(0.7)
        self.cluster.lead(2)
        self.cluster.run(5.0)
        self.assertEqual((first.state, first.token, second.state), (ON_DUTY, token, STANDBY))

    def test_long_without_leader(self) -> None:
        """Longer than the lease without a leader: nobody can say who is on duty; then it is the same one again."""
        first, second = self.campaign(1), self.campaign(2)
        self.cluster.run(0.1)
        token = first.token
        self.cluster.lead(0)
        self.cluster.run(5.0)
        self.assertEqual((first.state, first.token), (BUSY, None))
        self.cluster.lead(2)
        self.cluster.run(1.5)
        self.assertEqual((first.state, first.token, second.state), (ON_DUTY, token, STANDBY))
        self.cluster.run(10.0)
        self.assertEqual((first.state, first.token), (ON_DUTY, token))

    def test_lease_is_let_go(self) -> None:
        """A node that is no candidate any more keeps no lease, and can become one again."""
        candidacy = self.campaign(1)
        self.cluster.run(0.1)
        candidacy.give_up()
        self.cluster.run(3.0)
        self.assertEqual(len(self.cluster.members[2].machine.state.leases), 0)
        candidacy = self.campaign(1)
        self.cluster.run(0.1)
        self.assertEqual(candidacy.state, ON_DUTY)

    def test_lost_answers(self) -> None:
        """Answers and proposals that are lost change nothing in the end."""
        self.cluster.lose_answers = 2
        first = self.campaign(1)
        self.cluster.lose_proposals = 1
        self.cluster.run(1.0)
        self.assertEqual(first.state, ON_DUTY)
        self.cluster.lose_answers = 1
        first.give_up()
        self.cluster.run(0.5)
        second = self.campaign(2)
        self.cluster.run(0.5)
        self.assertEqual(second.state, ON_DUTY)

    def test_snapshot(self) -> None:
        """A state that came as a snapshot is looked at anew."""
        first, second = self.campaign(1), self.campaign(2)
        self.cluster.run(0.1)
        second_group = self.cluster.members[2]
        self.cluster.cut.add(2)
        first.give_up()
        self.cluster.run(0.1)
        second_group.machine.restore(list(self.cluster.members[3].machine.snapshot()))
        second_group.applied = len(self.cluster.log)
        self.cluster.cut.clear()
        self.cluster.run(0.1)
        self.assertEqual(second.state, ON_DUTY)

    def test_stop(self) -> None:
        """A node that stops hands everything over and ends its lease."""
        first, second = self.campaign(1), self.campaign(2)
        self.cluster.run(0.1)
        stopped: list[object] = []
        self.elections[1].stop().addBoth(stopped.append)
        self.cluster.run(0.1)
        self.assertEqual((first.state, second.state, stopped), (OUT, ON_DUTY, [None]))
        self.assertEqual(len(self.cluster.members[2].machine.state.leases), 1)

    def test_refusals(self) -> None:
        """A candidate once in each election, names by the grammar, no more candidacies than allowed."""
        elections = RaftElections(self.cluster.keys[1], "n1", candidacies_max=1)
        self.assertRaises(BadName, elections.campaign, "a/b", print)
        self.assertRaises(BadName, elections.campaign, "", print)
        elections.campaign("job", print)
        self.assertRaises(Conflict, elections.campaign, "job", print)
        self.assertRaises(LimitExceeded, elections.campaign, "other", print)

    def test_session_gone(self) -> None:
        """When the state has let a node's session go, the node opens another and nothing is lost."""
        first = self.campaign(1)
        self.cluster.run(0.1)
        for session in self.cluster.members[1].machine.state.sessions.all():
            self.background(self.cluster.keys[2].execute(Close(session.id)))
        self.cluster.run(4.0)
        self.assertEqual(first.state, ON_DUTY)

    def background(self, coroutine: Any) -> None:
        """Run a coroutine whose refusal does not matter."""
        Deferred.fromCoroutine(coroutine).addErrback(lambda failure: failure.trap(RelayError) and None)


class HeartbeatElectionTests(SynchronousTestCase):
    """Candidates that hear one another, or do not."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.deaf: set[tuple[str, str]] = set()
        self.elections = {name: HeartbeatElections(name, self.clock, self.sender(name)) for name in ("a", "b", "c")}

    def sender(self, name: str) -> Any:
        """Brings what ``name`` says to all others that can hear it, in a later turn."""

        def send(data: bytes) -> None:
            for other, elections in self.elections.items():
                if other != name and (name, other) not in self.deaf:
                    self.clock.callLater(0.001, elections.receive, data)

        return send

    def run_for(self, seconds: float) -> None:
        """Time passes."""
        for _ in range(round(seconds / 0.05)):
            self.clock.advance(0.05)

    def part(self, *names: str) -> None:
        """Cut ``names`` off from the others."""
        self.deaf = {(a, b) for a in self.elections for b in self.elections if (a in names) != (b in names)}

    def states(self, some: list[Any]) -> list[str]:
        """Of several candidacies."""
        return [each.state for each in some]

    def test_shapes(self) -> None:
        """The same interface as the other kind."""
        verifyObject(IElections, self.elections["a"])
        verifyObject(ICandidacy, self.elections["a"].campaign("job", print))

    def test_one_on_duty(self) -> None:
        """After listening for a while one is on duty; one who comes later stands by, whatever its name."""
        some = [self.elections[name].campaign("job", id) for name in "bc"]
        self.run_for(1.0)
        self.assertEqual(self.states(some), [BUSY, BUSY])
        self.run_for(1.5)
        self.assertEqual(self.states(some), [ON_DUTY, STANDBY])
        late = self.elections["a"].campaign("job", id)
        self.run_for(5)
        self.assertEqual(self.states([*some, late]), [ON_DUTY, STANDBY, STANDBY])

    def test_give_up(self) -> None:
        """Giving up is told, the next does not wait for a time-out: it is on duty within 100 ms."""
        some = [self.elections[name].campaign("job", id) for name in "abc"]
        self.run_for(3)
        some[0].give_up()
        self.assertEqual(some[0].state, OUT)
        began_s = self.clock.seconds()
        while some[1].state != ON_DUTY:
            self.assertLess(self.clock.seconds() - began_s, GIVE_UP_S)
            self.clock.advance(0.001)
        self.run_for(3)
        self.assertEqual(self.states(some), [OUT, ON_DUTY, STANDBY])

    def test_silence(self) -> None:
        """One who is not heard any more is succeeded."""
        some = [self.elections[name].campaign("job", id) for name in "abc"]
        self.run_for(3)
        self.part("a")
        self.run_for(3)
        self.assertEqual(self.states(some[1:]), [ON_DUTY, STANDBY])

    def test_partition(self) -> None:
        """As documented: under a partition two are on duty. When it ends, one steps back and tokens have grown."""
        some = [self.elections[name].campaign("job", id) for name in "abc"]
        self.run_for(3)
        before: Any = some[0].token
        self.part("a")
        self.run_for(3)
        self.assertEqual(self.states(some), [ON_DUTY, ON_DUTY, STANDBY])
        self.part()
        self.run_for(2)
        self.assertEqual(self.states(some), [STANDBY, ON_DUTY, STANDBY])
        self.assertGreater(some[1].token, before)

    def test_garbage(self) -> None:
        """What is no heartbeat is a protocol error; those of unknown elections are not remembered."""
        for data in (b"", b"\x00", b"\xc1", b"\x95\x02\xa1a\xa1b\x00\xa4busy"):
            self.assertRaises(RemoteProtocolError, self.elections["a"].receive, data)
        self.elections["a"].receive(b"\x95\x01\xa1a\xa1b\x00\xa4busy")

    def test_refusals(self) -> None:
        """As the other kind."""
        elections = HeartbeatElections("a", self.clock, id, candidacies_max=1)
        self.assertRaises(BadName, elections.campaign, "", print)
        elections.campaign("job", print)
        self.assertRaises(Conflict, elections.campaign, "job", print)
        self.assertRaises(LimitExceeded, elections.campaign, "other", print)

    def test_others_max(self) -> None:
        """More candidates than are remembered are not heard."""
        self.patch(election_beats, "OTHERS_MAX", 2)
        candidacy: Any = self.elections["a"].campaign("job", id)
        for number in range(5):
            beat = election_beats.Beat(1, "job", f"other{number}", 0, "busy")
            self.elections["a"].receive(msgspec.msgpack.encode(beat))
        self.assertEqual(len(self.elections["a"]._races["job"].others), 2)
        self.assertEqual(candidacy.state, BUSY)

    def test_stop(self) -> None:
        """Nothing is under way afterwards."""
        candidacy = self.elections["a"].campaign("job", id)
        self.successResultOf(self.elections["a"].stop())
        self.assertEqual(candidacy.state, OUT)
        self.run_for(1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
