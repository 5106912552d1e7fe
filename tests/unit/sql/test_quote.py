"""Quoted names and texts read back as what they were."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pglast.parser import parse_sql

from proxy.sql.quote import quote_name, quote_qualified, quote_text

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=15)


@given(TEXT)
def test_text_reads_back(text: str) -> None:
    (raw,) = parse_sql("SELECT " + quote_text(text))
    assert raw.stmt.targetList[0].val.val.sval == text


@given(TEXT)
def test_name_reads_back(name: str) -> None:
    (raw,) = parse_sql("SELECT 1 AS " + quote_name(name))
    assert raw.stmt.targetList[0].name == name.encode()[:63].decode(errors="ignore")


def test_qualified_name() -> None:
    assert quote_qualified("S", 'a"b') == '"S"."a""b"'
