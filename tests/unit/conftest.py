"""How property tests run: a loaded machine is slow, not wrong, so examples have no deadline."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", deadline=None, print_blob=True)
settings.load_profile("unit")
