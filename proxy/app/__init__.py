"""The only place that constructs things: processes, and what runs in each.

supervisor   `crossfade serve`: starts the others, reloads, merges numbers, admin HTTP
worker       accepts clients; there may be several, sharing the port
engine       converges, backfills and switches; one process
channel      how they talk: calls over a socket pair
commands     what the other subcommands do
"""
