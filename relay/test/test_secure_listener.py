"""The secure channel on a listener, without sockets: a client's handshake and records against the door."""

from __future__ import annotations

import json
import os
import stat
from base64 import b64encode
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet.error import ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from relay.config import Listener, Secure, Timing
from relay.config_auth import Auth, KeyUser
from relay.core.auth.grant import Declined
from relay.core.auth.keyed import KeyAuthenticator
from relay.errors import ConfigError
from relay.key_files import KnownKeys, load_identity
from relay.test.core_fixture import FakePeer
from relay.test.entrance_fixture import Door, binary_stream, echo, publication
from relay.test.fakes import WireTransport
from relay.wire.binary import encode_stream
from relay.wire.handshake import Hello
from relay.wire.secure import MESSAGE_BYTES_MAX, PREFACE, ClientHandshake, public_identity
from relay.wire.secure_records import REKEY_S, StreamOpener, StreamSealer

NODE = bytes(range(32))
OWN = bytes(range(1, 33))


def door(plain: bool = False, **options: Any) -> Door:
    """A listener with the channel."""
    made = Door(secure=Secure(plain=plain), on_receive=echo, **options)
    made.entrance.identity = NODE
    made.entrance.plain = plain
    return made


class Client:
    """The other end of a connection."""

    def __init__(self, door: Door, private: bytes = b"", step: int = 0) -> None:
        self.door = door
        self.transport: WireTransport = door.connect()
        handshake = ClientHandshake(bytes(range(2, 34)), lambda identity: identity == public_identity(NODE), private)
        self.transport.feed(PREFACE + framed(handshake.hello), step)
        answer = self.transport.take()
        finish = handshake.receive(answer[2:])
        keys = handshake.keys
        assert keys is not None
        self.sealer = StreamSealer(keys.suite, keys.sending)
        self.opener = StreamOpener(keys.suite, keys.receiving)
        self.transport.feed(framed(finish), step)

    def say(self, data: bytes, step: int = 0) -> None:
        """Send, sealed."""
        self.transport.feed(self.sealer.seal(data), step)
        self.door.turn()

    def heard(self) -> bytes:
        """What came since the last time, opened."""
        return b"".join(self.opener.receive(self.transport.take()))


def framed(message: bytes) -> bytes:
    """A handshake message on a stream."""
    return len(message).to_bytes(2) + message


class Channel(SynchronousTestCase):
    """What passes, and what does not."""

    def test_echo_at_any_chunking(self):
        """A message goes in and comes back sealed, whatever the pieces."""
        for step in (0, 1, 7):
            client = Client(door(), step=step)
            client.say(binary_stream(publication()), step)
            self.assertEqual(client.heard(), encode_stream(publication()))

    def test_the_peer(self):
        """The core sees the transport's label and the key that was proved."""
        one = door()
        Client(one, OWN).say(binary_stream(publication()))
        peer = one.gate.connections[0].peer
        self.assertEqual((peer.transport, peer.key), ("secure", b64encode(public_identity(OWN)).decode()))
        Client(one).say(binary_stream(publication()))
        self.assertEqual(one.gate.connections[1].peer.key, "")

    def test_plain(self):
        """Without ``plain`` only the channel is let in; with it both are."""
        for plain in (False, True):
            one = door(plain)
            transport = one.connect()
            transport.feed(binary_stream(publication()))
            one.turn()
            self.assertEqual(len(one.gate.connections), int(plain))
            self.assertEqual((transport.ended, one.entrance.unknown), ("", 0) if plain else ("lost", 1))

    def test_inside_only_streams(self):
        """There is no second channel inside, and nothing else that the listener does not speak."""
        for data in (PREFACE + b"\0\x24", b"GET / HTTP/1.1\r\n\r\n"):
            client = Client(door())
            client.say(data)
            self.assertEqual(client.transport.ended, "lost")

    def test_broken_handshakes(self):
        """Garbage, a length of nothing or too much, a hello of another version: closed, and counted."""
        good = ClientHandshake(bytes(range(2, 34)), lambda _: True).hello
        long = (MESSAGE_BYTES_MAX + 1).to_bytes(2)
        for data in (
            b"\0\0",
            b"\xff\xff",
            long,
            framed(b"\0" + good[1:]),
            framed(good) + framed(b"x" * 17),
            framed(b"\x01"),
        ):
            one = door()
            transport = one.connect()
            transport.feed(PREFACE + data)
            self.assertEqual((transport.ended, one.entrance.unknown, one.gate.connections), ("lost", 1, []))

    def test_silence(self):
        """Who stops in the middle of the handshake is cut off by the time-out."""
        one = door(timing=Timing(handshake_timeout_s=1.0))
        transport = one.connect()
        transport.feed(PREFACE + b"\0")
        one.pass_time(1.1)
        self.assertEqual((transport.ended, one.entrance.expired), ("aborted", 1))

    def test_a_changed_record(self):
        """It ends the connection at once; the core hears of a loss, so that the session may be resumed."""
        one = door()
        client = Client(one)
        client.say(binary_stream(publication()))
        record = bytearray(client.sealer.seal(encode_stream(publication())))
        record[-1] ^= 1
        client.transport.feed(bytes(record))
        one.pass_time(0.1)
        self.assertEqual((client.transport.ended, one.gate.connections[0].ends[0][1]), ("aborted", False))

    def test_ends(self):
        """With a last word the end is an orderly one; without it something was cut off."""
        for said in (True, False):
            one = door()
            client = Client(one)
            client.say(binary_stream(publication()))
            if said:
                client.transport.feed(client.sealer.end())
            client.transport.lose()
            connection = one.gate.connections[0]
            text, clean = connection.ends[0]
            self.assertEqual((clean, str(ConnectionLost("the secure channel was cut off")) in text), (said, not said))

    def test_our_end(self):
        """A closed peer gets what waits, then the last word; our half is closed, what still comes is read."""
        one = door()
        client = Client(one)
        client.say(binary_stream(publication()))
        peer = one.gate.connections[0].peer
        peer.send(b"waits")
        peer.close(1)
        one.turn()
        self.assertEqual(client.heard(), encode_stream(publication()) + b"waits")
        self.assertEqual((client.opener.ended, client.transport.ended), (True, "half"))

    def test_other_keys_after_an_hour(self):
        """The sender changes its keys by time, and what follows opens."""
        one = door(timing=Timing(heartbeat_s=100_000.0))
        client = Client(one)
        client.say(binary_stream(publication()))
        self.assertEqual(client.heard(), encode_stream(publication()))
        one.wheel.stop()
        one.wheel.start()
        one.pass_time(REKEY_S + 1)
        before = client.opener._keys
        self.assertEqual(client.heard(), b"")
        self.assertIsNot(client.opener._keys, before)
        client.transport.feed(client.sealer.rekey())
        client.say(encode_stream(publication()))
        self.assertEqual(client.heard(), encode_stream(publication()))


