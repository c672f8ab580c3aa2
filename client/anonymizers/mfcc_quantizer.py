"""The DP MFCC quantizer: MFCC -> bounds -> Laplace noise -> nearest codeword -> tokens -> MFCC -> waveform."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from moretta.client.anonymizers.anonymizer_registry import LEDGER_UNITS, Anonymizer, Array, Speaker, anonymizer
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.core.terms import CODE_FORMS, PrivacyUnit
from moretta.shared.features.codebook import fit_codebook, nearest
from moretta.shared.features.mfcc import Frames, check_samples, mfcc_batch
from moretta.shared.features.public_arrays import Rules
from moretta.shared.features.public_voice import PublicVoice
from moretta.shared.features.sampling import FrameSample
from moretta.shared.features.voice_forms import as_waveform, frame_count
from moretta.shared.privacy.laplace import LaplaceValues, values_per_unit
from moretta.shared.privacy.mechanism import Mechanism
from moretta.shared.privacy.noise import NoiseSource, SystemNoise, bounded
from moretta.shared.release.release_format import AnonymizerStatement
from moretta.shared.study.schema import Study
from moretta.shared.study.voice import VoiceSection

MAX_FIT_FRAMES = 200_000
_FIT_BATCH_CLIPS = 16

_NOTES = {
    ("bounded", "public"): "values are clipped to public bounds; the codebook is public",
    ("bounded", "local"): (
        "values are clipped to public bounds; noise is drawn twice, for the codebook and for the tokens, "
        "and both are counted"
    ),
    ("original", "local"): (
        "raw MFCC have no bound, so this noise guarantees nothing finite, and neither does the codebook fitted on "
        "them; nominal is what epsilon would be if one value could move by the nominal sensitivity only, "
        "the codebook not counted"
    ),
}
_LENGTH_NOTE = "; the number of frames is released as it is"


@anonymizer("mfcc-quantizer", modality="voice", version="1")
class MfccQuantizer(Anonymizer):
    """Laplace noise on every MFCC value, then the nearest of k codewords.

    Preset `bounded`: coefficients are standardised by public statistics and clipped to +- bound, so one value moves by
    at most 2 x bound whatever was said; after the noise they are clipped to the same range again, and the codebook is
    public. What follows the noise only processes noisy values and costs nothing.

    Preset `original`, as the first project did it: noise of the same scale on raw MFCC, whose values have no bound,
    and a codebook fitted on the same clips. It guarantees nothing finite and its statement says so.

    A `local` codebook is fitted on noisy values too, never on raw ones. They are drawn anew in `fit`, since the noise
    of a release belongs to its clips one by one: two mechanisms look at every value, and under `bounded` the
    statement counts both. (Keeping the noisy frames of `fit` for the release would save the second half, at the price
    of holding a whole corpus in memory.)

    Args:
        section: the study's `[voice]`.
        public: statistics, and the codebook unless the study wants a local one.
        seed: of the choice of frames that a local codebook is fitted on, and of its k-means; never of noise.
    """

    def __init__(self, section: VoiceSection, public: PublicVoice, seed: int) -> None:
        self._section = section
        self._public = public
        self._seed = seed
        self._bounded = section.preset == "bounded"
        self._local = section.codebook == "local" or not self._bounded
        self._laplace = LaplaceValues(
            epsilon=section.epsilon,
            sensitivity=section.sensitivity,
            bound=section.bound if self._bounded else None,
            uses=2 if self._bounded and self._local else 1,
        )
        self._codewords: Frames | None = None if self._local else public.codebook
        """[k, coefficients] in the units of noisy values: standardised if bounded, raw if not."""
        self._fitted_frames = 0

    @classmethod
    def public_rules(cls, study: Study) -> Rules:
        """The public voice, of the study's sizes."""
        return PublicVoice.rules(study.voice.coefficients, study.voice.codebook_size)

    @classmethod
    def from_study(cls, study: Study, shared: dict[str, Array]) -> MfccQuantizer:
        """Build from the study and the public voice.

        Raises:
            StudyError: there is no public voice, or one of another size than the study says; the study wants codes.
        """
        voice, public = study.voice, PublicVoice.from_arrays(shared)
        if voice.form in CODE_FORMS:
            raise StudyError(
                f"the voice anonymizer {cls.name!r} with the form {voice.form}",
                expected="tokens, mfcc or waveform",
                fix="set `form` in [voice]",
            )
        found = public.codebook.shape
        if found != (voice.codebook_size, voice.coefficients):
            raise StudyError(
                f"a public codebook of {found[0]} codewords x {found[1]} coefficients",
                expected=f"{voice.codebook_size} x {voice.coefficients}, as the study says",
            )
        return cls(voice, public, study.seed)

    @property
    def form(self) -> str:
        """As the study wants it: tokens, mfcc or waveform."""
        return self._section.form

    @property
    def codebook(self) -> Frames | None:
        """float32 [k, coefficients] in units of MFCC; None as long as a local one is not fitted."""
        if self._codewords is None:
            return None
        return self._public.restore(self._codewords) if self._bounded else self._codewords

    def frames(self, released: Array) -> int:
        """MFCC frames behind one released array."""
        return frame_count(self.form, released)

    def fit(self, clips: Iterable[tuple[Speaker, Array]], noise: NoiseSource | None = None) -> None:
        """Fit the codebook, if it is a local one, on at most `MAX_FIT_FRAMES` noisy frames of these clips.

        Args:
            clips: as in `release`; those that cannot be used are passed over. Read once, a few at a time.
            noise: None means the operating system's, which makes the codebook another one each time.
        """
        if not self._local:
            return
        noise = SystemNoise() if noise is None else noise
        sample = FrameSample(MAX_FIT_FRAMES, self._section.coefficients, seed=self._seed)
        for batch in _batches(_usable(clip for _, clip in clips), _FIT_BATCH_CLIPS):
            for frames in mfcc_batch(batch, self._section.coefficients):
                sample.add(self._noisy(frames, noise))
        kept = sample.frames()
        self._fitted_frames = len(kept)
        if len(kept):
            self._codewords = fit_codebook(kept, self._section.codebook_size, seed=self._seed)

    @classmethod
    def strength(cls, study: Study) -> dict[str, float]:
        """Epsilon of a value as if it kept to the bound, both uses counted, and words, of which many tell values."""
        voice = study.voice
        local = voice.codebook == "local" and voice.preset == "bounded"
        epsilon = 2 * voice.bound * voice.epsilon / voice.sensitivity * (2 if local else 1)
        return {"value_epsilon": epsilon, "codebook_size": float(voice.codebook_size)}

    @classmethod
    def is_fitted(cls, study: Study) -> bool:
        """With a local codebook, which `original` always has."""
        return study.voice.codebook == "local" or study.voice.preset == "original"

    def release(
        self,
        clips: Sequence[Array],
        noise: Sequence[NoiseSource],
        speakers: Sequence[Speaker],  # noqa: ARG002
    ) -> list[Array | Exception]:
        """Released arrays of a batch, in the study's form; in the place of a clip that failed, its error."""
        out: list[Array | Exception] = [_check(clip) for clip in clips]
        usable = [index for index, clip in enumerate(out) if not isinstance(clip, Exception)]
        features = mfcc_batch([clips[index] for index in usable], self._section.coefficients)
        for index, frames in zip(usable, features, strict=True):
            try:
                out[index] = self._release(frames, noise[index])
            except Exception as error:  # fail closed: whatever went wrong, this clip has no release
                out[index] = error
        return out

    def tokens(self, frames: Frames, noise: NoiseSource) -> Array:
        """Noisy tokens of one clip's MFCC.

        Args:
            frames: [frames, coefficients]

        Returns:
            int32 [frames]

        Raises:
            ClipError: reason `no-codebook` if a local codebook is not fitted.
        """
        if self._codewords is None:
            raise ClipError("no-codebook", "no local codebook is fitted", fix="call `fit` with the site's clips first")
        return nearest(self._noisy(frames, noise), self._codewords)

    def statement(self, sizes: dict[str, list[int]], noise: Literal["system", "seeded"]) -> AnonymizerStatement:
        """Parameters and privacy from value to speaker, guaranteed and nominal."""
        section = self._section
        codebook = "local" if self._local else section.codebook
        return AnonymizerStatement(
            modality="voice",
            name=self.name,
            version=self.version,
            form=self.form,
            parameters={
                "preset": section.preset,
                "epsilon": section.epsilon,
                "sensitivity": section.sensitivity,
                "scale": self._laplace.scale,
                "bound": self._laplace.bound,
                "true_sensitivity": None if self._laplace.bound is None else 2 * self._laplace.bound,
                "codebook": codebook,
                "codebook_size": section.codebook_size,
                "coefficients": section.coefficients,
            },
            privacy=self._laplace.statements(
                sizes,
                section.coefficients,
                mechanism="Laplace on bounded MFCC values" if self._bounded else "Laplace on raw MFCC values",
                note=_NOTES[section.preset, codebook] + _LENGTH_NOTE,
            ),
            noise=noise,
            counts={"codebook_frames": self._fitted_frames} if self._local else {},
        )

    def losses(self, sizes: dict[str, list[int]]) -> dict[PrivacyUnit, tuple[Mechanism, ...]]:
        """Laplace noise on every value of the longest clip, and of all clips of the speaker who has most frames."""
        values = values_per_unit(sizes, self._section.coefficients)
        losses = {unit: self._laplace.loss(values[unit], unit) for unit in LEDGER_UNITS}
        return {unit: () if loss is None else (loss,) for unit, loss in losses.items()}

    @classmethod
    def planned_losses(cls, study: Study, sizes: dict[str, list[int]]) -> dict[PrivacyUnit, tuple[Mechanism, ...]]:
        """Public statistics change none of them."""
        voice = study.voice
        nothing = np.zeros(voice.coefficients, np.float32)
        words = np.zeros((voice.codebook_size, voice.coefficients), np.float32)
        return cls(voice, PublicVoice(nothing, nothing + 1, words), study.seed).losses(sizes)

    def _noisy(self, frames: Frames, noise: NoiseSource) -> Frames:
        drawn = noise.laplace(self._laplace.scale, frames.shape)
        bound = self._laplace.bound
        if bound is None:
            return np.asarray(frames + drawn, np.float32)
        inside = bounded(self._public.standardise(frames), bound)
        return np.asarray(bounded(inside + drawn, bound), np.float32)

    def _release(self, frames: Frames, noise: NoiseSource) -> Array:
        tokens = self.tokens(frames, noise)
        if self.form == "tokens":
            return tokens
        centroids: Frames = self.codebook[tokens]  # type: ignore[index]  # `tokens` saw that there is one
        return centroids if self.form == "mfcc" else as_waveform("mfcc", centroids)


def _check(clip: Array) -> Array | Exception:
    try:
        return check_samples(clip)
    except ClipError as error:
        return error


def _usable(clips: Iterable[Array]) -> Iterable[Array]:
    return (clip for clip in map(_check, clips) if not isinstance(clip, Exception))


def _batches(clips: Iterable[Array], size: int) -> Iterable[list[Array]]:
    batch: list[Array] = []
    for clip in clips:
        batch.append(clip)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
