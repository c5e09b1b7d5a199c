"""The key-value state machine, one rule at a time; every limit is reached."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relay.cluster.keyvalue import KeyValue
from relay.cluster.kv import commands as c
from relay.cluster.kv.ballots import decode_duty, duty_key
from relay.cluster.kv.machine import KeyValueMachine
from relay.cluster.kv.snapshot import BadSnapshot
from relay.cluster.raft.types import Entry
from relay.errors import Gone
from relay.interfaces import IStateMachine


class MachineTests(SynchronousTestCase):
    """``do`` gives each operation as an entry of its own to a machine."""

    def setUp(self) -> None:
        self.machine = KeyValueMachine()
        self.index = 0

    def do(self, operation: c.Operation, client: int = 0, seq: int = 0, ack: int = 0, term: int = 1) -> c.Result:
        """Apply one command."""
        self.index += 1
        data = c.encode(c.Command(operation, client, seq, ack))
        (result,) = self.machine.apply([Entry(index=self.index, term=term, data=data)])
        return result

    def put(self, key: str, value: bytes = b"", lease: int = 0, **more: Any) -> c.Result:
        """Put one key."""
        return self.do(c.Txn((c.Put(key, value, lease),)), **more)

    def limit(self, **limits: int) -> None:
        """Other limits from now on."""
        self.do(c.SetLimits(c.Limits(**limits)))

    def keys(self) -> list[str]:
        """All there are."""
        return [pair.key for pair in self.machine.state.keys.pairs()]


class KeyTests(MachineTests):
    """Keys, transactions, ranges."""

    def test_shape(self) -> None:
        """It is a state machine."""
        self.assertIsNotNone(KeyValue)  # whose module says so
        verifyObject(IStateMachine, self.machine)

    def test_numbers(self) -> None:
        """A key remembers when it was made and last changed, and how often; a deleted one begins anew."""
        for key in ("a", "b", "a"):
            self.put(key, b"x")
        self.assertEqual(self.machine.state.keys.get("a"), c.Pair("a", b"x", 1, 3, 2))
        self.do(c.Txn((c.Delete("a"),)))
        self.put("a", b"y")
        self.assertEqual(self.machine.state.keys.get("a"), c.Pair("a", b"y", 5, 5, 1))

    def test_compare_and_swap(self) -> None:
        """By absence, revision and value; what does not hold changes nothing and moves no revision."""
        absent = c.Compare("a", "create", "=", 0)
        self.assertTrue(self.do(c.Txn((c.Put("a", b"1"),), (absent,))).succeeded)
        result = self.do(c.Txn((c.Put("a", b"2"),), (absent,), (c.Get("a"),)))
        self.assertEqual((result.succeeded, result.revision, result.outputs), (False, 1, (c.Pair("a", b"1", 1, 1, 1),)))
        self.assertTrue(self.do(c.Txn((c.Put("a", b"2"),), (c.Compare("a", "mod", "=", 1),))).succeeded)
        self.assertFalse(self.do(c.Txn((c.Put("a", b"3"),), (c.Compare("a", "value", "=", b"1"),))).succeeded)
        self.assertEqual(self.do(c.Txn((), (c.Compare("a", "value", "=", 1),))).error, "invalid")

    def test_transaction(self) -> None:
        """All steps or none, one revision, reads see the state before."""
        self.put("a", b"1")
        result = self.do(c.Txn((c.Put("a", b"2"), c.Put("b", b"3"), c.Get("a"), c.Delete("c"))))
        self.assertEqual(result.outputs, (1, 0, c.Pair("a", b"1", 1, 1, 1), 0))
        self.assertEqual(result.revision, 2)
        for steps in (
            (c.Put("x", b""), c.Put("x", b"")),
            (c.Put("x", b""), c.Put("$own", b"")),
            (c.Put("x", b""), c.DeletePrefix("")),
        ):
            self.assertEqual(self.do(c.Txn(steps)).error, "invalid")
        self.assertEqual(self.do(c.Txn((c.Put("x", b""), c.Put("y", b"", 99)))).error, "no_lease")
        self.assertEqual(self.keys(), ["a", "b"])

    def test_range(self) -> None:
        """In order, by prefix, from a key, before another, in pieces by number and by size."""
        for key in ("a", "a/2", "a/1", "b", "a/\U0010ffff"):
            self.put(key, b"12345")
        found = []
        following = ""
        while True:
            pairs, following = self.machine.range("a", following, None, 2, 10_000)
            found += [pair.key for pair in pairs]
            if not following:
                break
        self.assertEqual(found, ["a", "a/1", "a/2", "a/\U0010ffff"])
        pairs, following = self.machine.range("a/", "", "a/2", 9, 10_000)
        self.assertEqual(([pair.key for pair in pairs], following), (["a/1"], ""))
        pairs, following = self.machine.range("", "", None, 9, 6)
        self.assertEqual(([pair.key for pair in pairs], following), (["a"], "a/1"))

    def test_delete_prefix(self) -> None:
        """All that begin with it; never the state's own."""
        lease = self.do(c.Grant(1000)).ids[0]
        self.do(c.Campaign("job", "me", lease))
        for key in ("a", "ab", "b"):
            self.put(key)
        self.assertEqual(self.do(c.Txn((c.DeletePrefix("a"),))).outputs, (2,))
        self.assertEqual(self.do(c.Txn((c.DeletePrefix(""),))).outputs, (1,))
        self.assertEqual(len(self.keys()), 2)

    def test_limits(self) -> None:
        """Each limit of keys and transactions refuses, and what is refused changes nothing."""
        self.limit(
            keys_max=2, bytes_max=20, key_bytes_max=3, value_bytes_max=10, txn_operations_max=2, delete_keys_max=1,
            result_bytes_max=10,
        )  # fmt: skip
        self.assertEqual(self.put("ü", b"123456789").error, "")
        self.assertEqual(self.put("üü").error, "limit")
        self.assertEqual(self.put("").error, "limit")
        self.assertEqual(self.put("a", b"12345678901").error, "limit")
        self.assertEqual(self.put("a", b"123456789").error, "full")  # of 20 bytes
        self.assertEqual(self.put("a", b"1").error, "")
        self.assertEqual(self.put("b", b"").error, "full")  # of 2 keys
        self.assertEqual(self.do(c.Txn((c.Get("a"),) * 3)).error, "limit")
        self.assertEqual(self.do(c.Txn((c.Get("a"), c.Get("ü")))).error, "limit")
        self.assertEqual(self.do(c.Txn((c.DeletePrefix(""),))).error, "limit")
        self.assertEqual(self.keys(), ["a", "ü"])

    def test_history_limits(self) -> None:
        """The oldest revisions go, whole, by number and by bytes; a watch from there is told."""
        self.limit(history_events_max=3)
        self.do(c.Txn((c.Put("a", b""), c.Put("b", b""))))
        self.put("c")
        self.put("d")
        history = self.machine.state.keys.history
        self.assertEqual([event.pair.key for event in history.events()], ["c", "d"])
        self.assertRaises(Gone, history.since, 1, "", 10)
        self.limit(history_bytes_max=300)
        self.put("e", b"x" * 150)
        self.assertEqual([event.pair.key for event in history.events()], ["e"])
        self.put("f", b"x" * 1000)
        self.assertEqual((history.events(), history.compacted), ([], 5))

    def test_unreadable(self) -> None:
        """An entry of another version, or none of ours, stops the node instead of being left out."""
        for data in (b"\x02\x90", b"x", b"\x01", b"\x01\xc1", b"\x01\x91\x92\xa3new\x01"):
            with self.assertRaises(c.UnreadableCommand):
                self.machine.apply([Entry(index=1, term=1, data=data)])


