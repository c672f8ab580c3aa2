"""Removed and renamed keys and values of studies, policies, releases and reports, so that old files can be read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from moretta.shared.core.errors import StudyError

_log = logging.getLogger(__name__)


class Removed(NamedTuple):
    """Keys of one section that cannot be used any more, alone or together."""

    section: str
    keys: dict[str, str | None]
    """Each with the value that was removed; None stands for any value."""
    instead: str

    def is_in(self, content: Mapping[str, Any]) -> bool:
        """Whether a study has all of them, in the section or among its options."""
        keys = content.get(self.section)
        if not isinstance(keys, Mapping):
            return False
        options = keys.get("options")
        keys = {**keys, **options} if isinstance(options, Mapping) else keys
        return all(key in keys and value in (None, keys[key]) for key, value in self.keys.items())

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
    Removed("stages", {"codebook": None}, "leave it out: sites make no codebook"),
    Removed("voice", {"code_adversary": None}, _NO_ADVERSARY),
    Removed("voice", {"code_adversary_weight": None}, _NO_ADVERSARY),
    Removed(
        "voice",
        {"anonymizer": "speaker-normalized", "form": "waveform"},
        'set `form = "code-sequence"` in [voice]: the sound was made of that sequence alone',
    ),
    Removed("privacy", {"clipping": None}, "remove the key: gradients are clipped example by example"),
    Removed("face", {"anonymizer": "normalised-autoencoder"}, 'set `anonymizer = "expression-track"` in [face]'),
)
"""Their figures are in docs/results/rejected.md."""


RENAMED_KEYS = {
    ("voice", "words_from"): "labels_from",
    ("voice", "word_epsilon"): "label_epsilon",
    ("audit", "beyond"): "inference",
    ("audit", "emotion"): "utility",
}
"""Section and key of a study file before, and the key now. Accepted with a warning for one version."""
RENAMED_ANONYMIZERS = {"emotion-words": "emotion-label-rr", "speaker-normalised": "speaker-normalized"}
"""Former -> present name of an anonymizer, also in policies, on ledgers and in earlier releases."""
RENAMED_PARAMETERS = {"words_from": "labels_from", "word_epsilon": "label_epsilon"}
"""Former -> present parameter of an anonymizer, in the statement of a release."""
RENAMED_RULES = {"max_word_epsilon": "max_label_epsilon"}
"""Former -> present rule of `[mechanisms]` in a policy."""


def with_current_names(content: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """A study's content with this version's names, and a warning for each former one; both at once are an error."""
    found = {key: dict(value) if isinstance(value, Mapping) else value for key, value in content.items()}
    sections = {name: keys for name, keys in found.items() if isinstance(keys, dict)}
    for (section, old), new in RENAMED_KEYS.items():
        keys = sections.get(section, {})
        if old in keys and new in keys:
            raise StudyError(
                f"{source} has {section}.{old} and {section}.{new}, which are one key",
                expected=f"{section}.{new}",
                fix=f"remove {section}.{old}",
            )
        if old in keys:
            keys[new] = keys.pop(old)
            _warn(source, f"{section}.{old}", f"{section}.{new}")
    for section in ("voice", "face"):
        keys = sections.get(section, {})
        named = keys.get("anonymizer")
        if isinstance(named, str) and named in RENAMED_ANONYMIZERS:
            keys["anonymizer"] = current_anonymizer(named)
            _warn(source, f"the anonymizer {named}", keys["anonymizer"])
    return found


def current_anonymizer(name: str) -> str:
    """The name that an anonymizer has now."""
    return RENAMED_ANONYMIZERS.get(name, name)


def current_parameters(content: Mapping[str, Any]) -> dict[str, Any]:
    """An anonymizer's parameters in a release, with the names of this version."""
    return {RENAMED_PARAMETERS.get(key, key): value for key, value in content.items()}


def current_policy(content: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """A policy's content with the names of this version, and a warning for each former one."""
    found = dict(content)
    for rule in ("anonymizers", "without_guarantee"):
        if isinstance(names := found.get(rule), list):
            for old in [name for name in names if isinstance(name, str) and name in RENAMED_ANONYMIZERS]:
                _warn(source, f"the anonymizer {old} in {rule}", current_anonymizer(old))
            found[rule] = [current_anonymizer(name) if isinstance(name, str) else name for name in names]
    if isinstance(rules := found.get("mechanisms"), Mapping):
        found["mechanisms"] = {RENAMED_RULES.get(key, key): value for key, value in rules.items()}
        for old in RENAMED_RULES.keys() & rules.keys():
            _warn(source, f"mechanisms.{old}", f"mechanisms.{RENAMED_RULES[old]}")
    return found


def _warn(source: str, old: str, new: str) -> None:
    _log.warning("%s: %s is called %s now; the former name is accepted in this version only", source, old, new)
