"""Roles for tests. They belong to a whole cluster, and the clusters outlive a test."""

from __future__ import annotations

from proxy.demo.clusters import Cluster
from proxy.sql.quote import quote_name, quote_text


def ensure_roles(cluster: Cluster, *names: str, options: str = "LOGIN") -> None:
    """Make sure that roles exist and have these options, whoever created them before."""
    for name in names:
        quoted = quote_name(name)
        is_missing = f"to_regrole({quote_text(quoted)}) IS NULL"
        cluster.psql(f"DO $$ BEGIN IF {is_missing} THEN CREATE ROLE {quoted}; END IF; END $$")
        cluster.psql(f"ALTER ROLE {quoted} {options}")
