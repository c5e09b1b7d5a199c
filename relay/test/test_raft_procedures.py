"""The procedures $raft.… as clients call them, through the core and its door; and what stands under them."""

from __future__ import annotations

import base64
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relay import errors
from relay.app import Application
from relay.cluster import procedures
from relay.cluster.kv.commands import Close, Grant, Keep, Limits, Open, Put, Txn
from relay.cluster.procedures import ClusterProcedures, KeyValueProcedures
from relay.config import Handlers
from relay.config_auth import EVERYTHING, Permit
from relay.core.doors import Door
from relay.core.metrics import Metrics
from relay.test.core_fixture import Core, Guest
from relay.test.fakes_raft import FakeCluster
from relay.wire import kinds
from relay.wire.bodies import decode_body


class AccessTests(SynchronousTestCase):
    """``KeyValue``: what becomes of writes when answers, leaders and sessions are lost."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.cluster = FakeCluster(self.clock, write_timeout_s=1.0, writes_max=3, watches_max=2)
        self.keys = self.cluster.keys[2]

    def start(self, coroutine: Any) -> Deferred[Any]:
        """Let it go on in the background."""
        return Deferred.fromCoroutine(coroutine)

    def put(self, key: str = "a", value: bytes = b"") -> Deferred[Any]:
        """Begin a write."""
        return self.start(self.keys.execute(Txn((Put(key, value),))))

    def version(self, key: str = "a") -> int:
        """How often the key was written."""
        pair = self.cluster.keys[1].state.keys.get(key)
        return 0 if pair is None else pair.version

    def test_once(self) -> None:
        """A write whose answer is lost is proposed again and done once; so is one that was lost itself."""
        for lost in ("lose_answers", "lose_proposals"):
            self.successResultOf(self.run_for(0.1, self.put("warm")))
            setattr(self.cluster, lost, 2)
            result = self.successResultOf(self.run_for(0.5, self.put()))
            self.assertEqual(result.error, "")
        self.assertEqual(self.version(), 2)

    def test_one_waits_long(self) -> None:
        """Results that the state keeps because one write waits do not have the others refused."""
        limits = Limits(session_results_max=16)
        self.cluster = FakeCluster(self.clock, write_timeout_s=1.0, limits=limits)
        self.keys = self.cluster.keys[2]
        self.successResultOf(self.run_for(0.5, self.put("warm")))  # the limits are the state's
        self.cluster.lose_proposals = 1
        writes = [self.put("late"), *(self.put(f"k{number}") for number in range(40))]
        self.cluster.run(0.5)
        self.assertEqual([self.successResultOf(each).error for each in writes], [""] * 41)
        self.assertEqual((self.version("late"), self.version("k39")), (1, 1))

    def run_for(self, seconds: float, waiting: Deferred[Any]) -> Deferred[Any]:
        """Let time pass."""
        self.cluster.run(seconds)
        return waiting

    def test_no_leader(self) -> None:
        """Without a leader it ends as not done, for certain; when one comes in time it is done."""
        self.cluster.lead(0)
        error = self.failureResultOf(self.run_for(2, self.put()), errors.Unavailable).value
        self.assertEqual(error.outcome, "not_done")
        waiting = self.put()
        self.cluster.run(0.5)
        self.cluster.lead(3)
        self.successResultOf(self.run_for(0.2, waiting))
        self.assertEqual(self.version(), 1)

    def test_unknown(self) -> None:
        """When the node is cut off with a write under way the end is unknown, also if later attempts surely failed."""
        self.successResultOf(self.run_for(0.1, self.put()))
        waiting = self.put()
        self.cluster.cut.add(2)
        error = self.failureResultOf(self.run_for(2, waiting), errors.Unavailable).value
        self.assertEqual(error.outcome, "unknown")

    def test_time_of_a_former_leader(self) -> None:
        """A leader that was cut off, and says its time before it hears of the next one, ends no lease: its clock went
        on while nobody led, and the group's time did not."""
        waiting = self.start(self.keys.execute(Grant(2000)))
        (lease,) = self.successResultOf(self.run_for(0.1, waiting)).ids
        self.cluster.run(0.5)
        self.cluster.cut.add(1)
        self.cluster.lead(0)
        self.cluster.run(5)
        self.cluster.lead(2)
        self.cluster.cut.clear()
        self.cluster.run(0.5)
        self.assertIsNotNone(self.keys.state.leases.get(lease))
        self.cluster.run(2)
        self.assertIsNone(self.keys.state.leases.get(lease))

    def test_refused(self) -> None:
        """What the state refuses is an error that was not done, and is not tried again."""
        waiting = self.start(self.keys.execute(Grant(1)))
        error = self.failureResultOf(self.run_for(0.1, waiting), errors.LimitExceeded).value
        self.assertEqual(error.outcome, "not_done")

    def test_session_gone(self) -> None:
        """A node whose session the state has let go opens another."""
        self.successResultOf(self.run_for(0.1, self.put()))
        (session,) = self.cluster.keys[1].state.sessions.all()
        self.successResultOf(self.run_for(0.1, self.start(self.cluster.keys[1].execute(Close(session.id)))))
        self.successResultOf(self.run_for(0.1, self.put()))
        self.assertEqual(self.version(), 2)

    def test_session_gone_in_between(self) -> None:
        """When it goes between two attempts of a write, the end is unknown."""
        self.successResultOf(self.run_for(0.1, self.put()))
        (session,) = self.cluster.keys[1].state.sessions.all()
        self.cluster.lose_answers = 1
        waiting = self.put()
        self.cluster.run(0.004)
        self.cluster.keys[1].propose_unnumbered(Close(session.id), lambda *_: None)
        error = self.failureResultOf(self.run_for(0.5, waiting), errors.Unavailable).value
        self.assertEqual(error.outcome, "unknown")

    def test_clients_session_gone_in_between(self) -> None:
        """… also of a client's own session, and when it has no room for another result meanwhile."""
        for what in ("gone", "full"):
            limits = Limits(session_results_max=1)
            self.cluster = FakeCluster(self.clock, write_timeout_s=1.0, limits=limits)
            self.keys = self.cluster.keys[2]
            self.successResultOf(self.run_for(0.5, self.put("warm")))  # the limits are the state's
            (client,) = self.successResultOf(self.run_for(0.1, self.start(self.keys.execute(Open())))).ids
            self.cluster.lose_proposals = 1
            waiting = self.start(self.keys.execute_for(Txn((Put("a", b""),)), client, 2, 0))
            self.cluster.run(0.004)
            if what == "gone":
                self.cluster.keys[1].propose_unnumbered(Close(client), lambda *_: None)
            else:
                self.start(self.cluster.keys[1].execute_for(Txn((Put("b", b""),)), client, 1, 0))
            error = self.failureResultOf(self.run_for(0.5, waiting), errors.RelayError).value
            self.assertEqual((error.label, error.outcome), ("not_found" if what == "gone" else "full", "unknown"))

    def test_acknowledged(self) -> None:
        """Results are not kept for ever: each write says what has arrived."""
        for _ in range(5):
            self.successResultOf(self.run_for(0.1, self.put()))
        (session,) = self.cluster.keys[1].state.sessions.all()
        self.assertEqual((len(session.results), session.floor), (1, 4))

    def test_writes_max(self) -> None:
        """More writes at once than allowed are refused."""
        self.successResultOf(self.run_for(0.1, self.put()))
        some = [self.put() for _ in range(4)]
        self.failureResultOf(some[3], errors.Full)
        self.cluster.run(0.1)
        for each in some[:3]:
            self.successResultOf(each)

    def test_one_session(self) -> None:
        """Writes that begin together share one session."""
        for each in [self.put() for _ in range(3)]:
            self.run_for(0.1, each)
            self.successResultOf(each)
        self.assertEqual(len(self.keys.state.sessions), 1)

    def test_no_session_in_time(self) -> None:
        """Writes that wait for the node's session end when their time is over, not one after another."""
        self.cluster.lead(0)
        some = [self.put() for _ in range(3)]
        self.cluster.run(1.2)
        for each in some:
            self.assertEqual(self.failureResultOf(each, errors.Unavailable).value.outcome, "not_done")

    def test_waiting_for_a_session_max(self) -> None:
        """Neither do more than that wait for the session; it is opened for all of them at once."""
        self.cluster.lead(0)
        some = [self.put(str(number)) for number in range(3)]
        for _ in range(5):  # who does not wait any more makes room
            some.pop().addErrback(lambda failure: failure.trap(CancelledError)).cancel()
            some.append(self.put("c"))
        self.failureResultOf(self.put("d"), errors.Full)
        self.cluster.lead(1)
        self.cluster.run(0.1)
        for each in some:
            self.successResultOf(each)
        self.assertEqual(len(self.keys.state.sessions), 1)

    def test_cancelled(self) -> None:
        """A write that nobody waits for leaves nothing behind."""
        self.successResultOf(self.run_for(0.1, self.put()))
        waiting = self.put()
        waiting.cancel()
        self.failureResultOf(waiting)
        self.successResultOf(self.run_for(0.1, self.put()))
        (session,) = self.cluster.keys[1].state.sessions.all()
        self.assertEqual(len(session.results), 1)

    def test_watches(self) -> None:
        """From a revision without a gap; what happens while nobody reads is not lost; too far back is gone."""
        self.successResultOf(self.run_for(0.1, self.put("a", b"1")))
        watch = self.keys.watch("a", 1)
        read = self.start(watch.read(10))
        self.assertEqual([event.pair.value for event in self.successResultOf(read)], [b"1"])
        read = self.start(watch.read(10))
        self.assertNoResult(read)
        self.run_for(0.1, self.put("b"))
        self.run_for(0.1, self.put("a", b"2"))
        self.run_for(0.1, self.put("a", b"3"))
        self.assertEqual([event.pair.value for event in self.successResultOf(read)], [b"2"])
        self.assertEqual([each.pair.value for each in self.successResultOf(self.start(watch.read(10)))], [b"3"])
        self.cluster.members[2].machine.state.keys.history.compacted = 9
        self.failureResultOf(self.start(watch.read(10)), errors.Gone)

    def test_watches_max(self) -> None:
        """More watches than allowed are refused; one that is closed makes room."""
        first = self.keys.watch("", 0)
        self.keys.watch("", 0)
        self.assertRaises(errors.LimitExceeded, self.keys.watch, "", 0)
        first.close()
        self.keys.watch("", 0)

    def test_leases_end(self) -> None:
        """The leader proposes its time while there are leases, and none without; a lease is kept by renewals."""
        lease = self.successResultOf(self.run_for(0.1, self.start(self.keys.execute(Grant(500))))).ids[0]
        for _ in range(5):
            self.run_for(0.3, self.start(self.keys.execute(Keep((lease,)))))
        self.assertIsNotNone(self.keys.state.leases.get(lease))
        self.cluster.run(1.0)
        self.assertIsNone(self.keys.state.leases.get(lease))
        length = len(self.cluster.log)
        self.cluster.run(5.0)
        self.assertEqual(len(self.cluster.log), length)

    def test_new_leader_goes_on(self) -> None:
        """Another leader's time goes on from the last that was proposed, whatever its own clock says."""
        lease = self.successResultOf(self.run_for(0.3, self.start(self.keys.execute(Grant(2000))))).ids[0]
        self.cluster.members[1].machine.state.leases.time_ms = 0  # would be wrong if a clock counted
        self.cluster.lead(3)
        self.cluster.run(1.0)
        self.assertIsNotNone(self.keys.state.leases.get(lease))
        self.cluster.run(2.0)
        self.assertIsNone(self.keys.state.leases.get(lease))

    def test_limits_of_the_leader(self) -> None:
        """The state's limits become those of the leader's configuration."""
        limits = Limits(keys_max=7)
        cluster = FakeCluster(self.clock, limits=limits)
        cluster.run(0.3)
        self.assertEqual([keys.state.limits for keys in cluster.keys.values()], [limits] * 3)
        self.assertEqual(len(cluster.log), 1)


