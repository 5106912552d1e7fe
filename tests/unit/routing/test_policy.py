"""A read leaves the authority only for a server that is fresh enough, and shares move monotonically."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.routing.policy import (
    NEVER_S,
    Freshness,
    Place,
    ReadRule,
    Side,
    choose_read,
    fallback_reason,
    is_on_new,
    sticky_fraction,
)

OLD, OLD_REPLICA, OLD_REPLICA_2 = (Place(Side.OLD, number) for number in range(3))
NEW, NEW_REPLICA = Place(Side.NEW, 0), Place(Side.NEW, 1)
NOW_S = 1000.0

times = st.just(NEVER_S) | st.floats(0, NOW_S)
ratios = st.floats(0, 1)
freshness = st.builds(Freshness, st.booleans(), times, st.none())
servers = st.dictionaries(
    st.sampled_from([OLD_REPLICA, OLD_REPLICA_2, NEW, NEW_REPLICA, OLD]), freshness
).map(lambda found: {OLD: Freshness(True, NOW_S), NEW: Freshness(True, NEVER_S), **found})
rules = st.builds(ReadRule, ratios, st.none() | st.floats(0, 100))


def choose(
    known: dict[Place, Freshness],
    rule: ReadRule = ReadRule(),  # noqa: B008 (frozen)
    *,
    authority: Side = Side.OLD,
    fraction: float = 0.0,
    last_write_s: float = NEVER_S,
    turn: int = 0,
) -> Place:
    return choose_read(
        authority, known, rule, fraction=fraction, last_write_s=last_write_s, now_s=NOW_S, turn=turn
    )


def up(*places: Place, until_s: float = NOW_S) -> dict[Place, Freshness]:
    return {place: Freshness(is_up=True, fresh_until_s=until_s) for place in places}


@given(servers, rules, st.sampled_from(Side), ratios, times, st.integers(0, 10))
def test_whatever_is_chosen_is_the_authority_or_holds_all_this_session_may_count_on(
    known: dict[Place, Freshness],
    rule: ReadRule,
    authority: Side,
    fraction: float,
    last_write_s: float,
    turn: int,
) -> None:
    place = choose(known, rule, authority=authority, fraction=fraction, last_write_s=last_write_s, turn=turn)
    if place == Place(authority, 0):
        return
    server = known[place]
    assert server.is_up
    assert server.fresh_until_s > NEVER_S
    assert server.fresh_until_s >= last_write_s
    if rule.max_staleness_s is not None:
        assert server.fresh_until_s >= NOW_S - rule.max_staleness_s
    if rule.reads_on_new_ratio > 0:
        assert (place.side is Side.NEW) == (fraction < rule.reads_on_new_ratio)
    else:
        assert place.side is authority


def test_a_mirror_that_was_never_converged_gets_no_read_of_a_session_that_never_wrote() -> None:
    known = {**up(OLD), **up(NEW, until_s=NEVER_S)}
    assert choose(known, ReadRule(1.0)) == OLD
    assert choose({**known, **up(NEW)}, ReadRule(1.0)) == NEW


@pytest.mark.parametrize(("fresh_until_s", "place"), [(9.9, OLD), (10.0, OLD_REPLICA)])
def test_a_session_reads_its_own_writes(fresh_until_s: float, place: Place) -> None:
    known = {**up(OLD), **up(OLD_REPLICA, until_s=fresh_until_s)}
    assert choose(known, last_write_s=10.0) == place


@pytest.mark.parametrize(("staleness_s", "place"), [(0.5, OLD), (1.0, OLD_REPLICA), (None, OLD_REPLICA)])
def test_what_is_staler_than_the_configuration_allows_is_not_read(
    staleness_s: float | None, place: Place
) -> None:
    known = {**up(OLD), **up(OLD_REPLICA, until_s=NOW_S - 1.0)}
    assert choose(known, ReadRule(0.0, staleness_s)) == place


def test_a_server_that_is_down_is_not_read() -> None:
    assert choose({**up(OLD), OLD_REPLICA: Freshness(False, NOW_S)}) == OLD


# Shares.


@given(ratios, ratios, ratios)
def test_whoever_reads_on_new_at_a_share_does_so_at_every_larger_one(
    fraction: float, less: float, more: float
) -> None:
    assume(less <= more)
    assert is_on_new(fraction, ReadRule(more)) or not is_on_new(fraction, ReadRule(less))


@given(st.text())
def test_nobody_is_on_new_at_0_and_everybody_at_100_percent(key: str) -> None:
    fraction = sticky_fraction(key)
    assert 0 <= fraction < 1
    assert fraction == sticky_fraction(key)
    assert not is_on_new(fraction, ReadRule(0.0))
    assert is_on_new(fraction, ReadRule(1.0))


@pytest.mark.parametrize("ratio", [0.05, 0.5, 0.95])
def test_a_share_of_the_keys_is_that_share(ratio: float) -> None:
    keys = [f"session-{number}" for number in range(10_000)]
    count = sum(is_on_new(sticky_fraction(key), ReadRule(ratio)) for key in keys)
    assert abs(count / len(keys) - ratio) < 0.02


# Among several servers.


@pytest.mark.parametrize("authority", list(Side))
def test_without_a_share_reads_stay_on_the_authoritys_side(authority: Side) -> None:
    known = up(OLD, OLD_REPLICA, NEW, NEW_REPLICA)
    assert choose(known, authority=authority, fraction=0.0) == Place(authority, 1)


def test_replicas_take_turns_and_their_primary_is_spared() -> None:
    known = up(OLD, OLD_REPLICA, OLD_REPLICA_2)
    assert [choose(known, turn=turn) for turn in range(4)] == [
        OLD_REPLICA,
        OLD_REPLICA_2,
        OLD_REPLICA,
        OLD_REPLICA_2,
    ]
    known[OLD_REPLICA].is_up = False
    assert {choose(known, turn=turn) for turn in range(4)} == {OLD_REPLICA_2}


def test_the_mirrors_primary_is_read_where_it_has_no_replica_and_spared_where_it_has() -> None:
    assert choose(up(OLD, NEW), ReadRule(1.0)) == NEW
    assert choose(up(OLD, NEW, NEW_REPLICA), ReadRule(1.0)) == NEW_REPLICA
    assert choose(up(OLD, OLD_REPLICA, NEW), ReadRule(1.0), authority=Side.NEW) == NEW


@pytest.mark.parametrize(("fraction", "place"), [(0.4, NEW), (0.6, OLD_REPLICA)])
def test_after_the_switch_those_not_on_new_read_the_old_side(fraction: float, place: Place) -> None:
    known = up(OLD, OLD_REPLICA, NEW)
    assert choose(known, ReadRule(0.5), authority=Side.NEW, fraction=fraction) == place


def test_sides_and_roles_are_called_as_in_metrics() -> None:
    assert (Side.OLD.other, Side.NEW.other) == (Side.NEW, Side.OLD)
    assert (OLD.role, OLD_REPLICA.role, f"{NEW.side}") == ("primary", "replica", "new")
    assert {Side("old"): 1}[Side.OLD] == 1


@pytest.mark.parametrize(
    ("known", "last_write_s", "reason"),
    [
        (up(OLD), NEVER_S, "down"),
        (up(OLD, NEW), NEVER_S, "stale"),
        (up(OLD, NEW, until_s=5.0), 6.0, "own_write"),
        ({OLD: Freshness(True, NOW_S)}, NEVER_S, None),
    ],
)
def test_a_read_that_stays_says_why(
    known: dict[Place, Freshness], last_write_s: float, reason: str | None
) -> None:
    if known.keys() == {OLD} and reason == "down":
        known = {**known, NEW: Freshness()}
    found = fallback_reason(Side.OLD, known, ReadRule(1.0), fraction=0.0, last_write_s=last_write_s)
    assert found == reason


def test_37_percent_of_10_000_users_are_on_new_and_none_moves_back() -> None:
    users = [f"user-{number}" for number in range(10_000)]
    on_new = {rule: {user for user in users if is_on_new(sticky_fraction(user), ReadRule(rule))}
              for rule in (0.05, 0.1, 0.37, 0.5, 1.0)}  # fmt: skip
    assert 3500 <= len(on_new[0.37]) <= 3900
    sets = list(on_new.values())
    assert all(before <= after for before, after in itertools.pairwise(sets))
    assert len(on_new[1.0]) == 10_000
