"""Every built-in type and every shape of table, through the proxy, by history and by verify."""

# ruff: noqa: E501 (a corpus reads better in one line each)

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.integration.writing import Writing, writing

# A type, two of its values that differ, and what else must arrive as it is.
TYPES = {
    "smallint": ("1", "2"), "int": ("1", "-2147483648"), "bigint": ("1", "9223372036854775807"),
    "numeric": ("1.50", "1.5", "NaN", "Infinity", "-Infinity", "1e-100"), "numeric(10, 2)": ("1.5", "2"),
    "real": ("1.1", "NaN", "Infinity", "-0"), "double precision": ("0.1", "NaN", "-Infinity", "1e-308"),
    "money": ("12.34", "-1"), "text": ("a", "", "ü\n\t\\N", "A"), "varchar(10)": ("a", "b "), "char(5)": ("a", "b"),
    '"char"': ("a", "b"), "name": ("a", "b"), "bytea": (r"\x00ff", r"\x"), "bool": ("t", "f"),
    "date": ("2024-02-29", "0044-03-15 BC", "infinity", "-infinity"),
    "timestamp": ("2024-01-01 00:00:00.000001", "0044-03-15 12:00 BC", "infinity"),
    "timestamptz": ("2024-01-01 00:00+05:30", "4713-01-01 00:00+00 BC", "-infinity"),
    "time": ("23:59:59.999999", "24:00"), "timetz": ("12:00+03", "12:00-03"),
    "interval": ("1 mon -1 day 01:00", "-178000000 years", "1 day", "24:00"),
    "mood": ("calm", "über"), "small": ("1", "2"), "pair": ('(1,"a,""b")', "(,)"), "int[]": ("{1,NULL,3}", "[0:1]={1,2}", "{}"),
    "text[]": ('{"a,b","NULL",NULL}', "{{a,b},{c,d}}"), "mood[]": ("{calm}", "{}"), "pair[]": ('{"(1,a)"}', "{}"),
    "int4range": ("[1,5)", "empty", "(,)"), "numrange": ("(1.5,2.5]", "[1,2]"), "tstzrange": ("[2024-01-01 00:00+00,infinity)", "(,)"),
    "int4multirange": ("{[1,3),[5,7)}", "{}"), "datemultirange": ("{[2024-01-01,2024-02-01)}", "{(,)}"),
    "json": ('{"a": 1,  "a": 2}', '{"a": 1}'), "jsonb": ('{"a": [1, null, "ü"]}', "1"), "jsonpath": ("$.a[*]", "$.b"),
    "tsvector": ("'a':1A 'b':2", "'c'"), "tsquery": ("'a' & !'b'", "'c' <-> 'd'"), "bit(4)": ("1010", "0000"), "varbit": ("101", ""),
    "uuid": ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000"),
    "inet": ("10.0.0.1/8", "::1"), "cidr": ("10.0.0.0/8", "::/0"), "macaddr": ("08:00:2b:01:02:03", "00:00:00:00:00:00"),
    "macaddr8": ("08:00:2b:01:02:03:04:05", "00:00:00:00:00:00:00:00"), "point": ("(1.5,-2)", "(0,0)"), "line": ("{1,2,3}", "{1,0,0}"),
    "lseg": ("[(0,0),(1,1)]", "[(0,0),(2,2)]"), "box": ("(1,1),(0,0)", "(2,2),(0,0)"), "path": ("[(0,0),(1,1)]", "((0,0),(1,1))"),
    "polygon": ("((0,0),(1,1),(2,0))", "((0,0),(1,1),(3,0))"), "circle": ("<(0,0),5>", "<(0,0),6>"), "pg_lsn": ("16/B374D848", "0/0"),
    "oid": ("1", "4294967295"), "xid8": ("1", "2"), "pg_snapshot": ("10:20:10,14", "10:20:"), "regtype": ("integer", "text"),
}  # fmt: skip
KEYS = {
    "k_text": ('text COLLATE "C"', "text", ("a", "B", "ä", "Z", "_", "a b")), "k_numeric": ("numeric", "numeric", ("1.0", "2", "NaN")),
    "k_uuid": ("uuid", "uuid", ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000")),
    "k_stamp": ("timestamptz", "timestamptz", ("2024-01-01 00:00+00", "0044-03-15 BC", "infinity")), "k_date": ("date", "date", ("2024-02-29", "0044-03-15 BC")),
    "k_bytes": ("bytea", "bytea", (r"\x00", r"\x")), "k_mood": ("mood", "mood", ("calm", "über")), "k_bool": ("bool", "bool", ("t", "f")),
    "k_inet": ("inet", "inet", ("10.0.0.1", "::1")), "k_array": ("int[]", "int[]", ("{1,2}", "{}")), "k_range": ("int4range", "int4range", ("[1,2)", "empty")),
    "k_char": ("char(5)", "char(5)", ("a", "b")), "k_small": ("small", "small", ("1", "2")), "k_wide": ("int", "bigint", ("1", "2")),
    "k_jsonb": ("jsonb", "jsonb", ("1", '{"a": 2}')), "k_bit": ("bit(4)", "bit(4)", ("0001", "1111")), "k_time": ("time", "time", ("12:00", "24:00")),
}  # fmt: skip
_NAMES = {f"c{number}": kind for number, kind in enumerate(TYPES, 1)}
_TYPES_SQL = """
CREATE TYPE mood AS ENUM ('calm', 'über'); CREATE DOMAIN small AS int CHECK (value < 100); CREATE TYPE pair AS (a int, b text);
"""
_EVERY = f"CREATE TABLE every (id int PRIMARY KEY, {', '.join(f'{name} {kind}' for name, kind in _NAMES.items())});"
_SHAPES = (
    """
CREATE TABLE "Größe ""1"" x" ("Schlüssel" text PRIMARY KEY, "select" int, "ümläut" text);
CREATE TABLE made (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, gone int, twice int GENERATED ALWAYS AS (a * 2) STORED, b text DEFAULT 'old');
ALTER TABLE made DROP COLUMN gone;
CREATE TABLE wide (id int PRIMARY KEY, a smallint, b varchar(3), c numeric(5, 2), d int[], e timestamp(0));
""",
    """
CREATE TABLE "Größe ""1"" x" ("ümläut" text, "Schlüssel" text PRIMARY KEY, "select" int);
CREATE TABLE made (b text DEFAULT 'new' NOT NULL, twice int GENERATED ALWAYS AS (a * 2) STORED, id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int);
CREATE TABLE wide (id bigint PRIMARY KEY, a bigint, b text, c numeric, d bigint[], e timestamp);
""",
)
SHAPED = {
    '"Größe ""1"" x"': '"Schlüssel", "select", "ümläut"',
    "made": "id, a, twice, b",
    "wide": "id, a, b, c, d, e",
}


def _schema(side: int) -> str:
    keys = [f"CREATE TABLE {name} (id {made[side]} PRIMARY KEY, v int);" for name, made in KEYS.items()]
    return "\n".join([_TYPES_SQL, _EVERY, _SHAPES[side], *keys])


@pytest.fixture(scope="module")
def typed(pg16: object, pg18: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writing]:
    schema = (_schema(0), _schema(1))
    with writing(tmp_path_factory.mktemp("types"), (pg16, pg18), schema, tables={}) as made:  # type: ignore[arg-type]
        yield made


def _rows() -> list[list[str | None]]:
    """Return a row for each further value: every column has each of its values, and NULL."""
    count = max(map(len, TYPES.values()))
    return [[values[n] if n < len(values) else None for values in TYPES.values()] for n in range(count)]


def _insert(first: int) -> list[tuple[str, list[str | None]]]:
    marks = ", ".join(f"%s::text::{kind}" for kind in _NAMES.values())
    return [(f"INSERT INTO every VALUES ({first + n}, {marks})", row) for n, row in enumerate(_rows())]


def _verify(typed: Writing) -> dict[str, object]:
    done = typed.running.command("verify", "--json", check=False)
    found: dict[str, object] = json.loads(done.stdout)
    return {"code": done.returncode, "told": found}


def test_every_type_arrives_by_history_and_by_a_write(typed: Writing) -> None:
    with typed.direct() as old:  # history: nobody captures it
        for text, row in _insert(1):
            old.execute(text, row)
        old.execute(
            "INSERT INTO crossfade.ledger (tbl, kind) SELECT id, 't' FROM crossfade.tables WHERE name = 'every'"
        )
    typed.assert_equal(["every"])
    with typed.connect() as client:
        for text, row in _insert(101):
            client.execute(text, row)
        for name, kind in _NAMES.items():
            client.execute(f"UPDATE every SET {name} = %s::text::{kind} WHERE id = 102", (TYPES[kind][0],))
    typed.assert_equal(["every"])
    assert _verify(typed)["code"] == 0


def test_verify_names_a_difference_in_each_type(typed: Writing) -> None:
    with typed.connect() as client, typed.direct(1) as new:
        for number, (name, kind) in enumerate(_NAMES.items(), 1001):
            client.execute(
                f"INSERT INTO every (id, {name}) VALUES ({number}, %s::text::{kind})", (TYPES[kind][0],)
            )
        typed.assert_equal(["every"])
        typed.running.stop()  # it verifies by itself now and then, and repairs what it finds
        for number, (name, kind) in enumerate(_NAMES.items(), 1001):
            new.execute(f"UPDATE every SET {name} = %s::text::{kind} WHERE id = {number}", (TYPES[kind][1],))
    found = _verify(typed)
    assert found["code"] == 1
    text = json.dumps(found["told"])
    missing = [(name, kind) for name, kind in _NAMES.items() if f'"{name}"' not in text]
    assert missing == []
    assert typed.running.command("verify", "--repair", check=False).returncode == 1
    typed.running.start()
    typed.assert_equal(["every"])


@pytest.mark.parametrize("name", KEYS)
def test_a_key_of_any_type_names_its_row(typed: Writing, name: str) -> None:
    kind, _, values = KEYS[name]
    kind = kind.removesuffix(' COLLATE "C"')
    with typed.connect(
        options="-c datestyle=german -c intervalstyle=iso_8601 -c bytea_output=escape -c extra_float_digits=-5"
    ) as client:
        for n, value in enumerate(values):
            client.execute(f"INSERT INTO {name} VALUES (%s::text::{kind}, {n})", (value,))
        client.execute(f"UPDATE {name} SET v = 100 WHERE id = %s::text::{kind}", (values[0],))
        client.execute(f"DELETE FROM {name} WHERE id = %s::text::{kind}", (values[1],))
    typed.wait_quiet()
    compare = f"SELECT string_agg(id::text || v, ',' ORDER BY v) FROM {name}"
    with typed.direct(0) as old, typed.direct(1) as new:
        assert new.execute(compare).fetchone() == old.execute(compare).fetchone()
        new.execute(f"DELETE FROM {name}")
        old.execute(
            "INSERT INTO crossfade.ledger (tbl, kind) SELECT id, 't' FROM crossfade.tables WHERE name = %s",
            (name,),
        )
        typed.wait_quiet()
        assert new.execute(compare).fetchone() == old.execute(compare).fetchone()


def test_shapes_that_differ_hold_the_same_rows(typed: Writing) -> None:
    table = next(iter(SHAPED))
    with typed.connect() as client:
        client.execute(f"""INSERT INTO {table} VALUES ('ä', 1, 'ö'), ('"', 2, NULL)""")
        client.execute(
            f"""UPDATE {table} SET "Schlüssel" = 'ß', "select" = 3 WHERE "Schlüssel" = 'ä' RETURNING *"""
        )
        client.execute("INSERT INTO made (a) VALUES (1), (2) RETURNING *")
        client.execute("INSERT INTO made (id, a, b) OVERRIDING SYSTEM VALUE VALUES (50, 3, 'x')")
        client.execute("UPDATE made SET a = a + 10 WHERE id < 50")
        client.execute(
            "INSERT INTO wide VALUES (1, 32767, 'abc', 1.5, '{1,2}', '2024-01-01 00:00:01'), (2, NULL, '', -1, '{}', 'infinity')"
        )
    typed.wait_quiet()
    with typed.direct(0) as old, typed.direct(1) as new:
        for name, columns in SHAPED.items():
            query = f'SELECT array_agg(ROW({columns})::text ORDER BY ROW({columns})::text COLLATE "C") FROM {name}'
            found = old.execute(query).fetchone()
            assert found != (None,) and new.execute(query).fetchone() == found, name
    assert _verify(typed)["code"] == 0