class Files(SynchronousTestCase):
    """Keys in files."""

    def setUp(self):
        """A directory of its own."""
        self.folder = Path(self.mktemp())

    def test_made_once(self):
        """A node's key is made at the first start, for its owner only, and stays."""
        key = load_identity(self.folder)
        self.assertEqual(load_identity(self.folder), key)
        self.assertEqual(stat.S_IMODE(os.stat(self.folder / "identity.key").st_mode), 0o600)

    def test_cannot_be_used(self):
        """Something else in the file, or no right to it, is one sentence that names the file."""
        self.folder.mkdir()
        file = self.folder / "identity.key"
        other = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        for content, words in ((b"nothing", "no private key in PEM"), (other, "none of the kind Ed25519")):
            file.write_bytes(content)
            error = self.assertRaises(ConfigError, load_identity, self.folder)
            self.assertTrue(str(error).startswith(f"{file}: ") and words in str(error), error)
        file.unlink()
        file.mkdir()
        self.assertIn("directory", str(self.assertRaises(ConfigError, load_identity, self.folder)))

    def test_known_keys(self):
        """What was taken at first use is there for the next process; a broken file is told, not overwritten."""
        file = self.folder / "relay" / "known_keys.json"
        known = KnownKeys(file)
        known["tcp://h:1"] = "SHA256:x"
        known["tcp://h:2"] = "SHA256:y"
        del known["tcp://h:2"]
        self.assertEqual(dict(KnownKeys(file)), {"tcp://h:1": "SHA256:x"})
        file.write_text("[]")
        self.assertRaises(ConfigError, KnownKeys, file)
        self.assertEqual(json.loads(file.read_text()), [])


class Users(SynchronousTestCase):
    """A proved key as authentication."""

    def peer(self, key: str) -> Any:
        """A peer that proved ``key``."""
        peer = FakePeer()
        peer.key = key
        return peer

    def test_who_has_the_key(self):
        """The key's user; nobody for another key, and for a hello that names another user or brings another proof."""
        key = b64encode(public_identity(OWN)).decode()
        asked = KeyAuthenticator((KeyUser(name="ann", key=key, realm="r", subscriptions=("room.1",)),))
        identity = asked.authenticate(Hello(), self.peer(key))
        assert identity is not None
        self.assertEqual((identity.user, identity.realm, identity.subscriptions), ("ann", "r", ("room.1",)))
        self.assertIsNotNone(asked.authenticate(Hello(user="ann"), self.peer(key)))
        self.assertIsNone(asked.authenticate(Hello(token="t"), self.peer(key)))
        self.assertIsNone(asked.authenticate(Hello(), self.peer("")))
        self.assertRaises(Declined, asked.authenticate, Hello(user="bob"), self.peer(key))
        self.assertRaises(Declined, asked.authenticate, Hello(), self.peer("other"))

    def test_twice(self):
        """One key speaks for one user."""
        key = b64encode(public_identity(OWN)).decode()
        users = (KeyUser(name="ann", key=key), KeyUser(name="bob", key=key))
        self.assertRaises(ConfigError, KeyAuthenticator, users)
        self.assertIn("key", Auth().order)
        self.assertIsNone(Listener(address="tcp:0").secure)
