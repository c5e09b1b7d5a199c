"""Procedures: who provides them, who is asked next, and what becomes of the question.

A procedure exists while it has providers. A literal name goes before a pattern; of several patterns the one with the
most literal segments counts. Handlers in this node (``Hub.local``) stand before sessions, in every realm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from relay import errors
from relay.core.hub import FORWARDED_FLAGS
from relay.core.pending import LocalPull, Pending, RoutedPull
from relay.interfaces import ILocalProvider
from relay.wire import kinds, names
from relay.wire.handshake import RegisterOptions, read
from relay.wire.message import Message

if TYPE_CHECKING:
    from relay.core.hub import Hub
    from relay.core.realm import Realm
    from relay.core.session import Session

WEIGHT_MAX: Final = 1000
TARGETS: Final = frozenset((kinds.USER, kinds.DEVICE, kinds.SESSION, kinds.PROCEDURE, kinds.PROVIDER, kinds.ALL))
"""Fields that say whom else to ask."""
POLICIES: Final = ("single", "round_robin", "random", "least_pending", "weighted", "sticky")


class Registration:
    """A session's offer to answer. ``pending``: pulls that it has not answered yet. ``current``: for ``weighted``."""

    __slots__ = ("current", "pending", "procedure", "session", "weight")

    def __init__(self, procedure: Procedure, session: Session, weight: int) -> None:
        self.procedure = procedure
        self.session = session
        self.weight = weight
        self.pending = 0
        self.current = 0


class Procedure:
    """A name with one or more providers and the policy of the first of them."""

    __slots__ = ("cursor", "name", "pattern", "policy", "providers")

    def __init__(self, name: str, policy: str) -> None:
        self.name = name
        self.policy = policy
        self.pattern = names.is_pattern(name)
        self.providers: list[Registration] = []
        self.cursor = 0

    def choose(self, message: Message, random: Callable[[], float]) -> Registration | None:
        """The provider to ask; one that is detached is passed over; None when nobody is left."""
        # Fast path: one provider, and the caller does not name it.
        if len(self.providers) == 1 and message.fields is None:
            only = self.providers[0]
            return only if only.session.peer is not None else None
        wanted = message.get(kinds.PROVIDER)
        here = [
            each
            for each in self.providers
            if each.session.peer is not None and (wanted is None or each.session.id == wanted)
        ]
        if len(here) < 2:
            return here[0] if here else None
        match self.policy:
            case "round_robin" | "single":
                self.cursor += 1
                return here[self.cursor % len(here)]
            case "random":
                return here[int(random() * len(here))]
            case "least_pending":
                return min(here, key=lambda each: each.pending)
            case "weighted":
                return _smooth(here)
            case _:
                return _sticky(here, message.get(kinds.ORDERING_KEY, ""))


def _smooth(here: Sequence[Registration]) -> Registration:
    """Smooth weighted round robin: each gains its weight, the largest is taken and pays the sum."""
    best = here[0]
    total = 0
    for each in here:
        each.current += each.weight
        total += each.weight
        if each.current > best.current:
            best = each
    best.current -= total
    return best


def _sticky(here: Sequence[Registration], key: str) -> Registration:
    """Rendezvous hashing: a provider that comes or goes moves only its own keys."""

    def score(each: Registration) -> bytes:
        return hashlib.blake2b(f"{each.session.id}\0{key}".encode(), digest_size=8).digest()

    return max(here, key=score)


