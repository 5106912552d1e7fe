"""Crossfade moves a live PostgreSQL database to a new cluster while applications keep running.

    a client's statement ─ server ─ judged (sql, catalog) ─ captured (capture) ─┐
                             │                                                  ▼
                             ├─ reads: replica, or the new cluster       the authority: rows and
                             │  (routing, session, upstream)             ledger entries, one commit
                                                                                │
    the other cluster ◄─ upsert, delete, progress ─ converge ◄─ entries (ledger) ─┘
                                                    backfill, verify: the same loop

The packages, from the top; each imports only what stands below it, and its own docstring
is the map of its files:

    cli, demo    the command line; the whole crossing on embedded clusters
    app          the only place that constructs things: processes and what runs in each
    admin        the operator's side: check, status, report, HTTP
    crossing     gates, the switch, and the loop that owns a database
    server       the client side: from an accepted socket to relayed bytes
    backfill     the history, chunk by chunk, throttled and resumable
    verify       both sides compared, row by row where they differ
    converge     the one engine: make the target's rows equal to the source's
    capture      from a classified statement to the text that also writes the ledger
    ledger       the tables of schema crossfade: entries, lease, state
    catalog      tables, keys, functions, as the clusters have them
    upstream     connections to servers, and the pools that lend them
    flags        values from a flag provider instead of the file
    session      one client's state, which follows it from server to server
    routing      where a statement goes, decided from values
    tls          certificates, and the encryption of a connection
    flags        the rollout's values from a provider of feature flags
    config       the YAML file: keys, units, what a reload may change
    sql          the only importer of pglast: what a text does
    wire         the protocol: bytes in, values out
    metrics, clock, errors

The words (authority, mirror, ledger, chunk, switch, ...) mean one thing each, everywhere:
the authority takes the writes, the mirror follows it, the ledger says what may differ.
"""
