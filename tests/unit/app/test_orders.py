"""An order outlives the engine process that was to obey it, and is obeyed once."""

from __future__ import annotations

from proxy.app.orders import Orders
from proxy.config import Config, loads
from tests.unit.config.sample import ENVIRONMENT, SAMPLE


def writing_on(side: str) -> Config:
    """Return the sample with its writes on a side."""
    config = loads(SAMPLE, ENVIRONMENT)
    database = config.databases["app"]
    rollout = database.rollout.model_copy(update={"writes_on": side})
    changed = database.model_copy(update={"rollout": rollout})
    return config.model_copy(update={"databases": {"app": changed}})


OLD, NEW = writing_on("old"), writing_on("new")
NOTHING = OLD.model_copy(update={"databases": {}})


def test_a_changed_line_is_an_order_until_it_is_carried_out() -> None:
    orders = Orders()
    orders.follow(OLD, OLD, is_order=True)
    assert orders.open == frozenset()
    orders.follow(OLD, NEW, is_order=True)
    orders.follow(NEW, NEW, is_order=True)  # another line has changed
    orders.follow(NEW, NEW, is_order=False)
    assert orders.open == {"app"}
    orders.carried_out("app", "old")
    orders.carried_out("other", "new")
    assert orders.open == {"app"}
    orders.carried_out("app", "new")
    assert orders.open == frozenset()
    orders.carried_out("app", "old")  # somebody else has moved them back
    assert orders.open == frozenset()


def test_a_value_that_comes_back_with_a_flag_provider_is_no_order() -> None:
    orders = Orders()
    orders.follow(OLD, NEW, is_order=False)
    assert orders.open == frozenset()
    orders.follow(NEW, OLD, is_order=True)
    orders.follow(OLD, NEW, is_order=False)
    assert orders.open == frozenset()


def test_a_database_that_comes_or_goes_orders_nothing() -> None:
    orders = Orders()
    orders.follow(NOTHING, NEW, is_order=True)
    assert orders.open == frozenset()
    orders.follow(OLD, NEW, is_order=True)
    orders.follow(NEW, NOTHING, is_order=True)
    assert orders.open == frozenset()
