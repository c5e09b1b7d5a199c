"""The borders between packages, as zope interfaces: who calls whom, with what promise.

    transport ── IConnection ──▶ core          bytes became a Message; the connection was lost
    core ────── IPeer ─────────▶ transport     bytes to send, pause, close
    core ────── IAuthenticator ▶ auth, plugin  who is this
    core ────── ILocalProvider ▶ app           a pull or push for a handler in this node
    app ─────── IAnswer ───────▶ core          the handler's answers
    app ─────── INode ─────────▶ core          what handlers and plugins may do with the node
    router ──── IDirectory ────▶ one node: a dict; a cluster: the other nodes
    core ────── IHistory ──────▶ store         publications of channels
    core ────── IQueueStore ───▶ store         messages that wait to be acknowledged
    core ────── IPresence ─────▶ store         who was here last, beyond the life of sessions
    node ────── IRelayPlugin ──▶ applications' code, found by ``twisted.plugin`` or named in the configuration
    cluster ─── IRaftGroup ────▶ a replicated state machine's users: propose, read, look, change members
    groups ──── IStateMachine ─▶ what is replicated
    groups ──── IRaftTransport ▶ links to other nodes, or the simulator's network
    transport ─ IRaftReceiver ─▶ groups        frames from other nodes, links that came and went
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from relay.cluster.raft.types import Entry
    from relay.core.identity import Identity
    from relay.errors import RelayError
    from relay.records import Append, Item, Page, Put, QueueState, Range, Retention, Settle
    from relay.wire.handshake import Hello
    from relay.wire.message import Message


class IPeer(Interface):
    """One live connection as the core sees it: an object beside the Twisted protocol.

    Promise: frames leave in the order of ``send``; what is sent in one reactor turn leaves in one write where that is
    possible; nothing is sent after ``close``.
    """

    transport: str = Attribute("tcp, tls, unix, ws, wss …: the label of the transport.")
    dialect: str = Attribute("The dialect's name.")
    encoding: int = Attribute("relay.wire.contracts: which encoder makes its frames.")
    address: str = Attribute("The remote host address, without port; '' for a Unix socket.")
    listener: str = Attribute("The listener's name in the configuration.")
    certificate: str = Attribute("Common name of a verified client certificate, or ''.")
    key: str = Attribute("Public key that the client proved in the secure channel, base64, or ''.")
    local: bool = Attribute("True for loopback and Unix sockets.")

    loose: Callable[[bytes, str | None], None] | None = Attribute(
        "Where the transport carries frames apart from the session's: sends one that is neither counted nor sent again "
        "after a resume; of those with the same key only the newest is handed over. None: all frames go by send."
    )
    apart: int = Attribute("Flags of the messages without seq that go by loose and come so; 0 where loose is None.")

    def send(frame: bytes, key: str | None = None, flags: int = 0) -> None:
        """Queue ``frame``. ``key``: the conflation key, for the policy ``latest`` when the peer is slow."""

    def queued_bytes() -> int:
        """What waits to be handed to the transport."""

    def unsent() -> int:
        """Session frames certainly never handed to the transport; 0 while it is there, they may still be written."""

    def watch(overflowed: Callable[[], None], skip_frame: Callable[[int], bytes]) -> None:
        """The core's part in the slow-consumer policy: ``overflowed`` is called, once, when the peer must go (in the
        middle of a ``send``: the core closes it afterwards); ``skip_frame(n)`` makes the frame that stands for ``n``
        frames left out."""

    def pause(why: str) -> None:
        """Stop reading from the peer until ``resume`` was called for every ``why`` given."""

    def resume(why: str) -> None:
        """Take one reason for pausing back."""

    def close(reason: int, text: str = "") -> None:
        """Flush, then close the transport; abort it when the peer does not take what is left within a few seconds.

        ``reason`` is a close reason of ``relay.wire.kinds``. The goodbye frame, where the dialect has one, was sent
        before by the core. ``IConnection.lost`` follows, later, once.
        """


class IConnection(Interface):
    """What the transport calls, for one peer."""

    def receive(message: Message) -> None:
        """One decoded message, in the order of arrival. Never raises for what the peer did."""

    def failed(error: RelayError) -> None:
        """The dialect met broken input: the core says goodbye and closes the peer."""

    def lost(text: str, clean: bool) -> None:
        """The transport is gone. ``text`` for the log; ``clean``: the peer closed it in an orderly way."""


class IGate(Interface):
    """The core's door."""

    def admit(address: str, listener: str) -> int:
        """Before a protocol is built: 0 when a connection from ``address`` may come in, else a close reason."""

    def connected(peer: IPeer) -> IConnection:
        """A peer is there: everything it says goes to the returned object. The handshake time-out starts."""


