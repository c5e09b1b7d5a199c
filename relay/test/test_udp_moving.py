"""Clients of a UDP listener whose address changes, without sockets."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relay.test.entrance_fixture import publication
from relay.test.test_udp import AWAY, HOME, Client, Post
from relay.wire.binary import encode_frame, encode_stream


class Moving(SynchronousTestCase):
    """A client's address changes."""

    def test_goes_on(self):
        """From another address the connection goes on; the new one is asked to prove that it receives."""
        for secure in (False, True):
            post = Post(secure=secure)
            client = Client(post)
            client.say(publication("home"))
            client.place = AWAY
            client.say(publication("away"))
            client.flush()
            client.say(publication("still"))
            self.assertEqual([frame.name for frame in client.frames], ["home", "away", "still"])
            transport = next(iter(post.port.connections.values()))
            self.assertEqual((transport.place, transport.unproven, post.port.moved), (AWAY, False, 1))

    def test_three_times_at_most(self):
        """Until it has proven itself a new address gets three times what came from there, whatever is to be sent."""
        post = Post()
        client = Client(post)
        client.say(publication("home"))
        client.place = AWAY
        client.link.send(encode_frame(publication("away")))
        came = sum(len(datagram) for datagram in client.datagrams() for _ in [post.give(datagram, AWAY)])
        went = 0
        for _ in range(50):
            post.peers[0].send(encode_stream(publication("much", b"x" * 1000)))
            post.clock.advance(0.1)
            went += sum(map(len, post.wire.take(AWAY)))
        self.assertLessEqual(went, 3 * came)

    def test_an_old_packet_moves_nothing(self):
        """A packet that was seen, or is older than one that was, does not take the connection elsewhere."""
        for secure in (False, True):
            post = Post(secure=secure)
            client = Client(post)
            client.link.send(encode_frame(publication("one")))
            (old,) = client.datagrams()
            post.give(old)
            post.give(old, AWAY)
            self.assertEqual(next(iter(post.port.connections.values())).place, HOME)

    def test_a_challenge_that_is_lost(self):
        """It is asked again when more comes from there: a lost datagram does not leave the client on a ration."""
        post = Post()
        client = Client(post)
        client.say(publication("home"))
        client.place = AWAY
        client.link.send(encode_frame(publication("away")))
        for datagram in client.datagrams():
            post.give(datagram, AWAY)  # the challenge is lost
        transport = next(iter(post.port.connections.values()))
        self.assertTrue(transport.unproven)
        post.clock.advance(1)
        post.wire.take()
        client.say(publication("more"))
        client.flush()
        self.assertFalse(transport.unproven)

    def test_a_challenge_is_not_answered_for_another(self):
        """Only the token that was sent to the new address proves it."""
        post = Post()
        client = Client(post)
        client.say(publication("home"))
        client.place = AWAY
        client.link.challenge(b"87654321", answer=True)
        client.flush()
        self.assertTrue(next(iter(post.port.connections.values())).unproven)
