"""What voice anonymizers without noise and without tokens have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Self

from moretta.client.anonymizers.anonymizer_registry import Anonymizer, Array, Speaker
from moretta.shared.core.errors import StudyError
from moretta.shared.core.terms import PrivacyStatement, PrivacyUnit, VoiceForm
from moretta.shared.features.mfcc import check_samples, mfcc
from moretta.shared.features.voice_forms import frame_count
from moretta.shared.privacy.mechanism import Mechanism
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.release_format import AnonymizerStatement
from moretta.shared.study.schema import Study

UNITS: tuple[PrivacyUnit, ...] = ("value", "frame", "clip", "speaker")


def waveform_form(name: str, form: VoiceForm) -> VoiceForm:
    """The form if it can be made from a waveform without a codebook.

    Raises:
        StudyError: the study wants tokens or codes.
    """
    if form not in ("mfcc", "waveform"):
        raise StudyError(
            f"the voice anonymizer {name!r} with the form {form}",
            expected="the form mfcc or waveform",
            fix="set `form` in [voice]",
        )
    return form


def each_clip(clips: Sequence[Array], release: Callable[[Array], Array]) -> list[Array | Exception]:
    """`release` of every clip that can be used, float32 [samples]; the error in the place of every other."""
    out: list[Array | Exception] = []
    for clip in clips:
        try:
            out.append(release(check_samples(clip)))
        except Exception as error:  # fail closed: whatever went wrong, this clip has no release
            out.append(error)
    return out


def no_guarantee(mechanism: str, note: str) -> tuple[PrivacyStatement, ...]:
    """At no unit a finite epsilon."""
    return tuple(PrivacyStatement(mechanism=mechanism, unit=unit, epsilon=None, note=note) for unit in UNITS)


class NoiselessVoice(Anonymizer):
    """Turns sound into sound without noise, and releases it or its MFCC. It guarantees nothing."""

    mechanism: ClassVar[str]
    why: ClassVar[str]
    """Why nothing is guaranteed."""

    def __init__(self, form: VoiceForm, coefficients: int) -> None:
        self._form = form
        self._coefficients = coefficients

    @classmethod
    def from_study(cls, study: Study, shared: dict[str, Array]) -> Self:  # noqa: ARG003
        """Build from the study; nothing shared is needed.

        Raises:
            StudyError: the study wants tokens or codes.
        """
        return cls(waveform_form(cls.name, study.voice.form), study.voice.coefficients)

    @abstractmethod
    def transform(self, samples: Array) -> Array:
        """float32 [samples] at 16 kHz in [-1, 1] -> the same, as it is released."""

    def parameters(self) -> dict[str, Any]:
        """What the statement tells of how it works."""
        return {"coefficients": self._coefficients}

    @property
    def form(self) -> str:
        """`waveform`, or `mfcc` of that waveform."""
        return self._form

    def frames(self, released: Array) -> int:
        """MFCC frames behind one released array."""
        return frame_count(self.form, released)

    def release(
        self,
        clips: Sequence[Array],
        noise: Sequence[NoiseSource],  # noqa: ARG002
        speakers: Sequence[Speaker],  # noqa: ARG002
    ) -> list[Array | Exception]:
        """The transformed clips, or their MFCC."""
        return each_clip(clips, self._release)

    @classmethod
    def planned_losses(cls, study: Study, sizes: dict[str, list[int]]) -> dict[PrivacyUnit, tuple[Mechanism, ...]]:
        """That nothing is guaranteed, told before a clip is read."""
        return super().planned_losses(study, sizes)

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
            parameters=self.parameters(),
            privacy=no_guarantee(self.mechanism, self.why),
            noise="none",
        )

    def _release(self, samples: Array) -> Array:
        made = self.transform(samples)
        return mfcc(made, self._coefficients) if self._form == "mfcc" else made
