"""Bugs for the core's log, replication and membership: ``(name, module, old, new)``."""

from __future__ import annotations

from typing import Final

PLANTS: Final = (
    (
        "vote-for-shorter-log",
        "log",
        "(term == self.last_term and index >= self.last_index)",
        "(term == self.last_term and index + 3 >= self.last_index)",
    ),
    (
        "vote-for-any-index",
        "log",
        "(term == self.last_term and index >= self.last_index)",
        "term == self.last_term",
    ),
    (
        "vote-for-older-term",
        "log",
        "return term > self.last_term or (",
        "return term + 1 > self.last_term or (",
    ),
    (
        "learner-campaigns",
        "state",
        "own is not None and not own.is_learner and self.log.unstable.snapshot is None",
        "own is not None and self.log.unstable.snapshot is None",
    ),
    (
        "leader-counts-itself-early",
        "replication",
        "    r.messages_after_append.append(Message(MSG_APP_RESP, r.id, r.id, term, 0, last))\n",
        "    r.messages_after_append.append(Message(MSG_APP_RESP, r.id, r.id, term, 0, last))\n"
        "    r.progress[r.id].maybe_update(last)\n",
    ),
    (
        "commit-of-old-term",
        "replication",
        "    if index <= log.committed or log.term_or_zero(index) != r.term:\n",
        "    if index <= log.committed:\n",
    ),
    (
        "commit-by-heartbeat-beyond-match",
        "replication",
        "        commit = min(pr.match, committed)\n",
        "        commit = committed\n",
    ),
    (
        "commit-beyond-what-came",
        "log",
        "            self.commit_to(min(committed, last_new))\n",
        "            self.commit_to(min(committed, self.last_index))\n",
    ),
    (
        "commit-half-of-even",
        "state",
        "    return matches[(len(matches) - 1) // 2]\n",
        "    return matches[len(matches) // 2]\n",
    ),
    (
        "commit-joint-incoming-only",
        "state",
        "        if self._outgoing_progress:\n",
        "        if False:\n",
    ),
    (
        "commit-joint-maximum",
        "state",
        "            return min(_median_match(self._incoming_progress), "
        "_median_match(self._outgoing_progress))\n",
        "            return max(_median_match(self._incoming_progress), "
        "_median_match(self._outgoing_progress))\n",
    ),
    (
        "commit-counts-learners",
        "state",
        "        self._incoming_progress = tuple(progress[node] for node in "
        "sorted(configuration.incoming))\n",
        "        self._incoming_progress = tuple(progress[node] for node in "
        "sorted(progress)[-3:])\n",
    ),
    (
        "commit-progress-of-former-members",
        "state",
        "        self._incoming_progress = tuple(progress[node] for node in "
        "sorted(configuration.incoming))\n",
        "        self._incoming_progress = self._incoming_progress or tuple(\n"
        "            progress[node] for node in sorted(configuration.incoming))\n",
    ),
    (
        "commit-forgets-the-newest-voter",
        "state",
        "        self._incoming_progress = tuple(progress[node] for node in "
        "sorted(configuration.incoming))\n",
        "        self._incoming_progress = tuple(progress[node] for node in "
        "sorted(configuration.incoming)[:3])\n",
    ),
    (
        "append-without-comparing-terms",
        "log",
        "        if index == self.last_index and term == self.last_term:  # fast path",
        "        if index == self.last_index:  # fast path",
    ),
    (
        "append-off-by-one",
        "log",
        "                self.append(entries[conflict - index - 1 :])\n",
        "                self.append(entries[max(0, conflict - index - 2) :])\n",
    ),
    (
        "append-keeps-own-tail",
        "log",
        "            if entry.index <= log.last_index:\n",
        "            if entry.index <= log.last_index:\n"
        "                return 0\n",
    ),
    (
        "truncation-leaves-one",
        "unstable",
        "            del self.entries[first - self.offset :]\n",
        "            del self.entries[first - self.offset + (len(entries) > 1) :]\n",
    ),
    (
        "truncation-keeps-progress",
        "unstable",
        "            self.offset_in_progress = min(self.offset_in_progress, first)\n",
        "",
    ),
    (
        "replacement-keeps-progress",
        "unstable",
        "            self.offset = self.offset_in_progress = first\n",
        "            self.offset = first\n",
    ),
    (
        "stable-of-another-term",
        "unstable",
        "        if ours != term:\n",
        "        if ours < term:\n",
    ),
    (
        "stable-one-too-many",
        "unstable",
        "            del self.entries[: position + 1]\n"
        "        self.offset = index + 1\n",
        "            del self.entries[: position + 2]\n"
        "            index += 1\n"
        "        self.offset = index + 1\n",
    ),
    (
        "snapshot-stable-too-early",
        "unstable",
        "        if self.snapshot is not None and self.snapshot.index == index:\n"
        "            self.snapshot = None\n",
        "        if self.snapshot is not None:\n"
        "            self.snapshot = None\n",
    ),
    (
        "snapshot-over-newer-log",
        "membership",
        "    if log.matches(term, index):\n"
        "        say(\n",
        "    if False:\n"
        "        say(\n",
    ),
    (
        "snapshot-over-committed",
        "membership",
        "    if index <= r.log.committed:\n"
        "        return False\n"
        "    if r.role",
        "    if r.role",
    ),
    (
        "snapshot-without-members",
        "membership",
        "    restore_configuration(r, state)\n"
        "    say(\n",
        "    say(\n",
    ),
    (
        "snapshot-keeps-commit",
        "log",
        "        self.committed = snapshot.index\n"
        "        self.unstable",
        "        self.unstable",
    ),
    (
        "snapshot-last-term",
        "log",
        "        self.last_term = snapshot.term\n",
        "",
    ),
    (
        "match-survives-election",
        "tracker",
        "        self.match = match\n"
        "        self.next = next\n"
        "        self.sent_commit = 0\n"
        "        self.recent",
        "        self.match = max(match, self.match)\n"
        "        self.next = next\n"
        "        self.sent_commit = 0\n"
        "        self.recent",
    ),
    (
        "match-by-sending",
        "tracker",
        "                self.next += count\n",
        "                self.next += count\n"
        "                self.match = self.next - 1 - count\n",
    ),
    (
        "match-after-rejection",
        "leader",
        "    if m.reject:\n"
        "        _handle_rejection(r, m, pr)\n"
        "        return\n",
        "    if m.reject:\n"
        "        _handle_rejection(r, m, pr)\n"
        "        return\n"
        "    m.index += m.index < pr.next - 1\n",
    ),
    (
        "quorum-check-by-half",
        "leader",
        "    if joint_vote_result(r.configuration.incoming, r.configuration.outgoing, active) != "
        "VOTE_WON:\n",
        "    if not any(active.values()):\n",
    ),
    (
        "commit-unsynced-leader-at-change",
        "membership",
        "    if maybe_commit(r):\n"
        "        # A smaller",
        "    r.progress[r.id].maybe_update(r.log.last_index)\n"
        "    if maybe_commit(r):\n"
        "        # A smaller",
    ),
    (
        "joint-is-never-left",
        "membership",
        "    if r.configuration.auto_leave and r.role == LEADER",
        "    if False and r.role == LEADER",
    ),
    (
        "joint-forgets-old-half",
        "confchange",
        "        self._outgoing = frozenset(self._incoming)\n"
        "        self._apply",
        "        self._outgoing = frozenset(sorted(self._incoming)[:1])\n"
        "        self._apply",
    ),
    (
        "joint-left-with-the-old-half",
        "confchange",
        "                del self._progress[node]\n"
        "        self._outgoing",
        "                self._incoming.add(node)\n"
        "        self._outgoing",
    ),
    (
        "new-voter-has-everything",
        "confchange",
        "        progress.is_learner = False\n"
        "        self._learners.discard",
        "        progress.is_learner, progress.match = False, self.last_index\n"
        "        self._learners.discard",
    ),
    (
        "probe-behind-lost-snapshot",
        "tracker",
        "            self.next = max(self.match + 1, pending + 1)\n",
        "            self.next = max(self.match + 1, pending + 1)\n"
        "            self.match = max(self.match, pending)\n",
    ),
    (
        "commit-joint-by-both-together",
        "state",
        "        if self._outgoing_progress:\n"
        "            return min(_median_match(self._incoming_progress), "
        "_median_match(self._outgoing_progress))\n",
        "        if self._outgoing_progress:\n"
        "            return _median_match(tuple({*self._incoming_progress, "
        "*self._outgoing_progress}))\n",
    ),
)