class Procedures:
    """The router's part for pull, reply, error, cancel, register and unregister."""

    def __init__(self, hub: Hub, random: Callable[[], float]) -> None:
        self._hub = hub
        self._random = random

    # --- asking ---------------------------------------------------------------------------------------------------

    def pull(self, session: Session, message: Message) -> None:
        """Ask a provider, a user's session, or a handler in this node."""
        hub = self._hub
        wanted = message.name
        fields = message.fields
        # Fast path: a handler in this node, and nothing else under way. Its name needs no look at the grammar.
        if fields is None and not session.calls and message.seq:
            local = hub.local.get(wanted)
            if local is not None and wanted[0] != "$" and session.identity.permissions.allows("call", wanted):
                self._ask_local(session, message, local, hub.config.limits.deadline_s_default)
                return
        if not message.seq:
            raise errors.BadBody("a pull needs a seq")
        if message.seq in session.calls:
            raise errors.Conflict("a pull with this seq is under way")
        limits = hub.config.limits
        if len(session.calls) >= limits.pending_pulls_max:
            raise errors.LimitExceeded(f"{limits.pending_pulls_max} pulls under way are the limit", temporary=True)
        if wanted.startswith("$"):
            self._pull_own(session, message)
            return
        hub.rule(wanted)
        deadline_s = limits.deadline_s_default
        if fields is not None:
            if kinds.DEADLINE_MS in fields:
                deadline_s = min(fields[kinds.DEADLINE_MS] / 1000, limits.deadline_s_max)
            if kinds.USER in fields or kinds.SESSION in fields:
                self._pull_session(session, message, deadline_s)
                return
            wanted = fields.get(kinds.PROCEDURE, wanted)
            hub.rule(wanted)
        if not session.identity.permissions.allows("call", wanted):
            raise errors.Denied(f"call of {wanted}")
        local, registration = self.find(session.realm, wanted, message)
        if local is not None:
            self._ask_local(session, hub.for_handler(message), local, deadline_s)
        elif registration is not None:
            self._ask(session, message, registration.session, registration, deadline_s)
        else:
            raise errors.NoProvider(f"nobody provides {wanted}")

    def _ask_local(self, session: Session, message: Message, local: ILocalProvider, deadline_s: float) -> None:
        answer = LocalPull(self._hub, session, message.seq)
        local.pull(session, message, answer)
        # Most handlers have answered by now: only what waits is under way.
        if not answer.done:
            answer.wait(deadline_s)

    def _pull_own(self, session: Session, message: Message) -> None:
        """Ask a procedure of relay's own: by its name alone, and only through the door of its first segment."""
        hub = self._hub
        name = message.name
        names.check_name(name)
        door = hub.doors.get(name.partition(".")[0])
        if door is None or any(field in TARGETS for field in message.fields or ()):
            raise errors.Denied("names that begin with $ are the server's own")
        door(session, name)
        local = hub.local.get(name)
        if local is None:
            raise errors.NoProvider(f"nobody provides {name}", temporary=False)
        limits = hub.config.limits
        wanted_ms = message.get(kinds.DEADLINE_MS)
        deadline_s = limits.deadline_s_default if wanted_ms is None else min(wanted_ms / 1000, limits.deadline_s_max)
        self._ask_local(session, hub.for_handler(message), local, deadline_s)

    def find(
        self, realm: Realm, name: str, message: Message
    ) -> tuple[ILocalProvider, None] | tuple[None, Registration | None]:
        """The handler in this node, or the registration to ask; (None, None) when there is neither."""
        local = self._hub.local.get(name)
        if local is not None:
            return local, None
        procedure = realm.procedures.get(name)
        registration = None if procedure is None else procedure.choose(message, self._random)
        if registration is None and len(realm.procedure_patterns):
            patterns = sorted(realm.procedure_patterns.match(name), key=lambda each: _breadth(each.name))
            for pattern in patterns:
                registration = pattern.choose(message, self._random)
                if registration is not None:
                    break
        if registration is None and self._hub.local_unknown is not None:
            return self._hub.local_unknown, None
        return None, registration

    def _pull_session(self, session: Session, message: Message, deadline_s: float) -> None:
        there = targets(session, message)
        if not there:
            raise errors.NoReceiver("nobody is there to be asked")
        # The newest that has a connection; one that may come back only when there is no other.
        target = next((each for each in there if each.peer is not None), there[0])
        self._ask(session, message, target, None, deadline_s)

    def _ask(
        self,
        session: Session,
        message: Message,
        provider: Session,
        registration: Registration | None,
        deadline_s: float,
    ) -> None:
        if len(provider.pending) >= self._hub.config.limits.pending_pulls_max:
            raise errors.LimitExceeded("the provider has as many unanswered pulls as it may", temporary=True)
        fields = None if message.fields is None else self._hub.forwarded(message.fields)
        flags = message.flags & FORWARDED_FLAGS
        asked = Message(kinds.PULL, message.name, message.body, message.codec, flags, 0, fields, session.sender)
        if fields is not None:
            asked = self._hub.fit(asked, provider)
        pending = RoutedPull(self._hub, session, message.seq, provider, registration)
        asked.seq = pending.provider_seq
        self._hub.wheel.add(pending, deadline_s)
        provider.send(asked)

    def cancel(self, session: Session, message: Message) -> None:
        """The caller takes a pull back; one that is already answered is nothing to complain of."""
        pending = session.calls.get(message.seq)
        if pending is not None:
            pending.abort(errors.Cancelled())

    # --- answering ------------------------------------------------------------------------------------------------

    def reply(self, session: Session, message: Message) -> None:
        """A provider's reply or error."""
        pending = session.pending.get(message.seq)
        if pending is None:
            self._hub.metrics.orphans += 1
            return
        try:
            pending.answer(message)
        except errors.RelayError as error:
            # The provider sent what it may not: its caller must not wait for ever.
            pending.refuse(errors.ProviderLost(f"the provider's answer was refused: {error}"))

    def register(self, session: Session, message: Message) -> None:
        """Offer to answer pulls."""
        name = message.name
        options = read(message, RegisterOptions)
        names.check_pattern(name)
        if name.startswith("$"):
            raise errors.Denied("names that begin with $ are the server's own")
        if options.policy not in POLICIES:
            raise errors.BadBody(f"policy: one of {', '.join(POLICIES)}")
        if not 1 <= options.weight <= WEIGHT_MAX:
            raise errors.BadBody(f"weight: 1 to {WEIGHT_MAX}")
        if not session.identity.permissions.allows("register", name):
            raise errors.Denied(f"register {name}")
        limits = self._hub.config.limits
        if len(session.registrations) >= limits.registrations_max:
            raise errors.LimitExceeded(f"{limits.registrations_max} registrations are the limit")
        if name in self._hub.local:
            raise errors.Conflict(f"{name} is a handler of the node")
        if name in session.registrations:
            raise errors.Conflict(f"{name} is registered already")
        pattern = names.is_pattern(name)
        if pattern and session.registered_patterns >= limits.patterns_max:
            raise errors.LimitExceeded(f"{limits.patterns_max} registrations of patterns are the limit")
        realm = session.realm
        procedure = realm.procedures.get(name)
        if procedure is None:
            procedure = realm.procedures[name] = Procedure(name, options.policy)
            if procedure.pattern:
                realm.procedure_patterns.add(name, procedure)
        elif procedure.policy == "single":
            raise errors.Conflict(f"{name} has its single provider")
        elif procedure.policy != options.policy:
            raise errors.Conflict(f"{name} is shared by the policy {procedure.policy}")
        registration = Registration(procedure, session, options.weight)
        procedure.providers.append(registration)
        session.registrations[name] = registration
        session.registered_patterns += pattern
        realm.directory.providers_changed(realm.name, name, len(procedure.providers), procedure.policy)
        self._hub.answer(session, message.seq)

    def unregister(self, session: Session, message: Message) -> None:
        """Answer no further pulls; those under way may still be answered."""
        if not self.withdraw(session, message.name):
            raise errors.NotFound(f"no registration {message.name}")
        self._hub.answer(session, message.seq)

    def withdraw(self, session: Session, name: str) -> bool:
        """End a registration; False when there was none."""
        registration = session.registrations.pop(name, None)
        if registration is None:
            return False
        procedure = registration.procedure
        session.registered_patterns -= procedure.pattern
        procedure.providers.remove(registration)
        realm = session.realm
        if not procedure.providers:
            del realm.procedures[name]
            if procedure.pattern:
                realm.procedure_patterns.remove(name, procedure)
        realm.directory.providers_changed(realm.name, name, len(procedure.providers), procedure.policy)
        return True

    # --- a provider that vanishes ---------------------------------------------------------------------------------

    def vanished(self, provider: Session, unsent: int) -> None:
        """Its connection is gone, and with it the last ``unsent`` frames: pulls among those were not carried out."""
        for pending in list(provider.pending.values()):
            assert isinstance(pending, RoutedPull)
            if pending.index > provider.sent - unsent:
                self._not_asked(provider, pending)

    def lost(self, provider: Session) -> None:
        """It did not come back in time: what it was asked may or may not have been done, but for what was asked while
        it was away."""
        for pending in list(provider.pending.values()):
            assert isinstance(pending, RoutedPull)
            if provider.peer is None and pending.index > provider.handed:
                self._not_asked(provider, pending)
            else:
                pending.refuse(errors.ProviderLost())

    def _not_asked(self, provider: Session, pending: RoutedPull) -> None:
        provider.withdraw(pending.index, pending.provider_seq)
        pending.refuse(errors.NoProvider("the provider left before it was asked", outcome="not_done"))

    def forget(self, caller: Session) -> None:
        """A caller's session has ended: nobody waits for its answers."""
        calls: list[Pending] = list(caller.calls.values())
        for pending in calls:
            pending.forget()