class IAuthenticator(Interface):
    """One way to find out who a hello speaks for; several are asked in order."""

    name: str = Attribute("Label in logs, metrics and ``Identity.method``.")

    def authenticate(hello: Hello, peer: IPeer) -> Identity | Awaitable[Identity | None] | None:
        """The identity; None: not mine, ask the next. Raises ``Unauthenticated`` or ``Expired`` to refuse for good,
        ``AuthUnavailable`` when it cannot tell now. Must not block."""


class IAnswer(Interface):
    """The way back for one pull. Exactly one of a final ``reply`` or ``fail`` counts; later ones are ignored."""

    done: bool = Attribute("True once answered, cancelled or out of time.")
    on_cancel: Callable[[], None] | None = Attribute("Called once when the caller cancels, leaves, or time is up.")

    def reply(body: bytes, codec: int, more: bool = False, fields: dict[int, Any] | None = None) -> None:
        """An answer; with ``more`` a progressive one, others follow."""

    def fail(error: RelayError) -> None:
        """The end, as an error."""


class ILocalProvider(Interface):
    """A procedure's provider that is code in this node."""

    def pull(session: Any, message: Message, answer: IAnswer) -> None:  # Any: core's Session, above this module
        """Start answering. Must return soon and never raise; an asynchronous handler goes on by itself."""

    def push(session: Any, message: Message) -> None:  # Any: as above
        """Take a message that wants no answer. Raises ``RelayError`` to refuse it."""


class INode(Interface):
    """What handlers and plugins may do with the node that they run in: the same as a client with every permission.

    All methods are called in the reactor's thread. ``session`` is the core's ``Session``; the messages are made by the
    caller, ``sender`` and ``seq`` are stamped by the node.
    """

    def push_session(session: Any, message: Message) -> None:  # Any: core's Session, above this module
        """Send a push to one session, also to one that waits to be resumed. Raises ``NoReceiver`` when it has ended."""

    def pull_session(session: Any, message: Message, deadline_s: float | None) -> Deferred[Message]:  # Any: as above
        """Ask one session. Fires with its final reply, or fails with the ``RelayError`` that it answered, with
        ``DeadlineExceeded`` or ``ConnectionClosed``. ``deadline_s`` None: the configured default. Cancelling the
        Deferred sends a cancel.
        """

    def push_user(realm: str, user: str, device: str, message: Message) -> tuple[int, int]:
        """Send a push to the sessions of a user, or with ``device`` to that one; how many were addressed, reached."""

    def publish(realm: str, message: Message) -> int | Awaitable[int]:
        """Publish on the channel ``message.name``; how many sessions on this node it reached. Awaitable where the
        channel's owner has to store it first."""

    def bind(session: Any, user: str) -> None:  # Any: as above
        """Bind a session to a user, to another one, or with '' unbind it. Raises ``RelayError`` when it may not be:
        ``Conflict`` for a device that the user has already, ``LimitExceeded``, ``NoReceiver`` for one that has ended.
        """

    def subscribe(session: Any, channel: str, role: str = "") -> None:  # Any: as above
        """Make a session a member of a channel or pattern. Raises ``BadName``, ``LimitExceeded``, ``NoReceiver``."""

    def unsubscribe(session: Any, channel: str) -> bool:  # Any: as above
        """End a session's membership; False when there was none."""

    def subscribe_user(realm: str, user: str, channel: str, role: str = "") -> None:
        """Make a user a member of a channel or pattern: all sessions, present and future, while this node runs.
        Raises ``BadName``, ``LimitExceeded``."""

    def unsubscribe_user(realm: str, user: str, channel: str) -> bool:
        """End a user's membership; False when there was none."""


