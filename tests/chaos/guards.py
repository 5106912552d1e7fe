"""Every guard of the invariants, and the test that fails when it is taken away.

Each line names what is guarded against, and a test that takes the guard away and sees that
very thing happen. The test beside it, with the guard, forces the same interleaving.

Nothing is lost
    an entry is cleared that its snapshot did not see   integration/test_converge_guards.py::test_clearing_more_than_the_snapshot_read_loses_a_write
    the answer to the target's commit never came        chaos/test_network.py::test_taking_a_lost_commit_for_done_loses_a_write
    an entry commits behind the reader's place          integration/test_ledger_reading.py::test_taking_the_last_pages_for_the_whole_ledger_calls_a_stale_mirror_complete
    a failover loses commits whose entries are gone     chaos/test_failover.py::test_without_the_look_at_the_timelines_they_stay_different
    a chunk is copied while somebody writes unseen      integration/test_switch_engine.py::test_without_the_barrier_their_writes_are_missed
    a write is in flight when the authority moves       integration/test_switch_guards.py::test_without_the_ledgers_lock_a_write_in_flight_is_lost
    a proxy that missed a switch writes                 integration/test_switch_guards.py::test_without_the_fence_an_acknowledged_write_is_lost
    a pipeline commits before the keys are entered      integration/test_split.py::test_without_the_look_at_what_may_end_a_transaction_it_has_not
    a procedure commits between two passes              integration/test_converge_guards.py::test_without_the_look_at_its_lock_a_call_loses_a_write
    both sides sort the keys of a range differently     integration/test_widening.py::test_as_ranges_they_leave_rows_behind
    the ledger is rewritten while ranges are converged  integration/test_widening.py::test_without_the_look_at_the_ledgers_file_it_does
    other rows lie where those of a COPY may be         integration/test_copying.py::test_without_the_number_of_the_statement_they_are_and_rows_are_lost
    a table is rewritten before copied rows are found   integration/test_copying.py::test_without_the_look_at_the_file_they_are_not
    a table is rewritten while they are looked for      integration/test_copying.py::test_without_looking_at_the_file_again_they_are_not
    a table is rewritten under the snapshot             integration/test_converge_guards.py::test_without_the_look_at_the_file_a_rewrite_deletes_rows
    a read writes, on the authority, unknown to us      integration/test_switch_proxies.py::test_without_read_only_transactions_it_is_not_captured
    a read writes, on the mirror                        integration/test_switch_proxies.py::test_without_read_only_connections_it_happens_on_the_mirror
    unique values changed hands over several passes     chaos/test_cycles.py::test_waiting_for_the_others_instead_of_reading_them_never_ends
    unique values changed hands                         integration/test_converge_guards.py::test_without_closure_swapped_values_never_arrive

    a row without a key has arrived, its entry stays    integration/test_keyless.py::test_without_remembering_the_snapshot_it_does
    rows without a key change places                    integration/test_keyless.py::test_without_the_look_at_the_file_other_rows_arrive
    a snapshot is remembered from another reign         integration/test_keyless.py::test_without_the_reign_a_row_is_taken_for_one_that_has_arrived
    half of the source's rows came                      integration/test_converge_without.py::test_taking_what_came_for_all_there_is_loses_rows
    the source is empty by mistake                      integration/test_converge_without.py::test_without_the_budget_it_empties_the_target
    the target allows less than the source holds        integration/test_converge_without.py::test_deleting_whatever_blocks_deletes_an_innocent_row
    one row is refused, under constant writes           integration/test_converge_without.py::test_without_waiting_for_the_key_every_pass_tries_it

DDL comes in its place
    two statements stand in the ledger in reverse       integration/test_converge_ddl.py::test_in_another_order_it_stands_still
    a table is made anew, and then filled               integration/test_converge_ddl.py::test_rows_that_come_before_it_are_lost_with_it
    the engine dies behind DDL that has run             integration/test_converge_ddl.py::test_without_the_note_that_it_ran_it_runs_twice
    a function has chosen the table of a write          integration/test_sessions_traces_without.py::test_without_asking_inside_the_transaction_it_is_lost

Nothing of one client reaches another
    a function makes a setting                          integration/test_sessions_traces_without.py::test_without_looking_for_traces_it_does
    it makes one whose name nobody can know             integration/test_sessions_traces_without.py::test_without_resetting_all_one_that_nobody_can_name_does

Nothing is shown that never was
    a reader comes between two tables of a pass         integration/test_converge_without.py::test_without_one_transaction_for_all_tables_it_does

Nothing goes backwards
    a converger has missed a switch                     integration/test_converge_without.py::test_without_the_look_at_the_reign_newer_rows_are_overwritten
    an owner sleeps through its lease and wakes up      integration/test_converge_guards.py::test_without_the_lease_check_a_row_goes_backwards
    a pass lands after its owner lost patience          integration/test_switch_engine.py::test_with_the_same_lease_a_pass_that_lands_late_takes_a_row_back

Never two authorities, and never none for long
    a conductor decides after it was replaced           integration/test_switch_guards.py::test_without_the_lease_a_late_decision_makes_two_authorities
    history written late wipes out a newer note         integration/test_switch_guards.py::test_without_the_lease_late_history_wipes_out_a_newer_note
    the state is read while a commit is in flight       integration/test_switch_guards.py::test_without_waiting_for_what_is_in_flight_nobody_reigns
    any of these, in every order there is               unit/crossing/test_machine_model.py::test_without_a_guard_a_law_is_broken

The engine never stands still
    it is cancelled as its connection is lost           integration/test_lost_connections.py::test_without_asking_the_task_it_goes_on_for_ever_and_the_engine_waits_for_it

No statement fails at a switch
    a transaction has begun and not yet written         integration/test_switch_proxies.py::test_without_the_hold_a_transaction_that_has_begun_fails
    the same at another proxy                           integration/test_switch_peers.py::test_without_the_hold_of_the_others_their_transactions_fail

No client is refused at a restart
    a client comes while one generation ends            unit/app/test_generations.py::test_without_steering_the_generation_that_ends_gets_new_clients
    a client waits in the queue of a socket that closes unit/app/test_generations.py::test_without_taking_the_queue_its_client_is_lost
"""  # noqa: E501

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent.parent
LISTED = re.compile(r"(\S+\.py)::(test_\w+)$", re.MULTILINE)


def missing() -> list[str]:
    """Return the tests listed above that do not exist."""
    listed = LISTED.findall(__doc__ or "")
    assert listed, "the list is not read"
    return [f"{file}::{name}" for file, name in listed if name not in _functions(TESTS / file)]


def _functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
