"""Bugs that show only when several things coincide, written by what they are and kept whether or not anything catches
them: what share of these is found says more than that of all. ``(name, module, old, new)``."""

from __future__ import annotations

from typing import Final

GROUPS: Final = (
    (
        # Two followers forward, and a frame comes twice.
        "forwards-of-one-node-are-remembered",
        "requests",
        "        boots = self._boots.setdefault(node, {})\n",
        "        if node not in self._boots:\n"
        "            self._boots = {node: {}}\n"
        "        boots = self._boots[node]\n",
    ),
    (
        # A frame comes twice, the second time to a leadership that began meanwhile.
        "forwards-are-new-to-a-new-leader",
        "replica",
        "            self.reads.again()\n",
        "            self.reads.again()\n"
        "            if raft.lead == self.host.node:\n"
        "                self._forwarders = Forwarders()\n",
    ),
    (
        # A frame comes twice, and the first answer not at all.
        "repeated-forward-is-refused",
        "replica",
        "        if not self._forwarders.is_new(node, frame.boot, frame.number, len(frame.data)):\n",
        "        if not self._forwarders.is_new(node, frame.boot, frame.number, len(frame.data)):\n"
        "            refused = Placed(self.number, frame.boot, frame.number, len(frame.data), 0, 0)\n"
        "            self.host.out.send_placed(node, refused)\n",
    ),
    (
        # The leader's answer is of a term that is over.
        "late-place-is-not-done",
        "inbound",
        "            index, applied = placed.index, replica.applier.index\n",
        "            late = placed.term < replica.raw.raft.term\n"
        "            index, applied = 0 if late else placed.index, replica.applier.index\n",
    ),
    (
        "place-is-one-of-the-present-term",
        "inbound",
        "            replica.proposals.answered(placed.number, index, placed.term, applied, self._host.ticks)\n",
        "            term = replica.raw.raft.term\n"
        "            replica.proposals.answered(placed.number, index, term, applied, self._host.ticks)\n",
    ),
    (
        # The leader has too much that is not committed.
        "place-is-told-before-it-is-taken",
        "replica",
        "            index = self._append(frame.data)\n",
        "            index = self.raw.raft.log.last_index + 1\n"
        "            self._append(frame.data)\n",
    ),
    (
        # Two answers of a leader come in another order than its entries stand.
        "proposals-wait-for-the-place-after-the-last",
        "requests",
        "        self._placed = deque(sorted((*blocks, block), key=lambda each: each.first))\n",
        "        block.first = blocks[-1].first + len(blocks[-1].dones)\n"
        "        blocks.append(block)\n",
    ),
    (
        # What a follower forwards behind a frame of several proposals is taken for a repetition.
        "forwards-are-numbered-by-frames",
        "requests",
        "        self._number += len(dones)\n",
        "        self._number += 1\n",
    ),
    (
        "reads-under-way-take-what-came-since",
        "requests",
        "            self._ready.append((index, self._asked, tick))\n"
        "            self._asked = []\n",
        "            self._ready.append((index, self._asked + self._waiting, tick))\n"
        "            self._asked, self._waiting = [], []\n",
    ),
    (
        # A follower that is cut off from the others does not know it yet.
        "reads-of-a-quiet-group-at-once",
        "group",
        "        else:\n"
        "            replica.reads.add(done, host.ticks)\n",
        "        elif replica.quiet:\n"
        "            self._tell(done, None)\n"
        "        else:\n"
        "            replica.reads.add(done, host.ticks)\n",
    ),
    (
        # The log is full, and what a group writes last goes out before what it wrote earlier.
        "full-log-takes-the-oldest-place",
        "log_queue",
        "        submission = waiting[-1] if waiting else None\n",
        "        submission = waiting[0] if waiting else None\n",
    ),
    (
        # Power is lost between the end of a snapshot and the commit index behind it.
        "start-forgets-what-follows-the-snapshot",
        "group_start",
        "        snapshot.index > hard_state.commit and log.term(snapshot.index) != snapshot.term\n",
        "        snapshot.index > hard_state.commit\n",
    ),
    (
        # A former leader that was sent a snapshot starts with its own entries in the snapshot's place.
        "start-with-a-snapshot-that-is-too-new",
        "group_start",
        "        snapshot.index > hard_state.commit and log.term(snapshot.index) != snapshot.term\n"
        "    )\n"
        "    if replaced:\n"
        "        term = max(hard_state.term, snapshot.term)\n"
        "        vote = hard_state.vote if term == hard_state.term else 0\n"
        "        return [stores.write(number, restore=snapshot, hard_state=HardState(term, vote, snapshot.index))]\n"
        "    if log.term(snapshot.index) != snapshot.term:\n",
        "        False\n"
        "    )\n"
        "    if replaced:\n"
        "        term = max(hard_state.term, snapshot.term)\n"
        "        vote = hard_state.vote if term == hard_state.term else 0\n"
        "        return [stores.write(number, restore=snapshot, hard_state=HardState(term, vote, snapshot.index))]\n"
        "    if log.term(snapshot.index) != snapshot.term and snapshot.index <= hard_state.commit:\n",
    ),
    (
        # Power is lost between the end of a snapshot from the leader and its record in the log.
        "start-from-a-snapshot-with-the-newest-term",
        "group_start",
        "        return [stores.write(number, restore=snapshot, hard_state=HardState(term, vote, snapshot.index))]\n",
        "        newest = Snapshot(b\"\", snapshot.index, term, snapshot.conf_state)\n"
        "        return [stores.write(number, restore=newest, hard_state=HardState(term, vote, snapshot.index))]\n",
    ),
    (
        # A snapshot is taken in the middle of a joint change.
        "snapshot-of-members-that-will-be",
        "snapshot_taking",
        "        term, state = raft.log.term(index), raft.configuration.conf_state()\n",
        "        term, now = raft.log.term(index), raft.configuration.conf_state()\n"
        "        state = ConfState(now.voters, (*now.learners, *now.learners_next))\n",
    ),
    (
        "snapshot-keeps-its-first-members",
        "snapshot_taking",
        "        self.available = snapshot\n"
        "        return True\n",
        "        first = self.available.conf_state if self.available else snapshot.conf_state\n"
        "        self.available = Snapshot(b\"\", snapshot.index, snapshot.term, first)\n"
        "        return True\n",
    ),
)

