"""The forms in which texts are sent: found once, shared, and forgotten with the catalog."""

from __future__ import annotations

import pytest

from proxy.server.extended import Batch, Extended
from proxy.server.forms import Forms
from proxy.server.translate import Shape
from proxy.session.statements import NO_TYPES, Prepared
from proxy.wire import messages
from proxy.wire.frames import Frame
from tests.unit.server.sample import FLUSH, PATH, SYNC, bind, frames, make_judge, parse
from tests.unit.wire.sample import column, description

INT4 = b"\0\1\0\0\0\x17"
ONE_COLUMN = Shape(1, description(column(b"id", 23)))


@pytest.fixture
def forms() -> Forms:
    return Forms(make_judge())


def query(text: str) -> Frame:
    return frames(messages.query(text.encode()))[0]


def prepared(text: str, oids: bytes = NO_TYPES) -> Prepared:
    return Prepared(text.encode(), oids)


def batch(statement: Prepared, end: bytes = SYNC) -> Batch:
    """Return a batch that parses and binds a statement."""
    text = statement.query.decode()
    return Extended().read(frames(parse(b"", text, statement.parameter_oids), bind(b""), end))


# Shortcuts.


@pytest.mark.parametrize(
    ("seen", "later"),
    [
        ("DELETE FROM a WHERE id = 1", "DELETE FROM a WHERE id = 22"),
        ("UPDATE a SET x = 'it''s' WHERE id = 1", "UPDATE a SET x = '' WHERE id = 333"),
        ("INSERT INTO a VALUES (1, 'x')", "INSERT INTO a VALUES (2, 'a longer one')"),
    ],
)
def test_the_shortcut_of_a_captured_write_sends_what_the_usual_way_would(
    forms: Forms, seen: str, later: str
) -> None:
    forms.request(query(seen), PATH)
    shortcut = forms.shortcut(later, PATH)
    assert shortcut is not None and shortcut.judged.is_captured
    (form,) = forms.of(later, forms.request(query(later), PATH).judged[0], PATH)
    assert (shortcut.prefix + later.encode() + shortcut.suffix).decode() == form.text
    assert shortcut.tag == form.tag == later.split()[0]


@pytest.mark.parametrize("text", ["SELECT * FROM a WHERE id = 1", "DELETE FROM aside", "BEGIN", "COMMIT"])
def test_the_shortcut_of_what_needs_nothing_is_to_send_it_as_it_came(forms: Forms, text: str) -> None:
    forms.request(query(text), PATH)
    shortcut = forms.shortcut(text, PATH)
    assert shortcut is not None and shortcut.tag is None


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1; SELECT 2",  # several
        "",
        "DELETE FROM a WHERE id = 1 RETURNING id",  # its answer must be described
        "DELETE FROM a WHERE id = 1 -- why",  # nothing may follow it
        "/* who */ DELETE FROM a WHERE id = 1",
        "TRUNCATE a",  # needs an entry before it
        "SET a.b TO 1",  # changes the session
        "SELECT set_config('a.b', 'x', false)",  # what it does depends on literals
        "SELECT '" + "x" * 5000 + "'",
    ],
)
def test_everything_else_takes_the_usual_way(forms: Forms, text: str) -> None:
    forms.request(query(text), PATH)
    assert forms.shortcut(text, PATH) is None


def test_a_shortcut_is_good_for_one_search_path_and_until_the_catalog_changes(forms: Forms) -> None:
    text = "SELECT * FROM a"
    forms.request(query(text), PATH)
    assert forms.shortcut(text, ("elsewhere",)) is None
    generation = forms.generation
    forms.forget()
    assert forms.generation > generation and forms.shortcut(text, PATH) is None


def test_search_paths_without_number_do_not_fill_the_memory(forms: Forms) -> None:
    (found,) = forms.request(query("SELECT * FROM a"), PATH).judged
    for number in range(20_001):
        forms.note("SELECT * FROM a", found, (f"tenant{number}",))
    assert forms.shortcut("SELECT * FROM a", ("tenant20000",)) is not None
    assert forms.shortcut("SELECT * FROM a", ("tenant0",)) is None


# Shapes.


def test_a_write_that_returns_is_described_once_for_all_texts_of_its_shape(forms: Forms) -> None:
    request = forms.request(query("SELECT 1; DELETE FROM a WHERE id = 1 RETURNING id"), PATH)
    missing = forms.missing(request, PATH)
    assert missing is not None
    assert missing.question == prepared("DELETE FROM a WHERE id = 1 RETURNING id") and missing.start == 10
    forms.learn(missing, PATH, ONE_COLUMN)
    assert forms.missing(request, PATH) is None
    other = forms.request(query("DELETE FROM a WHERE id = 22 RETURNING id"), PATH)
    assert forms.missing(other, PATH) is None
    (form,) = forms.of(other.text, other.judged[0], PATH)
    assert form.shape == ONE_COLUMN.row_description and form.tag == "DELETE"


def test_where_the_shape_is_not_known_the_write_is_watched(forms: Forms) -> None:
    text = "DELETE FROM a WHERE id = 1 RETURNING id"
    (form,) = forms.of(text, forms.request(query(text), PATH).judged[0], PATH)
    assert (form.text, form.tag, form.shape) == (text, None, None)
    assert form.before and form.after


def test_a_literal_that_is_returned_decides_a_type_and_is_part_of_the_shape(forms: Forms) -> None:
    first = forms.request(query("DELETE FROM a WHERE id = 1 RETURNING 'x'"), PATH)
    missing = forms.missing(first, PATH)
    assert missing is not None
    forms.learn(missing, PATH, ONE_COLUMN)
    second = forms.request(query("DELETE FROM a WHERE id = 1 RETURNING 7"), PATH)
    assert forms.missing(second, PATH) is not None