class LeaseTests(MachineTests):
    """Leases end by the time that is proposed."""

    def test_life(self) -> None:
        """From the first time after the grant or renewal, for at least its length; its keys go at one revision."""
        lease = self.do(c.Grant(1000)).ids[0]
        self.put("a", lease=lease)
        self.put("b", lease=lease)
        leases = self.machine.state.leases
        self.assertTrue(leases.wants_time(0))
        self.do(c.Time(50_000))
        self.assertFalse(leases.wants_time(50_999))
        self.assertTrue(leases.wants_time(51_000))
        self.do(c.Time(50_999))
        self.assertEqual(self.do(c.Keep((lease, 77))).ids, (77,))
        self.do(c.Time(51_500))
        self.do(c.Time(52_499))
        self.assertEqual(self.keys(), ["a", "b"])
        self.assertEqual(self.do(c.Time(52_500)).revision, 3)
        self.assertEqual((self.keys(), len(leases)), ([], 0))
        self.assertFalse(leases.wants_time(10**9))

    def test_time_never_goes_back(self) -> None:
        """A leader whose clock is behind ends nothing, and takes no time away."""
        self.do(c.Time(5000))
        lease = self.do(c.Grant(1000)).ids[0]
        self.do(c.Time(10))
        self.do(c.Time(5999))
        self.assertIsNotNone(self.machine.state.leases.get(lease))
        self.do(c.Time(6000))
        self.assertIsNone(self.machine.state.leases.get(lease))

    def test_time_of_a_former_leader(self) -> None:
        """It counts in entries of its own term only, whoever committed them."""
        lease = self.do(c.Grant(1000)).ids[0]
        self.do(c.Time(5000, 3), term=3)
        self.do(c.Time(9000, 3), term=4)
        self.do(c.Time(9000, 4), term=3)
        self.assertIsNotNone(self.machine.state.leases.get(lease))
        self.do(c.Time(6000, 3), term=3)
        self.assertIsNone(self.machine.state.leases.get(lease))

    def test_key_changes_lease(self) -> None:
        """A key goes with the lease it was put with last."""
        first, second = self.do(c.Grant(1000)).ids[0], self.do(c.Grant(1000)).ids[0]
        self.put("a", lease=first)
        self.put("a", lease=second)
        self.put("b", lease=first)
        self.put("b")
        self.assertEqual(self.do(c.Revoke(first)).outputs, (0,))
        self.assertEqual(self.do(c.Revoke(second)).outputs, (1,))
        self.assertEqual(self.keys(), ["b"])

    def test_kept_over_a_snapshot(self) -> None:
        """A renewal that no time has followed yet is part of the snapshot."""
        lease = self.do(c.Grant(1000)).ids[0]
        self.do(c.Time(0))
        self.do(c.Keep((lease,)))
        other = KeyValueMachine()
        other.restore(self.machine.snapshot())
        self.machine = other
        self.do(c.Time(1500))
        self.assertIsNotNone(self.machine.state.leases.get(lease))

    def test_limits(self) -> None:
        """Number and length of leases."""
        self.limit(leases_max=1, lease_ttl_ms_min=100, lease_ttl_ms_max=200)
        for ttl_ms in (99, 201):
            self.assertEqual(self.do(c.Grant(ttl_ms)).error, "limit")
        self.assertEqual(self.do(c.Grant(100)).error, "")
        self.assertEqual(self.do(c.Grant(100)).error, "full")
        self.assertEqual(self.do(c.Keep((1, 2))).error, "limit")

    def test_moved_deadlines(self) -> None:
        """Many renewals leave no more behind than a few for each lease."""
        lease = self.do(c.Grant(86_400_000)).ids[0]
        for now_ms in range(1000):
            self.do(c.Keep((lease,)))
            self.do(c.Time(now_ms))
        self.assertLess(len(self.machine.state.leases._deadlines), 20)


