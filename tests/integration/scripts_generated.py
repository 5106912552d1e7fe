"""Conversations made at random from a seed, for the differential test.

Whatever comes out, both sides are asked the same: what matters is that statements, names,
portals, transactions, settings and errors meet in orders that nobody would write down. Rows
are read in order and written by key, so that the answers depend on nothing else.
"""

# ruff: noqa: E501 (a corpus reads better in one line each)

from __future__ import annotations

import random
from collections.abc import Callable

from tests.integration.protocol import (
    COPY_DONE,
    FLUSH,
    SYNC,
    Message,
    bind,
    close,
    copy_data,
    copy_fail,
    describe,
    execute,
    parse,
    query,
    run,
)

_NAMES = ("a", "b", "c")  # of statements with no, one, and two parameters
_PORTALS = ("", "p", "q")

# Text, and how many parameters it takes; a value for each is a small number.
_STATEMENTS: list[tuple[str, int]] = [
    ("SELECT id, name, n FROM item ORDER BY id", 0),
    ("SELECT * FROM pair WHERE a = $1 ORDER BY b", 1),
    ("SELECT g, g * $1::int FROM generate_series(1, 5) g", 1),
    ("SELECT nullif(current_setting('my.own', true), ''), current_setting('search_path')", 0),
    ("SELECT 1 / ($1::int - 2)", 1),
    ("SELECT nope FROM item", 0),
    ("SELEC 1", 0),
    ("", 0),
    ("INSERT INTO item (name, n) VALUES ('i' || $1::text, 1)", 1),
    ("INSERT INTO item (name, n) VALUES ('r' || $1::text, $2) RETURNING id, name, n", 2),
    ("INSERT INTO pair VALUES ($1, 'new', 1) ON CONFLICT (a, b) DO UPDATE SET v = 9 RETURNING *", 1),
    ("UPDATE item SET n = n + $1 WHERE id = $2", 2),
    ("UPDATE item SET n = $1 - 2 WHERE id = 1 RETURNING *", 1),
    ("UPDATE pair SET v = v + 1 WHERE a = 1 AND b = 'one' RETURNING v, b", 0),
    ("DELETE FROM child WHERE id = (SELECT min(id) FROM child)", 0),
    ("DELETE FROM item WHERE id = $1 RETURNING name", 1),
    ("SELECT bump($1)", 1),
    ("SELECT complain()", 0),
    ("TRUNCATE child", 0),
]
_SIMPLE = [
    "BEGIN", "BEGIN", "BEGIN READ ONLY", "COMMIT", "COMMIT", "ROLLBACK", "SAVEPOINT s", "ROLLBACK TO s", "RELEASE s",
    "COMMIT AND CHAIN", "SET my.own = 'x'", "SET LOCAL my.own = 'y'", "RESET my.own", "SET DateStyle = 'German'",
    "SET search_path = other, public", "SET LOCAL search_path = other, public", "SET search_path = public", "RESET search_path",
    "RESET DateStyle", "SET statement_timeout = '10s'", "SHOW statement_timeout", "RESET ALL", "DISCARD PLANS", "DISCARD ALL",
    "PREPARE sql1 AS SELECT id, name FROM item ORDER BY id", "PREPARE sql2 (int) AS UPDATE item SET n = $1 WHERE id = 2 RETURNING n",
    "EXECUTE sql1", "EXECUTE sql2 (4)", "EXECUTE sql2 (-4)", "DEALLOCATE sql1", "DEALLOCATE ALL",
    "DECLARE c1 CURSOR FOR SELECT id FROM item ORDER BY id", "FETCH 2 FROM c1", "CLOSE c1",
    "DECLARE c2 CURSOR WITH HOLD FOR SELECT a, b FROM pair ORDER BY a, b", "FETCH 1 FROM c2", "CLOSE ALL",
    "CREATE TEMP TABLE IF NOT EXISTS brief (x int)", "INSERT INTO brief VALUES (1) RETURNING x", "SELECT * FROM brief", "DROP TABLE brief",
    "SELECT pg_advisory_lock(9)", "SELECT pg_advisory_unlock(9)", "LISTEN heard", "NOTIFY heard, 'told'", "UNLISTEN heard",
    "SELECT 1; SELECT 2", "UPDATE item SET n = 3 WHERE id = 3; SELECT n FROM item WHERE id = 3", "SELECT 1; SELECT 1 / 0; SELECT 3",
    "BEGIN; INSERT INTO item (name) VALUES ('in one'); COMMIT", "INSERT INTO item (name) VALUES ('twice'); ROLLBACK; SELECT 4",
    "DO $$ BEGIN RAISE NOTICE 'said'; UPDATE item SET n = 6 WHERE id = 1; END $$", "CALL adjust(1, 2)",
    "COPY (SELECT id, name FROM item ORDER BY id) TO STDOUT", "VALUES (1), (2)",
]  # fmt: skip