def test_so_are_the_types_of_parameters(forms: Forms) -> None:
    batches = [
        forms.batch(batch(prepared("DELETE FROM a WHERE id = $1 RETURNING $1", oids)), PATH, None)
        for oids in (NO_TYPES, INT4)
    ]
    missing = forms.missing(batches[0], PATH)
    assert missing is not None
    forms.learn(missing, PATH, ONE_COLUMN)
    assert forms.missing(batches[0], PATH) is None
    other = forms.missing(batches[1], PATH)
    assert other is not None and other.question.parameter_oids == INT4


def test_a_text_we_do_not_understand_is_asked_about_so_that_its_own_error_is_told(forms: Forms) -> None:
    request = forms.request(query("SELEC 1"), PATH)
    missing = forms.missing(request, PATH)
    assert missing is not None and missing.question == prepared("SELEC 1")
    parsed = forms.batch(batch(prepared("SELEC 1")), PATH, None)
    assert forms.missing(parsed, PATH) is None  # its Parse will say


# Prepared statements.


def test_a_prepared_statement_is_prepared_once_in_the_form_it_is_sent(forms: Forms) -> None:
    statement = prepared("DELETE FROM a WHERE id = $1", INT4)
    assert not forms.is_sent(statement, PATH)
    sent = forms.prepared(PATH)(statement)
    assert forms.is_sent(statement, PATH) and forms.prepared(PATH)(statement) is sent
    assert sent.prepared.query.startswith(b"WITH ") and sent.prepared.parameter_oids == INT4
    assert sent.is_short and not sent.is_plain
    forms.forget()
    assert not forms.is_sent(statement, PATH)


def test_a_plain_one_is_sent_as_it_is(forms: Forms) -> None:
    statement = prepared("SELECT * FROM a")
    sent = forms.prepared(PATH)(statement)
    assert sent.prepared == Prepared(statement.query, statement.parameter_oids, PATH)
    assert sent.is_plain and sent.is_short and sent.tracked is None


def test_one_text_under_two_search_paths_is_two_statements_on_servers(forms: Forms) -> None:
    statement = prepared("SELECT * FROM a")
    assert forms.prepared(PATH)(statement).prepared != forms.prepared(("other",))(statement).prepared


def test_one_that_changes_the_session_is_tracked(forms: Forms) -> None:
    sent = forms.prepared(PATH)(prepared("SET a.b TO 1"))
    assert sent.tracked is not None and not sent.is_plain and not sent.is_short


def test_what_is_not_certain_is_watched_and_not_remembered(forms: Forms) -> None:
    statement = prepared("DELETE FROM a")
    for sent in (
        forms.prepared(PATH, is_certain=False)(statement),
        forms.prepared(PATH)(prepared("DELETE FROM a RETURNING id")),  # its shape is not known yet
    ):
        assert sent.form.before and sent.form.after and sent.form.tag is None
    assert not forms.is_sent(statement, PATH)
    assert not forms.is_sent(prepared("DELETE FROM a RETURNING id"), PATH)


def test_a_statement_that_servers_have_accepted_needs_none_to_be_prepared_again(forms: Forms) -> None:
    one, other = prepared("SELECT 1"), prepared("SELECT 2")
    forms.note_parsed([one], PATH)
    assert forms.are_parsed([one], PATH)
    assert not forms.are_parsed([one, other], PATH)
    assert not forms.are_parsed([one], ("elsewhere",))
    forms.forget()
    assert not forms.are_parsed([one], PATH)


# Requests.


def test_a_read_that_was_none_is_judged_anew_and_goes_to_the_authority() -> None:
    judge = make_judge()
    forms = Forms(judge)
    for request in (
        forms.request(query("SELECT * FROM a"), PATH),
        forms.batch(batch(prepared("SELECT * FROM a")), PATH, None),
    ):
        request.started_s = 7.0
        judge.learn_write("SELECT * FROM a")
        again = forms.again(request, PATH)
        assert again.is_forced and not again.is_read and again.started_s == 7.0


def test_a_part_goes_to_the_authority_because_nobody_knows_what_follows(forms: Forms) -> None:
    assert forms.batch(batch(prepared("SELECT * FROM a"), FLUSH), PATH, None).is_forced
    assert not forms.batch(batch(prepared("SELECT * FROM a")), PATH, None).is_forced


def test_what_follows_a_statement_that_changes_names_is_not_certain(forms: Forms) -> None:
    ddl = forms.batch(batch(prepared("DROP TABLE aside"), FLUSH), PATH, None)
    assert not ddl.changes_names
    assert forms.batch(batch(prepared("DELETE FROM a")), PATH, ddl).changes_names
    assert not forms.batch(batch(prepared("DELETE FROM a")), PATH, None).changes_names


@pytest.mark.parametrize(("oid", "is_refused"), [(16384, True), (957, False)])
def test_a_function_call_of_which_nothing_is_known_is_refused_while_there_is_a_mirror(
    oid: int, is_refused: bool
) -> None:
    """957 is lowrite: it changes large objects, which no mirror has."""
    message = Frame(ord("F"), oid.to_bytes(4, "big"))
    assert (Forms(make_judge()).alone(message, PATH, None).refusal is not None) == is_refused
    free = Forms(make_judge(captures=False)).alone(message, PATH, None)
    assert free.refusal is None and free.is_write