class SessionTests(MachineTests):
    """A command counts once."""

    def setUp(self) -> None:
        super().setUp()
        self.client = self.do(c.Open()).ids[0]

    def test_once(self) -> None:
        """The same number again has the same result, also when it failed, and does nothing."""
        first = self.put("a", b"1", client=self.client, seq=1)
        self.put("a", b"2")
        self.assertEqual(self.put("a", b"1", client=self.client, seq=1), first)
        self.assertEqual(self.machine.state.keys.get("a").value, b"2")  # type: ignore[union-attr]  # it is there
        self.assertEqual(self.put("b", lease=99, client=self.client, seq=2).error, "no_lease")
        self.assertEqual(self.put("b", client=self.client, seq=2).error, "no_lease")

    def test_once_over_a_snapshot(self) -> None:
        """Results, and what is forgotten, are part of the snapshot."""
        first = self.put("a", client=self.client, seq=2, ack=1)
        other = KeyValueMachine()
        other.restore(self.machine.snapshot())
        self.machine = other
        self.assertEqual(self.put("a", client=self.client, seq=2), first)
        self.assertEqual(self.put("a", client=self.client, seq=1).error, "forgotten")

    def test_forgotten(self) -> None:
        """A number whose result was acknowledged is refused: it cannot be told whether it was done."""
        for seq in (1, 2, 4):
            self.put("a", client=self.client, seq=seq)
        self.put("a", client=self.client, seq=5, ack=3)
        self.assertEqual(self.put("a", client=self.client, seq=2).error, "forgotten")
        self.assertEqual(self.put("a", client=self.client, seq=3).error, "forgotten")
        self.assertEqual(self.put("a", client=self.client, seq=10**15, ack=10**15 - 1).error, "")

    def test_unknown_session(self) -> None:
        """Without its session a command is not done."""
        self.assertEqual(self.put("a", client=99, seq=1).error, "no_session")
        self.assertEqual(self.do(c.Close(self.client), client=self.client, seq=1).error, "")
        self.assertEqual(self.put("a", client=self.client, seq=2).error, "no_session")
        self.assertEqual(self.keys(), [])

    def test_limits(self) -> None:
        """The session that was idle longest makes room; unacknowledged results are bounded by number and bytes."""
        self.limit(sessions_max=2, session_results_max=2, session_bytes_max=10)
        second = self.do(c.Open()).ids[0]
        self.put("a", b"12345678", client=self.client, seq=1)
        self.do(c.Open())
        self.assertEqual(self.put("a", client=second, seq=1).error, "no_session")
        self.assertEqual(self.do(c.Txn((c.Get("a"),)), client=self.client, seq=2).error, "")
        self.assertEqual(self.put("b", client=self.client, seq=3).error, "full")
        self.assertEqual(self.do(c.Txn((c.Get("a"),)), client=self.client, seq=3, ack=1).error, "full")
        self.assertEqual(self.put("b", client=self.client, seq=3, ack=1).error, "")
        self.assertEqual(self.do(c.Txn((c.Get("a"),)), client=self.client, seq=4, ack=3).error, "")
        self.do(c.Close(self.client))
        self.assertEqual(self.machine.state.sessions.bytes, 0)


