"""Prepared statements: names of a client, identities, and what one server holds, all bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.errors import DuplicateStatement, UnknownStatement
from proxy.session.statements import (
    UNNAMED,
    ClientStatements,
    Portals,
    Prepared,
    ServerStatements,
    TooManyStatements,
)

INT4 = b"\0\1\0\0\0\x17"


def statement(number: int, size: int = 10) -> Prepared:
    return Prepared(b"SELECT %d" % number + b" " * size, b"\0\0")


def test_the_identity_is_text_and_parameter_types_and_nothing_else() -> None:
    one = Prepared(b"SELECT $1", INT4)
    assert one == Prepared(b"SELECT $1", INT4) and hash(one) == hash(Prepared(b"SELECT $1", INT4))
    assert one.server_name == Prepared(b"SELECT $1", INT4).server_name
    for other in (Prepared(b"SELECT $1", b"\0\0"), Prepared(b"SELECT $1 ", INT4), "SELECT $1"):
        assert one != other


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_text_and_types_cannot_be_confused(query: bytes, oids: bytes, query2: bytes, oids2: bytes) -> None:
    """Also beyond the 64 bytes that a key of the hash can hold."""
    one, other = Prepared(query, oids), Prepared(query2, oids2)
    assert (one == other) == ((query, oids) == (query2, oids2))
    assert len(one.server_name) < 63 and b"\0" not in one.server_name  # NAMEDATALEN
    long = bytes(64)
    assert Prepared(query, long + oids) != Prepared(query, long + oids + b"x")


# What a client has under its own names.


def test_a_name_stands_for_what_was_parsed_until_it_is_closed() -> None:
    names = ClientStatements()
    names.parse(b"a", statement(1))
    assert names.resolve(b"a") is names.get(b"a") == statement(1)
    names.close(b"a")
    names.close(b"a")  # no error, as in PostgreSQL
    assert names.get(b"a") is None
    with pytest.raises(UnknownStatement, match='prepared statement "a" does not exist') as caught:
        names.resolve(b"a")
    assert caught.value.sqlstate == "26000"
    with pytest.raises(UnknownStatement, match="unnamed prepared statement does not exist"):
        names.resolve(UNNAMED)


def test_only_the_unnamed_statement_may_be_replaced() -> None:
    names = ClientStatements()
    for number in (1, 2):
        names.parse(UNNAMED, statement(number))
    assert names.resolve(UNNAMED) == statement(2)
    names.parse(b"a", statement(1))
    with pytest.raises(DuplicateStatement) as caught:
        names.parse(b"a", statement(1))
    assert caught.value.sqlstate == "42P05"
    names.clear()
    names.parse(b"a", statement(2))


@pytest.mark.parametrize("name", [b"\xff", "é".encode()])
def test_a_name_in_any_encoding_can_be_told_of(name: bytes) -> None:
    names = ClientStatements()
    with pytest.raises(UnknownStatement):
        names.resolve(name)
    names.parse(name, statement(1))
    with pytest.raises(DuplicateStatement):
        names.parse(name, statement(1))


def test_a_session_holds_so_many_bytes_of_text_and_closing_makes_room() -> None:
    size = statement(0).size_bytes + 1
    names = ClientStatements(bytes_max=3 * size)
    for number in range(3):
        names.parse(b"%d" % number, statement(number))
    with pytest.raises(TooManyStatements, match=f"exceed {3 * size} bytes") as caught:
        names.parse(b"m", statement(3))
    assert caught.value.sqlstate == "54000"
    names.close(b"0")
    names.parse(b"m", statement(3))
    names.clear()
    names.parse(UNNAMED, statement(3, size=2 * size))


def test_the_unnamed_statement_that_is_replaced_costs_nothing_more() -> None:
    names = ClientStatements(bytes_max=2 * statement(0).size_bytes)
    for number in range(9):
        names.parse(UNNAMED, statement(number))


def test_what_is_undone_costs_what_it_did_before() -> None:
    names = ClientStatements(bytes_max=2 * statement(0).size_bytes + 1)
    for _ in range(9):
        names.parse(b"a", statement(1))
        names.restore(b"a", None)
        names.parse(UNNAMED, statement(2))
        names.restore(UNNAMED, statement(3))
    assert names.get(b"a") is None and names.get(UNNAMED) == statement(3)


def test_a_session_opens_portals_of_so_many_bytes_and_closing_or_committing_makes_room() -> None:
    size_bytes = statement(0).size_bytes + 1
    portals = Portals(bytes_max=2 * size_bytes)
    portals.open(b"a", statement(1))
    portals.open(b"b", statement(2))
    portals.open(b"b", statement(3))  # in its place
    with pytest.raises(TooManyStatements, match="portals of this session exceed"):
        portals.open(b"c", statement(4))
    assert portals.get(b"c") is None and portals.get(b"b") == statement(3)
    portals.close(b"a")
    portals.open(b"c", statement(4))
    portals.clear()
    portals.open(b"d", statement(5))
    portals.open(b"e", statement(6))
    assert portals.get(b"c") is None


# What one server connection holds.


class OneServer(RuleBasedStateMachine):
    """Whatever is parsed, used, refused and dropped: what is too much goes, the least used first."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes_max = 5 * statement(0).size_bytes
        self.held = ServerStatements(bytes_max=self.bytes_max)
        self.used: list[Prepared] = []  # the model: what is held, least recently used first

    numbers = st.integers(0, 12)

    @rule(number=numbers, size=st.sampled_from([10, 300]))
    def use(self, number: int, size: int) -> None:
        wanted = statement(number, size)
        assert self.held.has(wanted) == (wanted in self.used)
        if wanted in self.used:
            self.used.remove(wanted)
        else:
            self.held.add(wanted)
        self.used.append(wanted)

    @rule()
    def end_transaction(self) -> None:
        gone = []
        if self.size_bytes() > self.bytes_max:
            while self.size_bytes() > self.bytes_max * 0.75:
                gone.append(self.used.pop(0).server_name)
        assert self.held.evict() == gone
        assert self.held.evict() == []

    def size_bytes(self) -> int:
        return sum(each.size_bytes for each in self.used)

    @precondition(lambda self: self.used)
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.used)).server_name
        self.held.forget(name)
        self.used = [each for each in self.used if each.server_name != name]

    @rule()
    def forget_what_is_not_there(self) -> None:
        self.held.forget(b"cf_unknown")

    @rule()
    def drop_all(self) -> None:
        self.held.unnamed = statement(0)
        self.held.clear()
        self.used.clear()
        assert self.held.unnamed is None

    @invariant()
    def as_many_as_the_model(self) -> None:
        assert len(self.held) == len(self.used)


TestOneServer = OneServer.TestCase


def test_a_statement_larger_than_the_bound_is_held_for_one_transaction() -> None:
    held = ServerStatements(bytes_max=1000)
    held.add(statement(1))
    held.add(statement(2, size=5000))
    assert held.has(statement(1)) and held.has(statement(2, size=5000))
    assert held.evict() == [statement(1).server_name, statement(2, size=5000).server_name]
    assert len(held) == 0


def test_an_unnamed_parse_that_did_not_happen_leaves_no_unnamed_statement() -> None:
    """Else the next session's Bind would find another statement than its own, or none."""
    held = ServerStatements(bytes_max=1000)
    held.unnamed = statement(1)
    held.forget(UNNAMED)
    assert held.unnamed is None
