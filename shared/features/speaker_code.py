"""The code of a voice relative to its person: learned on public speech, the same for everybody.

Of directions, the first are discriminants of the emotions (Fisher), of which six have five; further values are
principal components of what these leave. A network has hidden units, and directions in these: it is trained in
`moretta.shared.models.speaker_net`. Nothing here has seen a clip of any site; where a study has sites train directions
(`federated_encoder`), they start from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from moretta.shared.core.array_types import Array, Float32, Float64, Int64
from moretta.shared.core.errors import StudyError
from moretta.shared.core.reproducibility import derive
from moretta.shared.features.mfcc import Audio
from moretta.shared.features.prosodic_features import MEASUREMENTS, delivery_batch, speech_windows
from moretta.shared.features.public_speech import Recording, Whose, public_speakers
from moretta.shared.features.speaker_normalization import SpeakerRanks, SpeakerWhitening
from moretta.shared.features.voice_forms import fit_codebook
from moretta.shared.privacy.noise import bounded
from moretta.shared.study.public_arrays import LARGEST, LEAST_SPREAD, PUBLIC_SEED, Rule, Rules, named

Matrix = Float32

CODE_LIMIT = 3.0
"""Largest distance of a code's value from 0."""
MIN_SPREAD = 1e-3
MAX_ROUNDS = 1_000
"""Largest weight or measurement."""
_SHRINKAGE = 0.3
_BATCH = 16
_PREFIX = "voice/speaker/"
SPREAD, PROJECTION, CODEWORDS, ROUNDS = (_PREFIX + n for n in ("spread", "projection", "codewords", "rounds"))
HIDDEN_WEIGHT, HIDDEN_BIAS = _PREFIX + "hidden-weight", _PREFIX + "hidden-bias"


