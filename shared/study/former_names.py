"""What studies, policies, releases and reports called otherwise before: removed and renamed keys and values."""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

from moretta.shared.core.errors import StudyError
from moretta.shared.core.terms import Modality
from moretta.shared.study.options import ANONYMIZERS

_log = logging.getLogger(__name__)

FLAT_KEYS: dict[Modality, dict[str, Any]] = {
    "voice": {
        "preset": "bounded",
        "epsilon": 0.8,
        "sensitivity": 0.5,
        "bound": 3.0,
        "budget_epsilon": 8.0,
        "budget_delta": 1e-5,
        "segments": 1,
        "released_clips": None,
        "codebook": "public",
        "codebook_size": 64,
        "coefficients": 13,
        "code_size": 5,
        "code_noise": 0.5,
        "code_encoder": "directions",
        "code_training": "public",
        "code_unit": "speaker",
        "code_epsilon": 4.0,
        "code_rounds": 20,
        "labels_from": "site",
        "label_epsilon": 3.5,
        "public_speech": None,
    },
    "face": {
        "preset": "small",
        "noise": 0.1,
        "clip_noise": 0.7,
        "frame_noise": 0.7,
        "weights": None,
        "epochs": 12,
        "training_faces": 600,
    },
}
"""Keys that stood in [voice] and [face] themselves, with their defaults. Now they are options of an anonymizer."""
_BUDGET_PRESETS = ("dp-clip", "dp-speaker")
"""Of `voice.preset`: these named the anonymizer `clip-quantizer` where the study named none."""


def move_flat_keys(modality: Modality, content: Any, *, common: Container[str], anonymizer: str) -> Any:
    """Content of [voice] or [face] in which keys of before stand among the options of the anonymizer.

    A key that the anonymizer has not is dropped where it has its former default, and else left: the schema refuses it.

    Args:
        modality: which section it is.
        content: of the section.
        common: keys that a section still has.
        anonymizer: where the content names none.
    """
    if not isinstance(content, Mapping):
        return content
    flat = {key: content[key] for key in FLAT_KEYS[modality] if key in content and key not in common}
    if not flat:
        return content
    moved = {key: value for key, value in content.items() if key not in flat}
    options = dict(moved.get("options") or {})
    name = moved.get("anonymizer", anonymizer)
    if flat.get("preset") in _BUDGET_PRESETS and name == "mfcc-quantizer":
        moved["anonymizer"] = name = "clip-quantizer"
    try:
        declared = ANONYMIZERS.get(name, scope=modality)
    except StudyError:
        return content  # the schema names the anonymizer that is not known
    if moved.get("form") == "mfcc" and "mfcc" not in declared.forms:
        del moved["form"]  # it was the default of all anonymizers
    if flat.get("preset") in _BUDGET_PRESETS:  # the options may be those of the anonymizer that was named before
        options = {key: value for key, value in options.items() if key in declared.Options.model_fields}
    for key, value in flat.items():
        if key in declared.Options.model_fields:
            options[key] = value
        elif value != FLAT_KEYS[modality][key]:
            moved[key] = value
    if said := [key for key in flat if key in options]:
        _log.warning(
            "%s of [%s] now stands in [%s.options]; the old place is read in this version only",
            ", ".join(said),
            modality,
            modality,
        )
    return {**moved, "options": options}


class Removed(NamedTuple):
    """Keys of one section that cannot be used any more, alone or together."""

    section: str
    keys: dict[str, str | None]
    """Each with the value that was removed; None stands for any value."""
    instead: str

    def is_in(self, content: Mapping[str, Any]) -> bool:
        """Whether a study says all of it, in the section or among its options."""
        said = content.get(self.section)
        if not isinstance(said, Mapping):
            return False
        options = said.get("options")
        said = {**said, **options} if isinstance(options, Mapping) else said
        return all(key in said and value in (None, said[key]) for key, value in self.keys.items())

    def __str__(self) -> str:
        return " with ".join(
            f"{self.section}.{key}" + ("" if value is None else f' = "{value}"') for key, value in self.keys.items()
        )


_NO_ADVERSARY = 'remove the key; `code_encoder = "network"` stays, and hides as much without an adversary'

_NO_FEDERATED_CODEBOOK = (
    'set `codebook = "public"` in [voice] and leave out its other keys: a federated codebook moved nothing that noise '
    "would not have moved, and a coordinator could read clips through it"
)

