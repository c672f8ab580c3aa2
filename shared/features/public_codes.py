"""Codes of whole clips that anybody could have made: where in a space learnt on synthetic speech a clip lies.

A budget for a whole clip buys a few bits, so a clip must be told in as few numbers as can be: its MFCC are pooled over
the clip, and projected to where the emotions of synthetic speech differ most. No site's clip is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from moretta.shared.features.codebook import fit_codebook, nearest
from moretta.shared.features.mfcc import Frames, mfcc_batch
from moretta.shared.features.public_speech import PublicVoice, labelled_speech
from moretta.shared.privacy.noise import bounded
from moretta.shared.study.public_arrays import LEAST_SPREAD, Rule, Rules, taken

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float32]

DIMENSIONS = 3
"""Six emotions differ in five directions at most. On other synthetic voices, models learnt most at epsilon 2 to 8 from
three: the last two tell less than they cost."""
VOICES = 48
FRAME_LIMIT, VECTOR_LIMIT = 3.0, 4.0
"""In public standard deviations: what frames, and pooled vectors, are cut to."""
_SHRINKAGE = 0.3
_PRIOR_CLIPS = 2.0
"""A speaker's own statistics count as if so many clips of public speech were among the speaker's."""
_LARGEST_WEIGHT = 1e6
_NAMES = ("center", "spread", "projection", "codewords")
CODEWORDS = "voice/codes/codewords"


def pooled(frames: Frames, voice: PublicVoice, segments: int) -> Matrix:
    """Mean and deviation of standardised MFCC over each part of a clip, [segments, 2 n].

    Args:
        frames: [frames, n] MFCC of one clip.
        voice: public statistics.
        segments: parts of equal length; a shorter clip is stretched to as many frames.
    """
    inside = bounded(voice.standardise(frames), FRAME_LIMIT).astype(np.float32)
    inside = np.repeat(inside, -(-segments // len(inside)), axis=0)
    parts = [np.concatenate([part.mean(axis=0), part.std(axis=0)]) for part in np.array_split(inside, segments)]
    return np.asarray(parts, np.float32)


@dataclass(frozen=True, slots=True)
class SpeakerUnits:
    """What a speaker's clips have in common, drawn towards public speech where there are few of them."""

    mean: Vector
    std: Vector

    @classmethod
    def of(cls, vectors: npt.NDArray[Any]) -> Self:
        """From pooled vectors [n, d] in public units, whose mean is 0 and whose deviation is 1 in public."""
        weight = len(vectors) + _PRIOR_CLIPS
        mean = vectors.sum(axis=0) / weight
        square = (np.square(vectors - mean).sum(axis=0) + _PRIOR_CLIPS * (1 + np.square(mean))) / weight
        return cls(mean.astype(np.float32), np.sqrt(square).astype(np.float32))

    def apply(self, vectors: npt.NDArray[Any]) -> Matrix:
        """Vectors in this speaker's own deviations from the speaker's own mean."""
        return bounded((vectors - self.mean) / self.std, VECTOR_LIMIT).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class PublicCodes:
    """Pooled vectors to codes: [2 n] -> [d], each of its values with deviation 1 in public speech."""

    center: Vector
    """[2 n], of pooled vectors of public speech."""
    spread: Vector
    """[2 n], positive."""
    projection: Matrix
    """[2 n, d]; the first directions tell most."""
    codewords: Matrix
    """[k, d]: a codebook of codes."""

    def vectors(self, pooled_clip: npt.NDArray[Any]) -> Matrix:
        """Pooled vectors in public units, cut to +- `VECTOR_LIMIT`."""
        return bounded((pooled_clip - self.center) / self.spread, VECTOR_LIMIT).astype(np.float32)

    def codes(self, vectors: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """[segments, 2 n] in public units, or a speaker's own -> float64 [segments, d], finite."""
        return bounded(vectors, VECTOR_LIMIT) @ self.projection.astype(np.float64)

    def tokens(self, codes: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """The nearest words, int32 [segments]."""
        return nearest(codes, self.codewords)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """As the coordinator sends it."""
        return {f"voice/codes/{name}": getattr(self, name) for name in _NAMES}

    @classmethod
    def rules(cls, coefficients: int | None = None, size: int | str = "words") -> Rules:
        """What each array may be."""
        pooled_size: int | str = "pooled" if coefficients is None else 2 * coefficients
        rules = (
            Rule((pooled_size,), 2 * FRAME_LIMIT),
            Rule((pooled_size,), 2 * FRAME_LIMIT, LEAST_SPREAD),
            Rule((pooled_size, "values"), _LARGEST_WEIGHT),
            Rule((size, "values"), _LARGEST_WEIGHT),
        )
        return {f"voice/codes/{name}": rule for name, rule in zip(_NAMES, rules, strict=True)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Check and take what the coordinator sent.

        Raises:
            StudyError: an array is missing, of another shape, or holds values that cannot be.
        """
        return cls(*taken(arrays, cls.rules()))


def make_public_codes(
    voice: PublicVoice, *, size: int, segments: int, per_speaker: bool, seed: int, voices: int = VOICES
) -> PublicCodes:
    """Learn codes on synthetic speech, whose emotions are known.

    Args:
        voice: public statistics of MFCC.
        size: words of the codebook.
        segments: parts of a clip.
        per_speaker: whether vectors will be in the speaker's own units.
        seed: of the speech and the codebook. Not secret.
        voices: each says one sentence in each emotion.
    """
    clips, speakers, emotions = zip(*labelled_speech(voices, seed), strict=True)
    frames = mfcc_batch(list(clips), len(voice.mean))
    raw = np.concatenate([pooled(f, voice, segments) for f in frames])  # [clips * segments, 2 n]
    whose, labels = (np.repeat(np.array(values), segments) for values in (speakers, emotions))
    center, spread = raw.mean(axis=0), np.maximum(raw.std(axis=0), 1e-3)
    vectors = np.clip((raw - center) / spread, -VECTOR_LIMIT, VECTOR_LIMIT)
    if per_speaker:
        vectors = _in_speaker_units(vectors, whose)
    projection = _emotion_directions(vectors, labels)
    codewords = fit_codebook(vectors @ projection, size, seed=seed)
    return PublicCodes(center.astype(np.float32), spread.astype(np.float32), projection, codewords)


def _in_speaker_units(vectors: npt.NDArray[Any], whose: Iterable[int]) -> npt.NDArray[Any]:
    owners = np.asarray(whose)
    own = np.empty_like(vectors)
    for speaker in np.unique(owners):
        mine = owners == speaker
        own[mine] = SpeakerUnits.of(vectors[mine]).apply(vectors[mine])
    return own


def _emotion_directions(vectors: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Matrix:
    """[2 n, d]: linear discriminants, the within-class covariance shrunk, scaled to a deviation of 1."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    fitted = LinearDiscriminantAnalysis(solver="eigen", shrinkage=_SHRINKAGE).fit(vectors, labels)
    directions = fitted.scalings_[:, :DIMENSIONS]
    return np.asarray(directions / (vectors @ directions).std(axis=0), np.float32)
