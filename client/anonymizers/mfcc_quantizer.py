"""The DP MFCC quantizer: MFCC -> bounds -> Laplace noise -> nearest codeword -> tokens -> MFCC -> waveform."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
from pydantic import Field

from moretta.client.anonymizers.planned_losses import PlannedAnonymizer
from moretta.client.anonymizers.voice_baselines import usable
from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.core.terms import PrivacyStatement
from moretta.shared.features.mfcc import Frames, check_samples, mfcc_batch
from moretta.shared.features.public_speech import MfccOptions, PublicVoice
from moretta.shared.features.voice_forms import FrameSample, as_waveform, fit_codebook, nearest
from moretta.shared.privacy.local_mechanisms import LaplaceValues, values_per_unit
from moretta.shared.privacy.noise import NoiseSource, bounded
from moretta.shared.release.anonymizer import LEDGER_UNITS, Arrays, Losses, Notify, Sizes, Speaker, anonymizer
from moretta.shared.study.public_arrays import Rules
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import Computable, Epsilon

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


class QuantizerOptions(MfccOptions):
    """Options that a study may set."""

    preset: Literal["bounded", "original"] = "bounded"
    """`bounded`: the guarantee is for a value. `original`: as the first project did it, without a finite guarantee."""
    epsilon: Epsilon = 0.8
    """Nominal epsilon per MFCC value."""
    sensitivity: Computable = 0.5
    """Nominal sensitivity per MFCC value: the Laplace scale is sensitivity / epsilon."""
    bound: Computable = 3.0
    """Preset `bounded`: coefficients are clipped to +- this many public standard deviations."""
    codebook: Literal["public", "local"] = "public"
    """The codebook is fitted on public speech, or on noisy values at the site."""
    codebook_size: int = Field(default=64, ge=2, le=4096)
    """Number of codewords."""

    @property
    def is_bounded(self) -> bool:
        """Whether values have bounds."""
        return self.preset == "bounded"

    @property
    def fitted_on(self) -> Literal["public", "local"]:
        """Place where the codebook is fitted. The original one is always local."""
        return self.codebook if self.is_bounded else "local"

    def laplace(self) -> LaplaceValues:
        """The noise on every value."""
        bound = self.bound if self.is_bounded else None
        uses = 2 if self.is_bounded and self.fitted_on == "local" else 1
        return LaplaceValues(epsilon=self.epsilon, sensitivity=self.sensitivity, bound=bound, uses=uses)


@anonymizer("mfcc-quantizer", modality="voice", version="1")
class MfccQuantizer(PlannedAnonymizer[QuantizerOptions]):
    """Laplace noise on every MFCC value, then the nearest of k codewords.

    Preset `bounded`: coefficients are standardized by public statistics and clipped to +- bound, so one value moves by
    at most 2 x bound whatever was said. After the noise they are clipped to the same range again, and the codebook is
    public. Steps after the noise process noisy values only, so they cost nothing.

    Preset `original`, as the first project did it: noise of the same scale on raw MFCC, whose values have no bound,
    and a codebook fitted on the same clips. It guarantees nothing finite and its statement says so.

    A `local` codebook is fitted on noisy values too, never on raw ones. They are drawn anew in `fit`, since the noise
    of a release belongs to its clips one by one: two mechanisms read every value, and under `bounded` the statement
    counts both.

    Args:
        public: statistics and codebook of public speech.
        seed: of the choice of frames that a local codebook is fitted on, and of its k-means; never of noise.
    """

    Options = QuantizerOptions
    forms = ("mfcc", "tokens", "waveform")
    not_from_options = frozenset({"codebook", "bound"})
    public_options = frozenset({"coefficients", "codebook_size", "public_speech"})

    def __init__(self, options: QuantizerOptions, form: str, public: PublicVoice, seed: int) -> None:
        super().__init__(options, form)
        self._public, self._seed, self._laplace = public, seed, options.laplace()
        self._is_local = options.fitted_on == "local"
        self._codewords: Frames | None = None if self._is_local else public.codebook
        """[k, coefficients] in the units of noisy values: standardized if bounded, raw if not."""
        self._fitted_frames = 0

    @classmethod
    def prepare_public(cls, study: Study, notify: Notify) -> Arrays:
        """Statistics and codebook of public speech."""
        notify("measuring public speech")
        options = cls.options_of(study)
        return options.public_voice(options.codebook_size).to_arrays()

    @classmethod
    def public_rules(cls, study: Study) -> Rules:
        """The same, of the study's sizes."""
        options = cls.options_of(study)
        return PublicVoice.rules(options.coefficients, options.codebook_size)

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> MfccQuantizer:
        """Build from the study and the public voice. Errors: StudyError if it is missing, or of another size."""
        options, voice = cls.options_of(study), PublicVoice.from_arrays(public, codebook=True)
        assert voice.codebook is not None
        found, expected = voice.codebook.shape, (options.codebook_size, options.coefficients)
        if found != expected:
            raise StudyError(
                f"a public codebook of {found[0]} codewords x {found[1]} coefficients",
                expected=f"{expected[0]} x {expected[1]}, as the study says",
            )
        return cls(options, study.voice.form, voice, study.seed)

    @property
    def codebook(self) -> Frames | None:
        """float32 [k, coefficients] in units of MFCC; None as long as a local one is not fitted."""
        if self._codewords is None or not self._options.is_bounded:
            return self._codewords
        return self._public.restore(self._codewords)

    def fit(self, clips: Iterable[tuple[Speaker, Array]], noise: NoiseSource) -> None:
        """Fit the codebook, if it is a local one, on at most `MAX_FIT_FRAMES` noisy frames of the usable clips."""
        if not self._is_local:
            return
        sample = FrameSample(MAX_FIT_FRAMES, self._options.coefficients, seed=self._seed)
        samples_of_clips = (samples for _, samples in usable(clips))
        while batch := list(islice(samples_of_clips, _FIT_BATCH_CLIPS)):
            for frames in mfcc_batch(batch, self._options.coefficients):
                sample.add(self._noisy(frames, noise))
        kept = sample.frames()
        self._fitted_frames = len(kept)
        if len(kept):
            self._codewords = fit_codebook(kept, self._options.codebook_size, seed=self._seed)

    @classmethod
    def is_fitted(cls, study: Study) -> bool:
        """Whether the codebook is local."""
        return cls.options_of(study).fitted_on == "local"

    def release(
        self,
        clips: Sequence[Array],
        noise: Sequence[NoiseSource],
        speakers: Sequence[Speaker],  # noqa: ARG002
    ) -> list[Array | Exception]:
        """Released arrays of a batch, whose MFCC are computed together; an error for a clip that failed."""
        out: list[Array | Exception] = [_checked(clip) for clip in clips]
        right = [index for index, clip in enumerate(out) if not isinstance(clip, Exception)]
        features = mfcc_batch([out[index] for index in right], self._options.coefficients)  # type: ignore[misc]
        for index, frames in zip(right, features, strict=True):
            try:
                out[index] = self._released(frames, noise[index])
            except Exception as error:  # fail closed: whatever went wrong, this clip has no release
                out[index] = error
        return out

    def tokens(self, frames: Frames, noise: NoiseSource) -> Array:
        """Noisy tokens of one clip's MFCC [frames, coefficients], int32 [frames]; a ClipError without a codebook."""
        if self._codewords is None:
            raise ClipError("no-codebook", "no local codebook is fitted", fix="call `fit` with the site's clips first")
        return nearest(self._noisy(frames, noise), self._codewords)

    def parameters(self) -> dict[str, Any]:
        """How the noise was made, and of what the tokens are."""
        options, scale, bound = self._options, self._laplace.scale, self._laplace.bound
        return {
            "preset": options.preset,
            "epsilon": options.epsilon,
            "sensitivity": options.sensitivity,
            "scale": scale,
            "bound": bound,
            "true_sensitivity": None if bound is None else 2 * bound,
            "codebook": options.fitted_on,
            "codebook_size": options.codebook_size,
            "coefficients": options.coefficients,
        }

    def privacy(self, sizes: Sizes) -> tuple[PrivacyStatement, ...]:
        """Guaranteed and nominal epsilon for each unit, from value to speaker."""
        options = self._options
        return self._laplace.statements(
            sizes,
            options.coefficients,
            mechanism="Laplace on bounded MFCC values" if options.is_bounded else "Laplace on raw MFCC values",
            note=_NOTES[options.preset, options.fitted_on] + _LENGTH_NOTE,
        )

    def counts(self) -> dict[str, int]:
        """Frames that a local codebook was fitted on."""
        return {"codebook_frames": self._fitted_frames} if self._is_local else {}

    @classmethod
    def losses_of(cls, options: QuantizerOptions, sizes: Sizes) -> Losses:
        """Laplace noise on every value of the longest clip, and of all clips of the speaker with most frames."""
        values, laplace = values_per_unit(sizes, options.coefficients), options.laplace()
        losses = {unit: laplace.loss(values[unit], unit) for unit in LEDGER_UNITS}
        return {unit: () if loss is None else (loss,) for unit, loss in losses.items()}

    @classmethod
    def strength(cls, study: Study) -> dict[str, float]:
        """Epsilon of a value as if it kept to the bound, all uses counted; and codewords: many show a value."""
        options = cls.options_of(study)
        epsilon = 2 * options.bound * options.epsilon / options.sensitivity * options.laplace().uses
        return {"value_epsilon": epsilon, "codebook_size": float(options.codebook_size)}

    @classmethod
    def fewest_clips(cls, study: Study) -> int:
        """Codewords of a local codebook: one that stands for less than a clip would almost be a copy of it."""
        options = cls.options_of(study)
        return options.codebook_size if options.fitted_on == "local" else 1

    def _noisy(self, frames: Frames, noise: NoiseSource) -> Frames:
        drawn = noise.laplace(self._laplace.scale, frames.shape)
        bound = self._laplace.bound
        if bound is None:
            return np.asarray(frames + drawn, np.float32)
        inside = bounded(self._public.standardise(frames), bound)
        return np.asarray(bounded(inside + drawn, bound), np.float32)

    def _released(self, frames: Frames, noise: NoiseSource) -> Array:
        tokens = self.tokens(frames, noise)
        if self.form == "tokens":
            return tokens
        centroids: Frames = self.codebook[tokens]  # type: ignore[index]  # `tokens` saw that there is one
        return centroids if self.form == "mfcc" else as_waveform("mfcc", centroids)


def _checked(clip: Array) -> Array | Exception:
    try:
        return check_samples(clip)
    except ClipError as error:
        return error
