"""Bugs for the log and the snapshots: ``(name, module, old, new)``."""

from __future__ import annotations

from typing import Final

PLANTS: Final = (
    (
        "log-without-sync",
        "wal",
        "        self._guarded(batch.segment.file.sync_data)\n",
        "",
    ),
    (
        "log-syncs-now-and-then",
        "wal",
        "        self._guarded(batch.segment.file.sync_data)\n",
        "        if batch.size % 3:\n"
        "            self._guarded(batch.segment.file.sync_data)\n",
    ),
    (
        "hint-before-sync",
        "wal",
        "        self._guarded(batch.segment.file.sync_data)\n"
        "        self._guarded(self._hint.write, batch.segment)\n",
        "        self._guarded(self._hint.write, batch.segment)\n"
        "        self._guarded(batch.segment.file.sync_data)\n",
    ),
    (
        "failed-sync-is-tried-again",
        "wal",
        "        except OSError as error:\n"
        "            self.fail(error)\n"
        "            raise LogStopped",
        "        except OSError as error:\n"
        "            return step(*arguments)\n"
        "            raise LogStopped",
    ),
    (
        "segment-end-without-sync",
        "wal_writer",
        "        segment.file.sync_data()\n",
        "",
    ),
    (
        "segment-without-checkpoint",
        "wal_writer",
        "        if self._needs_checkpoint:\n"
        "            offset = self._checkpoint",
        "        if self._needs_checkpoint and not oldest:\n"
        "            offset = self._checkpoint",
    ),
    (
        "checkpoint-without-votes",
        "wal_writer",
        "            if head.hard_state is not None:\n",
        "            if False:\n",
    ),
    (
        "checkpoint-without-compaction",
        "wal_writer",
        "            if head.base:\n",
        "            if False:\n",
    ),
    (
        "checkpoint-of-old-votes",
        "wal_writer",
        "            head.hard_state = write.hard_state\n",
        "            head.hard_state = head.hard_state or write.hard_state\n",
    ),
    (
        "checkpoint-after-restore",
        "wal_writer",
        "            head.base, head.base_term = write.restore.index, write.restore.term\n",
        "",
    ),
    (
        "hard-state-before-entries",
        "wal_writer",
        "            offset += after - place\n"
        "        if write.hard_state is not None:\n",
        "            offset += after - place\n"
        "        if write.hard_state is not None and (write.entries or write.restore or "
        "write.hard_state.vote):\n",
    ),
    (
        "oldest-needed-is-newest",
        "wal_groups",
        "        return min(self._pins, default=None)\n",
        "        return max(self._pins, default=None)\n",
    ),
    (
        "needed-segment-is-removed",
        "wal",
        "        oldest = active if needed is None else min(active, needed)\n",
        "        oldest = active if needed is None else min(active, needed + 1)\n",
    ),
    (
        "segment-removed-one-too-many",
        "wal",
        "        while (oldest := next(iter(self._segments))) < bound:\n",
        "        while (oldest := next(iter(self._segments))) < min(bound + 1, "
        "max(self._segments)):\n",
    ),
    (
        "removal-before-it-is-said",
        "wal",
        "            self._writer.oldest_needed = oldest\n",
        "            self._writer.oldest_needed = oldest\n"
        "            self._let_go(oldest)\n",
    ),
    (
        "copies-of-a-moving-log",
        "wal",
        "            if log.pending or size >",
        "            if size >",
    ),
    (
        "copy-takes-any-place",
        "wal_storage",
        '                raise ValueError(f"a copy of entry {entry.index} has term',
        "                return\n"
        '                raise ValueError(f"a copy of entry {entry.index} has term',
    ),
    (
        "cache-keeps-one-too-many",
        "wal_storage",
        "        self._cached.drop(gone)\n",
        "        self._cached.drop(gone - 1)\n",
    ),
    (
        "cache-survives-truncation",
        "wal_storage",
        "        self._cached.drop(gone)\n",
        "",
    ),
    (
        "cache-forgets-the-newest",
        "wal_storage",
        "            self._forget(self.entries.popleft())\n"
        "        holders",
        "            self._forget(self.entries.pop())\n"
        "        holders",
    ),
    (
        "truncation-keeps-places",
        "wal_storage",
        "        del self._places[at:]\n",
        "        del self._places[at + 1 :]\n",
    ),
    (
        "compaction-forgets-its-term",
        "wal_storage",
        "        self._base_term = term\n"
        "        self.hole = False\n",
        "        self.hole = False\n",
    ),
    (
        "compaction-one-too-many",
        "wal_storage",
        "        count = index - self._base\n",
        "        count = index - self._base + 1\n",
    ),
    (
        "restore-keeps-old-term",
        "wal_storage",
        "        self._base_term = self._compacted_term = snapshot.term\n",
        "        self._compacted_term = snapshot.term\n",
    ),
    (
        "recovery-keeps-torn-tail",
        "wal_recovery",
        "            segment.zero(segment.end, used_to)\n",
        "            pass\n",
    ),
    (
        "recovery-shows-what-is-not-durable",
        "wal_recovery",
        "                _rewrite(found.segments, last_writes)\n"
        "                for segment in found.segments + found.spares:\n"
        "                    segment.file.sync_data()\n",
        "",
    ),
    (
        "recovery-trusts-the-cache",
        "wal_recovery",
        "                _rewrite(found.segments, last_writes)\n",
        "",
    ),
    (
        "recovery-ends-at-a-segment",
        "wal_recovery",
        "            if last is not None and not last.ended:\n",
        "            if last is not None and (not last.ended or len(found.segments) > 2):\n",
    ),
    (
        "recovery-trusts-no-hint",
        "wal_recovery",
        "    if hint.offset > walk.end:\n",
        "    if False:\n",
    ),
    (
        "recovery-cuts-damage",
        "wal_recovery",
        "    if mark is not None:\n"
        "        why",
        "    if False:\n"
        "        why",
    ),
    (
        "recovery-forgets-the-last-run",
        "wal_recovery",
        "        self._end_run()\n"
        "        if not found.segments:\n",
        "        if not found.segments:\n",
    ),
    (
        "vote-record-without-vote",
        "wal_recovery",
        "        log.hard_state = HardState(record.term, decode_vote(record.payload), "
        "record.index)\n",
        "        log.hard_state = HardState(record.term, 0, record.index)\n",
    ),
    (
        "vote-record-of-same-term",
        "wal_recovery",
        "        log.hard_state = HardState(record.term, decode_vote(record.payload), "
        "record.index)\n",
        "        if record.term != log.hard_state.term or record.index > log.hard_state.commit:\n"
        "            log.hard_state = HardState(record.term, decode_vote(record.payload), "
        "record.index)\n",
    ),
    (
        "records-of-first-group",
        "wal_recovery",
        "            if index != self._run_next or record.group != self._run_group or len(run) "
        ">= RUN_ENTRIES_MAX:\n",
        "            if index != self._run_next or len(run) >= RUN_ENTRIES_MAX:\n",
    ),
    (
        "snapshot-without-sync",
        "snapshots",
        "            file.sync()\n"
        "            file.close()\n",
        "            file.close()\n",
    ),
    (
        "snapshot-name-without-sync",
        "snapshots",
        "            files.rename(self._temporary, self._path)\n"
        "            files.sync_directory(self._store.directory)\n",
        "            files.rename(self._temporary, self._path)\n",
    ),
    (
        "snapshot-prunes-the-newest",
        "snapshots",
        "        return sorted(found, reverse=True)\n",
        "        return sorted(found, key=lambda each: (each.term, each.position % 997), "
        "reverse=True)\n",
    ),
    (
        "segment-name-without-sync",
        "wal_segment",
        "            files.rename(temporary, path)\n"
        "            files.sync_directory(directory)\n",
        "            files.rename(temporary, path)\n",
    ),
    (
        "segment-without-sync",
        "wal_segment",
        "            file.sync()\n"
        "            files.rename(temporary, path)\n",
        "            files.rename(temporary, path)\n",
    ),
    (
        "segment-removal-without-sync",
        "wal_segment",
        "        self._files.unlink(segment.path)\n"
        "        self._files.sync_directory(self._directory)\n"
        "        self.oldest",
        "        self._files.unlink(segment.path)\n"
        "        self.oldest",
    ),
    (
        "urgent-is-not-counted",
        "wal_queue",
        "            self._urgent_taken += submission.urgent\n",
        "            self._urgent_taken += 1\n",
    ),
)
