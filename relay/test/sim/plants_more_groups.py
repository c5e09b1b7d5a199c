"""More bugs for the groups of a node, many of which need two things to coincide: ``(name, module, old, new)``."""

from __future__ import annotations

from typing import Final

PLANTS: Final = (
    (
        # The leader's answers come in another order than its entries stand.
        "blocks-in-order-of-their-terms",
        "requests",
        "        if not blocks or blocks[-1].first <= first:\n",
        "        if not blocks or blocks[-1].term <= term:\n",
    ),
    (
        # A leader that was cut off comes back to a snapshot, with proposals whose end it does not know.
        "proposals-survive-a-snapshot",
        "applier",
        "        self._proposals.skipped(snapshot.index)\n",
        "",
    ),
    (
        # A burst that does not fit into one message.
        "rest-of-a-burst-has-the-first-outcomes",
        "requests",
        "                self.queued, self.queued_dones = queued[at:], dones[at:]\n",
        "                self.queued, self.queued_dones = queued[at:], dones[:-at]\n",
    ),
    (
        "block-of-two-terms-has-the-first-results",
        "requests",
        "            for done, entry, result in zip(block.dones, entries[at : at + count], "
        "results[at:], "
        "strict=False):\n",
        "            for done, entry, result in zip(block.dones, entries[at : at + count], "
        "results, "
        "strict=False):\n",
    ),
    (
        "forwards-are-new-in-a-second-life",
        "requests",
        "        if first <= boots.get(boot, 0):\n",
        "        if first <= boots.get(boot, 0) and next(iter(boots)) == boot:\n",
    ),
    (
        # A node whose disk is slow: reads wait for their index, and others come meanwhile.
        "later-reads-join-one-that-waits",
        "requests",
        "        self._waiting.append(done)\n"
        "        self.count += 1\n",
        "        (self._ready[-1][1] if self._ready else self._waiting).append(done)\n"
        "        self.count += 1\n",
    ),
    (
        "reads-that-wait-are-served-together",
        "requests",
        "        while ready and ready[0][0] <= index:\n"
        "            self._end(ready.popleft()[1], None)\n",
        "        if ready and ready[0][0] <= index:\n"
        "            self._end([done for _, dones, _ in ready for done in dones], None)\n"
        "            ready.clear()\n",
    ),
    (
        "read-index-is-what-is-shown",
        "replica",
        "                self.reads.answered(state.request_ctx, state.index, self.host.ticks)\n",
        "                shown = min(state.index, self.applier.index)\n"
        "                self.reads.answered(state.request_ctx, shown, self.host.ticks)\n",
    ),
    (
        "reads-of-a-busy-leader-at-once",
        "replica",
        "        if context is not None:\n"
        "            self.raw.read_index(context)\n",
        "        if context is not None and raft.role == LEADER and self.proposals.count:\n"
        "            self.reads.answered(context, raft.log.committed, self.host.ticks)\n"
        "        elif context is not None:\n"
        "            self.raw.read_index(context)\n",
    ),
    (
        "reads-of-a-leader-heard-lately-at-once",
        "replica",
        "        if context is not None:\n"
        "            self.raw.read_index(context)\n",
        "        if context is not None and all(pr.recent_active for _, pr in raft.peers):\n"
        "            self.reads.answered(context, raft.log.committed, self.host.ticks)\n"
        "        elif context is not None:\n"
        "            self.raw.read_index(context)\n",
    ),
    (
        "reads-after-a-change-of-leader-at-once",
        "replica",
        "        if raft.lead != before:\n"
        "            self.reads.again()\n",
        "        if raft.lead != before:\n"
        "            self.reads.answered(self.reads._context(), raft.log.committed, "
        "self.host.ticks)\n",
    ),
    (
        "vote-for-oneself-without-sync",
        "replica",
        "            self._voted = (hard_state.term, hard_state.vote)\n"
        "            must_sync = True\n",
        "            self._voted = (hard_state.term, hard_state.vote)\n"
        "            must_sync = must_sync or hard_state.vote != self.host.node\n",
    ),
    (
        "vote-for-the-known-leader-without-sync",
        "replica",
        "            self._voted = (hard_state.term, hard_state.vote)\n"
        "            must_sync = True\n",
        "            must_sync = must_sync or hard_state.vote != self._voted[1]\n"
        "            self._voted = (hard_state.term, hard_state.vote)\n",
    ),
    (
        "vote-after-entries-of-its-term-without-sync",
        "replica",
        "            self._voted = (hard_state.term, hard_state.vote)\n"
        "            must_sync = True\n",
        "            self._voted = (hard_state.term, hard_state.vote)\n"
        "            must_sync = must_sync or self.raw.raft.log.last_term < hard_state.term - 1\n",
    ),
    (
        "entries-of-a-second-turn-wait-for-nobody",
        "log_queue",
        "                if submission.must_sync:\n"
        "                    self._log.submit(submission.writes, partial(self._done, answers))\n",
        "                if submission.must_sync:\n"
        "                    if len(self._under_way) > 1 and not submission.with_entries:\n"
        "                        self._answer(answers[:])\n"
        "                    self._log.submit(submission.writes, partial(self._done, answers))\n",
    ),
    (
        "results-of-a-run-after-a-change-come-first",
        "applier",
        "        if run:\n"
        "            results += self._commands(run)\n"
        "        self._proposals",
        "        if run:\n"
        "            results[:0] = self._commands(run)\n"
        "        self._proposals",
    ),
    (
        "empty-entry-of-a-leader-has-a-result",
        "applier",
        "            results.append(members)\n",
        "            if entry.data or not results:\n"
        "                results.append(members)\n",
    ),
    (
        # A member takes a snapshot, or its disk is slow, while nothing else happens.
        "quiet-with-a-member-that-lags",
        "replica",
        "        if any(pr.match != last or pr.state != REPLICATE for _, pr in reached):\n",
        "        if any(pr.match != last and pr.state == REPLICATE for _, pr in reached):\n",
    ),
    (
        "reads-of-the-leader-at-once-while-it-commits",
        "replica",
        "        if context is not None:\n"
        "            self.raw.read_index(context)\n",
        "        if context is not None and raft.role == LEADER and raft.log.last_index > "
        "raft.log.committed:\n"
        "            self.reads.answered(context, raft.log.committed, self.host.ticks)\n"
        "        elif context is not None:\n"
        "            self.raw.read_index(context)\n",
    ),
    (
        # One answer was lost, or came late.
        "answers-are-taken-in-order",
        "requests",
        "        waiting = self._forwarded.pop(number, None)\n",
        "        waiting = self._forwarded.pop(next(iter(self._forwarded), number), None)\n",
    ),
    (
        "lost-forwards-are-not-done-when-there-are-more",
        "requests",
        "            dones = self._forwarded.pop(number)[1]\n"
        '            self.fail(dones, Unavailable("the link to the leader was lost", '
        'outcome="unknown"))\n',
        "            dones = self._forwarded.pop(number)[1]\n"
        '            known = "not_done" if self._forwarded else "unknown"\n'
        '            self.fail(dones, Unavailable("the link to the leader was lost", '
        'outcome=known))\n',
    ),
    (
        "expired-proposals-are-not-done-without-a-leader",
        "requests",
        '            self.fail(self._forwarded.pop(number)[1], DeadlineExceeded("the leader did '
        'not answer"))\n',
        '            known = "not_done" if self.queued else "unknown"\n'
        '            self.fail(self._forwarded.pop(number)[1], DeadlineExceeded("no answer", '
        'outcome=known))\n',
    ),
    (
        "overwritten-in-the-middle-is-done",
        "requests",
        "            if entries[at].term == term and entries[at + count - 1].term == term:  # "
        "fast path: all of them\n",
        "            if entries[at].term == term and (count < 3 or entries[at + 1].term == "
        "term):\n",
    ),
    (
        "run-before-a-change-is-applied-again",
        "applier",
        "            if run:\n"
        "                results += self._commands(run)\n"
        "                run = []\n"
        "            members",
        "            if run:\n"
        "                results += self._commands(run)\n"
        "            members",
    ),
    (
        "reads-of-the-next-entry-are-served",
        "applier",
        "            self._reads.applied(self.index)\n",
        "            self._reads.applied(self.index + 1)\n",
    ),
    (
        "passed-blocks-are-told-by-the-newest",
        "inbound",
        "            index, applied = placed.index, replica.applier.index\n",
        "            shown = replica.raw.raft.log.unstable.offset - 2\n"
        "            index, applied = placed.index, min(replica.applier.index, shown)\n",
    ),
    (
        "reads-that-wait-too-long-are-served",
        "requests",
        '            self._end(self._ready.popleft()[1], DeadlineExceeded("not applied in time", '
        'outcome="not_done"))\n',
        "            self._end(self._ready.popleft()[1], None)\n",
    ),
    (
        "expired-proposals-stay-in-the-queue",
        "requests",
        "            dones, self.queued, self.queued_dones = self.queued_dones, [], []\n"
        '            self.fail(dones, DeadlineExceeded("no leader',
        "            dones, self._queued_tick = self.queued_dones[:], before\n"
        '            self.fail(dones, DeadlineExceeded("no leader',
    ),
    (
        "results-of-a-run-between-changes-are-lost",
        "applier",
        "            if run:\n"
        "                results += self._commands(run)\n"
        "                run = []\n"
        "            members",
        "            if run:\n"
        "                results = [*self._commands(run)]\n"
        "                run = []\n"
        "            members",
    ),
    (
        "empty-entries-are-no-entries-of-a-run",
        "applier",
        "            results.append(members)\n"
        "            if len(self._changes):\n",
        "            results.insert(0, members)\n"
        "            if len(self._changes):\n",
    ),
    (
        "snapshot-restores-up-to-the-log",
        "applier",
        "        self._proposals.skipped(snapshot.index)\n",
        "        self._proposals.skipped(self._raw.raft.log.applied)\n",
    ),
    (
        "snapshot-without-those-who-learn",
        "snapshot_taking",
        "            if known.issuperset(members):\n",
        "            if known.issuperset(self._replica.raw.raft.configuration.incoming):\n",
    ),
    (
        "blocks-of-a-former-term-are-not-done",
        "requests",
        "        blocks = self._placed\n"
        "        if not blocks or blocks[-1].first",
        "        blocks = self._placed\n"
        "        while blocks and blocks[0].term < term:\n"
        "            self.fail(blocks.popleft().dones, Unavailable(OVERWRITTEN))\n"
        "        if not blocks or blocks[-1].first",
    ),
    (
        "changes-of-members-have-no-result",
        "applier",
        "            results.append(members)\n",
        "            if entry.type == ENTRY_NORMAL:\n"
        "                results.append(members)\n",
    ),
    (
        "reads-wait-for-the-oldest-index",
        "requests",
        "            self._ready.append((index, self._asked, tick))\n",
        "            oldest = self._ready[0][0] if self._ready else index\n"
        "            self._ready.append((min(index, oldest), self._asked, tick))\n",
    ),
    (
        "not-committed-is-not-done-while-others-wait",
        "requests",
        '            self.fail(self._placed.popleft().dones, DeadlineExceeded("not committed in time"))\n',
        '            known = "not_done" if self.queued else "unknown"\n'
        '            self.fail(self._placed.popleft().dones, DeadlineExceeded("in time", outcome=known))\n',
    ),
    (
        "quiet-leader-tells-those-that-are-silent",
        "replica",
        "        for node, _ in reached:\n",
        "        for node, _ in raft.peers:\n",
    ),
    (
        "lost-forwards-are-not-done-in-a-burst",
        "requests",
        '            self.fail(dones, Unavailable("the link to the leader was lost", outcome="unknown"))\n',
        '            known = "unknown" if len(dones) < 3 else "not_done"\n'
        '            self.fail(dones, Unavailable("the link to the leader was lost", outcome=known))\n',
    ),
    (
        # A later answer of the same leader came first.
        "blocks-behind-a-new-one-are-not-done",
        "requests",
        "        self._placed = deque(sorted((*blocks, block), key=lambda each: each.first))\n",
        "        while blocks and blocks[-1].first > first:\n"
        "            self.fail(blocks.pop().dones, Unavailable(OVERWRITTEN))\n"
        "        blocks.append(block)\n",
    ),
    (
        "blocks-behind-a-snapshot-are-not-done",
        "requests",
        "        while self._placed and self._placed[0].first <= index:\n",
        "        while self._placed and self._placed[-1].first > index:\n"
        "            self.fail(self._placed.pop().dones, Unavailable(OVERWRITTEN))\n"
        "        while self._placed and self._placed[0].first <= index:\n",
    ),
    (
        "reads-of-a-busy-follower-at-once",
        "replica",
        "        if context is not None:\n"
        "            self.raw.read_index(context)\n",
        "        if context is not None and raft.role == FOLLOWER and self.proposals.count:\n"
        "            self.reads.answered(context, raft.log.committed, self.host.ticks)\n"
        "        elif context is not None:\n"
        "            self.raw.read_index(context)\n",
    ),
)