class IDirectory(Interface):
    """Who is interested, on this node and (in a cluster) on others. One node: nothing to tell."""

    def channel_interest(realm: str, name: str, interested: bool) -> None:
        """The first member of a channel or pattern on this node came, or the last went."""

    def user_interest(realm: str, user: str, interested: bool) -> None:
        """The first session of a user on this node came, or the last went."""

    def providers_changed(realm: str, procedure: str, providers: int, policy: str) -> None:
        """The number of providers of a procedure on this node changed."""


class IHistory(Interface):
    """The publications of channels, in the order of their offsets.

    Promise:

    - Offsets of a channel are 1, 2, 3 … without gap, in the order in which the appends were submitted. A failed append
      takes no offset; two publications never have the same one, whatever crashes.
    - A channel's ``epoch`` is made with its first publication and changes when its log was lost or purged: a position
      is an offset together with its epoch.
    - When ``done`` is called, what carries no error is as safe as the store makes it: on the disk (synced), or for a
      memory store in this process. What carries one was certainly not stored (outcome ``not_done``), or nobody knows
      (``unknown``).
    - ``done`` is called in the reactor's thread, once per batch, in the order of submission; a memory store calls it
      before the method returns, and so does any store that refuses a batch because it is closed or because too many
      refused ones wait already. Nothing here blocks.
    - Trimming by retention and expiry happens behind, in small steps; what is over its limits may still be read.
    """

    def append(batch: Sequence[Append], done: Callable[[Sequence[Append]], None]) -> None:
        """Store publications; each comes back with its ``offset`` and ``epoch``, or with an ``error``: ``Full`` when
        the disk or a quota is (temporary), ``Unavailable`` while the store is stopping."""

    def read(wanted: Range, done: Callable[[Page], None]) -> None:
        """A part of a channel's history. A channel that nobody published to, or that was forgotten, has epoch '' and
        ``last`` 0; ``forgotten`` tells them apart from what somebody knew."""

    def purge(realm: str, channel: str, done: Callable[[RelayError | None], None]) -> None:
        """Forget a channel's publications; the next one begins another epoch."""


class IEventHistory(IHistory):
    """A history in this process, which takes an event as it is and writes its frame only for who reads it."""

    def keep(realm: str, event: Message, at_ms: int, retention: Retention) -> None:
        """Store ``event``, which has no fields, and give it ``offset`` and ``epoch``, as ``append`` would store its
        frame. Neither expires it nor is it retained. Raises ``Full``; then it has no fields."""


class IQueueStore(Interface):
    """Messages that wait until somebody has acknowledged them, by realm and queue.

    Promise: as ``IHistory`` for ``done`` and errors. A message that was stored is there after any crash until it was
    settled as ``ACKED``, expired or purged; a settlement that was reported is never undone by a crash. Numbers of a
    queue grow in the order of submission and are never given twice, though a queue that was empty may skip some.
    Leases are not stored: after a restart all that was not settled waits again.
    """

    def put(batch: Sequence[Put], done: Callable[[Sequence[Put]], None]) -> None:
        """Store messages; each comes back with its ``number``, or with an ``error``: ``Full``, ``Unavailable``."""

    def settle(batch: Sequence[Settle], done: Callable[[Sequence[Settle]], None] | None) -> None:
        """Remove, postpone, bury or revive messages. ``done`` None: the caller need not know."""

    def load(
        realm: str, queue: str, after: int, limit: int, dead: bool, done: Callable[[Sequence[Item] | RelayError], None]
    ) -> None:
        """At most ``limit`` messages with numbers over ``after``, ascending, those that have not expired; the waiting
        ones or the dead ones. Fewer when they are large, see ``relay.records.is_end``."""

    def states(done: Callable[[Sequence[QueueState] | RelayError], None]) -> None:
        """All queues that hold a message or are paused: asked once, at the start."""

    def purge(realm: str, queue: str, dead: bool, done: Callable[[int | RelayError], None]) -> None:
        """Remove all waiting messages, or all dead ones; how many there were."""

    def pause(realm: str, queue: str, paused: bool, done: Callable[[RelayError | None], None]) -> None:
        """Keep in mind that a queue is not to be delivered from."""