def targets(session: Session, message: Message) -> list[Session]:
    """The sessions that a push or pull to a ``session`` or ``user`` (and ``device``) addresses, the newest first.

    Raises ``Denied`` when the sender may not.
    """
    realm = session.realm
    hub = session.hub
    allows_user = session.identity.permissions.allows_user
    wanted = message.get(kinds.SESSION)
    if wanted is not None:
        target = hub.sessions.get(wanted)
        if target is None or target.realm is not realm:
            if not allows_user("push", wanted):
                raise errors.Denied(f"push to session {wanted}")
            return []
        if not allows_user("push", target.user or target.id):
            raise errors.Denied(f"push to session {wanted}")
        return [target]
    user = message.get(kinds.USER)
    if not allows_user("push", user):
        raise errors.Denied(f"push to user {user}")
    sessions = realm.users.get(user)
    if sessions is None:
        return []
    device = message.get(kinds.DEVICE)
    newest_first = list(reversed(sessions))
    return newest_first if device is None else [each for each in newest_first if each.device == device]


def _breadth(pattern: str) -> tuple[int, bool, int]:
    """How much a pattern covers, the least first: literal segments, an end that takes any rest, segments in all."""
    segments = pattern.split(".")
    literals = sum(segment not in ("*", "**") for segment in segments)
    return -literals, segments[-1] == "**", -len(segments)
