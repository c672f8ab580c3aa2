"""What earlier versions of the study file had and this one refuses, each with what to use instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from moretta.shared.core.errors import StudyError


class Removed(NamedTuple):
    """Keys of one section that cannot be used any more, alone or together."""

    section: str
    keys: dict[str, str | None]
    """Each with the value that was removed; None stands for any value."""
    instead: str

    def is_in(self, content: Mapping[str, Any]) -> bool:
        """Whether a study says all of it."""
        said = content.get(self.section)
        if not isinstance(said, Mapping):
            return False
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
        {"anonymizer": "speaker-normalised", "form": "waveform"},
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
