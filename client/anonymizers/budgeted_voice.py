"""What voice anonymizers have in common that keep one budget for a whole clip, or for a whole speaker."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from moretta.client.anonymizers.anonymizer_registry import LEDGER_UNITS, Anonymizer, Array, Speaker
from moretta.client.anonymizers.clip_selection import ClipSelection, PooledClip
from moretta.shared.core.errors import ClipError
from moretta.shared.core.terms import PrivacyStatement, PrivacyUnit
from moretta.shared.features.mfcc import Audio, check_samples, mfcc
from moretta.shared.features.public_arrays import Rules
from moretta.shared.features.public_codes import Matrix, PublicCodes, pooled
from moretta.shared.features.public_voice import PublicVoice
from moretta.shared.privacy.mechanism import Mechanism
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.release_format import AnonymizerStatement
from moretta.shared.study.schema import Study
from moretta.shared.study.voice import VoiceSection

FINER: tuple[PrivacyUnit, ...] = ("value", "frame")
"""Parts of a clip: what hides the whole hides them."""
_OPEN = (
    "not covered: that there are so many usable clips and speakers, and the labels and sentences of those released; "
    "the number of frames is not released"
)
_CLIP_NOTE = f"between any two usable clips, whatever was said; {_OPEN}"
_SPEAKER_NOTE = f"between any two people with as many usable clips, whatever they said; {_OPEN}"


class BudgetedVoice(Anonymizer):
    """MFCC -> pooled over parts of the clip -> public code -> noise.

    Preset `dp-clip`: each clip has `voice.budget_epsilon` for all that is released of it. Preset `dp-speaker`: all that
    is released of a speaker together has it. Then only `voice.clip_limit` clips of a speaker are released, chosen by
    chance, and since the budget covers all of a speaker's clips anyway, each is told relative to the others: in the
    speaker's own units, which takes the voice away and leaves how it changes.

    Args:
        section: the study's `[voice]`.
        public: statistics of MFCC.
        codes: learnt on synthetic speech.
    """

    mechanism: ClassVar[str]
    """In words."""
    delta: float = 0.0
    """At which the budget is an epsilon."""

    def __init__(self, section: VoiceSection, public: PublicVoice, codes: PublicCodes) -> None:
        self._section = section
        self._public = public
        self._codes = codes
        self._shares: ClipSelection | None = None

    @classmethod
    def public_rules(cls, study: Study) -> Rules:
        """The public voice, and the codes of its pooled MFCC."""
        voice = study.voice
        return {**PublicVoice.rules(voice.coefficients), **PublicCodes.rules(voice.coefficients)}

    @classmethod
    def from_study(cls, study: Study, shared: dict[str, Array]) -> Self:
        """Build from the study and what the coordinator made of synthetic speech.

        Raises:
            StudyError: there are no public codes, or others than the study asks for.
        """
        return cls(study.voice, PublicVoice.from_arrays(shared), PublicCodes.from_arrays(shared))

    @classmethod
    @abstractmethod
    def loss_of_clip(cls, section: VoiceSection) -> Mechanism:
        """What releasing one clip costs it."""

    @abstractmethod
    def randomize(self, codes: npt.NDArray[np.float64], noise: NoiseSource) -> Array:
        """What is released in place of the codes of a clip, [segments, d], whatever they are."""

    @abstractmethod
    def mechanism_parameters(self) -> dict[str, Any]:
        """What the statement tells of how the noise was made."""

    @property
    def form(self) -> str:
        """`code`, or `code-tokens`."""
        return self._section.form

    def frames(self, released: Array) -> int:  # noqa: ARG002 - every clip has as many
        """Parts of a clip."""
        return self._section.segments

    def fit(self, clips: Iterable[tuple[Speaker, Array]], noise: NoiseSource) -> None:
        """Preset `dp-speaker`: learn every speaker's own units, and choose whose clips are released."""
        if self._section.clip_limit is not None:
            self._shares = ClipSelection(self._section.clip_limit, noise.uniform((4,)).tobytes())
            self._shares.learn(self._usable(clips))

    @classmethod
    def is_fitted(cls, study: Study) -> bool:
        """Under `dp-speaker`."""
        return study.voice.clip_limit is not None

    def release(
        self, clips: Sequence[Array], noise: Sequence[NoiseSource], speakers: Sequence[Speaker]
    ) -> list[Array | Exception]:
        """Noisy answers for a batch of clips."""
        out: list[Array | Exception] = []
        for clip, source, speaker in zip(clips, noise, speakers, strict=True):
            try:
                out.append(self._release(check_samples(clip), source, speaker))
            except Exception as error:  # fail closed: whatever went wrong, this clip has no release
                out.append(error)
        return out

    def codes_of(self, samples: Audio, speaker: Speaker) -> npt.NDArray[np.float64]:
        """float64 [segments, d] of a clip, without noise: nothing of it may leave."""
        vectors = self._vectors(samples)
        if self._section.clip_limit is not None:
            if self._shares is None:
                raise ClipError("not-fitted", "a speaker's budget that was not shared out", fix="call `fit` first")
            vectors = self._shares.in_speaker_units(speaker, vectors)
        return self._codes.codes(vectors)

    def statement(self, sizes: dict[str, list[int]], noise: Literal["system", "seeded"]) -> AnonymizerStatement:
        """The budget at every unit: of a clip, and what all released clips of a speaker come to."""
        return AnonymizerStatement(
            modality="voice",
            name=self.name,
            version=self.version,
            form=self.form,
            parameters=self._parameters(),
            privacy=self._privacy(sizes),
            noise=noise,
            counts={} if self._shares is None else {"clips_over_budget": self._shares.left_out},
        )

    def losses(self, sizes: dict[str, list[int]]) -> dict[PrivacyUnit, tuple[Mechanism, ...]]:
        """See `planned_losses`: nothing public changes it."""
        return self._losses(self._section, sizes)

    @classmethod
    def planned_losses(cls, study: Study, sizes: dict[str, list[int]]) -> dict[PrivacyUnit, tuple[Mechanism, ...]]:
        """One run of the mechanism for a clip, and one for each released clip of a speaker.

        Under `dp-speaker` a clip loses as much as its speaker: it moves the speaker's own units, and with them
        whatever is released of the others.
        """
        return cls._losses(study.voice, sizes)

    @classmethod
    def _losses(cls, section: VoiceSection, sizes: dict[str, list[int]]) -> dict[PrivacyUnit, tuple[Mechanism, ...]]:
        most = max(map(len, sizes.values()), default=0)
        if section.clip_limit is not None:
            most = min(most, section.clip_limit)
        if not most:
            return dict.fromkeys(LEDGER_UNITS, ())
        loss = cls.loss_of_clip(section)
        clip = loss if section.clip_limit is None else loss.for_group(most, "clip")
        return {"clip": (clip,), "speaker": (loss.for_group(most),)}

    def _privacy(self, sizes: dict[str, list[int]]) -> tuple[PrivacyStatement, ...]:
        losses = self.losses(sizes)
        per_speaker = self._section.clip_limit is not None
        clips = max(map(len, sizes.values()), default=0)
        rows = []
        for unit in (*FINER, *LEDGER_UNITS):
            [loss] = losses["speaker" if unit == "speaker" else "clip"] or (None,)
            nominal = self._section.budget_epsilon * (clips if unit == "speaker" and not per_speaker else 1)
            note = _SPEAKER_NOTE if per_speaker or unit == "speaker" else _CLIP_NOTE
            rows.append(
                PrivacyStatement(
                    mechanism=self.mechanism,
                    unit=unit,
                    epsilon=0.0 if loss is None else loss.epsilon(self.delta),
                    delta=self.delta,
                    nominal=None if unit in FINER else nominal,
                    note=f"as a part of its {'speaker' if per_speaker else 'clip'}, {note}" if unit in FINER else note,
                )
            )
        return tuple(rows)

    def _parameters(self) -> dict[str, Any]:
        section = self._section
        return {
            "preset": section.preset,
            "budget_epsilon": section.budget_epsilon,
            "budget_delta": self.delta,
            "segments": section.segments,
            "released_clips": section.clip_limit,
            "coefficients": section.coefficients,
            "codebook": section.codebook,
            **self.mechanism_parameters(),
        }

    def _release(self, samples: Audio, noise: NoiseSource, speaker: Speaker) -> Array:
        codes = self.codes_of(samples, speaker)
        if self._shares is not None:
            self._shares.take(speaker, samples)
        return self.randomize(codes, noise)

    def _vectors(self, samples: Audio) -> Matrix:
        """[segments, 2 n] of one clip, in public units; zeros where that fails, so that no clip is left out for it."""
        try:
            frames = mfcc(samples, self._section.coefficients)
            return self._codes.vectors(pooled(frames, self._public, self._section.segments))
        except Exception:
            return np.zeros((self._section.segments, len(self._codes.center)), np.float32)

    def _usable(self, clips: Iterable[tuple[Speaker, Array]]) -> Iterator[PooledClip]:
        for speaker, clip in clips:
            try:
                samples = np.ascontiguousarray(check_samples(clip))
                vectors = self._vectors(samples)
            except Exception:  # noqa: S112 - counted when the clip's turn comes
                continue
            yield speaker, samples, vectors
