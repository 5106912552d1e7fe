"""The configuration: what may be written in the YAML file, and what it means.

    units   "10s", "5%", "64MB" to numbers
    dsn     connection URLs and listen addresses
    values  the kinds of values: durations, sizes, addresses
    serving the models of what serves clients: log-ins, pools, limits, TLS
    model   the other models; every key, default and limit stands in these two
    load    a file to a `Config`, or to every problem with file, line and key
    edit    a file with single values changed, its comments and layout kept
    diff    what a new file would change, and which of it needs a restart

Rule 1: nothing here touches the outside world except reading the one file, so the
environment (for passwords) is handed in.
Rule 2: keys of the file are plain words with units in the value (`wait: 10s`),
attributes carry the unit in the name (`wait_s`).
"""

from __future__ import annotations

from proxy.config.diff import Change, Diff, changes_between, diff, shown, until_restart
from proxy.config.dsn import Address, Dsn
from proxy.config.load import digest, load, loads, read
from proxy.config.model import Backfill, Cluster, Config, Database, Gates, Mirror, Rollout, Tables
from proxy.config.serving import Admin, Limits, Pool, Tls, User

__all__ = [
    "Address",
    "Admin",
    "Backfill",
    "Change",
    "Cluster",
    "Config",
    "Database",
    "Diff",
    "Dsn",
    "Gates",
    "Limits",
    "Mirror",
    "Pool",
    "Rollout",
    "Tables",
    "Tls",
    "User",
    "changes_between",
    "diff",
    "digest",
    "load",
    "loads",
    "read",
    "shown",
    "until_restart",
]
