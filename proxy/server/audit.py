"""The capture audit: in sampled transactions PostgreSQL counts what each statement changes.

A statement that is believed to say by itself what it changes stands, in a sampled transaction,
between the same two calls as one that is watched (`capture.watch`). Rows that changed and
have no entry then get a table entry in the same transaction, so a miss costs a comparison
and never a row; and the miss is an alarm, since of a hundred such statements ninety-nine
were not looked at.
"""

from __future__ import annotations

import re

import structlog

from proxy.capture.watch import audit_after, watch_before
from proxy.catalog.model import Catalog
from proxy.server.extended import FormOf, Sent
from proxy.server.judge import Judged
from proxy.server.request import Request
from proxy.server.statistics import Statistics
from proxy.server.translate import Form
from proxy.session.statements import Prepared
from proxy.sql.normalise import normalise
from proxy.sql.statement import Kind
from proxy.wire import messages

_log = structlog.get_logger()
_AUDITED = {Kind.READ, Kind.WRITE}
_TEXT_LENGTH_MAX = 300


class Sampler:
    """Says for which transactions it is time: each n-th, so that a rate is kept exactly."""

    def __init__(self, ratio: float = 0.0) -> None:
        self.ratio = ratio
        self._owed = 0.0

    def draw(self) -> bool:
        """Return whether the transaction that begins now is in the sample."""
        self._owed += self.ratio
        if self._owed < 1.0:
            return False
        self._owed -= 1.0
        return True


def audited(form: Form, judged: Judged, at: int) -> Form:
    """Return the form of a statement, the `at`-th of a text, in a sampled transaction."""
    statement, plan = judged.statements[at], judged.plans[at]
    if statement.kind not in _AUDITED or statement.cursor or form.after or form.keys is not None:
        return form
    captured: tuple[int, ...] = ()
    if plan is not None:
        captured = plan.entries if plan.inline is None else (plan.inline.id, *plan.entries)
    return form._replace(before=(*form.before, watch_before()), after=(audit_after(captured),))


def all_audited(form_of: FormOf) -> FormOf:
    """Return the forms of prepared statements in a sampled transaction."""

    def one(prepared: Prepared) -> Sent:
        sent = form_of(prepared)
        if len(sent.judged.plans) != 1:
            return sent
        form = audited(sent.form, sent.judged, 0)
        return sent if form is sent.form else sent._replace(form=form, is_plain=False, is_short=False)

    return one


def report(warning: bytes, request: Request, catalog: Catalog, statistics: Statistics, database: str) -> None:
    """Count what an audit found, and say which table, which statement, and what to do."""
    numbers = set(map(int, re.findall(r"\d+", messages.read_error(warning)["M"])))
    texts = [request.text]
    if request.batch is not None:
        texts = [each.query.decode(errors="replace") for each in request.batch.used]
    statement = "; ".join(normalise(text) or text for text in texts)[:_TEXT_LENGTH_MAX]
    for table in catalog.tables.values():
        if table.id in numbers:
            name = f"{table.schema}.{table.name}"
            remedy = f'tables.capture: {{"{name}": trigger}}'
            statistics.missed(name, f"{statement} -- remedy: {remedy}")
            _log.warning(
                "changes were not captured", database=database, table=name, statement=statement, remedy=remedy
            )
