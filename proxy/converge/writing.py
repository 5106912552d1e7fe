"""How staged rows get onto the target: in forms, since not every cluster can do every one; pure.

    conflict  INSERT ... ON CONFLICT DO UPDATE: one statement, the usual one
    update    UPDATE, then INSERT what is missing: no index decides conflicts (its constraint
              is deferrable, or the tables are spread over nodes), or there is no ON CONFLICT
    replace   DELETE what differs, then INSERT what is missing: rows cannot be updated, or not
              their keys. Only where a delete cascades to nothing
    append    INSERT alone: the table has no key (see keyless)

Each form deletes first, since a unique value may have moved from one row to another. Which
one a table gets is found out by trying (see probe).

Rows are compared by image (`*<>`), not by equality. 1.0 and 1.00, or 'A' and 'a' as citext,
are equal and yet not the same; and json or point have no equality at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from proxy.converge.plan import MARK, Plan, listed, only
from proxy.sql.quote import quote_name


class Form(StrEnum):
    """See the module."""

    CONFLICT = "conflict"
    UPDATE = "update"
    REPLACE = "replace"
    APPEND = "append"


@dataclass(frozen=True)
class Writing:
    """The statements that write one table's staged rows.

    Texts that do not depend on rows are made once: passes come every few milliseconds.
    """

    plan: Plan
    form: Form = Form.CONFLICT

    @cached_property
    def delete(self) -> str:
        """Return the statement that deletes what is absent at the source, blocks, or cannot be updated.

        A column GENERATED ALWAYS AS IDENTITY accepts no update; when it differs, the key was
        deleted and inserted again at the source, and the same happens here.
        """
        plan = self.plan
        if self.form is Form.APPEND:
            return ""
        fixed = [name for name in self._always if name not in plan.source.key]
        if self.form is Form.REPLACE:
            fixed = list(plan.names)
        differ = f" OR {_image(fixed, 't')} *<> {_image(fixed, 's')}" if fixed else ""
        return (
            f"DELETE FROM {only(plan.target)} AS t USING pg_temp.{plan.stage} AS s"
            f" WHERE {plan.same_key('t', 's')} AND (s.{MARK} <> 'y'{differ})"
        )

    @cached_property
    def upserts(self) -> tuple[str, ...]:
        """Return the statements that insert and update what differs."""
        match self.form:
            case Form.CONFLICT:
                return (self._conflict,)
            case Form.UPDATE:
                return (self._update, self._insert_missing) if self._settable else (self._insert_missing,)
            case Form.REPLACE:
                return (self._insert_missing,)
            case Form.APPEND:
                return (self._insert,)

    @property
    def statements(self) -> tuple[str, ...]:
        """Return all of them, in the order in which one table alone is written."""
        return (self.delete, *self.upserts) if self.delete else self.upserts

    @cached_property
    def _always(self) -> frozenset[str]:
        return frozenset(column.name for column in self.plan.columns if column.identity == "a")

    @cached_property
    def _settable(self) -> list[str]:
        return [name for name in self.plan.names if name not in self._always]

    @property
    def _insert(self) -> str:
        plan = self.plan
        return (
            f"INSERT INTO {plan.target.qualified} AS t ({listed(plan.names)}) OVERRIDING SYSTEM VALUE"
            f" SELECT {listed(plan.names, 's')} FROM pg_temp.{plan.stage} AS s WHERE s.{MARK} <> 'n'"
        )

    @property
    def _insert_missing(self) -> str:
        plan = self.plan
        there = f"SELECT FROM {only(plan.target)} AS o WHERE {plan.same_key('o', 's')}"
        return f"{self._insert} AND NOT EXISTS ({there})"

    @property
    def _update(self) -> str:
        plan = self.plan
        return (
            f"UPDATE {only(plan.target)} AS t SET {self._assigned('s')} FROM pg_temp.{plan.stage} AS s"
            f" WHERE {plan.same_key('t', 's')} AND s.{MARK} <> 'n' AND {self._differs('s')}"
        )

    @property
    def _conflict(self) -> str:
        on_conflict = f"{self._insert} ON CONFLICT ({listed(self.plan.source.key)}) DO"
        if not self._settable:
            return f"{on_conflict} NOTHING"
        return f"{on_conflict} UPDATE SET {self._assigned('excluded')} WHERE {self._differs('excluded')}"

    def _assigned(self, alias: str) -> str:
        return ", ".join(f"{quote_name(name)} = {alias}.{quote_name(name)}" for name in self._settable)

    def _differs(self, alias: str) -> str:
        return f"{_image(self._settable, 't')} *<> {_image(self._settable, alias)}"


def _image(names: Iterable[str], alias: str) -> str:
    # Without the cast, two rows are compared column by column, with operators of their types.
    return f"ROW({listed(names, alias)})::record"


def candidates(plan: Plan, *, is_replica: bool) -> tuple[Writing, ...]:
    """Return the forms to try, best first.

    Args:
        is_replica: Foreign keys and triggers are off, so that a delete has no side effects.
    """
    if not plan.source.key:
        return (Writing(plan, Form.APPEND),)
    forms = [Form.CONFLICT] if plan.has_arbiter else []
    forms.append(Form.UPDATE)
    if is_replica or plan.is_deletable:
        forms.append(Form.REPLACE)
    return tuple(Writing(plan, form) for form in forms)
