"""Settings as TOML for people: every key under its explanation, which is the docstring of its field."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import tomli_w
from pydantic import BaseModel

_WIDTH = 110


def commented_toml(settings: BaseModel, *, table: str = "", active: bool = True) -> str:
    """All keys of settings, tables after plain keys.

    Args:
        settings: of a model with `use_attribute_docstrings`.
        table: the dotted name of the table that it stands in.
        active: whether keys hold; else each is a comment, to be uncommented by whoever changes it.
    """
    lines, tables = [], []
    content = settings.model_dump(mode="json")
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            inside = f"{table}.{name}".lstrip(".")
            named, _, about = (type(value).__doc__ or "").partition("]`: ")
            head = "" if active or not named.startswith("`[") else _comment(about[:1].upper() + about[1:])
            tables.append(f"\n{head}[{inside}]\n{commented_toml(value, table=inside, active=active)}")
            continue
        lines.append(f"{_comment(field.description or '')}{'' if active else '# '}{_line(name, content[name])}\n")
    return "".join([*lines, *tables])


def _line(name: str, value: Any) -> str:
    if value is None:
        return f"{name} is not set"
    if isinstance(value, dict):  # in one line: as a table of its own it would end this one
        inside = ", ".join(tomli_w.dumps({key: each}).strip() for key, each in value.items())
        return f"{name} = {{ {inside} }}" if inside else f"{name} = {{}}"
    if isinstance(value, list):
        return f"{name} = {json.dumps(value)}"
    return tomli_w.dumps({name: value}).strip()


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(" ".join(text.split()), _WIDTH))
