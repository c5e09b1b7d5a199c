"""Tests of ``relay.store.files``: directories whose names outlive the power."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from relay.store.files import OsFiles


class Killed(BaseException):
    """The process ends here."""


class NotingFiles(OsFiles):
    """Notes which directories are synced; ``killed``: the process ends before it can."""

    def __init__(self) -> None:
        self.synced: list[str] = []
        self.killed = False
        self.unreadable = False

    def sync_directory(self, path: str) -> None:
        if self.killed:
            raise Killed
        if self.unreadable:
            raise PermissionError(path)
        super().sync_directory(path)
        self.synced.append(path)


class DirectoryTests(SynchronousTestCase):
    """``OsFiles.make_directory``."""

    def setUp(self) -> None:
        self.files = NotingFiles()
        self.top = self.mktemp()
        os.makedirs(self.top)
        Path(self.top, "file").touch()
        self.inner = os.path.join(self.top, "a", "b")

    def test_made(self):
        """Each directory that got a new name in it is synced, the outermost first."""
        self.files.make_directory(self.inner)
        self.assertEqual(self.files.synced, [self.top, os.path.dirname(self.inner)])
        self.assertEqual(os.stat(self.inner).st_mode & 0o777, 0o700)

    def test_killed_in_between(self):
        """A name that the process made and did not live to sync is synced by the next start."""
        self.files.killed = True
        self.assertRaises(Killed, self.files.make_directory, self.inner)
        self.files.killed = False
        self.files.make_directory(self.inner)
        self.assertEqual(self.files.synced, [self.top, os.path.dirname(self.inner)])

    def test_in_use(self):
        """One that holds something costs no sync."""
        self.files.make_directory(self.inner)
        Path(self.inner, "file").touch()
        self.files.synced.clear()
        self.files.make_directory(self.inner)
        self.assertEqual(self.files.synced, [])

    def test_another_users(self):
        """An empty directory in one that may not be read was made by somebody else: it is taken as it is."""
        self.files.make_directory(self.inner)
        self.files.unreadable = True
        self.files.make_directory(self.inner)
        self.assertRaises(PermissionError, self.files.make_directory, os.path.join(self.inner, "c", "d"))
