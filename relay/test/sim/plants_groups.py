"""Bugs for the groups of a node: ``(name, module, old, new)``."""

from __future__ import annotations

from typing import Final

PLANTS: Final = (
    (
        "vote-written-without-sync",
        "replica",
        "        if hard_state is not None and (hard_state.term, hard_state.vote) != "
        "self._voted:\n",
        "        if hard_state is not None and hard_state.term > self._voted[0] + 1:\n",
    ),
    (
        "vote-of-same-term-without-sync",
        "replica",
        "        if hard_state is not None and (hard_state.term, hard_state.vote) != "
        "self._voted:\n",
        "        if hard_state is not None and hard_state.term != self._voted[0]:\n",
    ),
    (
        "snapshot-written-without-sync",
        "replica",
        "        must_sync = bool(m.entries) or snapshot is not None\n",
        "        must_sync = bool(m.entries)\n",
    ),
    (
        "answers-pass-the-log",
        "log_queue",
        "            if self._under_way:\n",
        "            if False:\n",
    ),
    (
        "answers-of-the-oldest-write",
        "log_queue",
        "                self._under_way[-1].extend(answers)\n",
        "                self._under_way[0].extend(answers)\n",
    ),
    (
        "last-write-decides-sync",
        "log_queue",
        "        if must_sync:\n"
        "            submission.must_sync = True\n",
        "        submission.must_sync = must_sync\n",
    ),
    (
        "full-log-drops-a-write",
        "log_queue",
        "            except Full:\n"
        "                return False\n",
        "            except Full:\n"
        "                waiting.popleft()\n"
        "                return False\n",
    ),
    (
        "full-log-answers",
        "log_queue",
        "            except Full:\n"
        "                return False\n",
        "            except Full:\n"
        "                self._answer(answers)\n"
        "                return False\n",
    ),
    (
        "log-queue-newest-first",
        "log_queue",
        "        taken = self._under_way.popleft()\n"
        "        assert taken is answers",
        "        taken = answers\n"
        "        assert taken is answers",
    ),
    (
        "overwritten-is-done",
        "requests",
        "                if entry.term == term:\n",
        "                if entry.term >= term:\n",
    ),
    (
        "overwritten-block-is-done",
        "requests",
        "            if entries[at].term == term and entries[at + count - 1].term == term:  # "
        "fast path: all of them\n",
        "            if entries[at].term == term or count > 1:\n",
    ),
    (
        "overwritten-any-term",
        "requests",
        "            if entries[at].term == term and entries[at + count - 1].term == term:  # "
        "fast path: all of them\n",
        "            if True:\n",
    ),
    (
        "block-ends-in-another-term",
        "requests",
        "            if entries[at].term == term and entries[at + count - 1].term == term:  # "
        "fast path: all of them\n",
        "            if entries[at].term == term:\n",
    ),
    (
        "skipped-is-not-done",
        "requests",
        '            self.fail(block.dones[:count], Unavailable("replaced by a snapshot", '
        'outcome="unknown"))\n',
        '            self.fail(block.dones[:count], Unavailable("replaced by a snapshot"))\n',
    ),
    (
        "lost-link-is-not-done",
        "requests",
        '            self.fail(dones, Unavailable("the link to the leader was lost", '
        'outcome="unknown"))\n',
        '            self.fail(dones, Unavailable("the link to the leader was lost"))\n',
    ),
    (
        "late-answer-is-not-done",
        "requests",
        '            self.fail(dones, Unavailable("applied before its place was known", '
        'outcome="unknown"))\n',
        '            self.fail(dones, Unavailable("applied before its place was known"))\n',
    ),
    (
        "silent-leader-is-not-done",
        "requests",
        'DeadlineExceeded("the leader did not answer")',
        'DeadlineExceeded("the leader", outcome="not_done")',
    ),
    (
        "not-committed-is-not-done",
        "requests",
        'DeadlineExceeded("not committed in time")',
        'DeadlineExceeded("not in time", outcome="not_done")',
    ),
    (
        "rest-of-block-is-lost",
        "requests",
        "                kept.append(Block(last + 1, block.term, rest, block.tick))\n",
        "                pass\n",
    ),
    (
        "rest-of-block-begins-later",
        "requests",
        "                kept.append(Block(last + 1, block.term, rest, block.tick))\n",
        "                kept.append(Block(last + 2, block.term, rest, block.tick))\n",
    ),
    (
        "late-read-answer",
        "requests",
        "        if context == self._context() and self._asked:\n",
        "        if self._asked:\n",
    ),
    (
        "read-joins-the-one-under-way",
        "requests",
        "            if tick - self._asked_tick < again_ticks:\n"
        "                return None\n",
        "            if tick - self._asked_tick < again_ticks:\n"
        "                self._asked, self._waiting = self._asked + self._waiting, []\n"
        "                return None\n",
    ),
    (
        "read-one-entry-early",
        "requests",
        "        while ready and ready[0][0] <= index:\n",
        "        while ready and ready[0][0] <= index + 1:\n",
    ),
    (
        "read-before-it-is-applied",
        "requests",
        "        while ready and ready[0][0] <= index:\n",
        "        while ready:\n",
    ),
    (
        "read-of-a-later-index",
        "replica",
        "                self.reads.applied(self.applier.index)\n",
        "                self.reads.applied(max(self.applier.index, state.index))\n",
    ),
    (
        "read-served-by-candidate",
        "replica",
        "        if raft.lead == NONE:\n"
        "            return\n"
        "        context",
        "        if raft.lead == NONE:\n"
        "            self.reads.answered(self.reads._context(), 0, 0)\n"
        "            return\n"
        "        context",
    ),
    (
        "reads-forgotten-with-leader",
        "requests",
        "            self._waiting = self._asked + self._waiting\n"
        "            self._waiting_tick = self._since\n",
        "            self._waiting_tick = self._since\n",
    ),
    (
        "placed-one-later",
        "replica",
        "        return self.raw.raft.log.last_index - len(data) + 1\n",
        "        return self.raw.raft.log.last_index - len(data) + 1 + (len(data) > 4)\n",
    ),
    (
        "placed-in-another-term",
        "replica",
        "        term = self.raw.raft.term\n"
        "        self.host.out.send_placed",
        "        term = self.raw.raft.log.term_or_zero(self.raw.raft.log.committed)\n"
        "        self.host.out.send_placed",
    ),
    (
        "results-without-empty-entries",
        "applier",
        "            results.append(members)\n"
        "            if len(self._changes):\n",
        "            if entry.data:\n"
        "                results.append(members)\n"
        "            if len(self._changes):\n",
    ),
    (
        "run-after-change-is-lost",
        "applier",
        "            if run:\n"
        "                results += self._commands(run)\n"
        "                run = []\n"
        "            members",
        "            if run:\n"
        "                results += self._commands(run[:1]) + [None] * (len(run) - 1)\n"
        "                run = []\n"
        "            members",
    ),
    (
        "change-in-a-mixed-run",
        "applier",
        "            if entry.type != ENTRY_NORMAL:\n"
        "                members",
        "            if entry.type != ENTRY_NORMAL and not results:\n"
        "                members",
    ),
    (
        "applied-index-after-snapshot",
        "applier",
        "        self._machine.restore(chunks)\n"
        "        self.index = snapshot.index\n",
        "        self._machine.restore(chunks)\n"
        "        self.index = snapshot.index + 1\n",
    ),
    (
        "machine-is-not-restored",
        "replica",
        "            self.applier.restore(*self._restored)\n",
        "            self.applier.restore(self._restored[0], self._restored[1]) if "
        "self.applier.index < 2 else None\n",
    ),
    (
        "groups-mixed-up",
        "outbound",
        "            self._backs.append(BeatBack(group, message.term, message.context))\n",
        "            self._backs.append(BeatBack(1, message.term, message.context))\n",
    ),
    (
        "removed-node-ends",
        "replica",
        "                continue  # this node was removed while it wrote",
        "                raise  # this node was removed while it wrote",
    ),
    (
        "passed-on-read-ends-the-link",
        "inbound",
        "            sender = node if message.type in SENT_FOR_OTHERS else message.from_\n",
        "            sender = node if message.type == MSG_TRANSFER_LEADER else message.from_\n",
    ),
    (
        "answers-to-all-under-way",
        "log_queue",
        "        self.written += 1\n"
        "        self._answer(answers)\n",
        "        self.written += 1\n"
        "        for each in (answers, *self._under_way):\n"
        "            self._answer(each)\n",
    ),
    (
        "answers-without-entries-at-once",
        "log_queue",
        "                    self._under_way.append(answers)\n",
        "                    self._under_way.append(answers)\n"
        "                    self._answer([each for each in answers if not each[1].entries])\n",
    ),
    (
        "answers-with-snapshot-at-once",
        "log_queue",
        "                    self._under_way.append(answers)\n",
        "                    self._under_way.append(answers)\n"
        "                    self._answer([each for each in answers if each[1].snapshot is not "
        "None])\n",
    ),
    (
        "answers-to-votes-at-once",
        "log_queue",
        "                    self._under_way.append(answers)\n",
        "                    self._under_way.append(answers)\n"
        "                    self._answer([each for each in answers if each[1].vote and not "
        "each[1].entries])\n",
    ),
    (
        "answers-of-the-write-before",
        "log_queue",
        "                self._under_way[-1].extend(answers)\n",
        "                self._under_way[max(-2, -len(self._under_way))].extend(answers)\n",
    ),
    (
        "answers-when-taken",
        "log_queue",
        "            if self._under_way:\n",
        "            if len(self._under_way) > 1:\n",
    ),
    (
        "two-writes-of-a-group-together",
        "log_queue",
        "            submission.with_entries.add(replica.number)\n",
        "",
    ),
    (
        "nothing-to-write-nothing-to-wait-for",
        "replica",
        "        self.host.write(self, write, m, must_sync=must_sync)\n",
        "        if write is None:\n"
        "            return self.appended(m)\n"
        "        self.host.write(self, write, m, must_sync=must_sync)\n",
    ),
    (
        "commit-alone-waits-for-nothing",
        "replica",
        "        self.host.write(self, write, m, must_sync=must_sync)\n",
        "        if not must_sync:\n"
        "            self.appended(m)\n"
        "        self.host.write(self, write, m, must_sync=must_sync)\n",
    ),
    (
        "term-alone-is-not-written",
        "replica",
        "            write = self.host.stores.write(self.number, entries=m.entries, "
        "hard_state=hard_state, restore=snapshot)\n",
        "            kept = hard_state if m.entries or m.vote else None\n"
        "            write = self.host.stores.write(self.number, entries=m.entries, "
        "hard_state=kept, restore=snapshot)\n",
    ),
    (
        "restore-without-hard-state",
        "replica",
        "            write = self.host.stores.write(self.number, entries=m.entries, "
        "hard_state=hard_state, restore=snapshot)\n",
        "            kept = hard_state if snapshot is None else None\n"
        "            write = self.host.stores.write(self.number, entries=m.entries, "
        "hard_state=kept, restore=snapshot)\n",
    ),
    (
        "entries-without-hard-state",
        "replica",
        "            write = self.host.stores.write(self.number, entries=m.entries, "
        "hard_state=hard_state, restore=snapshot)\n",
        "            kept = None if m.entries else hard_state\n"
        "            write = self.host.stores.write(self.number, entries=m.entries, "
        "hard_state=kept, restore=snapshot)\n",
    ),
    (
        "beat-commits-own-tail",
        "replica",
        "NONE, False, 0, beat.context\n"
        "        )\n"
        "        self.raw.step(message)\n"
        "        self.host.mark(self)\n"
        "        if beat",
        "NONE, False, 0, beat.context\n"
        "        )\n"
        "        self.raw.step(message)\n"
        "        if beat.commit:\n"
        "            self.raw.raft.log.commit_to(raft.log.last_index)\n"
        "        self.host.mark(self)\n"
        "        if beat",
    ),
    (
        "beat-of-any-term",
        "replica",
        "MSG_HEARTBEAT, self.host.node, node, beat.term, 0, 0, (), beat.commit,",
        "MSG_HEARTBEAT, self.host.node, node, max(beat.term, raft.term), 0, 0, (), beat.commit,",
    ),
    (
        "beat-back-of-any-term",
        "replica",
        "MSG_HEARTBEAT_RESP, self.host.node, node, beat.term,",
        "MSG_HEARTBEAT_RESP, self.host.node, node, max(beat.term, self.raw.raft.term),",
    ),
    (
        "only-the-first-entry-is-looked-at",
        "applier",
        "        for entry in entries:\n"
        "            if not entry.data or entry.type != ENTRY_NORMAL:\n"
        "                self._apply_mixed",
        "        for entry in entries[:1]:\n"
        "            if not entry.data or entry.type != ENTRY_NORMAL:\n"
        "                self._apply_mixed",
    ),
    (
        "applied-up-to-the-first",
        "applier",
        "        self.index = entries[-1].index\n",
        "        self.index = entries[0].index\n",
    ),
    (
        "read-asked-again-under-the-same-name",
        "requests",
        "        self._count += 1\n"
        "        return self._context()\n",
        "        self._count += len(self._asked) == 1\n"
        "        return self._context()\n",
    ),
    (
        "read-answer-of-this-life",
        "requests",
        "        if context == self._context() and self._asked:\n",
        "        if context[:8] == self._boot and self._asked:\n",
    ),
    (
        "replaced-leader-is-not-done",
        "requests",
        'the leader was replaced before it answered", outcome="unknown"',
        'the leader was replaced before it answered"',
    ),
)
