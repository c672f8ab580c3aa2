"""Nested values as the TOML file that would give them again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(content: dict[str, Any]) -> str:
    """Write nested dicts of text, numbers, booleans and lists as TOML. Null values are left out: TOML has none.

    >>> print(to_toml({"seed": 1, "voice": {"epsilon": 0.8, "weights": None}}))
    seed = 1
    <BLANKLINE>
    [voice]
    epsilon = 0.8
    <BLANKLINE>
    """
    return "\n".join(_lines(content, ())).lstrip("\n") + "\n"


def _lines(table: dict[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    if path:
        yield from ("", f"[{'.'.join(map(_key, path))}]")
    nested = {key: value for key, value in table.items() if isinstance(value, dict)}
    for key, value in table.items():
        if key not in nested and value is not None:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in nested.items():
        if value:
            yield from _lines(value, (*path, key))


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _text(key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    return _text(str(value))


def _text(text: str) -> str:
    # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
