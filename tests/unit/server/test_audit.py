"""Which transactions are audited, and how their statements are then sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.server.audit import Sampler, audited
from proxy.server.forms import Forms
from tests.unit.server.sample import PATH, make_judge


@given(st.floats(0, 1), st.integers(1, 500))
def test_a_rate_is_kept_exactly(ratio: float, count: int) -> None:
    sampler = Sampler(ratio)
    drawn = sum(sampler.draw() for _ in range(count))
    assert abs(drawn - ratio * count) < 1 + 1e-6


@pytest.mark.parametrize(
    ("text", "captured"),
    [("UPDATE a SET v = 1", "{1}"), ("SELECT reads()", "{}"), ("DECLARE c CURSOR FOR SELECT 1", None),
     ("SELECT writes()", None), ("BEGIN", None)],
)  # fmt: skip
def test_what_is_believed_to_be_captured_is_counted_too(text: str, captured: str | None) -> None:
    judge = make_judge()
    judged = judge.judge(text, PATH)
    (form,) = Forms(judge).of(text, judged, PATH)
    now = audited(form, judged, 0)
    if captured is None:
        assert now is form
    else:
        assert now.before == ("SELECT crossfade.watch_begin()",)
        assert now.after == (f"SELECT crossfade.audit_end('{captured}')",)
        assert now.text == form.text
