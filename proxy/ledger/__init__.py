"""The tables of schema `crossfade`: entries, leases, state. Nothing but PostgreSQL is needed to run.

    schema      the DDL; `init` and `remove`
    connection  how the engine's connections are opened and what is pinned on them
    entries     deleting and quarantining ledger entries
    reading     reading them, at most so many at a time; while there are more, from where it stopped
    depth       how many there are
    lineage     whether a failover may have lost commits, of either cluster
    lease       who runs the engine of a database, fenced by an epoch
    state       who is the authority; the two halves of a switch
    snapshot    comparing snapshots, pure

The schema exists on both clusters with the same table ids. Entries are written only on
the authority; the other side's ledger refuses inserts (SQLSTATE CF001).
"""