class BallotTests(MachineTests):
    """Who is on duty."""

    def setUp(self) -> None:
        super().setUp()
        self.leases = [self.do(c.Grant(1000 * n)).ids[0] for n in (1, 2, 3)]
        self.do(c.Time(0))

    def duty(self, election: str = "job") -> tuple[str, tuple[int, int]] | None:
        """Who, with what token."""
        pair = self.machine.state.keys.get(duty_key(election))
        if pair is None:
            return None
        found = decode_duty(pair.value)
        return found.candidate, found.token

    def test_order(self) -> None:
        """The first is on duty until it leaves; then the next, by the same entry, whose place is the token."""
        for candidate, lease in zip("cab", self.leases, strict=True):
            self.do(c.Campaign("job", candidate, lease))
        self.assertEqual(self.duty(), ("c", (1, 5)))
        self.do(c.Resign("job", "a"), term=2)
        self.assertEqual(self.duty(), ("c", (1, 5)))
        self.do(c.Resign("job", "c"), term=2)
        self.assertEqual(self.duty(), ("b", (2, self.index)))
        self.do(c.Resign("job", "b"), term=2)
        self.assertIsNone(self.duty())
        self.assertEqual(self.do(c.Resign("job", "b")).error, "not_found")

    def test_lease(self) -> None:
        """Several that go at once leave one on duty, never one that goes too."""
        for candidate, lease in zip("abc", self.leases, strict=True):
            self.do(c.Campaign("job", candidate, lease))
        self.do(c.Time(2000))
        self.assertEqual(self.duty(), ("c", (1, self.index)))

    def test_again(self) -> None:
        """The same candidate and lease again is no change; with another lease it begins at the end."""
        self.do(c.Campaign("job", "a", self.leases[0]))
        revision = self.do(c.Campaign("job", "b", self.leases[1])).revision
        self.assertEqual(self.do(c.Campaign("job", "a", self.leases[0])).revision, revision)
        self.do(c.Campaign("job", "a", self.leases[2]))
        self.assertEqual(self.duty(), ("b", (1, self.index)))
        self.do(c.Resign("job", "b", self.leases[1]))
        self.do(c.Campaign("job", "a", self.leases[1]))
        self.assertEqual(self.duty(), ("a", (1, self.index)))
        self.assertEqual(self.do(c.Resign("job", "a", self.leases[2])).error, "not_found")

    def test_refusals(self) -> None:
        """Names, leases and limits."""
        lease = self.leases[0]
        self.assertEqual(self.do(c.Campaign("a/b", "x", lease)).error, "invalid")
        self.assertEqual(self.do(c.Campaign("a", "", lease)).error, "invalid")
        self.assertEqual(self.do(c.Campaign("a", "x", 99)).error, "no_lease")
        self.limit(candidates_max=1, value_bytes_max=2, bytes_max=120)
        self.assertEqual(self.do(c.Campaign("a", "x", lease, b"123")).error, "limit")
        self.assertEqual(self.do(c.Campaign("a", "x", lease)).error, "")
        self.assertEqual(self.do(c.Campaign("a", "y", lease)).error, "full")
        self.assertEqual(self.do(c.Campaign("b", "y", lease)).error, "full")
        self.limit(keys_max=3)
        self.assertEqual(self.do(c.Campaign("b", "y", lease)).error, "full")
        self.assertEqual(self.put("$election/a/duty").error, "invalid")


