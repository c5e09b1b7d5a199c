"""Password hashes: what they verify, and what they refuse to read."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.core.passwords import PASSWORD_BYTES_MAX, PasswordHash, hash_password, parse

SALT = bytes(range(16))
# RFC 7914 section 12, the second test vector: "password", "NaCl", N=1024, r=8, p=16.
RFC_7914 = bytes.fromhex(
    "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"
    "2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640"
)


class PasswordTests(SynchronousTestCase):
    """``scrypt$N$r$p$salt$hash``."""

    def test_vector(self):
        """The digest is the one of RFC 7914."""
        self.assertTrue(PasswordHash(1024, 8, 16, b"NaCl", RFC_7914).verify("password"))
        self.assertFalse(PasswordHash(1024, 8, 16, b"NaCl", RFC_7914).verify("passwore"))

    def test_default_cost(self):
        """A hash of the default cost verifies its password and no other."""
        stored = parse(hash_password("correct horse", SALT).line())
        self.assertTrue(stored.verify("correct horse"))
        self.assertFalse(stored.verify("correct hors"))

    @settings(max_examples=20, deadline=None)
    @given(st.text(min_size=1, max_size=20), st.binary(min_size=8, max_size=32))
    def test_round_trip(self, password: str, salt: bytes):
        """What is written is read back, and verifies."""
        made = hash_password(password, salt, 16, 1, 1)
        self.assertEqual(parse(made.line()), made)
        self.assertTrue(parse(made.line()).verify(password))
        self.assertFalse(made.verify(password + "x"))

    def test_decoy(self):
        """A decoy costs the same and has no password."""
        made = hash_password("secret", SALT, 16, 1, 1)
        decoy = made.decoy()
        self.assertEqual((decoy.n, decoy.r, decoy.p, len(decoy.digest)), (made.n, made.r, made.p, len(made.digest)))
        self.assertFalse(decoy.verify("secret"))

    def test_nothing_secret_in_repr(self):
        """Neither salt nor digest is shown."""
        made = hash_password("secret", SALT, 16, 1, 1)
        self.assertNotIn(str(made.digest), repr(made))
        self.assertNotIn(str(made.salt), repr(made))

    def test_bad_lines(self):
        """A line of another form, or of a cost over the bounds, is refused with a sentence that does not show it."""
        good = hash_password("secret", SALT, 16, 1, 1).line()
        for line in [
            "", "secret", good[:-6], good.replace("scrypt", "bcrypt"), good.replace("$16$", "$15$"),
            good.replace("$16$", "$0$"), good.replace("$16$1$", "$16777216$64$"), good.replace("$1$1$", "$64$99999$"),
            good.replace("$16$", "$536870912$"), good + "$", good.replace("=", "!"), "scrypt$16$1$1$AAAA$AAAA",
            "scrypt$16$1$1$A$A",
        ]:  # fmt: skip
            with self.assertRaises(ValueError, msg=line) as caught:
                parse(line)
            if line:
                self.assertNotIn(line, str(caught.exception))

    @settings(max_examples=200, deadline=None)
    @given(st.text("scrypt$0123456789AB=+/", max_size=60))
    def test_garbage(self, line: str):
        """Whatever the text, the answer is a hash or ``ValueError``."""
        try:
            self.assertEqual(parse(parse(line).line()), parse(line))
        except ValueError as error:
            self.assertTrue(str(error))

    def test_bad_passwords(self):
        """An empty password, a very long one and a short salt are refused when a hash is made."""
        for password, salt in [("", SALT), ("x" * (PASSWORD_BYTES_MAX + 1), SALT), ("x", b"short")]:
            with self.assertRaises(ValueError):
                hash_password(password, salt, 16, 1, 1)
