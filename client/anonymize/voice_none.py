"""No anonymization: the anchor that shows what attackers and models reach on open voices. For comparison only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from moretta.client.anonymize.registry import Anonymizer, Array, anonymizer
from moretta.client.anonymize.voice_waveform import each_clip, no_guarantee, waveform_form
from moretta.shared.features.mfcc import mfcc
from moretta.shared.features.voice_forms import frame_count
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.format import AnonymizerStatement, VoiceForm
from moretta.shared.study import Study


@anonymizer("none", modality="voice", version="1")
class IdentityVoice(Anonymizer):
    """Releases MFCC or the waveform as they are."""

    def __init__(self, form: VoiceForm, coefficients: int) -> None:
        self._form = form
        self._coefficients = coefficients

    @classmethod
    def from_study(cls, study: Study, shared: dict[str, Array]) -> IdentityVoice:  # noqa: ARG003
        """Build from the study; nothing shared is needed.

        Raises:
            StudyError: the study wants tokens.
        """
        return cls(waveform_form(cls.name, study.voice.form), study.voice.coefficients)

    @property
    def form(self) -> str:
        """`mfcc` or `waveform`."""
        return self._form

    def frames(self, released: Array) -> int:
        """MFCC frames behind one released array."""
        return frame_count(self.form, released)

    def release(self, clips: Sequence[Array], noise: Sequence[NoiseSource]) -> list[Array | Exception]:  # noqa: ARG002
        """The clips themselves, or their MFCC."""
        return each_clip(clips, self._release)

    def statement(
        self,
        sizes: dict[str, list[int]],  # noqa: ARG002
        noise: Literal["system", "seeded"],  # noqa: ARG002
    ) -> AnonymizerStatement:
        """Says that nothing is guaranteed."""
        return AnonymizerStatement(
            modality="voice",
            name=self.name,
            version=self.version,
            form=self.form,
            parameters={"coefficients": self._coefficients},
            privacy=no_guarantee("none", "voices are released as they are"),
            noise="none",
        )

    def _release(self, samples: Array) -> Array:
        return mfcc(samples, self._coefficients) if self._form == "mfcc" else np.clip(samples, -1, 1)