@dataclass(frozen=True, slots=True, eq=False)
class HiddenLayer:
    """Rectified linear units (Nair and Hinton, ICML 2010), weight [n, h] and bias [h], applied without torch."""

    weight: Matrix
    bias: Float32

    def __call__(self, values: Array) -> Float64:
        """[m, n] -> [m, h], none below 0."""
        return np.maximum(np.asarray(values, np.float64) @ self.weight + self.bias, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class SpeakerCode:
    """The map from measurements relative to the person to a code."""

    spread: Float32
    """[n], of the measurements: public standard deviations within a person."""
    projection: Matrix
    """[n, d], so that public codes have unit covariance within a person; or [h, d] of h hidden units, as a network has
    learned it: what varies little there is whitened little, and noise exceeds it."""
    codewords: Matrix
    """[k, d], a codebook of codes."""
    rounds: int = 0
    """Rounds of training at the sites; 0 means that it was trained on public speech alone."""
    hidden: HiddenLayer | None = None
    """Hidden layer of a network; None where codes are made of the measurements themselves."""

    @property
    def size(self) -> int:
        """Values in a code."""
        return int(self.projection.shape[1])

    def raw(self, places: Float64) -> Float64:
        """Places [m, n] relative to the person to codes [m, d], of which nothing was taken away yet."""
        units = np.asarray(places if self.hidden is None else self.hidden(places), np.float64)
        return units @ self.projection.astype(np.float64)

    def to_arrays(self) -> dict[str, Array]:
        """The arrays by name, as the coordinator sends them."""
        arrays: dict[str, Array] = {SPREAD: self.spread, PROJECTION: self.projection}
        arrays[CODEWORDS] = self.codewords
        if self.rounds:
            arrays[ROUNDS] = np.array([self.rounds], np.int64)
        if self.hidden is not None:
            arrays |= {HIDDEN_WEIGHT: self.hidden.weight, HIDDEN_BIAS: self.hidden.bias}
        return arrays

    @classmethod
    def rules(cls, size: int | str = "values", *, is_network: bool) -> Rules:
        """Rules for the arrays, by name: type, shape and bounds."""
        width = len(MEASUREMENTS)
        hidden = {HIDDEN_WEIGHT: Rule((width, "units"), LARGEST), HIDDEN_BIAS: Rule(("units",), LARGEST)}
        return {
            SPREAD: Rule((width,), LARGEST, LEAST_SPREAD),
            **(hidden if is_network else {}),
            PROJECTION: Rule(("units" if is_network else width, size), LARGEST),
            CODEWORDS: Rule(("words", size), CODE_LIMIT + 1e-3),
            ROUNDS: Rule((1,), MAX_ROUNDS, 0, dtype="int64", optional=True),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """Check and take what the coordinator sent. Errors: see `public_arrays.named`."""
        is_network = HIDDEN_WEIGHT in arrays or HIDDEN_BIAS in arrays
        found = named(arrays, cls.rules(is_network=is_network))
        rounds = int(found[ROUNDS][0]) if ROUNDS in found else 0
        hidden = HiddenLayer(found[HIDDEN_WEIGHT], found[HIDDEN_BIAS]) if is_network else None
        return cls(found[SPREAD], found[PROJECTION], found[CODEWORDS], rounds, hidden)


@dataclass(frozen=True)
class CodeReference:
    """All that codes of one person are relative to. It is made of the person's clips and never leaves the site."""

    ranks: SpeakerRanks
    whitening: SpeakerWhitening
    code: SpeakerCode

    @classmethod
    def of(
        cls,
        values: Array,
        weights: Array,
        code: SpeakerCode,
        *,
        counts: Array | None = None,
        shift: Array | float = 0.0,
    ) -> CodeReference:
        """The reference of measurements [clips, n] and weights [clips]; for the rest see `SpeakerWhitening.of`."""
        ranks = SpeakerRanks.of(values, weights, code.spread)
        codes = code.raw(ranks(values))
        if code.hidden is not None:  # a network's codes have no unit covariance: the mean is as uncertain as they vary
            variances, vectors = np.linalg.eigh(np.cov(codes.T, ddof=0))
            shift = (vectors * np.sqrt(np.maximum(variances, 0.0)) @ vectors.T) @ np.broadcast_to(shift, code.size)
        return cls(ranks, SpeakerWhitening.of(codes, weights, counts=counts, shift=shift), code)

    def __call__(self, values: Array) -> Float64:
        """[m, n] of this person's clips, known or new, to codes [m, d] within +- `CODE_LIMIT`."""
        return bounded(self.whitening(self.code.raw(self.ranks(values))), CODE_LIMIT)


class PublicRows(NamedTuple):
    """Measurements of public speech [rows, n], a row for each clip or step, with its person and its emotion."""

    values: Array
    person: npt.NDArray[np.str_]
    emotion: Int64
    sex: npt.NDArray[np.str_]
    """`female`, `male`, or empty where it is not known."""

    @classmethod
    def of(cls, values: Array, whose: Sequence[Whose]) -> Self:
        """Rows, and whose each is."""
        person, emotion, sex = zip(*whose, strict=True) if whose else ((), (), ())
        return cls(values, np.array(person), np.array(emotion, np.int64), np.array(sex, np.str_))

    def groups(self) -> list[Int64]:
        """Rows of each person."""
        return [np.flatnonzero(self.person == one) for one in np.unique(self.person)]

    def spread(self) -> Float32:
        """[n], standard deviations within a person."""
        centred = np.concatenate([self.values[rows] - self.values[rows].mean(axis=0) for rows in self.groups()])
        return np.asarray(np.maximum(centred.std(axis=0), MIN_SPREAD), np.float32)

    def places(self) -> Float64:
        """[rows, n], ranks within the person as places of a Gaussian."""
        places, spread = np.empty_like(self.values), self.spread()
        for rows in self.groups():
            places[rows] = SpeakerRanks.of(self.values[rows], np.ones(len(rows)), spread)(self.values[rows])
        return places


def measured(clips: Iterable[Audio], *, in_windows: bool) -> list[Matrix]:
    """float32 [1, n] of each clip, or [steps, n]: see `moretta.shared.features.prosodic_features`."""
    parts = [speech_windows(clip) if in_windows else [clip] for clip in clips]
    rows = iter(delivery_batch([part for steps in parts for part in steps]))
    return [np.stack([next(rows) for _ in steps]) for steps in parts]


def measured_clip(samples: Audio, *, in_windows: bool) -> Matrix:
    """Bounded measurements of one clip at a site; zeros where measuring fails, so that no content drops a clip."""
    try:
        (rows,) = measured([samples], in_windows=in_windows)
    except Exception:
        rows = np.zeros((len(speech_windows(samples)) if in_windows else 1, len(MEASUREMENTS)), np.float32)
    return bounded(rows, LARGEST).astype(np.float32)


def public_rows(people: Iterable[Recording], *, in_windows: bool) -> PublicRows:
    """Measure public speech, see `measured`."""
    values: list[Float64] = [np.empty((0, len(MEASUREMENTS)))]
    whose: list[Whose] = []
    clips = iter(people)
    while batch := list(islice(clips, _BATCH)):
        for one, rows in zip(batch, measured([one.samples for one in batch], in_windows=in_windows), strict=True):
            values.append(rows.astype(np.float64))
            whose += [one.whose] * len(rows)
    return PublicRows.of(np.concatenate(values), whose)


def measured_public_speech(folder: Path | None, *, in_windows: bool) -> PublicRows:
    """Measurements of the public speech that speaker codes and emotion labelers are trained on."""
    return _measured_public_speech(derive(PUBLIC_SEED, "speaker code"), folder, in_windows)


@lru_cache(maxsize=1)  # training at the sites needs the rows of the public code again
def _measured_public_speech(seed: int, folder: Path | None, in_windows: bool) -> PublicRows:
    return public_rows(public_speakers(folder, seed), in_windows=in_windows)


def train_speaker_code(
    rows: PublicRows, *, size: int, codebook_size: int, seed: int, network_noise: float | None = None
) -> SpeakerCode:
    """Learn a code of `size` values on public speech; a StudyError if it has too few rows, or people for a network.

    Args:
        seed: of the codebook and the network. Not secret.
        network_noise: of a network to be trained, the deviation of the noise that its codes will be released with; None
            makes the code of directions.
    """
    least = max(codebook_size, size)
    if len(rows.values) <= least:
        raise StudyError(f"{len(rows.values)} rows of public speech", expected=f"more than {least}")
    places = rows.places()
    if network_noise is None:
        return code_along(rows, _directions(places, rows.emotion, size), codebook_size=codebook_size, seed=seed)
    from moretta.shared.models.speaker_net import train_speaker_net

    hidden, learned = train_speaker_net(places, rows.person, rows.emotion, size=size, noise=network_noise, seed=seed)
    code = SpeakerCode(rows.spread(), learned.astype(np.float32), np.zeros((2, size), np.float32), hidden=hidden)
    return _with_codewords(code, rows, codebook_size, seed)


def code_along(rows: PublicRows, directions: Array, *, codebook_size: int, seed: int, rounds: int = 0) -> SpeakerCode:
    """The code along directions [n, d] that `rounds` of training at the sites found, with a codebook.

    The directions are turned as little as can be, so that codes have unit covariance within a person on average.
    """
    exact = np.asarray(directions, np.float64)
    codes = rows.places() @ exact
    covariance = np.mean([np.cov(codes[mine].T, ddof=0) for mine in rows.groups()], axis=0).reshape(codes.shape[1], -1)
    values, vectors = np.linalg.eigh(covariance)
    projection = (exact @ (vectors / np.sqrt(np.maximum(values, 1e-9)) @ vectors.T)).astype(np.float32)
    code = SpeakerCode(rows.spread(), projection, np.zeros((2, projection.shape[1]), np.float32), rounds)
    return _with_codewords(code, rows, codebook_size, seed)


def _with_codewords(code: SpeakerCode, rows: PublicRows, codebook_size: int, seed: int) -> SpeakerCode:
    groups = [rows.values[mine] for mine in rows.groups()]
    codes = np.concatenate([CodeReference.of(own, np.ones(len(own)), code)(own) for own in groups])
    return replace(code, codewords=fit_codebook(codes, codebook_size, seed=seed))


def _directions(places: Float64, emotion: Int64, size: int) -> Float64:
    """[n, size]: discriminants, then principal components of what lies beside them."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    found: Float64 = np.empty((places.shape[1], 0))
    if len(np.unique(emotion)) > 1:
        fitted = LinearDiscriminantAnalysis(solver="eigen", shrinkage=_SHRINKAGE).fit(places, emotion)
        found = fitted.scalings_[:, : min(size, len(fitted.classes_) - 1)]
    basis = np.linalg.qr(found)[0]
    rest = places - places @ basis @ basis.T
    vectors = np.linalg.eigh(np.cov(rest.T))[1][:, ::-1]
    return np.hstack([found, vectors[:, : size - found.shape[1]]])
