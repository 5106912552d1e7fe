"""Which driver does what through the proxy: every cell names the function of a test that does it.

Where a driver has no such thing the cell says so, and what its users do instead.
A row cannot leave a cell out; a cell whose function is gone, or is run by nothing, fails.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
_LACKS = "none: "
_PYTHON = "integration/test_drivers_{}.py".format


class Row(NamedTuple):
    """What one driver does, by the names of functions in its file."""

    file: str
    prepared: str
    pipelined: str
    transactions: str
    copy: str
    cursors: str
    cancel: str
    listen: str
    errors: str
    reconnect: str


def program(file: str) -> Row:
    """Return the row of a program in another language: its functions are called by what they do."""
    names = "prepared pipelined transactions copies cursors cancels listens failures reconnects"
    return Row(f"drivers/{file}", *names.split())


MATRIX = {
    "psql": Row(
        _PYTHON("psql"),
        prepared="test_script_prints_the_same_as_without_the_proxy",
        pipelined="test_pipeline",
        transactions="test_script_prints_the_same_as_without_the_proxy",
        copy="test_script_prints_the_same_as_without_the_proxy",
        cursors="test_script_prints_the_same_as_without_the_proxy",  # FETCH_COUNT
        cancel="test_interrupt_cancels_the_statement_alone",
        listen="test_notifications_and_connecting_again",
        errors="test_errors_point_into_the_text_as_typed",
        reconnect="test_notifications_and_connecting_again",
    ),
    "pgbench": Row(
        "integration/test_pgbench.py",
        prepared="test_load_runs_without_a_failure",
        pipelined="test_pipelines_cursors_and_notifications_on_ever_new_connections",
        transactions="test_load_runs_without_a_failure",
        copy="test_initial_rows_are_copied_and_an_interrupt_cancels_their_making",
        cursors="test_pipelines_cursors_and_notifications_on_ever_new_connections",
        cancel="test_initial_rows_are_copied_and_an_interrupt_cancels_their_making",
        listen="test_pipelines_cursors_and_notifications_on_ever_new_connections",
        errors="test_error_ends_its_client_alone",
        reconnect="test_pipelines_cursors_and_notifications_on_ever_new_connections",
    ),
    "asyncpg": Row(
        _PYTHON("asyncpg"),
        prepared="test_transactions_and_savepoints",
        pipelined="test_executemany_and_cursors",
        transactions="test_transactions_and_savepoints",
        copy="test_copy_in_both_directions",
        cursors="test_executemany_and_cursors",
        cancel="test_cancel_ends_the_statement_alone",
        listen="test_notifications_arrive_without_asking",
        errors="test_error_points_into_the_own_text",
        reconnect="test_pool_connects_again_after_its_server_is_gone",
    ),
    "psycopg 3": Row(
        _PYTHON("psycopg"),
        prepared="test_statements_prepared_by_use_survive_other_servers",
        pipelined="test_pipeline_mode",
        transactions="test_ordinary_work_blocking",
        copy="test_copy_in_both_directions",
        cursors="test_server_side_cursors",
        cancel="test_cancel_and_notifications",
        listen="test_cancel_and_notifications",
        errors="test_errors_say_what_and_where",
        reconnect="test_lost_server_ends_the_connection_and_a_new_one_works",
    ),
    "psycopg 2": Row(
        _PYTHON("synchronous"),
        prepared="test_psycopg2",
        pipelined="none: it waits for each answer; `execute_batch` sends several statements in one text",
        transactions="test_psycopg2",
        copy="psycopg2_copies",
        cursors="psycopg2_cursors",
        cancel="psycopg2_cancels",
        listen="psycopg2_listens",
        errors="test_psycopg2",
        reconnect="test_psycopg2",
    ),
    "pg8000": Row(
        _PYTHON("synchronous"),
        prepared="test_pg8000",
        pipelined="none: it waits for each answer",
        transactions="test_pg8000",
        copy="test_pg8000",
        cursors="test_pg8000",
        cancel="pg8000_cancels",  # it has none: by statement_timeout, and by pg_cancel_backend
        listen="test_pg8000",
        errors="test_pg8000",
        reconnect="test_pg8000",
    ),
    "SQLAlchemy, blocking": Row(
        _PYTHON("sqlalchemy"),
        prepared="test_unit_of_work_over_psycopg",
        pipelined="test_unit_of_work_over_psycopg",
        transactions="test_unit_of_work_over_psycopg",
        copy="test_what_lies_below_an_engine_over_psycopg",
        cursors="test_unit_of_work_over_psycopg",
        cancel="test_what_lies_below_an_engine_over_psycopg",
        listen="test_what_lies_below_an_engine_over_psycopg",
        errors="test_unit_of_work_over_psycopg",
        reconnect="test_what_lies_below_an_engine_over_psycopg",
    ),
    "SQLAlchemy, asyncio": Row(
        _PYTHON("sqlalchemy"),
        prepared="test_unit_of_work_over_asyncpg",
        pipelined="test_what_lies_below_an_engine_over_asyncpg",
        transactions="test_unit_of_work_over_asyncpg",
        copy="test_what_lies_below_an_engine_over_asyncpg",
        cursors="test_unit_of_work_over_asyncpg",
        cancel="test_what_lies_below_an_engine_over_asyncpg",
        listen="test_what_lies_below_an_engine_over_asyncpg",
        errors="test_unit_of_work_over_asyncpg",
        reconnect="test_what_lies_below_an_engine_over_asyncpg",
    ),
    "Django": Row(
        _PYTHON("synchronous"),
        prepared="_work_in_django",
        pipelined="_work_below_django",
        transactions="_work_in_django",
        copy="_work_below_django",
        cursors="_work_in_django",
        cancel="_work_below_django",
        listen="_work_below_django",
        errors="_work_in_django",
        reconnect="_work_in_django",
    ),
    "node-postgres": Row(
        _PYTHON("node"),
        prepared="statements",
        pipelined="none: it queues what it is given, and waits for each answer",
        transactions="transactions",
        copy="copies",
        cursors="load",
        cancel="cancels",
        listen="listening",
        errors="errors",
        reconnect="reconnects",
    ),
    "postgres.js": program("node/postgres.mjs"),
    "pgjdbc": program("java/Driver.java"),
    "pgx": program("go/main.go"),
    "tokio-postgres": program("rust/src/main.rs"),
}


@pytest.mark.parametrize("driver", MATRIX)
def test_every_cell_names_what_is_run(driver: str) -> None:
    file, *cells = MATRIX[driver]
    source = (ROOT / file).read_text()
    for ability, cell in zip(Row._fields[1:], cells, strict=True):
        if cell.startswith(_LACKS):
            assert cell.removeprefix(_LACKS)
            continue
        defined = len(re.findall(rf"(?:def|function|func|fn|void) {cell}\b", source))
        mentioned = len(re.findall(rf"\b{cell}\b", source))
        assert defined == 1, f"{driver}: {ability}: {file} has no {cell}"
        assert cell.startswith("test_") or mentioned > defined, f"{driver}: {ability}: nothing runs {cell}"
