"""A whole clip as a few tokens, each answered at random: a budget for clip or speaker, not for a value."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from moretta.client.anonymizers.anonymizer_registry import Array, anonymizer
from moretta.client.anonymizers.budgeted_voice import BudgetedVoice
from moretta.shared.core.errors import StudyError
from moretta.shared.features.public_codes import Matrix, PublicCodes
from moretta.shared.features.public_voice import PublicVoice
from moretta.shared.privacy.clip_budget import voice_response
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.privacy.randomized_response import RandomizedResponse
from moretta.shared.study.schema import Study
from moretta.shared.study.voice import VoiceSection


@anonymizer("clip-quantizer", modality="voice", version="1")
class ClipQuantizer(BudgetedVoice):
    """Code -> nearest word -> k-ary randomized response.

    The words are public, so the tokens' answers are all that is told of a clip, at delta 0. One part, and as many words
    as an answer at that epsilon tells most with, keep most: with more parts each answer is so random that nothing
    comes through.
    """

    mechanism = "randomized response among public words"

    def __init__(self, section: VoiceSection, public: PublicVoice, codes: PublicCodes) -> None:
        super().__init__(section, public, codes)
        self._response = self.loss_of_clip(section)

    @classmethod
    def from_study(cls, study: Study, shared: dict[str, Array]) -> Self:
        """As for all, and the number of words must be what the budget asks for."""
        made = super().from_study(study, shared)
        found, expected = len(made._codes.codewords), made._response.choices
        if found != expected:
            raise StudyError(f"{found} public words", expected=f"{expected}, as the study's budget asks")
        return made

    @classmethod
    def loss_of_clip(cls, section: VoiceSection) -> RandomizedResponse:
        """All tokens of the clip."""
        return voice_response(section)

    @property
    def codebook(self) -> Matrix | None:
        """float32 [k, d], where tokens are released."""
        return self._codes.codewords if self.form == "code-tokens" else None

    def randomize(self, codes: npt.NDArray[np.float64], noise: NoiseSource) -> Array:
        """int32 [segments], or the words that the answers name, float32 [segments * d]."""
        randomized = self._response.randomize(self._codes.tokens(codes), noise)
        return randomized if self.form == "code-tokens" else self._codes.codewords[randomized].ravel()

    def mechanism_parameters(self) -> dict[str, Any]:
        """The response's numbers."""
        response = self._response
        return {"choices": response.choices, "token_epsilon": response.token_epsilon, "kept": response.keep}
