"""The scripts of the trigger form; that they work is tested on real servers."""

from __future__ import annotations

from pglast.parser import parse_sql

from proxy.capture.triggers import create_sql, drop_sql, install_sql
from proxy.capture.watch import watch_after, watch_before
from tests.unit.capture.sample import table


def test_every_form_gets_its_script() -> None:
    form = table(7, "it's", ('k"1', "d"), key_types=("text", "date"), capture="trigger")
    assert install_sql([form]) == create_sql(form)
    assert install_sql([form._replace(capture="statement")]) == drop_sql(form)
    keyless = install_sql([form._replace(key=(), key_types=())])
    assert "FOR EACH ROW" in keyless and "FOR EACH ROW" not in create_sql(form)


def test_scripts_parse_whatever_the_names_are() -> None:
    form = table(7, "it's \\ \"", ('k"1', "d"), key_types=("text", "date"), capture="trigger")
    assert len(parse_sql(create_sql(form))) == 2
    assert len(parse_sql(drop_sql(form))) == 2


def test_watch_names_the_tables_that_have_entries() -> None:
    assert watch_before() == "SELECT crossfade.watch_begin()"
    assert watch_after() == "SELECT crossfade.watch_end('{}')"
    assert watch_after((9, 7)) == "SELECT crossfade.watch_end('{7,9}')"
