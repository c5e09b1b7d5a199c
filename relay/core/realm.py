"""A closed name space: the users, channels and procedures of one tenant; nothing crosses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import implementer

from relay.interfaces import IDirectory
from relay.wire.names import PatternTable

if TYPE_CHECKING:
    from relay.core.channels import Channel
    from relay.core.procedures import Procedure
    from relay.core.session import Session


class Realm:
    """``users``: the sessions of each user, oldest first. ``channels``: literal names and patterns with members.

    ``patterns`` and ``procedure_patterns`` find the patterns among them that match a name. Empty ones are dropped at
    once, so that a realm holds what is in use and nothing else.
    """

    __slots__ = (
        "channels", "devices", "directory", "name", "patterns", "procedure_patterns", "procedures", "selective",
        "sessions", "users",
    )  # fmt: skip

    def __init__(self, name: str, directory: IDirectory) -> None:
        self.name = name
        self.directory = directory
        self.sessions: dict[Session, None] = {}
        self.users: dict[str, dict[Session, None]] = {}
        self.devices: dict[tuple[str, str], Session] = {}
        self.channels: dict[str, Channel] = {}
        self.patterns: PatternTable[Channel] = PatternTable()
        self.selective = 0
        """Subscriptions that do not take every event (``relay.core.selection``)."""
        self.procedures: dict[str, Procedure] = {}
        self.procedure_patterns: PatternTable[Procedure] = PatternTable()

    def enter(self, session: Session) -> bool:
        """A session speaks for its user from now on; True when it is the user's first."""
        self.sessions[session] = None
        user = session.user
        if not user:
            return False
        sessions = self.users.get(user)
        if sessions is None:
            sessions = self.users[user] = {}
            self.directory.user_interest(self.name, user, True)
        sessions[session] = None
        if session.device:
            self.devices[user, session.device] = session
        return len(sessions) == 1

    def leave(self, session: Session) -> bool:
        """A session speaks for its user no longer, True when it was the last; it enters again when it was bound to
        another."""
        self.sessions.pop(session, None)
        user = session.user
        sessions = self.users.get(user)
        if sessions is not None and session in sessions:
            del sessions[session]
            if not sessions:
                del self.users[user]
                self.directory.user_interest(self.name, user, False)
        if self.devices.get((user, session.device)) is session:
            del self.devices[user, session.device]
        return user != "" and user not in self.users


@implementer(IDirectory)
class LocalDirectory:
    """``IDirectory`` of a node on its own: nobody is to be told."""

    def channel_interest(self, realm: str, name: str, interested: bool) -> None:
        """Nobody to tell."""

    def user_interest(self, realm: str, user: str, interested: bool) -> None:
        """Nobody to tell."""

    def providers_changed(self, realm: str, procedure: str, providers: int, policy: str) -> None:
        """Nobody to tell."""
