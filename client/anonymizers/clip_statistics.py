"""A whole clip as two noisy numbers: a Gaussian release of bounded statistics, with a budget for clip or speaker."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.client.anonymizers.anonymizer_registry import Array, anonymizer
from moretta.client.anonymizers.budgeted_voice import BudgetedVoice
from moretta.shared.features.public_codes import PublicCodes
from moretta.shared.features.public_voice import PublicVoice
from moretta.shared.privacy.clip_budget import voice_gaussian
from moretta.shared.privacy.gaussian import Gaussian
from moretta.shared.privacy.noise import NoiseSource, in_ball, on_grid
from moretta.shared.study.voice import VoiceSection

VALUES = 2
"""Of each part of a clip."""
RADIUS = 1.0
"""In public deviations. More values, or a larger ball, drown in the noise that they ask for: with both chosen on
synthetic speech, two values in a small ball kept most at epsilon 8."""


@anonymizer("clip-statistics", modality="voice", version="1")
class ClipStatistics(BudgetedVoice):
    """Code, its first values -> cut to a ball -> Gaussian noise.

    Any two clips differ by the diameter of the ball at most, whatever was said; the noise is calibrated to
    `voice.budget_epsilon` at `voice.budget_delta` by Balle and Wang's exact formula.
    """

    mechanism = "Gaussian on bounded statistics of a clip"

    def __init__(self, section: VoiceSection, public: PublicVoice, codes: PublicCodes) -> None:
        super().__init__(section, public, codes)
        self.delta = section.budget_delta
        self._gaussian = self.loss_of_clip(section)

    @classmethod
    def loss_of_clip(cls, section: VoiceSection) -> Gaussian:
        """One Gaussian over all values of the clip."""
        return voice_gaussian(section, radius=RADIUS)

    def randomize(self, codes: npt.NDArray[np.float64], noise: NoiseSource) -> Array:
        """float32 [segments * 2]: all of a clip's values lie in one ball before the noise."""
        sigma = self._gaussian.sigma
        inside = in_ball(codes[:, :VALUES].ravel(), RADIUS)
        return on_grid(inside + noise.private_normal(sigma, inside.shape), sigma)

    def mechanism_parameters(self) -> dict[str, Any]:
        """The ball and the noise."""
        return {"values": VALUES * self._section.segments, "radius": RADIUS, "sigma": self._gaussian.sigma}
