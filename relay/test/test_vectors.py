"""The vectors of the protocol, as ``python -m relay.test.vectors`` checks them."""

from __future__ import annotations

import shutil

from twisted.trial.unittest import TestCase

from relay.test import make_vectors, vectors


class Vectors(TestCase):
    """``docs/protocol-vectors.json``."""

    def test_all_vectors_in_python(self) -> None:
        """Every vector in both forms, whole, cut at each byte and byte by byte."""
        check = vectors.Check()
        for vector in vectors.load():
            check.vector(vector)
        self.assertEqual(check.wrong, [])
        self.assertGreaterEqual(check.totals["vectors"], 80)

    def test_the_json_form_in_the_browser_module(self) -> None:
        """node reads the same file with the module that the node serves."""
        if shutil.which("node") is None:
            self.skipTest("node is not installed")
        if not vectors.BROWSER_MODULE.exists():
            self.skipTest("there is no browser module")
        self.assertIn(" 0 wrong", vectors.browser())

    def test_the_file_is_what_its_script_writes(self) -> None:
        """Nobody edits it by hand."""
        self.assertEqual(vectors.FILE.read_text(encoding="utf-8"), make_vectors.text())

    def test_names_are_given_once(self) -> None:
        """A vector is found by its name."""
        names = [vector["name"] for vector in vectors.load()]
        self.assertEqual(len(names), len(set(names)))

    def test_a_wrong_vector_is_noticed(self) -> None:
        """The check can fail: for another message, for other bytes, for an error that does not come."""
        good = next(vector for vector in vectors.load() if vector["name"] == "publish-specification")
        for change in ({"message": good["message"] | {"seq": 8}}, {"error": "protocol"}, {"refused": True}):
            check = vectors.Check()
            check.vector(good | change)
            self.assertNotEqual(check.wrong, [])
        check = vectors.Check()
        check.vector(good | {"binary": good["binary"][:-2] + "00"})
        self.assertNotEqual(check.wrong, [])
