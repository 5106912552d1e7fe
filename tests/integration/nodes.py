"""A database whose tables are hash partitions on three nodes: a distributed cluster, seen from outside.

The coordinator is PostgreSQL 15, the only one here that comes with postgres_fdw. It has no
unique index, no ON CONFLICT and no foreign keys; the nodes refuse what is not unique within
each of them. A commit is one transaction per node, of which the coordinator's is the last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from proxy.demo.clusters import Cluster

NODES = 3


def three_nodes(
    coordinator: Cluster,
    nodes: Cluster,
    make_database: Callable[..., str],
    schema: str,
    keys: Mapping[str, str],
) -> str:
    """Return the URL of a database with the tables of `schema`, spread by their keys."""
    shape = f"CREATE SCHEMA shape; SET search_path = shape, public; {schema};"
    local = "".join(
        f"CREATE TABLE public.{table} (LIKE shape.{table} INCLUDING ALL EXCLUDING IDENTITY);"
        for table in keys
    )
    forget = "SET client_min_messages = error; DROP SCHEMA shape CASCADE;"
    urls = [make_database(nodes, shape + local + forget) for _ in range(NODES)]
    spread = [shape, "CREATE EXTENSION postgres_fdw SCHEMA public;"]
    for number, url in enumerate(urls):
        place = f"host '127.0.0.1', port '{nodes.port}', dbname '{url.rpartition('/')[2]}'"
        spread.append(
            f"CREATE SERVER node{number} FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({place});"
            f"CREATE USER MAPPING FOR PUBLIC SERVER node{number} OPTIONS (user '{nodes.superuser}');"
        )
    for table, key in keys.items():
        spread.append(
            f"CREATE TABLE public.{table} (LIKE shape.{table} INCLUDING GENERATED) PARTITION BY HASH ({key});"
        )
        spread += [
            f"CREATE FOREIGN TABLE public.{table}_{number} PARTITION OF public.{table}"
            f" FOR VALUES WITH (MODULUS {NODES}, REMAINDER {number})"
            f" SERVER node{number} OPTIONS (table_name '{table}');"
            for number in range(NODES)
        ]
    return make_database(coordinator, "\n".join([*spread, forget]))
