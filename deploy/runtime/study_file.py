"""Study files for people and editors: a starting one with comments, the effective one, and their JSON Schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tomli_w

from moretta.deploy.runtime.planning import name_problems
from moretta.shared.core.commented_toml import commented_toml
from moretta.shared.core.errors import StudyError
from moretta.shared.core.terms import MODALITIES
from moretta.shared.release.anonymizer import anonymizer_names, get_anonymizer
from moretta.shared.study.problems import StudyProblems
from moretta.shared.study.schema import Study, load_study

_HEAD = """\
# A study. Every key stands here with its default, as a comment: uncomment and change what you need.
# docs/study.md explains all keys, and docs/anonymizers.md what anonymizers there are and their options.
# Check it:  moretta study validate {file}

"""


def starting_study(file: Path) -> str:
    """The text of a new study file, which means the same as an empty one."""
    return _HEAD.format(file=file) + commented_toml(Study(), active=False)


def effective_study(study: Study) -> str:
    """A study with all its defaults, as TOML; what has no value is left out."""
    return tomli_w.dumps(study.model_dump(mode="json", exclude_none=True))


def study_problems(path: Path | None, settings: dict[str, Any]) -> list[str]:
    """Everything that is wrong with a study file, one line each; the names in it are looked up, too. Raises StudyError:
    the file cannot be read as TOML."""
    found: list[str] = []
    try:
        study: Study | None = load_study(path, settings)
    except StudyProblems as refused:
        found, study = list(refused.problems), refused.rest
    if study is not None:
        found += [_line(problem) for problem in name_problems(study)]
    return found


def _line(problem: StudyError) -> str:
    return f"{problem.found}; expected {problem.expected}" if problem.expected else problem.found


def study_json_schema() -> str:
    """The JSON Schema (draft 2020-12) of study files, for editors: the options are those of the anonymizer named."""
    schema = Study.model_json_schema(mode="validation")
    definitions = schema["$defs"]
    for modality in MODALITIES:
        section = definitions[f"{modality.capitalize()}Section"]
        names = anonymizer_names(modality)
        section["properties"]["anonymizer"]["enum"] = names
        section["properties"]["options"] = {"type": "object"}
        section["allOf"] = [_options_of(modality, name, definitions, section) for name in names]
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Moretta study"}
    return json.dumps(head | {key: value for key, value in schema.items() if key != "title"}, indent=1) + "\n"


def _options_of(modality: Any, name: str, definitions: dict[str, Any], section: dict[str, Any]) -> dict[str, Any]:
    """If the section names this anonymizer, or none and it is the default, then its options are these."""
    options = get_anonymizer(modality, name).Options.model_json_schema(mode="validation")
    definitions |= options.pop("$defs", {})
    condition: dict[str, Any] = {"properties": {"anonymizer": {"const": name}}}
    if name != section["properties"]["anonymizer"]["default"]:
        condition["required"] = ["anonymizer"]
    return {"if": condition, "then": {"properties": {"options": options}}}
