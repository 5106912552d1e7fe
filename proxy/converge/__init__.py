"""The one engine: make the target's rows equal to the source's, as of one source snapshot.

plan        how a table travels: the SQL of one table in one direction, pure
writing     how its staged rows are written on the target, pure
probe       which of those ways the target can go
rows        COPY streams from one cluster into the other
keyless     tables without a key: copies are counted
closure     unique values that are still held by stale rows
links       the three connections a converger works with
statistics  what was converged, what failed, what is paused
engine      Converger: passes over the ledger
widening    whole tables instead of very many keys
ranges      key ranges and whole tables: backfill, repair, TRUNCATE
sequences   setting the target's sequences beyond the source's
"""
