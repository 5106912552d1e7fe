"""The configuration of DESIGN 10, as the tests of this folder change it."""

from __future__ import annotations

ENVIRONMENT = {"APP_PASSWORD": "hunter2"}

SAMPLE = """\
listen: 127.0.0.1:6432
admin: {listen: 127.0.0.1:9632}
databases:
  app:
    old: {primary: "postgresql://crossfade@127.0.0.1:5501/app", replicas: ["postgresql://crossfade@127.0.0.1:5503/app"]}
    new: {primary: "postgresql://crossfade@127.0.0.1:5502/app", replicas: []}
    users: [{name: app, password_env: APP_PASSWORD}]
    pool: {size: 20, wait: 10s}
    tables: {include: ["public.*"], exclude: [], capture: statement, order_by: {users: "last_login DESC"}}
    mirror: {enabled: true, ack: async}
    backfill: {enabled: true, chunk_rows: 1000}
    rollout:
      reads_on_new: 0%
      sticky_by: session
      writes_on: old
      max_pause: 5s
      gates: {mirror_success: 95%, read_parity: 99.9%, verified_within: 1h, max_lag: 1s}
"""


def changed(old: str, new: str) -> str:
    """Return the sample with one piece of text replaced, which must stand in it once."""
    assert SAMPLE.count(old) == 1, old
    return SAMPLE.replace(old, new)
