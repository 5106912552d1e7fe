"""What the sections mean, beyond their types."""

from __future__ import annotations

import pickle

import pytest
from pydantic import ValidationError

from proxy.config import Cluster, Database, Dsn, Pool, Tables, User, loads
from proxy.config.values import CaptureForm
from tests.unit.config.sample import ENVIRONMENT, SAMPLE, changed

OLD, NEW = Dsn("a", 1, "u", "d"), Dsn("b", 1, "u", "d")


def database(**keys: object) -> Database:
    return Database(old=Cluster(primary=OLD), new=Cluster(primary=NEW), **{"auth": "trust", **keys})


@pytest.mark.parametrize(
    ("include", "exclude", "table", "is_mirrored"),
    [
        (["public.*"], [], "public.users", True),
        (["*"], [], "public.users", True),
        (["users"], [], "public.users", True),
        (["users"], [], "other.users", False),
        (["public.*"], ["*_log"], "public.app_log", False),
        (["*.*"], ["audit.*"], "audit.x", False),
        (["*.*"], [], "crossfade.ledger", False),
        (["*.*"], [], "pg_catalog.pg_class", False),
        (["*.*"], [], "information_schema.tables", False),
        (["public.Users"], [], "public.users", False),
    ],
)
def test_patterns(include: list[str], exclude: list[str], table: str, is_mirrored: bool) -> None:
    schema, _, name = table.partition(".")
    assert Tables(include=include, exclude=exclude).is_mirrored(schema, name) is is_mirrored


def test_the_first_pattern_that_matches_gives_the_form_of_capture() -> None:
    tables = Tables(capture={"users": "trigger", "audit.*": "trigger", "*.*": "statement"})
    assert tables.capture_of("public", "users") is CaptureForm.TRIGGER
    assert tables.capture_of("audit", "x") is CaptureForm.TRIGGER
    assert tables.capture_of("public", "orders") is CaptureForm.STATEMENT
    assert Tables(capture="trigger").capture_of("a", "b") is CaptureForm.TRIGGER
    assert Tables(capture={"a": "trigger"}).capture_of("x", "y") is CaptureForm.STATEMENT


def test_keys_and_orders_are_found_with_and_without_schema() -> None:
    tables = Tables(key={"users": "id", "audit.x": ["a", "b"]}, order_by={"users": "seen DESC"})
    assert tables.key_of("public", "users") == ("id",)
    assert tables.key_of("audit", "x") == ("a", "b")
    assert tables.key_of("audit", "users") is None
    assert tables.order_by_of("public", "users") == "seen DESC"


def test_trust_without_a_list_lets_any_name_in_and_with_one_only_those() -> None:
    assert database().user("anybody") == User(name="anybody", auth="trust")
    assert database(users=[{"name": "a"}]).user("b") is None


def test_auth_of_the_database_holds_for_users_without_their_own() -> None:
    users = database(users=[{"name": "a"}, {"name": "b", "auth": "scram", "password": "x"}]).users
    assert [user.auth for user in users] == ["trust", "scram"]


def test_a_user_may_be_listed_once() -> None:
    with pytest.raises(ValidationError, match="listed twice"):
        database(users=[{"name": "a"}, {"name": "a"}])


def test_code_may_pass_numbers_and_names_with_units() -> None:
    assert Pool(size=1, wait_s=0.5).wait_s == 0.5


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        Pool().size = 3  # type: ignore[misc]


def test_a_configuration_travels_to_other_processes_and_hides_its_passwords() -> None:
    config = loads(changed("crossfade@127.0.0.1:5501", "crossfade:hunter2@127.0.0.1:5501"), ENVIRONMENT)
    assert pickle.loads(pickle.dumps(config)) == config
    assert "hunter2" not in repr(config)
    assert loads(SAMPLE, ENVIRONMENT) != config
