"""The cache gives what the parser gives, at any text, and stays within its bytes."""

# ruff: noqa: E501 (tables read better in one line each)

from __future__ import annotations

import random

from proxy.sql.cache import Cache
from proxy.sql.classify import parse


def test_cache_agrees_with_the_parser() -> None:
    cache = Cache()
    templates = [
        "SELECT * FROM t WHERE a = {};", " UPDATE t SET a = {} WHERE b = 'x{}' -- c", "SET a.b = {}",
        "INSERT INTO t VALUES ({}, '{}') RETURNING a ", "SELECT 1; SELECT {}", "not sql {}", "EXPLAIN (ANALYZE {}) SELECT 1",
    ]  # fmt: skip
    choice = random.Random(7)
    for _ in range(500):
        number = choice.choice([0, 1, 22, 333])
        text = choice.choice(templates).format(number, number)
        assert cache.statements(text) == parse(text)
    statistics = cache.statistics()
    # Four numbers each for the five that depend on literals or hold a comment, and the other two.
    assert statistics.misses == 22
    assert statistics.text_hits + statistics.key_hits + statistics.misses == 500


def test_text_with_a_new_literal_is_not_parsed_again() -> None:
    cache = Cache()
    for number in range(1000):
        cache.statements(f"SELECT * FROM t WHERE a = {number}")
    assert cache.statistics().misses == 1
    assert cache.statistics().key_hits == 999


def test_texts_that_differ_in_a_setting_are_not_confused() -> None:
    cache = Cache()
    first, second = cache.statements("SET a.b = 'x'"), cache.statements("SET a.b = 'y'")
    assert first[0].settings[0].values == ("x",)
    assert second[0].settings[0].values == ("y",)


def test_cache_stays_within_its_bytes() -> None:
    cache = Cache(bytes_max=400_000)
    for number in range(2000):
        cache.statements(f"SELECT column_{number} FROM t WHERE a = {number}")
    assert cache.statistics().size_bytes <= 400_000
    cache.statements("SELECT " + ", ".join(f"c{n}" for n in range(4000)))
    assert cache.statistics().size_bytes <= 400_000


def test_giant_list_is_not_kept_but_answered() -> None:
    cache = Cache()
    text = f"SELECT * FROM t WHERE a IN ({', '.join(map(str, range(100_000)))})"
    for _ in range(2):
        (statement,) = cache.statements(text)
        assert text[statement.start : statement.end] == text
    assert cache.statistics().size_bytes < 10_000


def test_entry_in_use_survives_others() -> None:
    cache = Cache(bytes_max=200_000)
    for number in range(3000):
        cache.statements("SELECT used")
        cache.statements(f"SELECT c{number}")
    assert cache.statistics().misses == 3001
