"""The Raft consensus algorithm as a machine without I/O, clock or randomness.

The behaviour is that of etcd-io/raft 3.7, message for message; scenario files of that project and of this one compare
every message and every line of the log (``relay.test.raft_scenarios``). One node of one group is a ``RawNode``.

====================  ===========================================================================================
rawnode               the door: step, tick, propose, ready, advance
types, codec          entries, messages, snapshots, changes of membership; as bytes
options, errors       how a node is set up; what is refused
machine               the term of a message, and who handles its kind
state                 the slots that all rules share, each with its invariant
election              roles, campaigns, votes
follower, leader      what each does with messages
proposals             what a leader appends
replication           what a leader sends, and when an entry is committed
tracker, quorum       how far each member is; majorities, joint majorities
membership            configurations on a running node
confchange            configurations computed
reads, read_only      linearizable reads
log, unstable         the log, and the part of it that is not durable
storage               what is asked of the durable part; one in memory
storage_messages      asynchronous storage writes
describe, status      everything as text
logger                what a node says about itself
====================  ===========================================================================================

Where it differs from its model: a lone voter answers reads only after it has committed in its term; a restart takes
what was applied for committed; reads that wait are limited; the size of an entry counts 21 bytes beside its payload.
"""