class IPresence(Interface):
    """When users were last here. Who is here now is the core's to know: it follows from the sessions.

    Promise: a lost write costs the last seconds before a crash, nothing else. ``done`` as in ``IHistory``.
    """

    def seen(batch: Sequence[tuple[str, str, int]]) -> None:
        """Realm, user and Unix time in ms of users whose last session has ended. Written behind, never awaited."""

    def last_seen(realm: str, user: str, done: Callable[[int | RelayError], None]) -> None:
        """Unix time in ms; 0 for a user who was never here, or is forgotten (``store.users_max``)."""


class IRelayPlugin(Interface):
    """Application code in the node. All attributes but ``name`` are optional: the ones present are used.

    ``session`` is the core's ``Session`` (``id``, ``realm``, ``user``, ``device``), ``message`` a ``Message`` (make a
    new one to rewrite it). A method may be plain or ``async``; one that raises refuses that one message
    (``refused``, or the ``RelayError`` it raised) and is counted.

    ===================================================  ==========================================================
    ``routes() -> Iterable[object]``                     instances whose methods become procedures (``relay.app``)
    ``start(node)``, ``stop()``                          the node runs; the node stops
    ``accept(peer)``                                     before the hello; raise to refuse
    ``authenticate(hello, peer) -> Identity | None``     as ``IAuthenticator``
    ``session_started(session)``                         after the welcome; also ``session_resumed(session)`` and
                                                         ``session_ended(session, reason)``
    ``before_message(session, message) -> Message``      every session frame; may rewrite it
    ``after_message(session, message)``                  it was routed
    ``before_subscribe(session, name, options)``         raise to refuse
    ``before_publish(session, message) -> Message``      may rewrite it
    ``tick(now_s)``                                      once a second
    ===================================================  ==========================================================
    """

    name: str = Attribute("Label in logs, metrics and errors.")


# --- replicated state machines ------------------------------------------------------------------------------------


class IStateMachine(Interface):
    """What one Raft group replicates. Every call comes from the reactor's thread, none during another.

    It is a function of the entries applied, and of nothing else: no clock, no random, no I/O, no order of a set. All
    members then hold the same state after the same index. It lives in memory: after a restart the group calls
    ``restore`` with the newest snapshot, if there is one, and applies the entries behind it again, so state and applied
    index are one by construction.
    """

    def apply(entries: Sequence[Entry]) -> Sequence[object]:
        """Apply committed ``entries`` in order; one result for each, in order.

        An entry has ``index``, ``term`` and ``data`` (never empty: elections' and memberships' entries do not come
        here, so indexes have gaps). What a command may not do is a result, never an exception: one that is raised here
        ends the process, because members would differ. A result goes to the ``done`` of whoever proposed the entry on
        this node; it is not sent anywhere.
        """

    def snapshot() -> Iterator[bytes]:
        """The state after the last ``apply``, in chunks of 1 byte to 1 MiB (64 KiB to 256 KiB are good), at least one.

        Cheap to begin: take a frozen copy, or note what changes. The chunks are taken later, one or a few in a
        reactor's turn, while ``apply`` goes on; they show the state at the time of this call. The iterator may be
        closed before its end. Equal states give equal bytes.
        """

    def restore(chunks: Iterable[bytes]) -> None:
        """Replace the whole state by a snapshot's. The chunks may be cut elsewhere than they were made. Before the
        first ``apply``, and again whenever the leader sends a snapshot. Watchers have to be told to look again."""

    def leader_changed(leader: int, term: int, leading: bool) -> None:
        """This group has another leader (0: none known) or term; ``leading``: it is this node. Not a part of the state:
        for what only the leader proposes, as time. May propose, but not wait."""


