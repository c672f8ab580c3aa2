"""Released clips as inputs of emotion models, at the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moretta.shared.core.terms import Modality
from moretta.shared.features.voice_forms import is_code, model_input
from moretta.shared.release import ReleasedClip

if TYPE_CHECKING:
    from moretta.server.stages.run_context import Run
    from moretta.shared.models.emotion import EmotionModel


def model_inputs(
    run: Run, modality: Modality, model: EmotionModel
) -> Iterator[tuple[npt.NDArray[np.float32], ReleasedClip]]:
    """Features of every released clip of one modality, site by site, with the clip."""
    from moretta.shared.models.emotion import PublicScale

    scale = PublicScale(run.public["voice/mean"], run.public["voice/std"]) if "voice/mean" in run.public else None
    for site in sorted(run.releases):
        release = run.releases[site]
        statement = release.anonymizer(modality)
        for clip, array in release.arrays(modality):
            assert statement is not None
            ready = model_input(statement.form, array, release.codebook) if modality == "voice" else array
            yield model.features(ready, None if is_code(statement.form) else scale), clip
