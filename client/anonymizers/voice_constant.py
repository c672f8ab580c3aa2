"""The same sound for everybody: the anchor at which a sound instrument reads chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from moretta.client.anonymizers.anonymizer_registry import LEDGER_UNITS, Anonymizer, Array, Speaker, anonymizer
from moretta.client.anonymizers.voice_waveform import UNITS, each_clip
from moretta.shared.core.terms import CODEBOOK_FORMS, PrivacyStatement, PrivacyUnit, VoiceForm
from moretta.shared.features.mfcc import MELS, Frames
from moretta.shared.features.voice_forms import as_waveform, frame_count
from moretta.shared.privacy.mechanism import Mechanism
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.release_format import AnonymizerStatement
from moretta.shared.study.schema import Study

FRAMES = 260
_BAND_LOG_ENERGY = -2.0  # steady noise, some 40 dB above the quietest that MFCC can tell


@anonymizer("constant", modality="voice", version="1")
class ConstantVoice(Anonymizer):
    """Releases one array for every clip that can be used: 2.6 s of steady, flat noise."""

    def __init__(self, form: VoiceForm, coefficients: int) -> None:
        self._form = form
        self._codebook = np.zeros((1, coefficients), np.float32)
        self._codebook[0, 0] = _BAND_LOG_ENERGY * np.sqrt(MELS)
        tokens = np.zeros(FRAMES, np.int32)
        centroids = self._codebook[tokens]
        self._array: Array = tokens if form in CODEBOOK_FORMS else centroids
        if form == "code":
            self._array = centroids[0]
        if form == "waveform":
            self._array = as_waveform("mfcc", centroids)

    @classmethod
    def from_study(cls, study: Study, shared: dict[str, Array]) -> ConstantVoice:  # noqa: ARG003
        """Build from the study; nothing shared is needed."""
        return cls(study.voice.form, study.voice.coefficients)

    @property
    def form(self) -> str:
        """As the study wants it."""
        return self._form

    @property
    def codebook(self) -> Frames | None:
        """float32 [1, coefficients]"""
        return self._codebook

    def frames(self, released: Array) -> int:
        """MFCC frames behind one released array."""
        return frame_count(self.form, released)

    def release(
        self,
        clips: Sequence[Array],
        noise: Sequence[NoiseSource],  # noqa: ARG002
        speakers: Sequence[Speaker],  # noqa: ARG002
    ) -> list[Array | Exception]:
        """The same array for each clip."""
        return each_clip(clips, lambda _: self._array.copy())

    @classmethod
    def planned_losses(cls, study: Study, sizes: dict[str, list[int]]) -> dict[PrivacyUnit, tuple[Mechanism, ...]]:
        """None: what is released does not depend on the clips."""
        del study, sizes
        return dict.fromkeys(LEDGER_UNITS, ())

    def statement(
        self,
        sizes: dict[str, list[int]],  # noqa: ARG002
        noise: Literal["system", "seeded"],  # noqa: ARG002
    ) -> AnonymizerStatement:
        """Epsilon 0 at every unit: what is released does not depend on what was said, nor by whom."""
        note = "the number of clips and their labels are released as they are"
        return AnonymizerStatement(
            modality="voice",
            name=self.name,
            version=self.version,
            form=self.form,
            parameters={"frames": FRAMES, "coefficients": self._codebook.shape[1]},
            privacy=tuple(PrivacyStatement(mechanism="constant", unit=u, epsilon=0.0, note=note) for u in UNITS),
            noise="none",
        )
