"""Change single values of a YAML text and nothing else: not a comment, not a space.

The text is composed to nodes, because only nodes know where they begin and end, and the
value is spliced in there. A key that is missing becomes the last of its section. (A round
trip through a library that keeps comments still folds, quotes and indents lines anew.)

A key may be shortened to any of its names that leave one meaning, the last among them:
`databases.app.rollout.reads_on_new`, `app.reads_on_new`, `reads_on_new`.

Rule: the result is read back. If anything but the one value has changed, nothing is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel

from proxy.config.load import keys_of, section_of
from proxy.config.model import Config, Database
from proxy.config.values import NOT_IN_FILE
from proxy.errors import ConfigError, ConfigProblem

Path = tuple[str, ...]


class Assignment(NamedTuple):
    """A key as the operator wrote it, and its new value as YAML."""

    key: str
    value: str


def edited(text: str, assignments: Sequence[Assignment], *, file: str) -> str:
    """Return the text with new values.

    Raises:
        ConfigError: A key is unknown or may mean several, or its place cannot be edited.
    """
    for assignment in assignments:
        try:
            text = _with(text, assignment)
        except yaml.YAMLError as error:
            message = f"not valid YAML: {getattr(error, 'problem', None) or error}"
            raise ConfigError([ConfigProblem(file, 1, assignment.key, message)]) from error
        except _Refusal as refusal:
            raise ConfigError([ConfigProblem(file, refusal.line, assignment.key, str(refusal))]) from refusal
    return text


def resolved(text: str, key: str) -> Path:
    """Return the path that a key, shortened or not, means in this text.

    Raises:
        ValueError: It means none, or several.
    """
    values = yaml.safe_load(text)
    databases = values.get("databases") if isinstance(values, dict) else None
    names = list(databases) if isinstance(databases, dict) else []
    paths = list(_paths(Config, (), [str(name) for name in names]))
    exact = [path for path in paths if key in (".".join(path), ".".join(path[1:]))]
    found = exact[:1] or [path for path in paths if _is_short_for(key, path)]
    if not found:
        raise _Refusal("no such key: config/crossfade.example.yaml shows them all")
    if len(found) > 1:
        raise _Refusal("may mean " + " or ".join(".".join(path) for path in found))
    return found[0]


class _Refusal(ValueError):
    """Why a value is not changed, and at which line."""

    def __init__(self, message: str, node: yaml.Node | None = None) -> None:
        super().__init__(message)
        self.line = node.start_mark.line + 1 if node is not None else 1


def _paths(section: type[BaseModel], prefix: Path, databases: Sequence[str]) -> Iterator[Path]:
    """Yield the path of every value that a section may hold."""
    for name, annotation in keys_of(section).items():
        inside = section_of(annotation)
        if inside is not None:
            yield from _paths(inside, (*prefix, name), databases)
        elif name == "databases":
            for database in databases:
                yield from _paths(Database, (*prefix, name, database), databases)
        elif name != NOT_IN_FILE:
            yield (*prefix, name)


def _is_short_for(key: str, path: Path) -> bool:
    """Return whether the names of a key stand in a path in this order, and end it."""
    names = iter(".".join(path).split("."))
    parts = key.split(".")
    return parts[-1] == path[-1] and all(part in names for part in parts)


def _with(text: str, assignment: Assignment) -> str:
    path = resolved(text, assignment.key)
    node = yaml.compose(text, yaml.SafeLoader)
    assert node is not None, "a path was found in it"
    changed = _spliced(text, node, path, assignment.value.strip())
    wanted = yaml.safe_load(text)
    _set(wanted, path, yaml.safe_load(assignment.value))
    if yaml.safe_load(changed) != wanted:
        raise _Refusal(f"{assignment.value} would change more than this value: quote it", node)
    return changed


def _spliced(text: str, node: yaml.Node, path: Path, value: str) -> str:
    """Go down as far as the text has the path; replace what is there, or add what is not."""
    for depth, name in enumerate(path):
        if not isinstance(node, yaml.MappingNode):
            return _replaced(text, node, _nested(path[depth:], value))
        entry = next((entry for entry in node.value if entry[0].value == name), None)
        if entry is None:
            return _added(text, node, f"{name}: {_nested(path[depth + 1 :], value)}")
        key, node = entry
        if node.start_mark.index < key.end_mark.index:
            raise _Refusal("is shared through an alias (*): edit the file", key)
    return _replaced(text, node, value)


def _replaced(text: str, node: yaml.Node, value: str) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    if _is_block(node):
        raise _Refusal("stands over several lines: edit the file", node)
    space = " " if text[start - 1 : start] == ":" else ""  # after a key with nothing behind it
    return text[:start] + space + value + text[end:]


def _added(text: str, section: yaml.MappingNode, line: str) -> str:
    """Add a key to a section that has some, or is `{}`."""
    if section.flow_style:
        at = section.start_mark.index + 1
        return text[:at] + line + (", " if section.value else "") + text[at:]
    last: yaml.Node = section
    while isinstance(last, yaml.CollectionNode) and not last.flow_style:
        last = last.value[-1][1] if isinstance(last, yaml.MappingNode) else last.value[-1]
    if _is_block(last):
        raise _Refusal("the section ends with a text over several lines: edit the file", last)
    at = text.find("\n", last.end_mark.index)
    head, tail = (text + "\n", "") if at < 0 else (text[: at + 1], text[at + 1 :])
    indent = " " * int(section.value[0][0].start_mark.column)
    return f"{head}{indent}{line}\n{tail}"


def _is_block(node: yaml.Node) -> bool:
    """Return whether a node ends somewhere before its end mark, which is where the next begins."""
    if isinstance(node, yaml.CollectionNode):
        return not node.flow_style
    return isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")


def _nested(path: Path, value: str) -> str:
    for name in reversed(path):
        value = f"{{{name}: {value}}}"
    return value


def _set(values: Any, path: Path, value: Any) -> None:
    for name in path[:-1]:
        if values.get(name) is None:
            values[name] = {}
        values = values[name]
    values[path[-1]] = value
