"""A YAML file to a `Config`, or to every problem in it with file, line and key.

The file is composed to YAML's node tree first, because only nodes know their
lines; then to plain values, beside a map from each key's path to its line; then
validated by the models. All problems are collected before any is reported: an
operator who mends a file at night wants one round, not five.

YAML itself lets a key stand twice and keeps the last; here that is a problem.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from proxy.config.model import Config
from proxy.config.values import FROM_FILE, NOT_IN_FILE
from proxy.errors import ConfigError, ConfigProblem

KeyPath = tuple[str | int, ...]
Check = Callable[[Config], Iterable[tuple[KeyPath, str]]]
"""Yields what is wrong with a valid configuration outside it, say in the files it names."""

# Deeper than any valid file; an alias that contains itself ends here.
_DEPTH_MAX = 20
_DIGEST_LENGTH = 16
_SECRET = {"password", "primary", "replicas", "sdk_key", "verifier"}


class _Tree(NamedTuple):
    """Plain values, and the line of everything in them."""

    values: Any
    lines: dict[KeyPath, int]
    problems: list[tuple[KeyPath, str]]


def load(
    path: Path | str, environment: Mapping[str, str] | None = None, *, check: Check | None = None
) -> Config:
    """Return the configuration in a file.

    Args:
        environment: Where `password_env` looks; the caller hands in os.environ.
        check: A last look at what the models cannot see.

    Raises:
        ConfigError: With every problem found. Keep what is in force.
    """
    return loads(read(path), environment, file=str(path), check=check)


def read(path: Path | str) -> str:
    """Return the text of a file.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError([ConfigProblem(str(path), 1, "file", f"cannot be read: {reason}")]) from error


def digest(text: str) -> str:
    """Return a mark by which two processes know that they have read the same text."""
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]


def loads(
    text: str,
    environment: Mapping[str, str] | None = None,
    *,
    file: str = "<text>",
    check: Check | None = None,
) -> Config:
    """Return the configuration in a text; otherwise as `load`."""
    tree = _compose(text, file)
    if not isinstance(tree.values, dict):
        raise ConfigError([ConfigProblem(file, 1, "file", "must hold a mapping, with listen and databases")])
    _resolve_secrets(tree, (), tree.values, environment or {})
    found = list(tree.problems)
    try:
        config = Config.model_validate(tree.values, by_alias=True, by_name=False, context={FROM_FILE: True})
        if check is not None and not found:
            found += check(config)
    except ValidationError as error:
        found += [(_path(details), _message(details)) for details in error.errors(include_url=False)]
    if found:
        # Several rules may dislike one key; the first to speak is the most specific.
        once: dict[KeyPath, str] = {}
        for path, message in found:
            once.setdefault(path, message)
        problems = [ConfigProblem(file, _line(tree, path), _show(path), once[path]) for path in once]
        raise ConfigError(sorted(problems, key=lambda problem: problem.line))
    return config.model_copy(update={"digest": digest(text)})


def _compose(text: str, file: str) -> _Tree:
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        tree = _Tree(None, {(): 1}, [])
        return tree._replace(values=None if node is None else _plain(loader, node, (), tree))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = ConfigProblem(file, line, "syntax", f"holds the control character {error.character:#04x}")
        raise ConfigError([problem]) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: a scalar such as an impossible date; RecursionError: thousands of brackets.
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        line = mark.line + 1 if mark else 1
        raise ConfigError([ConfigProblem(file, line, "syntax", f"not valid YAML: {reason}")]) from error


def _plain(loader: yaml.SafeLoader, node: yaml.Node, path: KeyPath, tree: _Tree) -> Any:
    """Return the value of a node, noting the lines of all that it holds."""
    if len(path) > _DEPTH_MAX:
        raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=node.start_mark)
    tree.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*path, i), tree) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    values: dict[str, Any] = {}
    seen: dict[str, int] = {}
    for key_node, _ in node.value:
        # Before merging, which turns `<<` into ordinary keys that may be repeated.
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in seen:
            tree.lines[(*path, key)] = line
            tree.problems.append(((*path, key), f"stands twice, first on line {seen[key]}: remove one"))
        seen.setdefault(key, line)
    loader.flatten_mapping(node)
    for key_node, value_node in node.value:
        key = str(key_node.value)
        tree.lines.setdefault((*path, key), key_node.start_mark.line + 1)
        values[key] = _plain(loader, value_node, (*path, key), tree)
    return values


