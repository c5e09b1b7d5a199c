"""A simulator: one seed drives network, disks, clocks, crashes and clients around the production code of a cluster.

::

    faults ─┬─▶ network  (links: delay, loss, duplication, reordering, partitions, resets)  ─┐
            ├─▶ disk     (unsynced sectors lost or torn, flipped bits, failed fsync, full)  ─┤
            ├─▶ clock    (rates that differ, pauses)                                         ├─▶ node: Groups, core,
            └─▶ world    (crashes, erased directories, changes of membership)               ─┤   log, snapshots,
    clients ───▶ put, get, compare-and-swap through KeyValue, with unknown outcomes         ─┘   key-value state
                                                                                              │
    invariants ◀── after every event of a node; at the end equal states and a linearizable history

No real time, thread or socket, and no random but that of the seed: the same seed gives the same events, told by a hash.
``python -m relay.test.sim`` runs seeds, replays one, and runs the planted bugs (``plants``) against all of it.

==============  ======================================================================================================
schedule        the events in order of time, and the clock of a node
disk            ``relay.test.simulated_files`` with faults; the steps of the log's threads, one by one
network         links and what happens to frames
node            one node: what ``relay.cluster.service`` and ``relay.tap`` put together, without a process
clients         operations, and the history of what became of them
invariants      what must hold after every event
promises        what must hold of what a group tells its users
operator        replaces nodes that lost their disk, and changes the membership
faults          when which fault begins, by kind
world           all of it, and what must hold at the end
shrink          a failing seed, made smaller
plants          bugs to be planted, and the loader that plants one
mutants         each plant against the unit tests and against the simulator
==============  ======================================================================================================

This module imports nothing, so that a plant can be set before any module of production is imported.
"""
