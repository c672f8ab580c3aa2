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

from moretta.server.audit.beyond.decoders import Decoder, with_context
from moretta.server.audit.metrics.trials import Trials

Array = npt.NDArray[Any]
Embed = Callable[[Any], npt.NDArray[Any]]
"""Maps originals, or what looks like them, to embeddings [n, e]; cosine is its likeness."""
MIN_PEOPLE = 4


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
    attackers_people: int
    victims: int
    void: str | None = None


def invert(
    released: Array | Sequence[Array],
    original: Array | Sequence[Array],
    speaker: npt.NDArray[np.integer],
    *,
    decoder: Decoder,
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
    people = np.unique(speaker)
    if len(people) < MIN_PEOPLE:
        void = f"{len(people)} speakers: at least {MIN_PEOPLE} are needed to train on some and attack others"
        return Inversion(name, None, None, None, None, 0, len(people), void)
    own = np.random.default_rng(seed).permutation(people)[: len(people) // 2]
    train, attack = np.flatnonzero(np.isin(speaker, own)), np.flatnonzero(~np.isin(speaker, own))
    truth, mean = _pick(original, attack), _stacked(_pick(original, train)).mean(axis=0)
    fitted = decoder.fit(_stacked(_pick(released, train), context_frames), _stacked(_pick(original, train)))
    restored = fitted.decode(_stacked(_pick(released, attack), context_frames))
    enrolment = embed(truth)

    def judge(trial: Any) -> Trials | None:
        return _half_against_half(enrolment, embed(trial), speaker[attack])

    return Inversion(
        decoder=name,
        decoded=judge(_unstacked(restored, truth)),
        released=judge(_pick(released, attack)) if released_readable else None,
        original=judge(truth),
        explained=_explained(_stacked(truth), restored, mean),
        attackers_people=len(own),
        victims=len(people) - len(own),
    )


def _half_against_half(enrolment: Array, trial: Array, speaker: npt.NDArray[np.integer]) -> Trials | None:
    """Every second clip of each speaker enrols it by its mean embedding, the others are tried; None if none are."""
    place = np.zeros(len(speaker), dtype=np.int64)
    for person in np.unique(speaker):
        place[speaker == person] = np.arange((speaker == person).sum())
    enrols = place % 2 == 0
    gallery = np.unique(speaker)
    centres = np.stack([_unit(enrolment[enrols & (speaker == person)]).mean(axis=0) for person in gallery])
    scores = _unit(trial[~enrols]) @ _unit(centres).T
    if not scores.size:
        return None
    tried = speaker[~enrols]
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