def generated(seed: int) -> list[list[Message]]:
    """Return the conversation of a seed: a dozen bursts."""
    random_ = random.Random(seed)
    kinds: list[Callable[[random.Random], list[list[Message]]]] = [
        _plain,
        _plain,
        _batch,
        _batch,
        _simple,
        _simple,
        _flushed,
        _copy,
    ]
    script: list[list[Message]] = []
    while len(script) < 12:
        script += random_.choice(kinds)(random_)
    return [
        *script,
        [query("ROLLBACK")],
        [query("SELECT * FROM item ORDER BY id")],
        [query("SELECT * FROM pair ORDER BY a, b")],
    ]


def _values(random_: random.Random, count: int) -> list[str | None]:
    return [None if random_.random() < 0.05 else str(random_.randint(1, 6)) for _ in range(count)]


def _plain(random_: random.Random) -> list[list[Message]]:
    """Return what drivers send for a statement."""
    text, count = random_.choice(_STATEMENTS)
    return [[*run(text, *_values(random_, count), limit=random_.choice((0, 0, 0, 1, 2))), SYNC]]


def _step(random_: random.Random) -> list[Message]:
    """Return some messages of a batch, which may well be wrong."""
    text, count = random_.choice(_STATEMENTS)
    name, portal = _NAMES[count], random_.choice(_PORTALS)
    values = _values(random_, count)
    return random_.choice(
        [
            [close("S", name), parse(text, name=name)],
            [close("S", name), parse(text, name=name), describe("S", name)],
            [parse(text, name=name)],
            [parse(text, name=name), bind(*values, name=name), describe("P"), execute()],
            [close("S", name), parse(text, name=name), bind(*values, "1", name=name), execute()],
            [bind(name="nowhere"), execute()],
            [close("S", "nowhere"), close("P", "nowhere")],
            [describe(random_.choice("SP"), "nowhere")],
            [parse(text), bind(*values, portal=portal), describe("P", portal), execute(portal)],
            [
                close("S", name),
                parse(text, name=name),
                bind(*values, name=name, portal=portal),
                execute(portal),
            ],
            [bind(*values, name=name), execute()],
            [bind(*values, name=name, results=random_.choice((0, 1))), describe("P"), execute(limit=1)],
            [execute(portal, 1)],
            [close("S", name)],
            [close("P", portal)],
            [describe("S", name)],
            [describe("P", portal)],
            run(random_.choice(_SIMPLE[:22])),
        ]
    )


def _batch(random_: random.Random) -> list[list[Message]]:
    """Return a pipeline, perhaps of several batches."""
    burst: list[Message] = []
    for _ in range(random_.randint(1, 3)):
        for _ in range(random_.randint(1, 4)):
            burst += _step(random_)
        burst.append(SYNC)
        if random_.random() < 0.3:
            burst.append(query(random_.choice(_SIMPLE)))
    return [burst]


def _flushed(random_: random.Random) -> list[list[Message]]:
    """Return a batch in two parts: whoever sends a Flush waits before going on."""
    text, count = random_.choice(_STATEMENTS)
    name = _NAMES[count]
    first = [close("S", name), parse(text, name=name), describe("S", name), FLUSH]
    return [first, [bind(*_values(random_, count), name=name), execute(), SYNC]]


def _simple(random_: random.Random) -> list[list[Message]]:
    """Return simple queries, some at once."""
    return [[query(random_.choice(_SIMPLE)) for _ in range(random_.choice((1, 1, 1, 2, 3)))]]


def _copy(random_: random.Random) -> list[list[Message]]:
    """Return a COPY FROM STDIN that goes well, or not; in a failed transaction it never begins."""
    key = random_.randint(100, 10_000)
    ends = [[COPY_DONE], [copy_fail("enough")], [copy_data("x\twrong\n"), COPY_DONE]]
    return [
        [query("ROLLBACK")],
        [
            query("COPY item (id, name) FROM STDIN"),
            copy_data(f"{key}\tcopied {key}\n"),
            *random_.choice(ends),
        ],
    ]