REMOVED = (
    Removed("voice", {"codebook": "federated"}, _NO_FEDERATED_CODEBOOK),
    Removed("voice", {"codebook_epsilon": None}, _NO_FEDERATED_CODEBOOK),
    Removed("voice", {"codebook_iterations": None}, _NO_FEDERATED_CODEBOOK),
    Removed("stages", {"codebook": None}, "leave it out: sites are not asked for a codebook"),
    Removed("voice", {"code_adversary": None}, _NO_ADVERSARY),
    Removed("voice", {"code_adversary_weight": None}, _NO_ADVERSARY),
    Removed(
        "voice",
        {"anonymizer": "speaker-normalized", "form": "waveform"},
        'set `form = "code-sequence"` in [voice]: the sound was made of that sequence alone',
    ),
    Removed("face", {"anonymizer": "normalised-autoencoder"}, 'set `anonymizer = "expression-track"` in [face]'),
)
"""Their figures are in docs/measured.md, under "Tried and rejected"."""


def refuse_removed(content: Mapping[str, Any], *, source: str) -> None:
    """Name everything in a study that was removed.

    Raises:
        StudyError: there is something.
    """
    found = [one for one in REMOVED if one.is_in(content)]
    if found:
        raise StudyError(
            f"{source} cannot be used: {'; '.join(f'{one} was removed' for one in found)}",
            expected="what docs/study.md lists; docs/measured.md has what the removed keys measured",
            fix="; ".join(dict.fromkeys(one.instead for one in found)),
        )


RENAMED_KEYS = {
    ("voice", "words_from"): "labels_from",
    ("voice", "word_epsilon"): "label_epsilon",
    ("audit", "beyond"): "inference",
    ("audit", "emotion"): "utility",
}
"""Section and key of a study file before, and the key now. Accepted with a warning for one version."""
RENAMED_ANONYMIZERS = {"emotion-words": "emotion-label-rr", "speaker-normalised": "speaker-normalized"}
"""Also in policies, on ledgers and in releases that were made before."""
RENAMED_PARAMETERS = {"words_from": "labels_from", "word_epsilon": "label_epsilon"}
"""Of an anonymizer, in the statement of a release."""
RENAMED_RULES = {"max_word_epsilon": "max_label_epsilon"}
"""Of `[mechanisms]` in a policy."""


def with_current_names(content: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """A study's content with the names of this version; each former one is warned of.

    Raises:
        StudyError: a key is given by its former name and by its name.
    """
    found = {key: dict(value) if isinstance(value, Mapping) else value for key, value in content.items()}
    for (section, old), new in RENAMED_KEYS.items():
        keys = found.get(section)
        if isinstance(keys, dict) and old in keys:
            if new in keys:
                raise StudyError(
                    f"{source} has {section}.{old} and {section}.{new}, which are one key",
                    expected=f"{section}.{new}",
                    fix=f"remove {section}.{old}",
                )
            keys[new] = keys.pop(old)
            _warn(source, f"{section}.{old}", f"{section}.{new}")
    for section in ("voice", "face"):
        keys = found.get(section)
        if isinstance(keys, dict) and keys.get("anonymizer") in tuple(RENAMED_ANONYMIZERS):
            old = keys["anonymizer"]
            keys["anonymizer"] = current_anonymizer(old)
            _warn(source, f"the anonymizer {old}", keys["anonymizer"])
    return found


def current_anonymizer(name: str) -> str:
    """The name that an anonymizer has now."""
    return RENAMED_ANONYMIZERS.get(name, name)


def current_parameters(content: Mapping[str, Any]) -> dict[str, Any]:
    """An anonymizer's parameters in a release, with the names of this version."""
    return {RENAMED_PARAMETERS.get(key, key): value for key, value in content.items()}


def current_policy(content: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """A policy's content with the names of this version; each former one is warned of."""
    found = dict(content)
    for rule in ("anonymizers", "without_guarantee"):
        names = found.get(rule)
        if isinstance(names, list):
            for old in [name for name in names if isinstance(name, str) and name in RENAMED_ANONYMIZERS]:
                _warn(source, f"the anonymizer {old} in {rule}", current_anonymizer(old))
            found[rule] = [current_anonymizer(name) if isinstance(name, str) else name for name in names]
    if isinstance(found.get("mechanisms"), Mapping):
        found["mechanisms"] = {RENAMED_RULES.get(key, key): value for key, value in found["mechanisms"].items()}
        for old in RENAMED_RULES.keys() & content["mechanisms"].keys():
            _warn(source, f"mechanisms.{old}", f"mechanisms.{RENAMED_RULES[old]}")
    return found


def _warn(source: str, old: str, new: str) -> None:
    _log.warning("%s: %s is called %s now; the former name is accepted in this version only", source, old, new)
