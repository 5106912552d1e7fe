"""From a classified statement to what is sent, so that its changes are in the ledger. No I/O.

decide      which form captures a statement, and why it is not the cheap one
reach       which tables a change goes on to through foreign keys
keys        a row's key as text
splice      the statement and its ledger entries as one statement; or one that returns the keys
announce    a statement that commits on its way
copying     a COPY FROM between two calls that enter its rows
watch       a statement between two calls that compare PostgreSQL's own counts
triggers    the form for tables that others change too
advice      what `crossfade check` says about a table's capture
"""