def _resolve_secrets(tree: _Tree, path: KeyPath, value: Any, environment: Mapping[str, str]) -> None:
    """Put the environment's value beside every `password_env` and `sdk_key_env`."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            _resolve_secrets(tree, (*path, i), item, environment)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        _resolve_secrets(tree, (*path, key), item, environment)
    for secret in ("password", "sdk_key"):
        _resolve(tree, path, value, environment, secret)


def _resolve(
    tree: _Tree, path: KeyPath, value: dict[str, Any], environment: Mapping[str, str], secret: str
) -> None:
    variable = value.get(f"{secret}_env")
    if not isinstance(variable, str):
        return
    where = (*path, f"{secret}_env")
    if secret in value:
        tree.problems.append((where, f"give {secret} or {secret}_env, not both"))
        return
    if not environment.get(variable):
        tree.problems.append((where, f"the environment variable {variable} is not set"))
    # Set in any case, so that the model does not report the same gap in other words.
    value[secret] = environment.get(variable, "")


def _path(details: ErrorDetails) -> KeyPath:
    """Return the path of an error in the file, without the tags pydantic adds for unions and keys."""
    path: list[str | int] = []
    for part in details["loc"]:
        if part == "[key]" or (isinstance(part, str) and part.startswith(("dict[", "function-"))):
            break
        path.append(part)
    return tuple(path)


def _message(details: ErrorDetails) -> str:
    kind, context = details["type"], details.get("ctx", {})
    path = _path(details)
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind == "missing":
        return "is missing, and must be there"
    if kind == "value_error":
        return str(context["error"])
    wanted = {
        "literal_error": f"must be {context.get('expected', '')}".replace("'", ""),
        "bool_type": "must be true or false",
        "int_type": "must be a whole number",
        "string_type": "must be text",
        "tuple_type": "must be a list",
        "model_type": "must be a mapping",
        "dict_type": "must be a mapping",
    }.get(kind)
    if wanted is None:
        # Pydantic's own words fit the rest: "Input should be greater than or equal to 1".
        wanted = details["msg"].replace("Input should", "must").replace("String should", "must")
    if _SECRET.isdisjoint(path) and not isinstance(details["input"], dict | list | tuple):
        wanted += f", not {_quote(details['input'])}"
    return wanted


def _unknown_key(path: KeyPath) -> str:
    model = _model_at(path[:-1])
    valid = sorted(key for key in keys_of(model) if key != NOT_IN_FILE) if model else []
    near = difflib.get_close_matches(str(path[-1]), valid, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"unknown key; {guess}valid here: {', '.join(valid)}"


def keys_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the keys a section may have in the file, and what each holds."""
    return {str(f.validation_alias or name): f.annotation for name, f in model.model_fields.items()}


def _model_at(path: KeyPath) -> type[BaseModel] | None:
    annotation: Any = Config
    for part in path:
        inside = section_of(annotation)
        if inside is not None:
            annotation = keys_of(inside).get(str(part))
        elif get_origin(annotation) in (dict, tuple):
            arguments = get_args(annotation)
            annotation = arguments[1] if get_origin(annotation) is dict else arguments[0]
    return section_of(annotation)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation means, None left out."""
    if get_origin(annotation) in (Union, UnionType):
        return next((found for found in map(section_of, get_args(annotation)) if found), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _line(tree: _Tree, path: KeyPath) -> int:
    """Return the line of a path; of what would hold it, where it is missing."""
    while path not in tree.lines:
        path = path[:-1]
    return tree.lines[path]


def _show(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "file"


def _quote(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