class SnapshotTests(MachineTests):
    """What is damaged or strange is refused as a whole."""

    def test_damage(self) -> None:
        """Each byte changed, and each length cut off, is noticed; the state stays as it was."""
        self.put("a", b"x" * 20)
        self.do(c.Open())
        self.do(c.Grant(1000))
        data = b"".join(self.machine.snapshot())
        other = KeyValueMachine()
        for place in range(len(data)):
            damaged = data[:place] + bytes((data[place] ^ 1,)) + data[place + 1 :]
            self.assertRaises(BadSnapshot, other.restore, [damaged])
            self.assertRaises(BadSnapshot, other.restore, [data[:place]])
        self.assertRaises(BadSnapshot, other.restore, [data, data])
        self.assertEqual(other.state.keys.revision, 0)

    def test_while_going_on(self) -> None:
        """It shows the state at the time it was asked for, however late its chunks are taken."""
        for number in range(300):
            self.put(f"key {number:04}", b"v" * 2000)
        lease = self.do(c.Grant(1000)).ids[0]
        chunks = self.machine.snapshot()
        wanted = list(self.machine.snapshot())
        self.assertGreater(len(wanted), 3)
        self.assertLessEqual(max(map(len, wanted)), 262_144)
        found = [next(chunks)]
        self.do(c.Txn((c.DeletePrefix("key"),)))
        self.do(c.Revoke(lease))
        self.put("new")
        self.assertEqual([*found, *chunks], wanted)

    def test_told(self) -> None:
        """Who watches is told of a replaced state."""
        told: list[Any] = []
        self.machine.changed = told.append
        self.machine.restore(list(self.machine.snapshot()))
        self.assertEqual(told, [None])

    def test_newer_version(self) -> None:
        """A snapshot of another version is not taken for one of ours."""
        data = bytearray(b"".join(self.machine.snapshot()))
        data[5] += 1
        self.assertRaises(BadSnapshot, self.machine.restore, [bytes(data)])


class EncodingTests(SynchronousTestCase):
    """Commands on the log."""

    def test_pinned(self) -> None:
        """The bytes of an entry stay what they are: logs outlive versions."""
        command = c.Command(c.Txn((c.Put("a", b"1"),), (c.Compare("a", "mod", "=", 0),)), 7, 2, 1)
        self.assertEqual(
            c.encode(command).hex(), "019494a374786e9194a3707574a161c40131009194a161a36d6f64a13d0090070201"
        )
        self.assertEqual(c.decode(c.encode(command)), command)

    def test_numbers(self) -> None:
        """Limits have the fields that the configuration has; a change of their order would change old entries."""
        self.assertEqual(msgspec.structs.fields(c.Limits)[0].name, "keys_max")
        self.assertEqual(len(msgspec.structs.fields(c.Limits)), 16)
