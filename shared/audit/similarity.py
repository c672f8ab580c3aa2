"""Voice similarity matrices of an encoder used as it is, for gain of distinctiveness and de-identification."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.attackers.attacker_registry import Floats
from moretta.shared.audit.metrics import Similarity, Trials, similarity_matrix
from moretta.shared.audit.metrics.cllr import affine_calibration
from moretta.shared.audit.scenarios import ScenarioName, SetName
from moretta.shared.audit.scoring import cosines

Ints = npt.NDArray[np.int64]
Sides = tuple[Floats, Floats]
"""Embeddings of the enrolment clips [n, d] and of the trial clips [m, d]."""

METRIC_OF: dict[ScenarioName, str] = {
    "ignorant": "deidentification",
    "lazy-informed": "voice_distinctiveness_gain",
}
"""The scenarios compare original with released clips, and released with released ones: just what these metrics need."""


def voice_similarities(
    vectors: Mapping[SetName, Sides], enrol_speaker: Ints, trial_speaker: Ints, open_trials: Trials
) -> list[tuple[ScenarioName, str, Similarity]]:
    """Scenario, metric and matrices.

    Args:
        vectors: of originals and releases, the same clips in the same order.
        enrol_speaker: int [n].
        trial_speaker: int [m].
        open_trials: the encoder's own scores on unprotected clips: its cosines become log-likelihood ratios by them.
    """
    both = np.isin(enrol_speaker, trial_speaker), np.isin(trial_speaker, enrol_speaker)
    speakers = enrol_speaker[both[0]], trial_speaker[both[1]]
    ratio = affine_calibration(open_trials)

    def similarity(enrol: SetName, trial: SetName) -> npt.NDArray[np.float64]:
        left, right = vectors[enrol][0][both[0]], vectors[trial][1][both[1]]
        return similarity_matrix(ratio(cosines(left, right)), *speakers)

    oo = similarity("original", "original")
    attacked = {"ignorant": similarity("original", "released"), "lazy-informed": similarity("released", "released")}
    numbers = np.unique(speakers[0])
    return [(name, metric, Similarity(oo, attacked[name], numbers)) for name, metric in METRIC_OF.items()]
