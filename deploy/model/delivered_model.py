"""A delivered model on disk: `model.json`, `MODEL_CARD.md`, `model.safetensors`. Reading it believes nothing in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from moretta.deploy.model.model_card import ModelCard, as_markdown, content_digest
from moretta.shared.core.array_types import Array
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import ReleaseError, StudyError
from moretta.shared.core.terms import MODALITIES
from moretta.shared.models.emotion import checked_weights, study_model
from moretta.shared.release.anonymizer import get_anonymizer, public_rules
from moretta.shared.release.read_release import check_header
from moretta.shared.study.public_arrays import check_public, described
from moretta.shared.study.schema import Study, parse_study
from moretta.shared.study.sections import ModelKind

RECORD_FILE, CARD_FILE, ARRAYS_FILE = "model.json", "MODEL_CARD.md", "model.safetensors"
_MAX_RECORD_BYTES = 4 << 20


@dataclass(frozen=True)
class DeliveredModel:
    """A model that can be used, with the study that its releases must follow."""

    card: ModelCard
    study: Study
    models: dict[ModelKind, dict[str, Array]]
    public: dict[str, Array]


def arrays_of(models: Mapping[ModelKind, Mapping[str, Array]], public: Mapping[str, Array]) -> dict[str, Array]:
    """All arrays of a model under their names in the file."""
    weights = {f"model/{kind}/{name}": array for kind, named in models.items() for name, array in named.items()}
    return {**weights, **{f"public/{name}": array for name, array in public.items()}}


def write_model(folder: Path, card: ModelCard, arrays: Mapping[str, Array]) -> None:
    """Write the three files; the record comes last, with it the model is whole."""
    write_atomic(folder / ARRAYS_FILE, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    write_atomic(folder / CARD_FILE, as_markdown(card))
    write_atomic(folder / RECORD_FILE, card.model_dump_json(indent=1) + "\n")


def load_model(folder: Path) -> DeliveredModel:
    """Read a model.

    Raises:
        ReleaseError: there is none, it is damaged, or it was changed after the export.
        StudyError: an anonymizer that it expects is not installed here, or in another version.
        RefusedError: its weights are not those of the study's models.
    """
    card = _read_record(folder)
    path = folder / ARRAYS_FILE
    try:
        check_header(path)
        arrays: dict[str, Array] = dict(load_file(path))
    except (OSError, SafetensorError, ReleaseError) as error:
        raise _changed(folder, f"{path} cannot be read: {error}") from error
    if described(arrays) != card.arrays:
        odd = sorted(n for n, facts in described(arrays).items() if card.arrays.get(n) != facts) or ["one is missing"]
        raise _changed(folder, f"{ARRAYS_FILE} has other arrays ({', '.join(odd)[:120]})")
    for expected in card.expects:
        _check_installed(expected.modality, expected.anonymizer, expected.version)
    study = parse_study(card.study, source=f"the study of the model {folder}")
    _check_agreement(folder, card, study)
    public = _below("public/", arrays)
    check_public(public, public_rules(study))
    models = {kind: _below(f"model/{kind}/", arrays) for kind in card.models}
    for kind, weights in models.items():
        checked_weights(study_model(study, kind), weights)
    return DeliveredModel(card, study, models, public)


def _read_record(folder: Path) -> ModelCard:
    path = folder / RECORD_FILE
    expected, fix = "a folder that `moretta export` wrote", "name that folder"
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_RECORD_BYTES + 1)
        if len(content) > _MAX_RECORD_BYTES:
            raise ReleaseError(f"{path} has more than {_MAX_RECORD_BYTES} bytes", expected=expected)
        read = json.loads(content)
        card, digest = ModelCard.model_validate(read), content_digest(read)
    except OSError as error:
        raise ReleaseError(f"no model in {folder}: {path.name} cannot be read", expected=expected, fix=fix) from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ReleaseError(f"{path} breaks the format at {where}: {first['msg']}", expected=expected) from error
    except (ValueError, RecursionError) as error:
        raise ReleaseError(f"{path} is not valid JSON: {error}", expected=expected) from error
    if digest != card.digest:
        raise _changed(folder, f"{RECORD_FILE} has the digest {card.digest[:16]}")
    return card


def _check_agreement(folder: Path, card: ModelCard, study: Study) -> None:
    """Classes, models and forms are in the record twice: beside the study, and in it."""
    if card.classes != study.classes:
        raise _changed(folder, f"the classes {', '.join(card.classes)[:120]} are not those of its study")
    kinds = {name.split("/")[1] for name in card.arrays if name.startswith("model/")}
    if not kinds or kinds - set(study.models) or card.models != tuple(k for k in study.models if k in kinds):
        raise _changed(folder, f"the models {', '.join(card.models)} are not those of its study and arrays")
    if [e.modality for e in card.expects] != [m for m in study.modalities if m in kinds]:
        raise _changed(folder, "it does not expect one form of each modality that it has a model of")
    stated: dict[str, Any] = {}
    for e in card.expects:
        stated[e.modality] = e.model_dump(include={"anonymizer", "form", "options", "model"})
    content = {m: dict(card.study.get(m, {})) | stated.get(m, {}) for m in MODALITIES}
    if parse_study(card.study | content, source=f"what the model {folder} expects") != study:
        raise _changed(folder, "what it expects is not what its study releases")


def _check_installed(modality: str, name: str, version: str) -> None:
    try:
        there = get_anonymizer("voice" if modality == "voice" else "face", name)
    except StudyError as error:
        raise StudyError(
            f"the model expects the {modality} anonymizer {name!r}, which is not installed here",
            expected=error.expected,
            fix="install the package that has it, or predict from releases where it is",
        ) from error
    if there.version != version:
        raise StudyError(
            f"the model expects version {version} of the {modality} anonymizer {name!r}, and here is {there.version}",
            expected="the version that its training data were released by",
            fix="use the version of Moretta in the model card, or of the package that has the anonymizer",
        )


def _below(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _changed(folder: Path, found: str) -> ReleaseError:
    return ReleaseError(
        f"the model {folder} is damaged or was changed: {found}",
        expected="the files as `moretta export` wrote them",
        fix="get it again from the coordinator, and compare the digest",
    )
