"""How something was said, told relative to how this person says things: what only a site that knows its people can do.

Measurements of pitch, level, spectrum and rhythm -> ranks among the person's own clips -> code that is the same for
everybody -> the person's own mean and covariance taken away -> noise -> code, sequence of codes, or tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from moretta.client.anonymizers.anonymizer_registry import LEDGER_UNITS, Anonymizer, Array, Speaker, anonymizer
from moretta.client.anonymizers.speaker_references import MeasuredClip, Rows, SpeakerReferences, clip_digest, forget
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.core.terms import CODE_FORMS, PrivacyStatement, PrivacyUnit
from moretta.shared.features.codebook import nearest
from moretta.shared.features.mfcc import check_samples
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.public_arrays import Rules
from moretta.shared.features.speaker_code import CODE_LIMIT, CodeReference, SpeakerCode, measured_clip
from moretta.shared.features.speech_windows import most_steps
from moretta.shared.features.voice_forms import frame_count
from moretta.shared.privacy.code_budget import code_statements
from moretta.shared.privacy.gaussian import Gaussian
from moretta.shared.privacy.mechanism import Mechanism, Unbounded
from moretta.shared.privacy.noise import NoiseSource, on_grid
from moretta.shared.release.release_format import AnonymizerStatement
from moretta.shared.study.schema import Study
from moretta.shared.study.voice import VoiceSection

DELTA = 1e-5
_MECHANISM = "Gaussian noise on bounded codes"
_NOTE = (
    "between any two people with as many clips and steps, whatever they said: every clip changes what the person's "
    "others are told relative to, so a clip loses as much as its speaker; what hides people is the normalization, "
    "which guarantees nothing by itself: see the audit"
)
_NO_NOISE = "no noise is added: what hides people is the normalization, which guarantees nothing; see the audit"


@anonymizer("speaker-normalized", modality="voice", version="2")
class SpeakerNormalized(Anonymizer):
    """Codes of a clip relative to the other clips of the same speaker at this site.

    A speaker's only clip is told relative to itself: its code is noise around 0. What all clips of a speaker have in
    common cannot be told, so of somebody who was recorded in one emotion only, that emotion cannot be read.

    Args:
        section: the study's `[voice]`.
        code: learnt on public speech, or, from there on, on the sites' own.
    """

    def __init__(self, section: VoiceSection, code: SpeakerCode) -> None:
        self._section, self._code = section, code
        self._references = SpeakerReferences(None, len(MEASUREMENTS))
        self._scales: dict[Speaker, CodeReference] = {}

    @classmethod
    def public_rules(cls, study: Study) -> Rules:
        """The code, of the study's size and encoder."""
        return SpeakerCode.rules(study.voice.code_size, is_network=study.voice.code_encoder == "network")

    @classmethod
    def from_study(cls, study: Study, shared: dict[str, Array]) -> SpeakerNormalized:
        """Build from the study and the code that the coordinator learnt on public speech, or had the sites train.

        Raises:
            StudyError: there is no such code, or one of another size; the study wants a form that is no code.
        """
        voice, code = study.voice, SpeakerCode.from_arrays(shared)
        if voice.form not in CODE_FORMS:
            raise StudyError(
                f"the voice anonymizer {cls.name!r} with the form {voice.form}",
                expected=f"one of {', '.join(CODE_FORMS)}",
                fix="set `form` in [voice]",
            )
        if code.size != voice.code_size:
            raise StudyError(f"a public code of {code.size} values", expected=f"{voice.code_size}, as the study says")
        if (code.hidden is None) != (voice.code_encoder == "directions"):
            made = "directions" if code.hidden is None else "a network"
            raise StudyError(f"a public code of {made}", expected=f"{voice.code_encoder}, as the study says")
        return cls(voice, code)

    @property
    def form(self) -> str:
        """`code`, `code-sequence` or `code-tokens`."""
        return self._section.form

    @property
    def codebook(self) -> Rows | None:
        """float32 [k, d], of tokens."""
        return self._code.codewords if self.form == "code-tokens" else None

    def frames(self, released: Array) -> int:
        """Steps of a sequence; a code is one."""
        return frame_count(self.form, released)

    def keep_in(self, folder: Path) -> None:
        """Keep secret weights and shifts there, so that a clip counts as much in a later release as in this one."""
        forget(folder, f"{self.name}-clips.safetensors", f"{self.name}-steps.safetensors")
        self._references = SpeakerReferences(folder / f"{self.name}.safetensors", len(MEASUREMENTS))

    def fit(self, clips: Iterable[tuple[Speaker, Array]], noise: NoiseSource) -> None:
        """Learn what each speaker's clips are told relative to: these clips, and no others.

        Clips that cannot be used are passed over.
        """
        measured: dict[Speaker, list[MeasuredClip]] = defaultdict(list)
        for speaker, clip in self._measured(clips):
            measured[speaker].append(clip)
        self._references.learn(measured, noise)
        self._scales.clear()
        self._references.save()

    def release(
        self, clips: Sequence[Array], noise: Sequence[NoiseSource], speakers: Sequence[Speaker]
    ) -> list[Array | Exception]:
        """Codes of a batch; in the place of a clip that failed, its error."""
        out: list[Array | Exception] = []
        for clip, source, speaker in zip(clips, noise, speakers, strict=True):
            try:
                rows = measured_clip(check_samples(clip), in_windows=self._in_steps)
                out.append(self._released(self._scale(speaker)(rows), source))
            except Exception as error:  # fail closed: whatever went wrong, this clip has no release
                out.append(error)
        return out

    @classmethod
    def strength(cls, study: Study) -> dict[str, float]:
        """How many values are told, and with what noise."""
        return {"code_size": float(study.voice.code_size), "code_noise": study.voice.code_noise}

    def statement(self, sizes: dict[str, list[int]], noise: Literal["system", "seeded"]) -> AnonymizerStatement:
        """Parameters, the little that the noise guarantees, and what training the code cost."""
        section, losses = self._section, self.losses(sizes)
        return AnonymizerStatement(
            modality="voice",
            name=self.name,
            version=self.version,
            form=self.form,
            parameters={
                "code_size": section.code_size,
                "code_noise": section.code_noise,
                "code_rounds": self._code.rounds,
                "code_encoder": section.code_encoder,
                "limit": CODE_LIMIT,
                "measurements": len(MEASUREMENTS),
                "codebook_size": len(self._code.codewords) if self.form == "code-tokens" else None,
            },
            privacy=tuple(_stated(unit, losses[unit]) for unit in LEDGER_UNITS) + code_statements(section, sizes),
            noise=noise,  # the weights of a speaker's clips are secret too, so it matters where codes have no noise
        )

    def losses(self, sizes: dict[str, list[int]]) -> dict[PrivacyUnit, tuple[Mechanism, ...]]:
        """See `planned_losses`: nothing public changes it. What training the code cost is on the ledger by itself."""
        return _losses(self._section, sizes)

    @classmethod
    def is_fitted(cls, study: Study) -> bool:
        """Always: a clip moves what the speaker's others are told relative to."""
        del study
        return True

    @classmethod
    def planned_losses(cls, study: Study, sizes: dict[str, list[int]]) -> dict[PrivacyUnit, tuple[Mechanism, ...]]:
        """One Gaussian over all codes of the speaker who has most of them: a clip is one, or one for each step.

        Args:
            study: says which.
            sizes: MFCC frames of each clip.
        """
        whole = study.voice.form == "code"
        rows = {who: [1 if whole else most_steps(frames) for frames in clips] for who, clips in sizes.items()}
        return _losses(study.voice, rows)

    @property
    def _in_steps(self) -> bool:
        return self.form != "code"

    def _measured(self, clips: Iterable[tuple[Speaker, Array]]) -> Iterator[tuple[Speaker, MeasuredClip]]:
        for speaker, clip in clips:
            try:
                samples = check_samples(clip)
                rows = measured_clip(samples, in_windows=self._in_steps)
            except ClipError:
                continue  # counted when its turn comes
            yield speaker, (clip_digest(samples), rows)

    def _scale(self, speaker: Speaker) -> CodeReference:
        if speaker not in self._scales:
            if speaker not in self._references:
                raise ClipError("unknown-speaker", "a speaker of whom nothing was fitted", fix="call `fit` first")
            self._scales[speaker] = self._references[speaker].scale(self._code)
        return self._scales[speaker]

    def _released(self, codes: np.ndarray, noise: NoiseSource) -> Array:
        """What leaves: codes with noise, on a grid that hides the low bits; or the nearest words."""
        sigma = self._section.code_noise
        noisy = on_grid(codes + noise.private_normal(sigma, codes.shape), sigma) if sigma else codes
        if self.form == "code-tokens":
            return nearest(noisy, self._code.codewords)
        exact = np.asarray(noisy, np.float32)
        return exact[0] if self.form == "code" else exact


def _losses(section: VoiceSection, sizes: dict[str, list[int]]) -> dict[PrivacyUnit, tuple[Mechanism, ...]]:
    rows = max((sum(clips) for clips in sizes.values()), default=0)
    if not rows:
        return dict.fromkeys(LEDGER_UNITS, ())
    if not section.code_noise:
        return {unit: (Unbounded(unit=unit, why=_NO_NOISE),) for unit in LEDGER_UNITS}
    distance = 2 * CODE_LIMIT * float(np.sqrt(rows * section.code_size))
    return {unit: (Gaussian(unit=unit, sigma=section.code_noise, distance=distance),) for unit in LEDGER_UNITS}


def _stated(unit: PrivacyUnit, losses: tuple[Mechanism, ...]) -> PrivacyStatement:
    if any(isinstance(loss, Unbounded) for loss in losses):
        return PrivacyStatement(mechanism=_MECHANISM, unit=unit, epsilon=None, note=_NO_NOISE)
    epsilon = sum(loss.epsilon(DELTA) or 0.0 for loss in losses)
    return PrivacyStatement(mechanism=_MECHANISM, unit=unit, epsilon=epsilon, delta=DELTA, note=_NOTE)
