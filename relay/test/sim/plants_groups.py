"""Bugs for the groups of a node: ``(name, module, old, new)``."""

from __future__ import annotations

from typing import Final

PLANTS: Final = (
    (
        "emptied-node-comes-back",
        "identity",
        "        if known is not None and known != incarnation:\n",
        "        if known is not None and known < incarnation < known:\n",
    ),
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
        "snapshot-labelled-later",
        "snapshot_taking",
        "        index = replica.applier.index\n",
        "        index = raft.log.committed\n",
    ),
    (
        "snapshot-labelled-earlier",
        "snapshot_taking",
        "        index = replica.applier.index\n",
        "        index = max(1, replica.applier.index - 1)\n",
    ),
    (
        "snapshot-content-later",
        "snapshot_taking",
        "        chunks = _cut(replica.machine.snapshot(), "
        "self._host.options.snapshot_chunk_bytes)\n",
        "        later = (each for _ in (0,) for each in replica.machine.snapshot())\n"
        "        chunks = _cut(later, self._host.options.snapshot_chunk_bytes)\n",
    ),
    (
        "snapshot-with-newest-members",
        "snapshot_taking",
        "            if known.issuperset(members):\n",
        "            if True:\n",
    ),
    (
        "snapshot-of-old-members",
        "snapshot_taking",
        "        term, state = raft.log.term(index), raft.configuration.conf_state()\n",
        "        term, state = raft.log.term(index), self.available.conf_state if self.available "
        "else raft.configuration.conf_state()\n",
    ),
    (
        "snapshot-of-newest-term",
        "snapshot_taking",
        "        term, state = raft.log.term(index), raft.configuration.conf_state()\n",
        "        term, state = raft.term, raft.configuration.conf_state()\n",
    ),
    (
        "snapshot-cut-loses-a-piece",
        "snapshot_taking",
        "            for at in range(0, len(chunk), size):\n",
        "            for at in range(0, len(chunk) - 1, size + (len(chunk) > 4 * size)):\n",
    ),
    (
        "chunks-in-any-order",
        "snapshot_receiving",
        "        if frame.number != receiving.expected:\n",
        "        if frame.number < receiving.expected:\n",
    ),
    (
        "chunks-of-any-snapshot",
        "snapshot_receiving",
        "        if (frame.index, frame.term) != (snapshot.index, snapshot.term):\n"
        "            return\n"
        "        if frame.number",
        "        if frame.number",
    ),
    (
        "received-snapshot-is-not-committed",
        "snapshot_receiving",
        "            receiving.writer.commit()\n"
        "            reader",
        "            receiving.writer._store.files.rename(receiving.writer._path + '.tmp', "
        "receiving.writer._path)\n"
        "            reader",
    ),
    (
        "sending-is-never-given-up",
        "group_snapshots",
        "        if self.sending.busy:\n",
        "        if False:\n",
    ),
    (
        "sending-failed-is-not-told",
        "snapshot_sending",
        "        self._stop_sending(sending.node)\n"
        "        self._report(sending.node, failed=True)\n",
        "        self._stop_sending(sending.node)\n",
    ),
    (
        "restore-record-is-not-written",
        "group_start",
        "    if snapshot.index > last:\n",
        "    if False:\n",
    ),
    (
        "restore-record-forgets-term",
        "group_start",
        "        term = max(hard_state.term, snapshot.term)\n",
        "        term = snapshot.term\n",
    ),
    (
        "start-applies-from-the-log",
        "group_start",
        "    return Start(ReplicaStorage(log, snapshot.conf_state), snapshot.conf_state, "
        "snapshot.index, snapshot)\n",
        "    return Start(ReplicaStorage(log, snapshot.conf_state), snapshot.conf_state, "
        "log.first_index() - 1, snapshot)\n",
    ),
    (
        "start-with-founders-members",
        "group_start",
        "    return Start(ReplicaStorage(log, snapshot.conf_state), snapshot.conf_state, "
        "snapshot.index, snapshot)\n",
        "    state = ConfState(snapshot.conf_state.voters[:3])\n"
        "    return Start(ReplicaStorage(log, state), state, snapshot.index, snapshot)\n",
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
)
