"""Every problem of a study's content at once, and the key that was probably meant."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from moretta.shared.core.errors import StudyError
from moretta.shared.study.former_names import REMOVED
from moretta.shared.study.options import ANONYMIZERS

M = TypeVar("M", bound=BaseModel)
_LONGEST_VALUE = 60
_NO_PROTECTION = "none"
"""Anonymizer that is never proposed, so that nobody releases recordings as they are by a typing error."""
_WITH_ANONYMIZER = ("anonymizer", "options", "form")
"""Keys that cannot be checked where the anonymizer is unknown."""


class StudyProblems(StudyError):  # noqa: N818 - several errors
    """Several things that are wrong with one study."""

    problems: tuple[str, ...] = ()
    rest: Any = None
    """The study without the keys that cannot be used; None where that is none, either."""


def validated(model: type[M], content: Mapping[str, Any], *, source: str, context: dict[str, Any]) -> M:
    """The content as a model, or a StudyProblems with all that is wrong with it.

    Wrong values are left out, and the rest is checked again: contradictions between values show only where every value
    can be used by itself.
    """
    rest: dict[str, Any] = copy.deepcopy(dict(content))
    removed = [one for one in REMOVED if one.is_in(rest)]
    for one in removed:
        section, last = rest[one.section], list(one.keys)[-1]
        (section if last in section else section["options"]).pop(last)
    problems = dict.fromkeys(f"{one} was removed" for one in removed)
    study, cause = None, None
    for _ in range(_keys_in(rest) + 1):
        try:
            study = model.model_validate(rest, context=context)
            break
        except ValidationError as error:
            cause, errors = error, error.errors()
            problems |= dict.fromkeys(_text(found, rest, model) for found in errors)
            if not sum(_leave_out(rest, found["loc"]) for found in errors):
                break
    if study is not None and not problems:
        return study
    expected, fixes = [], []
    if removed:
        expected.append("what docs/study.md lists; docs/results/rejected.md has what the removed keys measured")
        fixes += [one.instead for one in removed]
    if cause is not None:
        expected.append("only the keys and values that docs/study.md lists")
        fixes.append("correct or remove the keys named above")
    refused = StudyProblems(
        f"{source} cannot be used: {'; '.join(problems)}",
        expected="; ".join(expected),
        fix="; ".join(dict.fromkeys(fixes)),
    )
    refused.problems, refused.rest = tuple(problems), study
    raise refused from cause


def known_keys(content: Mapping[str, Any], model: type[BaseModel]) -> Iterator[str]:
    """Every key that a study with these anonymizers may have, with dots."""
    defaults = model().model_dump()
    for key in _flat(defaults):
        if not re.match(r"(voice|face)\.options\.", key):
            yield key
    for modality in ("voice", "face"):
        section = content.get(modality)
        named = section.get("anonymizer") if isinstance(section, Mapping) else None
        try:
            declared = ANONYMIZERS.get(str(named or defaults[modality]["anonymizer"]), scope=modality)
        except StudyError:
            continue
        yield from (f"{modality}.options.{key}" for key in declared.Options.model_fields)


def meant(key: str, known: Collection[str]) -> str:
    """Proposal for an unknown key, such as `; did you mean train.rounds?`; empty if no known key is like it.

    >>> meant("train.round", ["train.rounds", "train.epochs"]), meant("epsilon", ["privacy.epsilon"]), meant("x", [])
    ('; did you mean train.rounds?', '; did you mean privacy.epsilon?', '')
    """
    parent, _, leaf = key.rpartition(".")
    near = get_close_matches(leaf, {other.rpartition(".")[2] for other in known}, n=3, cutoff=0.7)
    found = [other for name in near for other in known if other.rpartition(".")[2] == name]
    found.sort(key=lambda other: not other.startswith(f"{parent}."))  # of the same section first
    found = [other for other in found if other.startswith(f"{parent}.")][:1] or found[:3]
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _text(error: Any, content: Mapping[str, Any], model: type[BaseModel]) -> str:
    key, got = ".".join(map(str, error["loc"])) or "study", error["input"]
    shown, said = repr(got), str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        said = f"no such key{meant(key, list(known_keys(content, model)))}"
    elif near := get_close_matches(
        str(got), [name for name in said.partition("expected one of: ")[2].split(", ") if name != _NO_PROTECTION], n=1
    ):
        said += f"; did you mean {near[0]}?"
    return f"{key}: {said} (got {shown if len(shown) <= _LONGEST_VALUE else shown[: _LONGEST_VALUE - 3] + '...'})"


def _leave_out(content: dict[str, Any], where: tuple[int | str, ...]) -> bool:
    """Remove a key, by its place or its former one; false if there is none."""
    for place in (where, tuple(part for part in where if part != "options")):
        table: Any = content
        for part in place[:-1]:
            table = table.get(part) if isinstance(table, dict) else None
        if place and isinstance(table, dict) and place[-1] in table:
            for key in _WITH_ANONYMIZER if place[-1] == "anonymizer" else place[-1:]:
                table.pop(key, None)
            return True
    return _leave_out(content, where[:-1]) if len(where) > 1 else False


def _keys_in(content: Any) -> int:
    return sum(1 + _keys_in(value) for value in content.values()) if isinstance(content, Mapping) else 0


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
