"""What the demo reads of the proxy's answers."""

from __future__ import annotations

import json

from proxy.demo.watch import Verification


def test_verification_names_every_differing_row() -> None:
    table = {"database": "app", "problem": None, "is_cut_short": False}
    output = {
        "is_equal": False,
        "tables": [
            {**table, "table": "public.users", "rows": 200_000, "pending": 0, "differing": []},
            {
                **table,
                "table": "public.order_lines",
                "rows": 7,
                "pending": 2,
                "differing": [{"key": ["4", "1"], "kind": "missing", "columns": []}],
            },
        ],
    }
    assert Verification.parse(json.dumps(output)) == Verification(
        200_007, ("public.order_lines(4, 1) missing",), pending_count=2
    )
