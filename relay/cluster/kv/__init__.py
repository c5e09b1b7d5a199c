"""The replicated key-value state: keys with revisions, leases, elections and client sessions, as a pure state machine.

    entry ─▶ commands.decode ─▶ machine ─┬─▶ sessions   was this command done already?
                                         ├─▶ keyspace   keys, revisions, ranges ─▶ history (what watches read)
                                         ├─▶ leases     keys that go when nobody renews
                                         └─▶ ballots    who of the candidates is on duty
    machine ─▶ snapshot: chunks, and back

Nothing here has a clock: time comes in as a replicated command. The same commands give the same bytes on every node.
"""
