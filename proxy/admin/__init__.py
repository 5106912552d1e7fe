"""The operator's side.

    status_model      the shape of one status, which everything here reads
    http              /metrics, health, JSON and the dashboard
    show, report      a status as text for a terminal; as one page of proof
    preflight         `crossfade check`: is everything ready to cross?
    preflight_facts   what it reads from one server
    preflight_schema  what it compares, pure
    problem           what it says

Rule: nothing here decides or changes anything about the crossing. The one way to
move traffic is the configuration file.
"""
