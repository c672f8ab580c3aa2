"""Nested values as the TOML file that would give them again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(content: dict[str, Any]) -> str:
    """Write nested dicts of text, numbers, booleans and lists as TOML. Null values are left out: TOML has none.

    A list of dicts becomes an array of tables.

    >>> print(to_toml({"seed": 1, "voice": {"epsilon": 0.8, "weights": None}}))
    seed = 1
    <BLANKLINE>
    [voice]
    epsilon = 0.8
    <BLANKLINE>
    >>> print(to_toml({"curve": [{"name": "a"}, {"name": "b"}]}).replace("\\n\\n", "\\n"))
    [[curve]]
    name = "a"
    [[curve]]
    name = "b"
    <BLANKLINE>
    """
    return "\n".join(_lines(content, ())).lstrip("\n") + "\n"


def _lines(table: dict[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    nested = {key: value for key, value in table.items() if isinstance(value, dict) or _is_tables(value)}
    for key, value in table.items():
        if key not in nested and value is not None:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in nested.items():
        name = ".".join(map(_key, (*path, key)))
        for part in [value] if isinstance(value, dict) else value:
            if part or part is not value:
                yield from ("", f"[{name}]" if part is value else f"[[{name}]]", *_lines(part, (*path, key)))


def _is_tables(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(part, dict) for part in value)


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
