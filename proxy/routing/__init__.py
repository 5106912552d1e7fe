"""Where a statement goes: a pure decision over what is known at this instant."""
