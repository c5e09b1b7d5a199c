"""Bugs for the core's elections, followers and reads: ``(name, module, old, new)``."""

from __future__ import annotations

from typing import Final

PLANTS: Final = (
    (
        "vote-is-not-kept",
        "election",
        "        r.vote = m.from_\n",
        "        r.vote = NONE\n",
    ),
    (
        "vote-before-fsync",
        "election",
        "    r.messages_after_append.append(Message(response, m.from_, r.id, m.term))\n",
        "    r.messages.append(Message(response, m.from_, r.id, m.term))\n",
    ),
    (
        "vote-cleared-with-role",
        "election",
        "    if r.term != term:\n"
        "        r.term = term\n",
        "    if True:\n"
        "        r.term = term\n",
    ),
    (
        "vote-not-for-oneself",
        "election",
        "    r.vote = r.id\n",
        "    r.vote = NONE\n",
    ),
    (
        "vote-twice",
        "election",
        "        or (r.vote == NONE and r.lead == NONE)\n",
        "        or r.lead == NONE\n",
    ),
    (
        "vote-forgotten-at-start",
        "machine",
        "        r.vote = hard_state.vote\n",
        "        r.vote = NONE\n",
    ),
    (
        "vote-joint-incoming-only",
        "election",
        "    result = joint_vote_result(r.configuration.incoming, r.configuration.outgoing, "
        "r.votes)\n",
        "    result = joint_vote_result(r.configuration.incoming, frozenset(), r.votes)\n",
    ),
    (
        "pre-vote-counts-as-vote",
        "follower",
        "    if m.type == (MSG_PRE_VOTE_RESP if r.role == PRE_CANDIDATE else MSG_VOTE_RESP):\n",
        "    if m.type in (MSG_PRE_VOTE_RESP, MSG_VOTE_RESP):\n",
    ),
    (
        "votes-of-former-campaign",
        "election",
        "    r.votes = {}\n"
        "    last = r.log.last_index\n",
        "    last = r.log.last_index\n",
    ),
    (
        "ack-before-fsync",
        "follower",
        "        r.messages_after_append.append(Message(MSG_APP_RESP, m.from_, r.id, r.term, 0, "
        "last))\n",
        "        r.messages.append(Message(MSG_APP_RESP, m.from_, r.id, r.term, 0, last))\n",
    ),
    (
        "snapshot-ack-before-fsync",
        "follower",
        "    r.messages_after_append.append(Message(MSG_APP_RESP, m.from_, r.id, r.term, 0, "
        "index))\n",
        "    r.messages.append(Message(MSG_APP_RESP, m.from_, r.id, r.term, 0, index))\n",
    ),
    (
        "snapshot-ack-of-own-tail",
        "follower",
        "    index = r.log.last_index if restored else r.log.committed\n",
        "    index = r.log.last_index\n",
    ),
    (
        "stable-of-older-write",
        "machine",
        "        if 0 < term < r.term:\n",
        "        if 0 < term < r.term - 1:\n",
    ),
    (
        "read-by-lease",
        "reads",
        "    if r.is_singleton() or r.options.read_only != READ_ONLY_SAFE:\n",
        "    if r.is_singleton() or r.election_elapsed < r.options.election_tick:\n",
    ),
    (
        "read-before-first-commit",
        "reads",
        "    if committed_in_term(r):\n"
        "        _confirm(r, m)\n",
        "    if r.log.committed:\n"
        "        _confirm(r, m)\n",
    ),
    (
        "read-confirmed-by-one",
        "read_only",
        "        number = joint_committed_index(incoming, outgoing, self._acknowledged.get)\n",
        "        number = max(self._acknowledged.values())\n",
    ),
    (
        "read-confirmed-by-next-round",
        "read_only",
        "        return (self._confirmed + len(self._waiting)).to_bytes(_CONTEXT_BYTES, "
        '"little")\n',
        "        return (self._confirmed + len(self._waiting) + 1).to_bytes(_CONTEXT_BYTES, "
        '"little")\n',
    ),
    (
        "read-acks-survive-election",
        "election",
        "    r.read_only = ReadOnly(r.options.waiting_reads_max)\n",
        '    r.read_only = getattr(r, "read_only", None) or '
        "ReadOnly(r.options.waiting_reads_max)\n",
    ),
    (
        "read-at-index-before",
        "reads",
        "    elif r.read_only.add(m, r.log.committed):\n",
        "    elif r.read_only.add(m, r.log.committed - 1):\n",
    ),
    (
        "read-at-applied",
        "reads",
        "    elif r.read_only.add(m, r.log.committed):\n",
        "    elif r.read_only.add(m, min(r.log.applied, r.log.committed)):\n",
    ),
    (
        "read-of-follower-at-once",
        "follower",
        "    r.messages.append(Message(MSG_READ_INDEX, r.lead, m.from_ or r.id, "
        "entries=m.entries))\n",
        "    r.read_states.append(ReadState(r.log.committed, m.entries[0].data))\n",
    ),
    (
        "read-joint-incoming-only",
        "reads",
        "r.read_only.advance(r.configuration.incoming, r.configuration.outgoing)",
        "r.read_only.advance(r.configuration.incoming, ())",
    ),
    (
        "read-counts-learners",
        "reads",
        "r.read_only.advance(r.configuration.incoming, r.configuration.outgoing)",
        "r.read_only.advance(sorted(r.progress)[-3:], r.configuration.outgoing)",
    ),
    (
        "old-term-is-heard",
        "machine",
        "    if m.term < r.term:\n"
        "        _refuse_past(r, m)\n"
        "        return True\n",
        "    if m.term < r.term - 1:\n"
        "        _refuse_past(r, m)\n"
        "        return True\n",
    ),
    (
        "heartbeat-of-anybody-commits",
        "follower",
        "    _follow(r, m)\n"
        "    r.log.commit_to(m.commit)\n",
        "    _follow(r, m)\n"
        "    r.log.commit_to(min(r.log.last_index, m.commit + 1))\n",
    ),
    (
        "start-commits-everything",
        "machine",
        "        log.committed = hard_state.commit\n",
        "        log.committed = last_index\n",
    ),
    (
        "start-with-lower-term",
        "machine",
        "        r.term = hard_state.term\n",
        "        r.term = min(hard_state.term, log.last_term)\n",
    ),
    (
        "ack-of-what-is-committed-at-once",
        "follower",
        "        r.messages_after_append.append(Message(MSG_APP_RESP, m.from_, r.id, r.term, 0, "
        "last))\n",
        "        out = r.messages if index < log.committed else r.messages_after_append\n"
        "        out.append(Message(MSG_APP_RESP, m.from_, r.id, r.term, 0, last))\n",
    ),
    (
        "ack-of-empty-append-at-once",
        "follower",
        "        r.messages_after_append.append(Message(MSG_APP_RESP, m.from_, r.id, r.term, 0, "
        "last))\n",
        "        out = r.messages_after_append if m.entries else r.messages\n"
        "        out.append(Message(MSG_APP_RESP, m.from_, r.id, r.term, 0, last))\n",
    ),
    (
        "ack-of-known-entries-at-once",
        "follower",
        "        r.messages_after_append.append(Message(MSG_APP_RESP, m.from_, r.id, r.term, 0, "
        "last))\n",
        "        out = r.messages if m.entries and last < log.last_index else "
        "r.messages_after_append\n"
        "        out.append(Message(MSG_APP_RESP, m.from_, r.id, r.term, 0, last))\n",
    ),
    (
        "ack-at-once-while-entries-are-written",
        "follower",
        "        r.messages_after_append.append(Message(MSG_APP_RESP, m.from_, r.id, r.term, 0, "
        "last))\n",
        "        out = r.messages_after_append if log.unstable.offset > log.committed else "
        "r.messages\n"
        "        out.append(Message(MSG_APP_RESP, m.from_, r.id, r.term, 0, last))\n",
    ),
    (
        "vote-again-at-once",
        "election",
        "    r.messages_after_append.append(Message(response, m.from_, r.id, m.term))\n",
        "    out = r.messages if r.vote == m.from_ else r.messages_after_append\n"
        "    out.append(Message(response, m.from_, r.id, m.term))\n",
    ),
    (
        "snapshot-not-wanted-ack-at-once",
        "follower",
        "    r.messages_after_append.append(Message(MSG_APP_RESP, m.from_, r.id, r.term, 0, "
        "index))\n",
        "    out = r.messages_after_append if restored else r.messages\n"
        "    out.append(Message(MSG_APP_RESP, m.from_, r.id, r.term, 0, index))\n",
    ),
    (
        "read-while-all-are-active",
        "reads",
        "    if r.is_singleton() or r.options.read_only != READ_ONLY_SAFE:\n",
        "    if r.is_singleton() or all(pr.recent_active for _, pr in r.peers):\n",
    ),
    (
        "read-while-replicating",
        "reads",
        "    if r.is_singleton() or r.options.read_only != READ_ONLY_SAFE:\n",
        "    if r.is_singleton() or (r.uncommitted_size and r.election_elapsed < 2):\n",
    ),
    (
        "read-right-after-quorum-check",
        "reads",
        "    if r.is_singleton() or r.options.read_only != READ_ONLY_SAFE:\n",
        "    if r.is_singleton() or r.election_elapsed == 1:\n",
    ),
    (
        "vote-joint-by-both-together",
        "election",
        "    result = joint_vote_result(r.configuration.incoming, r.configuration.outgoing, "
        "r.votes)\n",
        "    result = joint_vote_result(r.configuration.incoming | r.configuration.outgoing, "
        "frozenset(), r.votes)\n",
    ),
)
