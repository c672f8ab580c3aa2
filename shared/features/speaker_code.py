"""The code of a voice that is told relative to its person: learnt on public speech, the same for everybody.

Of directions, the first are discriminants of the emotions (Fisher), of which six have five; what more values are asked
for are principal components of what these leave. A network has hidden units, and directions in these: it is trained in
`moretta.shared.models.speaker_net`. Nothing here has seen a clip of any site; where a study has
sites train directions (`taught_code`), they start from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from moretta.shared.core.errors import StudyError
from moretta.shared.core.reproducibility import derive
from moretta.shared.features.codebook import fit_codebook
from moretta.shared.features.hidden_layer import HiddenLayer
from moretta.shared.features.mfcc import Audio
from moretta.shared.features.prosodic_features import MEASUREMENTS, delivery_batch, speech_windows
from moretta.shared.features.public_speech import Recording, public_recordings
from moretta.shared.features.speaker_normalization import SpeakerRanks, SpeakerWhitening
from moretta.shared.privacy.noise import bounded
from moretta.shared.study.public_arrays import LEAST_SPREAD, PUBLIC_SEED, Rule, Rules, named

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

CODE_LIMIT = 3.0
"""No value of a code is farther from 0."""
MIN_SPREAD = 1e-3
MAX_ROUNDS = 1_000
_LARGEST_WEIGHT = _LARGEST_MEASUREMENT = 1e6
_SHRINKAGE = 0.3
_BATCH = 16
_NAMES = ("spread", "projection", "codewords")
_PREFIX = "voice/speaker/"
PROJECTION, CODEWORDS, ROUNDS = (_PREFIX + name for name in ("projection", "codewords", "rounds"))


@dataclass(frozen=True, slots=True, eq=False)
class SpeakerCode:
    """From measurements told relative to the person to a code."""

    spread: npt.NDArray[np.float32]
    """[n], of the measurements: public standard deviations within a person."""
    projection: Matrix
    """[n, d], so that public codes have unit covariance within a person; or [h, d] of h hidden units, as a network has
    learnt it: what varies little there is whitened little, and drowns in the noise."""
    codewords: Matrix
    """[k, d], a codebook of codes."""
    rounds: int = 0
    """Of training at the sites; 0 means that public speech alone has taught it."""
    hidden: HiddenLayer | None = None
    """Of a network; None where codes are made of the measurements themselves."""

    @property
    def size(self) -> int:
        """Values in a code."""
        return int(self.projection.shape[1])

    def raw(self, places: Floats) -> Floats:
        """Places [m, n] relative to the person to codes [m, d], of which nothing was taken away yet."""
        units = np.asarray(places if self.hidden is None else self.hidden(places), np.float64)
        return units @ self.projection.astype(np.float64)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """As the coordinator sends it."""
        arrays = {_PREFIX + name: getattr(self, name) for name in _NAMES}
        arrays |= {ROUNDS: np.array([self.rounds], np.int64)} if self.rounds else {}
        return arrays if self.hidden is None else arrays | self.hidden.to_arrays(_PREFIX)

    @classmethod
    def rules(cls, size: int | str = "values", *, is_network: bool) -> Rules:
        """What each array may be."""
        width = len(MEASUREMENTS)
        hidden = HiddenLayer.rules(_PREFIX) if is_network else {}
        return {
            _PREFIX + "spread": Rule((width,), _LARGEST_WEIGHT, LEAST_SPREAD),
            **hidden,
            PROJECTION: Rule(("units" if is_network else width, size), _LARGEST_WEIGHT),
            CODEWORDS: Rule(("words", size), CODE_LIMIT + 1e-3),
            ROUNDS: Rule((1,), MAX_ROUNDS, 0, dtype="int64", optional=True),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Check and take what the coordinator sent.

        Raises:
            StudyError: an array is missing, of another shape, or holds values that cannot be.
        """
        is_network = any(name in arrays for name in HiddenLayer.rules(_PREFIX))
        found = named(arrays, cls.rules(is_network=is_network))
        spread, projection, codewords = (found[_PREFIX + name] for name in _NAMES)
        rounds = int(found[ROUNDS][0]) if ROUNDS in found else 0
        return cls(spread, projection, codewords, rounds, HiddenLayer.of(found, _PREFIX) if is_network else None)


