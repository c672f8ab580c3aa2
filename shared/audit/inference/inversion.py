"""Inversion: a decoder from released back to original, whose output a recogniser of originals then attacks.

The test of reversible anonymizers (Fantomas, arXiv 2210.10651): a release that fools a recogniser, and no longer does
once decoded, hid nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.inference.decoders import InversionDecoder, with_context
from moretta.shared.audit.metrics.trials import Trials

Array = npt.NDArray[Any]
Embed = Callable[[Any], npt.NDArray[Any]]
"""Maps originals, or what looks like them, to embeddings [n, e]; cosine is its likeness."""
MIN_SPEAKERS = 4


@dataclass(frozen=True)
class Inversion:
    """What a decoder restores, on people it was not trained on.

    `decoded`, `released` and `original` are trials of original enrolments against decoded, released (None where the
    recogniser cannot read the released form) and original clips: compare their EERs.
    `explained` is the share of the victims' variance that the decoder restores: 1 for all, 0 for none of it; negative
    where guessing the attacker's own mean is better.
    """

    decoder: str
    decoded: Trials | None
    released: Trials | None
    original: Trials | None
    explained: float | None
    attacker_speakers: int
    victims: int
    invalid: str | None = None


@dataclass(frozen=True)
class Restored:
    """What a decoder makes of the clips of people it was not trained on.

    `own` and `victims` are rows of the attacker's people and of the others; `clips[i]` restores `original[victims[i]]`.
    """

    own: npt.NDArray[np.int64]
    victims: npt.NDArray[np.int64]
    clips: Any
    explained: float


def restore(
    released: Array | Sequence[Array],
    original: Array | Sequence[Array],
    speaker: npt.NDArray[np.integer],
    *,
    decoder: InversionDecoder,
    context_frames: int = 0,
    max_rows: int | None = None,
    seed: int = 0,
) -> Restored:
    """Train a decoder on half of the people and decode the other half's clips.

    Args:
        released: see `invert`.
        original: see `invert`.
        speaker: int [n], of at least `MIN_SPEAKERS` people.
        decoder: fresh; it is fitted here.
        context_frames: for sequences.
        max_rows: clips or frames that the decoder is trained on at most, drawn at random; None for all.
        seed: of the split of people, and of the draw.
    """
    own, victims = two_halves(speaker, seed)
    known, wanted = _stacked(_pick(released, own), context_frames), _stacked(_pick(original, own))
    drawn = np.sort(np.random.default_rng(seed).permutation(len(known))[:max_rows])
    fitted = decoder.fit(known[drawn], wanted[drawn])
    restored = fitted.decode(_stacked(_pick(released, victims), context_frames))
    truth = _pick(original, victims)
    explained = _explained(_stacked(truth), restored, wanted.mean(axis=0))
    return Restored(own, victims, _unstacked(restored, truth), explained)


def invert(
    released: Array | Sequence[Array],
    original: Array | Sequence[Array],
    speaker: npt.NDArray[np.integer],
    *,
    decoder: InversionDecoder,
    name: str,
    embed: Embed,
    context_frames: int = 0,
    released_readable: bool = False,
    seed: int = 0,
) -> Inversion:
    """Train on half of the people, decode and attack the other half.

    Args:
        released: clips as an array [n, ...], or as a list of sequences [frames_i, d], which are decoded frame by
            frame with `context_frames` neighbours on each side.
        original: the same clips before anonymization; sequences have as many frames as their releases.
        speaker: int [n].
        decoder: fresh; it is fitted here.
        name: of the decoder, for the report.
        embed: the recogniser; called with what `original` is: an array, or a list of sequences.
        context_frames: for sequences.
        released_readable: the recogniser can also be run on releases as they are.
        seed: of the split of people.
    """
    speakers = np.unique(speaker)
    if len(speakers) < MIN_SPEAKERS:
        invalid = f"{len(speakers)} speakers: at least {MIN_SPEAKERS} are needed to train on some and attack others"
        return Inversion(name, None, None, None, None, 0, len(speakers), invalid)
    found = restore(released, original, speaker, decoder=decoder, context_frames=context_frames, seed=seed)
    truth, victims = _pick(original, found.victims), speaker[found.victims]
    enrolment = embed(truth)

    def scores(trial: Any) -> Trials | None:
        enrols = alternate(victims)
        return verify(enrolment[enrols], victims[enrols], embed(trial)[~enrols], victims[~enrols])

    return Inversion(
        decoder=name,
        decoded=scores(found.clips),
        released=scores(_pick(released, found.victims)) if released_readable else None,
        original=scores(truth),
        explained=found.explained,
        attacker_speakers=len(np.unique(speaker[found.own])),
        victims=len(np.unique(victims)),
    )


def two_halves(speaker: npt.NDArray[np.integer], seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of the attacker's own half of the people, and of the others, both ascending."""
    speakers = np.unique(speaker)
    known = np.isin(speaker, np.random.default_rng(seed).permutation(speakers)[: len(speakers) // 2])
    return np.flatnonzero(known), np.flatnonzero(~known)


def alternate(speaker: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """bool [n]: every second clip of each speaker, beginning with the first, enrols it; the others are tried."""
    place = np.zeros(len(speaker), dtype=np.int64)
    for person in np.unique(speaker):
        place[speaker == person] = np.arange((speaker == person).sum())
    return np.asarray(place % 2 == 0)


def verify(
    enrolment: Array, enrolled: npt.NDArray[np.integer], trial: Array, tried: npt.NDArray[np.integer]
) -> Trials | None:
    """Every trial embedding [m, e] against the mean of each speaker's enrolment embeddings [n, e]; None without any."""
    gallery = np.unique(enrolled)
    centres = np.stack([_unit(enrolment[enrolled == person]).mean(axis=0) for person in gallery])
    if not len(tried):
        return None
    scores = _unit(trial) @ _unit(centres).T
    return Trials.of_speakers(scores.ravel(), np.tile(gallery, len(tried)), np.repeat(tried, len(gallery)))


def _unit(vectors: Array) -> Array:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12))


def _explained(truth: Array, restored: Array, mean: Array) -> float:
    residual, total = float(((truth - restored) ** 2).sum()), float(((truth - mean) ** 2).sum())
    return 1 - residual / total if total > 0 else 0.0


def _pick(clips: Array | Sequence[Array], rows: npt.NDArray[np.int64]) -> Any:
    return clips[rows] if isinstance(clips, np.ndarray) else [clips[i] for i in rows]


def _stacked(clips: Any, context_frames: int = 0) -> Array:
    return clips if isinstance(clips, np.ndarray) else with_context(clips, context_frames)


def _unstacked(restored: Array, like: Any) -> Any:
    if isinstance(like, np.ndarray):
        return restored
    return np.split(restored, np.cumsum([len(sequence) for sequence in like])[:-1])
