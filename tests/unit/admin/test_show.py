"""What a terminal shows: the urgent is marked, and lists have an end."""

from __future__ import annotations

from proxy.admin import show
from proxy.admin.status_model import Plan
from proxy.verify.ranges import Difference
from proxy.verify.report import Report, TableReport
from tests.unit.admin.sample import status


def lines() -> list[str]:
    return show.status(status()).splitlines()


def test_a_database_in_order_shows_no_mark_of_urgency() -> None:
    text = show.status(status())
    assert "!!" not in text
    assert "app: authority new, epoch 2" in text
    assert "  reads    50% on new, sticky by session" in text
    assert "  backfill running: 100 of 200 chunks" in text
    assert "           public.users is gone through: 50%, done in 12 s" in text


def test_what_is_urgent_is_marked() -> None:
    told = status()
    database = told["databases"]["app"]
    told["config_problems"] = ["x.yaml:1: listen: bad"]
    told["needs_restart"] = ["listen: a -> b"]
    told["errors"] = {"other": "connection refused"}
    database["rollout"] |= {"writes_on": "old", "refused": "never verified"}
    database["engine"]["owner"] = None
    database["gates"][0]["passed"] = False
    database["capture_misses"] = {"public.users": 2}
    database["last_misses"] = {"public.users": "SELECT f(?) -- remedy: trigger"}
    database["servers"][0] |= {"is_up": False, "reason": "refused"}
    database["quarantine"] = [
        {"table": "public.t", "key": ["7"], "attempts": 3, "error": "too long", "retry_at": None}
    ]
    database["proxies"][1] |= {"state": "silent", "heard_s": 17.2}
    urgent = [line for line in show.status(told).splitlines() if "!!" in line]
    assert len(urgent) == 10
    assert any("b-9-00 on b !! silent, last heard 17 s ago" in line for line in urgent)
    assert "the file wants writes on old: never verified" in urgent[3]


def test_reads_that_do_not_go_where_the_percentage_sends_them_are_told() -> None:
    told = status()
    told["databases"]["app"]["rollout"] |= {
        "reads_allowed_ratio": 0.125, "breaker": "9 of 20 reads failed", "read_fallbacks": {"own_write": 1234}
    }  # fmt: skip
    text = show.status(told)
    assert "!! the circuit breaker lets 12.5% through: 9 of 20 reads failed" in text
    assert "stayed on the authority: 1,234 own_write" in text


def test_a_long_list_says_how_much_is_left_out() -> None:
    told = status()
    told["databases"]["app"]["clients"]["pinned"] = [
        {"address": f"127.0.0.1:{n}", "user": "app", "application_name": "", "reason": "LISTEN"}
        for n in range(25)
    ]
    text = show.status(told)
    assert text.count("LISTEN") == 10
    assert "... and 15 more" in text


def test_a_plan_without_a_running_proxy_and_one_without_changes() -> None:
    told: Plan = {"is_running": False, "live": [], "needs_restart": [], "refused": [], "gates": {}}
    assert "no proxy answers" in show.plan(told)
    told["is_running"] = True
    assert "has this configuration" in show.plan(told)
    told["needs_restart"] = ["listen: a -> b"]
    assert show.plan(told) == "needs restart  listen: a -> b\n"


def test_of_many_differences_the_first_are_shown() -> None:
    found = tuple(Difference(key=(str(n),), kind="missing") for n in range(1000))
    table = TableReport("public.t", rows_count=5000, differing=found, is_cut_short=True)
    text = show.verification({"app": Report(tables=(table,), is_whole=True, seconds=0.5)})
    assert text.count("missing") == 20
    assert "... and 980 more: --json lists them" in text
    assert "... and rows beyond the first 1,000, not looked for" in text