@dataclass(frozen=True)
class CodeReference:
    """All that codes of one person are told relative to. It is made of the person's clips and never leaves the site."""

    ranks: SpeakerRanks
    whitening: SpeakerWhitening
    code: SpeakerCode

    @classmethod
    def of(
        cls,
        values: npt.NDArray[Any],
        weights: npt.NDArray[Any],
        code: SpeakerCode,
        *,
        counts: npt.NDArray[Any] | None = None,
        shift: npt.NDArray[Any] | float = 0.0,
    ) -> CodeReference:
        """From measurements [clips, n] and weights [clips]; `counts` and `shift` as of `SpeakerWhitening.of`."""
        ranks = SpeakerRanks.of(values, weights, code.spread)
        codes = code.raw(ranks(values))
        if code.hidden is not None:  # a network's codes have no unit covariance: the mean is as uncertain as they vary
            variances, vectors = np.linalg.eigh(np.cov(codes.T, ddof=0))
            shift = (vectors * np.sqrt(np.maximum(variances, 0.0)) @ vectors.T) @ np.broadcast_to(shift, code.size)
        return cls(ranks, SpeakerWhitening.of(codes, weights, counts=counts, shift=shift), code)

    def __call__(self, values: npt.NDArray[Any]) -> Floats:
        """[m, n] of this person's clips, known or new, to codes [m, d] within +- `CODE_LIMIT`."""
        return bounded(self.whitening(self.code.raw(self.ranks(values))), CODE_LIMIT)


class PublicRows(NamedTuple):
    """Measurements of public speech, a row for each clip or step."""

    values: Floats
    """[rows, n]"""
    person: npt.NDArray[np.str_]
    """[rows]"""
    emotion: npt.NDArray[np.int64]
    """[rows]"""

    def groups(self) -> list[npt.NDArray[np.int64]]:
        """Which rows are whose."""
        return [np.flatnonzero(self.person == one) for one in np.unique(self.person)]

    def spread(self) -> npt.NDArray[np.float32]:
        """[n], standard deviations within a person."""
        centred = np.concatenate([self.values[rows] - self.values[rows].mean(axis=0) for rows in self.groups()])
        return np.asarray(np.maximum(centred.std(axis=0), MIN_SPREAD), np.float32)

    def places(self) -> Floats:
        """[rows, n], ranks within the person as places of a Gaussian."""
        places, spread = np.empty_like(self.values), self.spread()
        for rows in self.groups():
            places[rows] = SpeakerRanks.of(self.values[rows], np.ones(len(rows)), spread)(self.values[rows])
        return places

    def require(self, least: int) -> None:
        """Check that there are more rows than that.

        Raises:
            StudyError: there are not.
        """
        if len(self.values) <= least:
            raise StudyError(f"{len(self.values)} rows of public speech", expected=f"more than {least}")


def measured(clips: Iterable[Audio], *, in_windows: bool) -> list[Matrix]:
    """float32 [1, n] of each clip, or [steps, n]: see `moretta.shared.features.prosodic_features`."""
    parts = [speech_windows(clip) if in_windows else [clip] for clip in clips]
    rows = iter(delivery_batch([part for steps in parts for part in steps]))
    return [np.stack([next(rows) for _ in steps]) for steps in parts]


def measured_clip(samples: Audio, *, in_windows: bool) -> Matrix:
    """The same of one clip at a site, bounded; zeros where measuring fails: no clip is left out for what is in it."""
    try:
        (rows,) = measured([samples], in_windows=in_windows)
    except Exception:
        rows = np.zeros((len(speech_windows(samples)) if in_windows else 1, len(MEASUREMENTS)), np.float32)
    return bounded(rows, _LARGEST_MEASUREMENT).astype(np.float32)


def make_speaker_code(
    people: Iterable[Recording],
    *,
    size: int,
    codebook_size: int,
    in_windows: bool,
    seed: int,
    network_noise: float | None = None,
) -> SpeakerCode:
    """Learn a code on public speech.

    Args:
        people: several clips of each person.
        size: values in a code.
        codebook_size: words of the codebook.
        in_windows: whether sequences will be coded.
        seed: of the codebook and the network. Not secret.
        network_noise: of a network to be trained, the deviation of the noise that its codes will be released with; None
            makes the code of directions.

    Raises:
        StudyError: fewer clips than words, or too few people for a network.
    """
    rows = public_rows(people, in_windows=in_windows)
    return train_speaker_code(rows, size=size, codebook_size=codebook_size, seed=seed, network_noise=network_noise)


