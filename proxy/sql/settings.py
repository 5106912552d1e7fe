"""SET, RESET and set_config(), as settings that can be sent again to another server.

A statement whose value is only known to the server that computed it has no `Setting`: the
server is asked for the value.
"""

from __future__ import annotations

from typing import Any

from pglast import ast
from pglast.enums import VariableSetKind

from proxy.sql.quote import quote_text
from proxy.sql.statement import Setting

# Settings whose value is a list of names (GUC_LIST_QUOTE in guc_tables.c): SET takes each
# element as a literal of its own, set_config() takes them as one text.
_LISTS = {
    "search_path", "temp_tablespaces", "session_preload_libraries", "shared_preload_libraries",
    "local_preload_libraries", "unix_socket_directories",
}  # fmt: skip
# Transaction modes, which SET TRANSACTION gives to one transaction and SET SESSION
# CHARACTERISTICS to all that follow.
_MODES = {"transaction_isolation", "transaction_read_only", "transaction_deferrable"}


def of_set(node: Any) -> tuple[Setting, ...] | None:
    """Return the settings of a VariableSetStmt; None when the value cannot be named."""
    name = node.name.lower() if node.name else "all"
    match node.kind:
        case VariableSetKind.VAR_RESET_ALL:
            return (Setting("all", None, False),)
        case VariableSetKind.VAR_RESET | VariableSetKind.VAR_SET_DEFAULT:
            return (Setting(name, None, bool(node.is_local)),)
        case VariableSetKind.VAR_SET_CURRENT:
            return None
        case VariableSetKind.VAR_SET_MULTI:
            return _session_characteristics(node) if node.name == "SESSION CHARACTERISTICS" else ()
    words = [_constant(argument) for argument in node.args or ()]
    if any(word is None for word in words):
        return None
    return (_setting(name, [word for word in words if word is not None], bool(node.is_local)),)


def modes(options: Any) -> tuple[bool | None, str | None]:
    """Return READ ONLY and the isolation level out of transaction modes; None where not said."""
    read_only: bool | None = None
    isolation: str | None = None
    for option in options or ():
        value = _constant(getattr(option, "arg", None))
        if not isinstance(option, ast.DefElem):
            continue  # SET TRANSACTION SNAPSHOT 'x'
        if option.defname == "transaction_read_only":
            read_only = value == ("1", False)
        elif option.defname == "transaction_isolation" and value is not None:
            isolation = value[0]
    return read_only, isolation


def of_set_config(call: Any) -> Setting | None:
    """Return the setting of a set_config() call with literal arguments; None with others."""
    arguments = [_constant(argument) for argument in call.args or ()]
    if len(arguments) != 3 or any(argument is None for argument in arguments):
        return None
    (name, _), (value, _), (is_local, _) = (argument for argument in arguments if argument is not None)
    name = name.lower()
    if name not in _LISTS:
        return _setting(name, [(value, True)], is_local == "true")
    words = split_names(value)
    return None if words is None else _setting(name, [(word, True) for word in words], is_local == "true")


def name_of_set_config(call: Any) -> str | None:
    """Return the name in a set_config() call; None if it is computed."""
    name = _constant(call.args[0]) if call.args else None
    return name[0].lower() if name is not None else None


def is_session_call(call: Any) -> bool:
    """Return whether a set_config() call surely lasts for the session, whatever it sets."""
    arguments = list(call.args or ())
    return len(arguments) == 3 and _constant(arguments[2]) == ("false", False)


def is_local_call(call: Any) -> bool:
    """Return whether a set_config() call surely ends with the transaction, whatever it sets."""
    arguments = list(call.args or ())
    return len(arguments) == 3 and _constant(arguments[2]) == ("true", False)


def split_names(value: str) -> list[str] | None:
    """Split a list of names as SplitIdentifierString() does; None when it is malformed."""
    names = []
    rest = value.strip()
    while rest:
        if rest[0] == '"':
            name, rest = _quoted(rest)
            if name is None:
                return None
        else:
            word, comma, tail = rest.partition(",")
            name, rest = word.strip().lower(), comma + tail
            if not name or '"' in name or " " in name:
                return None
        names.append(name)
        rest = rest.strip()
        if rest and rest[0] != ",":
            return None
        if rest == ",":
            return None
        rest = rest[1:].strip()
    return names or [""]


def _quoted(rest: str) -> tuple[str | None, str]:
    """Split off a leading quoted name; None when its quote is never closed."""
    at = 1
    while True:
        at = rest.find('"', at)
        if at < 0:
            return None, rest
        if rest[at + 1 : at + 2] != '"':
            return rest[1:at].replace('""', '"'), rest[at + 1 :]
        at += 2


def _setting(name: str, words: list[tuple[str, bool]], is_local: bool) -> Setting:
    """Put together a setting from its values, each with whether it needs quotes."""
    value_sql = ", ".join(quote_text(word) if is_text else word for word, is_text in words)
    return Setting(name, value_sql, is_local, tuple(word for word, _ in words))


def _session_characteristics(node: Any) -> tuple[Setting, ...] | None:
    settings = []
    for option in node.args or ():
        value = _constant(option.arg)
        if option.defname not in _MODES or value is None:
            return None
        word = value[0] if value[1] else ("on" if value[0] == "1" else "off")
        settings.append(_setting("default_" + option.defname, [(word, True)], False))
    return tuple(settings)


def _constant(node: Any) -> tuple[str, bool] | None:
    """Return a literal's value and whether it is a text; None for anything else."""
    if isinstance(node, ast.A_Const):
        node = node.val
    match node:
        case ast.String():
            return node.sval, True
        case ast.Integer():
            return str(node.ival), False
        case ast.Float():
            return node.fval, False
        case ast.Boolean():
            return ("true" if node.boolval else "false"), False
    return None
