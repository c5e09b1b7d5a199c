"""What the log has of links: lines that somebody else can bring about are few, whatever he does.

=========================================  ==========================================================================
a line                                     is said
=========================================  ==========================================================================
a stranger's link, dialled by him          once in ``repeat_s`` for his address and the kind of refusal, not for its
                                           text, which he chooses; at most ``STRANGERS_MAX`` in that time over all
                                           addresses, and how many were left out
a link of a node, refused or ended         once in ``repeat_s`` for the node, the kind and the direction
a link that came to stand, or is gone      each once in ``repeat_s`` for the node; then how often, and how it stands
=========================================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

from twisted.logger import Logger

from relay.cluster.handshake import REFUSED_PROTOCOL, REFUSED_VERSION, LinkRefused
from relay.errors import RemoteProtocolError

log = Logger()

STRANGERS_MAX: Final = 30
"""Lines about strangers in ``repeat_s``."""
NODES_MAX: Final = 1024
"""Lines about nodes in that time: more than as many nodes as are ever met can bring about by accident."""


class Budget:
    """At most ``lines_max`` lines in ``repeat_s``, none twice. No more is remembered than was said in that time."""

    __slots__ = ("_lines_max", "_repeat_s", "_said", "_seconds", "left_out")

    def __init__(self, seconds: Callable[[], float], repeat_s: float, lines_max: int) -> None:
        self.left_out = 0  # lines for which there was no room; back to 0 when that is said
        self._seconds = seconds
        self._repeat_s = repeat_s
        self._lines_max = lines_max
        self._said: dict[Hashable, float] = {}  # when; oldest first

    def takes(self, key: Hashable) -> bool:
        """Whether the line ``key`` may be said now; it is then."""
        if self.has(key):  # first: it forgets what is old
            return False
        if len(self._said) >= self._lines_max:
            self.left_out += 1
            return False
        self._said[key] = self._seconds()
        return True

    def has(self, key: Hashable) -> bool:
        """Whether it was said a short time ago."""
        before = self._seconds() - self._repeat_s
        while self._said:
            oldest = next(iter(self._said))
            if self._said[oldest] > before:
                break
            del self._said[oldest]
        return key in self._said


class LinkLines:
    """See the module. ``look`` is called now and then."""

    __slots__ = ("_changes", "_nodes", "_strangers")

    def __init__(self, seconds: Callable[[], float], repeat_s: float) -> None:
        self._strangers = Budget(seconds, repeat_s, STRANGERS_MAX)
        self._nodes = Budget(seconds, repeat_s, NODES_MAX)
        self._changes: dict[int, tuple[int, bool]] = {}  # of each node, not said: how many, and whether it stands now

    def stranger(self, host: str, error: RemoteProtocolError | str) -> None:
        """A link that ``host`` dialled did not come to be."""
        if self._strangers.takes((host, _kind(error))):
            log.warn("cluster link with {host} refused: {reason}", host=host, reason=error)

    def refused(self, node: int, host: str, error: RemoteProtocolError) -> None:
        """One that was dialled here did not."""
        if self._nodes.takes((node, _kind(error), "refused")):
            log.warn("cluster link with {host} refused: link to node {node}: {reason}",
                     host=host, node=node, reason=error)  # fmt: skip

    def ended(self, node: int, host: str, error: RemoteProtocolError, *, dialled: bool) -> None:
        """A link that stood ended by what came on it."""
        if self._nodes.takes((node, _kind(error), dialled)):
            log.warn("the link {way} node {node} at {host} ended: {reason}",
                     way="to" if dialled else "from", host=host, node=node, reason=error)  # fmt: skip

    def not_reached(self, node: int, address: str, why: str) -> None:
        """Nobody was there."""
        if self._nodes.takes((node, "not reached")):
            log.info("node {node} at {address} is not reached: {why}", node=node, address=address, why=why)

    def changed(self, node: int, *, stands: bool) -> None:
        """The link to ``node`` stands, or is gone."""
        count, _ = self._changes.pop(node, (0, False))
        if not self._nodes.takes((node, stands)):
            self._changes[node] = (count + 1, stands)
            return
        form = "linked to node {node}" if stands else "the link to node {node} is gone"
        log.info(form + (", {count} times since the last line" if count else ""), node=node, count=count)

    def look(self) -> None:
        """Say what was left out, each once in a while too."""
        if self._strangers.left_out and self._nodes.takes("left out"):
            count, self._strangers.left_out = self._strangers.left_out, 0
            log.warn("{count} more lines about refused cluster links were left out", count=count)
        for node, (count, stands) in list(self._changes.items()):
            if not (self._nodes.has((node, True)) or self._nodes.has((node, False))):
                del self._changes[node]
                how = "stands" if stands else "is gone"
                log.info("the link to node {node} came or went {count} more times, and {how}",
                         node=node, count=count, how=how)  # fmt: skip


def _kind(error: RemoteProtocolError | str) -> object:
    """What of a refusal is not for the other side to choose."""
    if isinstance(error, str):
        return error
    code = error.refusal if isinstance(error, LinkRefused) else REFUSED_PROTOCOL
    return code if REFUSED_VERSION <= code <= REFUSED_PROTOCOL else REFUSED_PROTOCOL