def train_speaker_code(
    rows: PublicRows, *, size: int, codebook_size: int, seed: int, network_noise: float | None = None
) -> SpeakerCode:
    """`make_speaker_code` from what was measured."""
    rows.require(max(codebook_size, size))
    places = rows.places()
    if network_noise is None:
        return code_along(rows, _directions(places, rows.emotion, size), codebook_size=codebook_size, seed=seed)
    from moretta.shared.models.speaker_net import train_speaker_net

    hidden, learnt = train_speaker_net(places, rows.person, rows.emotion, size=size, noise=network_noise, seed=seed)
    code = SpeakerCode(rows.spread(), learnt.astype(np.float32), np.zeros((2, size), np.float32), hidden=hidden)
    return _with_words(code, rows, codebook_size, seed)


def code_along(
    rows: PublicRows, directions: npt.NDArray[Any], *, codebook_size: int, seed: int, rounds: int = 0
) -> SpeakerCode:
    """The code along directions [n, d], scaled, with a codebook.

    Args:
        rounds: of training at the sites, which found the directions.
    """
    projection = _scaled(np.asarray(directions, np.float64), rows.places(), rows.groups()).astype(np.float32)
    code = SpeakerCode(rows.spread(), projection, np.zeros((2, projection.shape[1]), np.float32), rounds)
    return _with_words(code, rows, codebook_size, seed)


def _with_words(code: SpeakerCode, rows: PublicRows, codebook_size: int, seed: int) -> SpeakerCode:
    scales = [(CodeReference.of(rows.values[mine], np.ones(len(mine)), code), mine) for mine in rows.groups()]
    codes = np.concatenate([scale(rows.values[mine]) for scale, mine in scales])
    return replace(code, codewords=fit_codebook(codes, codebook_size, seed=seed))


def public_rows(people: Iterable[Recording], *, in_windows: bool) -> PublicRows:
    """Measure public speech, see `measured`."""
    values: list[Floats] = []
    person: list[str] = []
    emotion: list[int] = []
    batch: list[Recording] = []

    def take() -> None:
        for one, rows in zip(batch, measured([r.samples for r in batch], in_windows=in_windows), strict=True):
            values.append(rows.astype(np.float64))
            person.extend([one.person] * len(rows))
            emotion.extend([one.emotion] * len(rows))
        batch.clear()

    for recording in people:
        batch.append(recording)
        if len(batch) == _BATCH:
            take()
    if batch:
        take()
    rows = np.concatenate(values) if values else np.empty((0, len(MEASUREMENTS)))
    return PublicRows(rows, np.array(person), np.array(emotion, np.int64))


def measured_public_speech(folder: Path | None, *, in_windows: bool) -> PublicRows:
    """Measurements of the public speech that speaker codes and emotion labelers are trained on."""
    return _measured_public_speech(derive(PUBLIC_SEED, "speaker code"), folder, in_windows)


@lru_cache(maxsize=1)  # training at the sites asks for the rows of the public code again
def _measured_public_speech(seed: int, folder: Path | None, in_windows: bool) -> PublicRows:
    return public_rows(public_recordings(folder, seed), in_windows=in_windows)


def _directions(places: Floats, emotion: npt.NDArray[np.int64], size: int) -> Floats:
    """[n, size]: discriminants, then principal components of what lies beside them."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    found: Floats = np.empty((places.shape[1], 0))
    if len(np.unique(emotion)) > 1:
        fitted = LinearDiscriminantAnalysis(solver="eigen", shrinkage=_SHRINKAGE).fit(places, emotion)
        found = fitted.scalings_[:, : min(size, len(fitted.classes_) - 1)]
    basis = np.linalg.qr(found)[0]
    rest = places - places @ basis @ basis.T
    vectors = np.linalg.eigh(np.cov(rest.T))[1][:, ::-1]
    return np.hstack([found, vectors[:, : size - found.shape[1]]])


def _scaled(directions: Floats, places: Floats, groups: list[npt.NDArray[np.int64]]) -> Floats:
    """The same, turned as little as can be, with unit covariance of codes within a person on average."""
    codes = places @ directions
    covariance = np.mean([np.cov(codes[rows].T, ddof=0) for rows in groups], axis=0).reshape(codes.shape[1], -1)
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(directions @ (vectors / np.sqrt(np.maximum(values, 1e-9)) @ vectors.T))