class IRaftGroup(Interface):
    """One Raft group as its users on this node see it; calls work on every member, leader or not.

    ``done`` is called exactly once, in a later turn or in this one, with ``(result, None)`` or ``(None, error)``. The
    error is a ``RelayError``: ``outcome`` ``not_done`` (failed for certain, may be made again) or ``unknown`` (it may
    have been done, or still be): make it again only with the (client, sequence) under which the machine knows it.
    What is asked in one turn goes out together; nothing here costs a Deferred.
    """

    number: int = Attribute("The group's number, 1 to 2**32 - 1; the same on all nodes.")
    node: int = Attribute("This node's id.")
    leader: int = Attribute("The leader's node id as far as known, or 0.")
    term: int = Attribute("The term.")
    leading: bool = Attribute("Whether this node leads.")
    applied: int = Attribute("The index that the state machine shows.")

    def propose(data: bytes, done: Callable[[Any, RelayError | None], object]) -> None:  # Any: apply's result
        """Have ``data`` (1 byte to ``proposal_bytes_max``) committed and applied; ``done`` gets what this node's
        ``apply`` returned for it. Never raises: what cannot be is told to ``done``, at once."""

    def read_index(done: Callable[[None, RelayError | None], object]) -> None:
        """Wait until this node's state machine shows everything that was acknowledged anywhere before this call; then
        a look at it is linearizable, in ``done`` itself. A failed read may always be made again."""

    def status() -> Any:  # Any: relay.cluster.group.GroupStatus, above this module
        """Role, leader, term, indexes, members, and on the leader the progress of each."""

    def transfer(node: int, done: Callable[[None, RelayError | None], object]) -> None:
        """Hand leadership to ``node``, a voter; on a follower the leader is asked to. 0: to the voter that is best
        caught up. ``done`` when another leader is known; fails after an election time-out."""

    def add_learner(node: int, done: Callable[[Any, RelayError | None], object]) -> None:  # Any: as status().members
        """Make ``node`` receive the log without a vote; ``done`` gets the members as applied. On the leader only."""

    def promote(node: int, done: Callable[[Any, RelayError | None], object]) -> None:  # Any: as above
        """Make a learner that has caught up a voter; ``Conflict`` when it has not. On the leader only."""

    def remove(node: int, done: Callable[[Any, RelayError | None], object]) -> None:  # Any: as above
        """Take ``node`` out of the group. Its id never comes back: a new disk is a new id. On the leader only."""

    def take_snapshot(done: Callable[[Any, RelayError | None], object]) -> None:  # Any: the index
        """Snapshot now, and compact what two snapshots cover; ``done`` gets the index."""


class IRaftReceiver(Interface):
    """What the transport tells the groups; none of it during a call of the groups' own."""

    def received(node: int, frame: bytes) -> None:
        """A frame from ``node``. Raises ``RemoteProtocolError`` for one that means nothing: the link ends."""

    def linked(node: int) -> None:
        """Frames to ``node`` are taken from now on."""

    def unlinked(node: int) -> None:
        """The link to ``node`` is gone; what was not delivered is lost. It will be tried again, at once first."""

    def unreachable(node: int) -> None:
        """The link ended and the attempt to have it again was refused: nobody listens there. Said once an outage."""


class IRaftTransport(Interface):
    """Frames to other nodes. Promise: while linked, frames of one lane arrive whole, in order and at most once; those
    of a lower lane before those of a higher one that are not yet under way. A frame may be lost only together with all
    later ones of the link. Nothing is called back during ``send``."""

    def send(node: int, lane: int, frame: bytes) -> bool:
        """Queue ``frame`` in ``lane``: 0 urgent (heartbeats, votes, acknowledgements), 1 entries, 2 snapshots. False
        when there is no link or the lane's queue is full: nothing was sent."""

    def waiting_bytes(node: int, lane: int) -> int:
        """What was queued in ``lane`` and not yet handed to the network; 0 without a link."""

    def drop(node: int) -> None:
        """End the link to a node that was removed from the cluster, and dial it no more."""


# --- elections ----------------------------------------------------------------------------------------------------


class ICandidacy(Interface):
    """One candidate in one election."""

    election: str = Attribute("The election's name.")
    state: str = Attribute("busy, standby, on-duty or out: see relay.cluster.candidacy.")
    duty: str = Attribute("The candidate who is on duty as far as known, or ''.")
    token: tuple[int, int] | None = Attribute(
        "While on duty: the fencing token. What is guarded refuses smaller ones than it has seen."
    )

    def give_up() -> Deferred[None]:
        """Leave: ``out`` from this call on, so that nobody else is on duty while this one believes to be. Fires when
        the others know; the next is on duty then."""


class IElections(Interface):
    """Many elections at once."""

    def campaign(election: str, changed: Callable[[ICandidacy], object], value: bytes = b"") -> ICandidacy:
        """Become a candidate. ``changed`` is called after every change of state or duty; ``value`` is what the others
        see of a candidate on duty. Raises ``Conflict`` when it is one already, ``BadName``, ``LimitExceeded``."""

    def stop() -> Deferred[None]:
        """Give up everything; fires when that is done, or cannot be."""