class ProcedureTests(SynchronousTestCase):
    """A client on member 2 of a cluster whose leader is member 1."""

    def setUp(self) -> None:
        self.core = Core()
        self.cluster = FakeCluster(self.core.clock, write_timeout_s=1.0)
        self.application = Application(self.core.node, Handlers(), self.core.clock, Metrics())
        self.addCleanup(self.application.stop)
        keys = self.cluster.keys[2]
        self.application.add(KeyValueProcedures(keys), own=True)
        self.application.add(ClusterProcedures(keys, lambda: {"node": 2}), own=True)
        self.core.hub.local.update(self.application.providers())
        self.core.hub.doors["$raft"] = Door("$raft", local=True)
        self.guest = self.member()

    def member(self, transport: str = "tcp", **more: Any) -> Guest:
        """A client over a transport."""
        guest = Guest(self.core)
        guest.peer.transport = transport
        guest.hello(**more)
        return guest

    def call(self, name: str, guest: Guest | None = None, **arguments: Any) -> Any:
        """Call, let time pass; the answer, or the error's label."""
        guest = guest or self.guest
        seq = guest.send(kinds.PULL, f"$raft.{name}", arguments)
        self.cluster.run(0.1)
        answer = guest.answer(seq)
        if answer.kind == kinds.ERROR:
            return errors.BY_CODE[answer.get(kinds.ERROR_CODE)].label
        return decode_body(answer.body, answer.codec, Any)

    def test_put_and_get(self) -> None:
        """What was put is got, as text or as bytes, with its revisions."""
        self.assertEqual(self.call("put", key="a", value="ü"), {"revision": 1, "previous": 0})
        self.assertEqual(
            self.call("put", key="b", data=base64.b64encode(b"\xff").decode()), {"revision": 2, "previous": 0}
        )
        self.assertEqual(
            self.call("get", key="a"), {"key": "a", "revision": 1, "create_revision": 1, "version": 1, "value": "ü"}
        )
        self.assertEqual(self.call("get", key="b")["data"], base64.b64encode(b"\xff").decode())
        self.assertEqual(self.call("get", key="c"), "not_found")
        for wrong in ({}, {"value": "a", "data": "YQ=="}, {"value": 1}):
            self.assertEqual(self.call("put", key="a", **wrong), "bad_body")

    def test_compare_and_swap(self) -> None:
        """By absence, revision and value; a conflict otherwise."""
        self.assertEqual(self.call("put", key="a", value="1", absent=True)["revision"], 1)
        self.assertEqual(self.call("put", key="a", value="2", absent=True), "conflict")
        self.assertEqual(self.call("put", key="a", value="2", revision=7), "conflict")
        self.assertEqual(self.call("put", key="a", value="2", revision=1)["revision"], 2)
        self.assertEqual(self.call("put", key="a", value="3", equals="1"), "conflict")
        self.assertEqual(self.call("put", key="a", value="3", equals="2")["revision"], 3)
        self.assertEqual(self.call("delete", key="a", revision=2), "conflict")
        self.assertEqual(self.call("delete", key="a", revision=3), {"revision": 4, "deleted": 1})
        self.assertEqual(self.call("delete"), "bad_body")

    def test_transaction(self) -> None:
        """As an object: conditions, steps, outputs."""
        answer = self.call(
            "txn", compare=[{"key": "a", "what": "create"}], then=[{"do": "put", "key": "a", "value": "1"}],
            otherwise=[{"do": "get", "key": "a"}],
        )  # fmt: skip
        self.assertEqual(answer, {"revision": 1, "succeeded": True, "outputs": [0]})
        answer = self.call(
            "txn", compare=[{"key": "a", "what": "value", "relation": "!=", "value": "1"}], then=[],
            otherwise=[{"do": "get", "key": "a"}, {"do": "delete_prefix", "key": "b"}, {"do": "delete", "key": "x"}],
        )  # fmt: skip
        self.assertEqual(answer["succeeded"], False)
        self.assertEqual((answer["outputs"][0]["value"], answer["outputs"][2]), ("1", 0))

    def test_range_and_delete(self) -> None:
        """In pieces; a prefix at once."""
        for key in ("a", "b/1", "b/2"):
            self.call("put", key=key, value=key)
        answer = self.call("range", prefix="b/", limit=1)
        self.assertEqual(([pair["key"] for pair in answer["pairs"]], answer["next"]), (["b/1"], "b/2"))
        answer = self.call("range", prefix="b/", start="b/2")
        self.assertEqual(([pair["key"] for pair in answer["pairs"]], answer["next"]), (["b/2"], ""))
        self.assertEqual(self.call("range", end="b")["pairs"][0]["key"], "a")
        self.assertEqual(self.call("delete", prefix="b"), {"revision": 4, "deleted": 2})

    def test_stale(self) -> None:
        """A linearizable read fails without a leader; a stale one shows what is here."""
        self.call("put", key="a", value="1")
        self.cluster.lead(0)
        self.assertEqual(self.call("get", key="a"), "unavailable")
        self.assertEqual(self.call("get", key="a", stale=True)["value"], "1")

    def test_watch(self) -> None:
        """The beginning, then each change; over when the client cancels; too old a revision is gone."""
        self.call("put", key="a/1", value="1")
        seq = self.guest.send(kinds.PULL, "$raft.watch", {"prefix": "a/", "revision": 1})
        self.call("put", key="a/2", value="2")
        self.call("put", key="b", value="2")
        self.call("delete", key="a/1")
        answers = [decode_body(m.body, m.codec, Any) for m in self.guest.got if m.seq == seq]
        events = [event for answer in answers for event in answer["events"]]
        self.assertEqual(answers[0], {"revision": 1, "events": []})
        self.assertEqual([(event["type"], event["key"]) for event in events], [
            ("put", "a/1"), ("put", "a/2"), ("delete", "a/1"),
        ])  # fmt: skip
        self.assertEqual(answers[-1]["revision"], 5)
        self.assertEqual(self.application.running, 1)
        self.guest.send(kinds.CANCEL, seq=seq)
        self.cluster.run(0.1)
        self.assertEqual(self.application.running, 0)
        self.assertEqual(len(self.cluster.keys[2]._listeners), 0)
        self.cluster.members[2].machine.state.keys.history.compacted = 3
        seq = self.guest.send(kinds.PULL, "$raft.watch", {"prefix": "a/", "revision": 3})
        errors_ = [m for m in self.guest.got if m.seq == seq and m.kind == kinds.ERROR]
        self.assertEqual(errors_[0].get(kinds.ERROR_CODE), errors.Gone.code)

    def test_watch_in_pieces(self) -> None:
        """A revision with many large changes comes in several answers, none of them too large, each change once."""
        self.patch(procedures, "ANSWER_BYTES_MAX", 1000)
        seq = self.guest.send(kinds.PULL, "$raft.watch", {"prefix": "", "revision": 1})
        steps = [{"do": "put", "key": f"k{n:02}", "value": "x" * 300} for n in range(20)]
        self.call("txn", then=steps)
        bodies = [m.body for m in self.guest.got if m.seq == seq]
        self.assertLess(max(map(len, bodies)), 2000)
        answers = [decode_body(body, kinds.JSON, Any) for body in bodies]
        self.assertEqual(
            [event["key"] for answer in answers for event in answer["events"]], [step["key"] for step in steps]
        )
        self.assertEqual(([*{answer["revision"] for answer in answers[:-1]}], answers[-1]["revision"]), ([1], 2))

    def test_range_in_pieces(self) -> None:
        """Also by size."""
        self.patch(procedures, "ANSWER_BYTES_MAX", 1000)
        for n in range(4):
            self.call("put", key=f"k{n}", value="x" * 400)
        answer = self.call("range")
        self.assertEqual((len(answer["pairs"]), answer["next"]), (2, "k2"))

    def test_control_characters(self) -> None:
        """What JSON would make six times as long is not shown as text."""
        self.call("put", key="a", value="\x01\n")
        self.call("put", key="b", value="\t\n")
        self.assertEqual(self.call("get", key="a")["data"], base64.b64encode(b"\x01\n").decode())
        self.assertEqual(self.call("get", key="b")["value"], "\t\n")

    def test_leases(self) -> None:
        """Granted, kept, revoked."""
        lease = self.call("lease_grant", ttl_s=10)["lease"]
        self.call("put", key="a", value="1", lease=lease)
        self.assertEqual(self.call("lease_keep", leases=[lease, 999]), {"lost": [999]})
        self.assertEqual(self.call("lease_revoke", lease=lease), {"deleted": 1})
        self.assertEqual(self.call("lease_revoke", lease=lease), "not_found")

    def test_sessions(self) -> None:
        """A client's own numbers: done once, on any node."""
        client = self.call("session_open")["session"]
        for _ in range(2):
            self.assertEqual(self.call("put", key="a", value="1", client=client, seq=1)["revision"], 1)
        self.assertEqual(self.call("put", key="a", value="1", client=client, seq=1, ack=1), "bad_body")
        self.assertEqual(self.call("put", key="a", value="1", client=client, seq=2, ack=1)["revision"], 2)
        self.assertEqual(self.call("put", key="a", value="1", client=client, seq=1), "gone")
        node = self.cluster.keys[2].state.sessions.all()[0]
        self.assertLess(node.id, 0)
        self.assertEqual(self.call("put", key="a", value="1", client=node.id, seq=99), "bad_body")
        self.assertEqual(self.call("put", key="a", value="1", client=-node.id, seq=99), "not_found")
        self.call("session_close", session=client)
        self.assertEqual(self.call("put", key="a", value="1", client=client, seq=3), "not_found")

    def test_elections(self) -> None:
        """Clients can be candidates, too."""
        lease = self.call("lease_grant", ttl_s=10)["lease"]
        answer = self.call("campaign", election="job", candidate="me", lease=lease, value="here")
        self.assertEqual((answer["state"], answer["value"]), ("on-duty", "here"))
        token = answer["token"]
        self.call("campaign", election="job", candidate="you", lease=lease)
        self.assertEqual(self.call("election", election="job", candidate="you")["state"], "standby")
        answer = self.call("resign", election="job", candidate="me")
        self.assertEqual((answer["state"], answer["candidate"], answer["candidates"]), ("out", "you", ["you"]))
        self.assertGreater(answer["token"], token)

    def test_group(self) -> None:
        """What concerns the group goes to it."""
        self.assertEqual(self.call("status"), {"node": 2})
        self.assertEqual(self.call("transfer", node=3), {"leader": 3})
        self.assertEqual(self.call("member_add", node=4), "unavailable")
        self.assertIn("index", self.call("snapshot"))

    # --- the door -------------------------------------------------------------------------------------------------

    def test_not_through_a_proxy(self) -> None:
        """Over WebSocket and TLS this machine is nobody special, and neither is one that is elsewhere."""
        for transport in ("ws", "wss", "tls"):
            self.assertEqual(self.call("status", self.member(transport)), "denied")
        far = self.member()
        far.peer.local = False
        self.assertEqual(self.call("status", far), "denied")
        self.assertEqual(self.call("status", self.member("unix")), {"node": 2})

    def test_other_realms(self) -> None:
        """A tenant's session on this machine stays outside."""
        self.assertEqual(self.call("status", self.member(realm="tenant")), "denied")

    def test_restricted(self) -> None:
        """A session that may not call everything may not call this, though it is on this machine."""
        self.core.permit = Permit(call=("math.**", "*.status"))
        self.assertEqual(self.call("status", self.member()), "denied")

    def test_permission(self) -> None:
        """With the door shut, only a permission that literally begins with $raft opens it, for what it names."""
        self.core.hub.doors["$raft"] = Door("$raft", local=False)
        self.core.permit = EVERYTHING
        self.assertEqual(self.call("status", self.member()), "denied")
        self.core.permit = Permit(call=("$raft.status", "$raft.lease_*", "**"))
        far = self.member("wss")
        far.peer.local = False
        self.assertEqual(self.call("status", far), {"node": 2})
        self.assertEqual(self.call("put", far, key="a", value="1"), "denied")
        self.core.permit = Permit(call=("$raft.**",))
        self.assertEqual(self.call("put", self.member("wss"), key="a", value="1")["revision"], 1)

    def test_no_other_way(self) -> None:
        """Pushes and targets do not lead through the door, names without a door stay closed, nobody may provide one."""
        codes = []
        for kind, name, fields in (
            (kinds.PUSH, "$raft.status", {}),
            (kinds.PULL, "x", {"procedure": "$raft.status"}),
            (kinds.PULL, "$raft.status", {"user": "ann"}),
            (kinds.PULL, "$raft.status", {"procedure": "x"}),
            (kinds.PULL, "$other.status", {}),
            (kinds.PULL, "$raft", {}),
            (kinds.REGISTER, "$raft.more", {}),
            (kinds.SUBSCRIBE, "$raft.more", {}),
            (kinds.PUBLISH, "$raft.more", {}),
        ):
            seq = self.guest.send(kind, name, **fields)
            answer = self.guest.answer(seq)
            codes.append(errors.BY_CODE[answer.get(kinds.ERROR_CODE)].label)
        self.assertEqual(codes, ["denied"] * 5 + ["no_provider"] + ["denied"] * 3)