CORE: Final = (
    (
        # A follower and the leader itself read, and something is committed between the two.
        "reads-confirmed-together-have-one-index",
        "read_only",
        "        return [self._waiting.popleft() for _ in range(count)]\n",
        "        index = self._waiting[0][1]\n"
        "        return [(self._waiting.popleft()[0], index) for _ in range(count)]\n",
    ),
    (
        # What acknowledges a new leader's first entry comes after it was replaced.
        "pending-reads-need-no-confirmation",
        "reads",
        "    for m in waiting:\n"
        "        _confirm(r, m)\n",
        "    for m in waiting:\n"
        "        respond(r, m, r.log.committed)\n",
    ),
    (
        # The acknowledgement may be older than the read.
        "read-is-confirmed-by-appends",
        "leader",
        "    pr.recent_active = True\n"
        "    if m.reject:\n"
        "        _handle_rejection(r, m, pr)\n",
        "    pr.recent_active = True\n"
        "    r.read_only.acknowledge(m.from_, r.read_only.context())\n"
        "    handle_heartbeat_context(r, m)\n"
        "    if m.reject:\n"
        "        _handle_rejection(r, m, pr)\n",
    ),
    (
        # A leader sends a snapshot and is gone before it is written.
        "campaign-while-a-snapshot-is-written",
        "state",
        "        return own is not None and not own.is_learner and self.log.unstable.snapshot is None\n",
        "        return own is not None and not own.is_learner\n",
    ),
    (
        # A link breaks again and again in one leadership, each time with something on its way.
        "window-keeps-its-bytes",
        "tracker",
        "            self._window.clear()\n"
        "        self._bytes = 0\n",
        "            self._window.clear()\n",
    ),
)

STORE: Final = (
    (
        # A group that is idle from one start to the next but one, while the log goes on with another.
        "vote-is-lost-in-a-second-life",
        "wal_writer",
        "            hard_state, _ = log.initial_state()\n",
        "            hard_state, _ = log.initial_state()\n"
        "            hard_state = HardState(hard_state.term, 0, hard_state.commit)\n",
    ),
)
