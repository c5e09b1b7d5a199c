"""Which pages may open a WebSocket."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.protocols.origin import allows, names_this_machine, same_host


class OriginTests(SynchronousTestCase):
    """The Origin header against the Host header or a list."""

    def test_no_origin(self):
        """Clients that are no browsers send none, and are let in whatever the list."""
        self.assertTrue(allows((), "", "relay.example"))
        self.assertTrue(allows(("https://other.example",), "", "relay.example"))

    def test_same_host(self):
        """Without a list: host and port have to be those of the request; a scheme's default port may be left out."""
        for origin, host, expected in (
            ("http://relay.example:8080", "relay.example:8080", True),
            ("http://Relay.Example:8080", "relay.example:8080", True),
            ("http://relay.example", "relay.example:80", True),
            ("https://relay.example:443", "relay.example", True),
            ("https://relay.example", "relay.example", True),
            ("http://[::1]:8080", "[::1]:8080", True),
            ("http://relay.example:8081", "relay.example:8080", False),
            ("http://relay.example", "relay.example:8080", False),
            ("http://evil.example", "relay.example", False),
            ("http://relay.example.evil.example", "relay.example", False),
            ("http://evil.example/relay.example", "relay.example", False),
            ("null", "relay.example", False),
            ("http://", "", False),
            ("relay.example", "relay.example", False),
        ):
            self.assertEqual(allows((), origin, host), expected, (origin, host))

    def test_list(self):
        """With a list only what it names is let in; ``*`` stands for any characters."""
        listed = ("https://*.example.org", "http://localhost:*", "null")
        for origin, expected in (
            ("https://a.example.org", True),
            ("https://A.EXAMPLE.ORG", True),
            ("https://example.org", False),
            ("http://a.example.org", False),
            ("https://a.example.org.evil.example", False),
            ("http://localhost:3000", True),
            ("null", True),
            ("http://relay.example", False),
        ):
            self.assertEqual(allows(listed, origin, "relay.example"), expected, origin)

    def test_anything(self):
        """A single ``*`` lets every page in."""
        self.assertTrue(allows(("*",), "https://evil.example", "relay.example"))

    def test_names_this_machine(self):
        """Only localhost and literal addresses: a name of a site may have been made to resolve to this machine."""
        for host, expected in (
            ("localhost:8080", True), ("LOCALHOST", True), ("app.localhost:1", True), ("127.0.0.1:8080", True),
            ("[::1]:8080", True), ("[::1]", True), ("evil.example:8080", False), ("127.0.0.1.evil.example", False),
            ("localhost.evil.example", False), ("", False), ("[", False), (":80", False),
        ):  # fmt: skip
            self.assertEqual(names_this_machine(host), expected, host)

    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=30), st.text(max_size=30))
    def test_any_text(self, origin, host):
        """Any text has an answer, and an origin is the same host only when it ends with it."""
        if same_host(origin, host):
            self.assertTrue(origin.lower().removesuffix(":80").removesuffix(":443").endswith(
                host.lower().strip().removesuffix(":80").removesuffix(":443")))  # fmt: skip
