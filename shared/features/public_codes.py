"""Codes of whole clips that anybody could have made: where in a space learned on synthetic speech a clip lies.

A budget for a whole clip buys a few bits, so a clip must be described in few numbers: its MFCC are pooled over the
clip, and projected to where the emotions of synthetic speech differ most. No site's clip takes part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from moretta.shared.core.array_types import Array, Float32, Float64
from moretta.shared.features.mfcc import Frames, mfcc_batch
from moretta.shared.features.public_speech import PublicVoice, labelled_speech
from moretta.shared.features.voice_forms import fit_codebook, nearest
from moretta.shared.privacy.noise import bounded
from moretta.shared.study.public_arrays import LEAST_SPREAD, Rule, Rules, taken

Matrix = Float32
Vector = Float32

DIMENSIONS = 3
"""Six emotions differ in five directions at most. On other synthetic voices, models learned most at epsilon 2 to 8 from
three: the last two add less than they cost."""
VOICES = 48
FRAME_LIMIT, VECTOR_LIMIT = 3.0, 4.0
"""Largest values of frames, and of pooled vectors, in public standard deviations; larger ones are cut."""
_SHRINKAGE = 0.3
_PRIOR_CLIPS = 2.0
"""A speaker's own statistics count as if so many clips of public speech were among the speaker's."""
_LARGEST_WEIGHT = 1e6
CODEWORDS = "voice/codes/codewords"
_NAMES = (*(f"voice/codes/{name}" for name in ("center", "spread", "projection")), CODEWORDS)


def pooled(frames: Frames, voice: PublicVoice, segments: int) -> Matrix:
    """Mean and deviation of standardised MFCC [frames, n] over each of the equal parts of a clip, [segments, 2 n].

    A shorter clip is stretched to as many frames.
    """
    inside = bounded(voice.standardise(frames), FRAME_LIMIT).astype(np.float32)
    inside = np.repeat(inside, -(-segments // len(inside)), axis=0)
    parts = [np.concatenate([part.mean(axis=0), part.std(axis=0)]) for part in np.array_split(inside, segments)]
    return np.asarray(parts, np.float32)


@dataclass(frozen=True, slots=True)
class SpeakerUnits:
    """Mean and deviation of a speaker's clips, [d], drawn towards public speech where there are few clips."""

    mean: Vector
    std: Vector

    @classmethod
    def of(cls, vectors: Array) -> Self:
        """Units from pooled vectors [n, d] in public units, whose mean is 0 and whose deviation is 1 in public."""
        weight = len(vectors) + _PRIOR_CLIPS
        mean = vectors.sum(axis=0) / weight
        square = (np.square(vectors - mean).sum(axis=0) + _PRIOR_CLIPS * (1 + np.square(mean))) / weight
        return cls(mean.astype(np.float32), np.sqrt(square).astype(np.float32))

    def apply(self, vectors: Array) -> Matrix:
        """Vectors in this speaker's own deviations from the speaker's own mean."""
        return bounded((vectors - self.mean) / self.std, VECTOR_LIMIT).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class PublicCodes:
    """Pooled vectors [2 n] to codes [d], each of their values with deviation 1 in public speech.

    Of `projection` [2 n, d] the first directions separate emotions most; `codewords` [k, d] are a codebook of codes.
    """

    center: Vector
    spread: Vector
    projection: Matrix
    codewords: Matrix

    def vectors(self, pooled_clip: Array) -> Matrix:
        """Pooled vectors in public units, cut to +- `VECTOR_LIMIT`."""
        return bounded((pooled_clip - self.center) / self.spread, VECTOR_LIMIT).astype(np.float32)

    def codes(self, vectors: Array) -> Float64:
        """[segments, 2 n] in public units, or a speaker's own -> float64 [segments, d], finite."""
        return bounded(vectors, VECTOR_LIMIT) @ self.projection.astype(np.float64)

    def tokens(self, codes: Array) -> npt.NDArray[np.int32]:
        """The nearest codewords, int32 [segments]."""
        return nearest(codes, self.codewords)

    def to_arrays(self) -> dict[str, Array]:
        """The arrays by name, as the coordinator sends them."""
        return dict(zip(_NAMES, (self.center, self.spread, self.projection, self.codewords), strict=True))

    @classmethod
    def rules(cls, coefficients: int | None = None) -> Rules:
        """Rules for the arrays, by name: type, shape and bounds."""
        width: int | str = "pooled" if coefficients is None else 2 * coefficients
        spread = Rule((width,), 2 * FRAME_LIMIT, LEAST_SPREAD)
        weights = (Rule((width, "values"), _LARGEST_WEIGHT), Rule(("words", "values"), _LARGEST_WEIGHT))
        return dict(zip(_NAMES, (Rule((width,), 2 * FRAME_LIMIT), spread, *weights), strict=True))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """Check and take what the coordinator sent. Errors: see `public_arrays.named`."""
        return cls(*taken(arrays, cls.rules()))


def make_public_codes(
    voice: PublicVoice, *, size: int, segments: int, per_speaker: bool, seed: int, voices: int = VOICES
) -> PublicCodes:
    """Learn codes and `size` codewords on synthetic speech, whose emotions are known.

    Args:
        per_speaker: whether vectors will be in the speaker's own units.
        seed: of the speech and the codebook. Not secret.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    clips, speakers, emotions = zip(*labelled_speech(voices, seed), strict=True)
    frames = mfcc_batch(list(clips), len(voice.mean))
    raw = np.concatenate([pooled(f, voice, segments) for f in frames])  # [clips * segments, 2 n]
    whose, labels = (np.repeat(np.array(values), segments) for values in (speakers, emotions))
    center, spread = raw.mean(axis=0), np.maximum(raw.std(axis=0), 1e-3)
    vectors = np.clip((raw - center) / spread, -VECTOR_LIMIT, VECTOR_LIMIT)
    for speaker in np.unique(whose) if per_speaker else ():
        own = vectors[whose == speaker]
        vectors[whose == speaker] = SpeakerUnits.of(own).apply(own)
    # Linear discriminants, the within-class covariance shrunk, scaled to a deviation of 1.
    fitted = LinearDiscriminantAnalysis(solver="eigen", shrinkage=_SHRINKAGE).fit(vectors, labels)
    directions = fitted.scalings_[:, :DIMENSIONS]
    projection = np.asarray(directions / (vectors @ directions).std(axis=0), np.float32)
    codewords = fit_codebook(vectors @ projection, size, seed=seed)
    return PublicCodes(center.astype(np.float32), spread.astype(np.float32), projection, codewords)
