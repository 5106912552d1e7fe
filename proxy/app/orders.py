"""Which orders to move writes are given and not yet carried out.

A changed line `writes_on` is an order to the engine. The engine may die before it obeys; the
supervisor, which has seen the change, hands the order to the next one. An order is obeyed once:
what anybody moves later is not moved back by a line that was obeyed before.
"""

from __future__ import annotations

from proxy.config.model import Config


class Orders:
    """The orders of all databases."""

    def __init__(self) -> None:
        self._wanted: dict[str, str] = {}  # per database, where its writes shall go

    @property
    def open(self) -> frozenset[str]:
        """The databases whose order is still to be carried out."""
        return frozenset(self._wanted)

    def follow(self, before: Config, after: Config, *, is_order: bool) -> None:
        """Learn of a new configuration.

        Args:
            is_order: Whether a changed writes_on is meant to move writes now.
        """
        self._wanted = {name: side for name, side in self._wanted.items() if name in after.databases}
        for name in before.databases.keys() & after.databases.keys():
            wanted = after.databases[name].rollout.writes_on
            if wanted == before.databases[name].rollout.writes_on:
                continue
            self._wanted.pop(name, None)
            if is_order:
                self._wanted[name] = wanted

    def carried_out(self, database: str, authority: str) -> None:
        """Learn where writes are; the order may be a newer one by now, and then stays."""
        if self._wanted.get(database) == authority:
            del self._wanted[database]
