"""A history for tests, kept as plainly as can be: lists in a dict. ``slow``: nothing completes before ``complete``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zope.interface import implementer

from relay.errors import RelayError
from relay.interfaces import IHistory
from relay.records import Append, Page, Publication, Range


class Log:
    """One channel's publications."""

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.last = 0
        self.kept: list[Publication] = []
        self.retained: Publication | None = None
        self.keys: dict[str, tuple[int, int]] = {}


@implementer(IHistory)
class FakeHistory:
    """``slow``: as a store on a disk, appends and reads wait until ``complete``; with ``early`` the appends are written
    at once, and only their completion waits. ``failing``: the error that the next appends end with. ``batches``: sizes
    of batches, ``appended`` and ``pages``: what was asked for."""

    def __init__(self, now_ms: Callable[[], int], slow: bool = False) -> None:
        self.now_ms = now_ms
        self.slow = slow
        self.failing: RelayError | None = None
        self.logs: dict[tuple[str, str], Log] = {}
        self.waiting: list[Callable[[], None]] = []
        self.early = False
        self.batches: list[int] = []
        self.appended: list[Append] = []
        self.pages: list[Range] = []
        self.epochs = 0
        self.lost: dict[tuple[str, str], int] = {}

    def complete(self, count: int | None = None) -> None:
        """Let what waits complete, in order; ``count``: only so many."""
        while self.waiting and count != 0:
            self.waiting.pop(0)()
            count = None if count is None else count - 1

    def lose(self, realm: str, channel: str) -> None:
        """The channel's log is gone."""
        if self.logs.pop((realm, channel), None) is not None:
            self.lost[realm, channel] = self.lost.get((realm, channel), 0) + 1

    def trim(self, realm: str, channel: str, keep: int) -> None:
        """Only the newest ``keep`` are kept."""
        log = self.logs.get((realm, channel))
        if log is not None:
            log.kept = log.kept[len(log.kept) - keep :] if keep else []

    # --- IHistory -------------------------------------------------------------------------------------------------

    def append(self, batch: Sequence[Append], done: Callable[[Sequence[Append]], None]) -> None:
        """Store them in order."""
        self.batches.append(len(batch))

        self.appended.extend(batch)

        def write() -> None:
            for each in batch:
                self._append(each)

        def work() -> None:
            if not early:
                write()
            done(batch)

        early = self.early
        if early:
            write()
        self._begin(work)

    def read(self, wanted: Range, done: Callable[[Page], None]) -> None:
        """What is kept when the read completes."""
        self.pages.append(wanted)
        self._begin(lambda: done(self._page(wanted)))

    def purge(self, realm: str, channel: str, done: Callable[[RelayError | None], None]) -> None:
        """Forget all."""

        def work() -> None:
            self.lose(realm, channel)
            done(None)

        self._begin(work)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _begin(self, work: Callable[[], None]) -> None:
        if self.slow:
            self.waiting.append(work)
        else:
            work()

    def _append(self, each: Append) -> None:
        if self.failing is not None:
            each.error = self.failing
            return
        place = (each.realm, each.channel)
        log = self.logs.get(place)
        if log is None:
            self.epochs += 1
            log = self.logs[place] = Log(f"e{self.epochs}")
        each.epoch = log.epoch
        known = log.keys.get(each.key) if each.key else None
        if known is not None and known[1] > self.now_ms():
            each.offset, each.repeated = known[0], True
            return
        log.last += 1
        each.offset = log.last
        if each.key:
            log.keys[each.key] = (each.offset, each.key_until_ms)
        found = Publication(each.offset, each.at_ms, each.expires_ms, each.frame)
        log.kept.append(found)
        if each.retained:
            log.retained = found
        if each.retention.messages_max:
            self.trim(*place, min(len(log.kept), each.retention.messages_max))

    def _page(self, wanted: Range) -> Page:
        log = self.logs.get((wanted.realm, wanted.channel))
        if log is None:
            return Page("", 1, 0, forgotten=self.lost.get((wanted.realm, wanted.channel), 0))
        now = self.now_ms()
        kept = [each for each in log.kept if not each.expires_ms or each.expires_ms > now]
        first = kept[0].offset if kept else log.last + 1
        found = [
            each
            for each in kept
            if each.offset > wanted.after
            and (not wanted.before or each.offset < wanted.before)
            and each.at_ms >= wanted.since_ms
        ]
        if wanted.backwards:
            found.reverse()
        page: list[Publication] = []
        size = 0
        for each in found[: wanted.limit]:
            size += len(each.frame)
            if page and wanted.bytes_max and size > wanted.bytes_max:
                break
            page.append(each)
        retained = log.retained
        if retained is not None and retained.expires_ms and retained.expires_ms <= now:
            retained = None
        forgotten = self.lost.get((wanted.realm, wanted.channel), 0)
        return Page(log.epoch, first, log.last, tuple(page), retained, None, forgotten)
