"""An attacker that learns when to believe the opposite.

Where all clips of a person were normalized together, those that an attacker has not seen lie on the far side of those
it has: a classifier then does worse than chance, and who it finds least likely is the right one. An audit that only
looks for accuracy above chance would call such a release private.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from moretta.shared.audit.attackers.attacker_registry import Floats, Identifier
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.tabular import VectorIdentifier, held_out_accuracies, log_posteriors

_LEAST_LOG_POSTERIOR = float(np.log(1e-3))
"""A forest gives many speakers no vote at all: how much less than this it believes in somebody says nothing more."""


@dataclass(frozen=True)
class _Tried:
    accuracy: float
    """On held-out enrolment clips."""
    one: VectorIdentifier
    setting: dict[str, Any]


class InvertedIdentifier(Identifier):
    """Of all settings of several classifiers, the one most often wrong about clips held out of enrolment, inverted.

    If none is right less often than chance the best one is taken as it is. Trial clips have no say in it. Where nothing
    can be held out, nobody having two clips, the last one is inverted: as they are, others ask them all.
    """

    classifiers: ClassVar[tuple[type[VectorIdentifier], ...]]

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Try every classifier in every setting, choose, train."""
        self.speakers = clips.speakers
        tried = [found for cls in self.classifiers for found in _try(cls(), clips, seed)] or [self._untried()]
        worst, best = (choice(tried, key=lambda t: t.accuracy) for choice in (min, max))
        self._inverts = worst.accuracy < 1 / len(self.speakers)
        chosen = worst if self._inverts else best
        self._one = chosen.one
        model = chosen.one.pipeline(seed).set_params(**chosen.setting)
        self._model = model.fit(chosen.one.vectors(clips), clips.labels)

    def _untried(self) -> _Tried:
        one = self.classifiers[-1]()
        return _Tried(0.0, one, {name: values[0] for name, values in one.settings().items()})

    def scores(self, clips: ClipSet) -> Floats:
        """Log-posteriors, or their opposite, [clips, speakers]."""
        found = log_posteriors(self._model, self._one.vectors(clips))
        return -np.maximum(found, _LEAST_LOG_POSTERIOR) if self._inverts else found


def _try(one: VectorIdentifier, clips: ClipSet, seed: int) -> list[_Tried]:
    grid = one.settings()
    tried = held_out_accuracies(one.pipeline(seed), grid, one.vectors(clips), clips.labels, clips)
    return [_Tried(accuracy, one, setting) for setting, accuracy in tried]
