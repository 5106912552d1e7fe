"""Quantities with their unit: "10s", "1h30m", "5%", "64MB".

A number without a unit is refused: `wait: 10` has been read as seconds by one
person and as milliseconds by another. Bytes count as in PostgreSQL's settings:
1kB is 1024 bytes.
"""

from __future__ import annotations

import re

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "kB": 1 << 10, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "KiB": 1 << 10, "MiB": 1 << 20,
          "GiB": 1 << 30}  # fmt: skip
_TERM = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z%]+)")


def seconds(text: str) -> float:
    """Return a duration in seconds.

    Raises:
        ValueError: It is not one; the message says what would be.
    """
    total_s, end = 0.0, 0
    for term in _TERM.finditer(text):
        if term.start() != end or term[2] not in _SECONDS:
            break
        total_s, end = total_s + float(term[1]) * _SECONDS[term[2]], term.end()
    if end == 0 or text[end:].strip():
        raise ValueError(
            f'"{text}" is not a duration: write a number with a unit, such as 500ms, 10s, 5m, 1h'
        )
    return total_s


def ratio(text: str) -> float:
    """Return a percentage as a ratio between 0 and 1.

    Raises:
        ValueError: It is not one, or not between 0% and 100%.
    """
    term = _TERM.fullmatch(text.rstrip())
    if term is None or term[2] != "%":
        raise ValueError(f'"{text}" is not a percentage: write a number between 0% and 100%, such as 5%')
    value = round(float(term[1]) / 100, 12)  # 99.9% is 0.999, not 0.9990000000000001
    if value > 1:
        raise ValueError(f"{text} is more than 100%")
    return value


def size_bytes(text: str) -> int:
    """Return a size in bytes.

    Raises:
        ValueError: It is not one; the message says what would be.
    """
    term = _TERM.fullmatch(text.rstrip())
    if term is None or term[2] not in _BYTES:
        raise ValueError(f'"{text}" is not a size: write a number with a unit, such as 64MB')
    return int(float(term[1]) * _BYTES[term[2]])


def show_seconds(value_s: float) -> str:
    """Return a duration as a person would write it: the inverse of `seconds` for whole units."""
    for unit in ("d", "h", "m", "s", "ms"):
        if value_s >= _SECONDS[unit]:
            return f"{value_s / _SECONDS[unit]:.12g}{unit}"
    return f"{value_s * 1000:.12g}ms" if value_s else "0s"


def show_ratio(value: float) -> str:
    """Return a ratio as a percentage: the inverse of `ratio`."""
    return f"{value * 100:.12g}%"
