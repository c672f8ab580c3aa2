"""Inversion: a decoder from released back to original, whose output recognisers of originals then attack.

The test of reversible anonymizers (Fantomas, arXiv 2210.10651): a release that defeats a recogniser, and no longer does
once decoded, hid nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moretta.shared.audit.attackers.base import attacker_names, get_attacker, get_embedder
from moretta.shared.audit.attackers.open_set import embeddings_of
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.embeddings import embed_once
from moretta.shared.audit.inference.decoders import DECODERS, InversionDecoder, with_context
from moretta.shared.audit.metrics import Trials, bootstrap_trials
from moretta.shared.audit.metrics.verification import eer
from moretta.shared.audit.protocol import SetName
from moretta.shared.audit.result import Result
from moretta.shared.audit.scoring import unit_rows
from moretta.shared.core.array_types import Array, Bool, Int64, Integers
from moretta.shared.core.workers import Workers

Recogniser = Callable[[ClipSet], Array]
MIN_PEOPLE = 4
ENCODERS = {"voice": ("campplus", "ge2e"), "face": ("sface", "dlib")}
"""Encoders used as they are, where their weights are at hand; the others are slower and weaker."""
ADAPTIVE = {"voice": "voice-wccn", "face": "face-wccn"}
"""Trained on originals of the attacker's own people: always there."""
DECODERS_OF = {"voice": ("ridge", "mlp"), "face": ("conv",)}
CONTEXT = 4
"""Frames on each side that a voice decoder sees: 90 ms in all."""
MAX_FRAMES = 500
"""Of a voice clip: 5 s."""
MAX_ROWS = {"voice": 20_000, "face": 600}
"""Frames that a decoder is trained on at most."""
MAX_ENROLLED, MAX_TRIALS = 96, 72
"""Clips that enrol the victims, and decoded clips that are tried, at most; at least one of each victim."""


@dataclass(frozen=True)
class Restored:
    """What a decoder makes of the clips of people it was not trained on.

    `own` and `victims` are rows of the attacker's people and of the others; `clips[i]` restores `original[victims[i]]`.
    `explained` is the share of the victims' variance that the decoder restores: 1 for all, 0 for none of it; negative
    where guessing the attacker's own mean is better.
    """

    own: Int64
    victims: Int64
    clips: Any
    explained: float


def restore(
    released: Array | Sequence[Array],
    original: Array | Sequence[Array],
    speaker: Integers,
    *,
    decoder: InversionDecoder,
    context_frames: int = 0,
    max_rows: int | None = None,
    seed: int = 0,
) -> Restored:
    """Train a decoder on half of the people and decode the other half's clips.

    Args:
        released: clips as an array [n, ...], or as a list of sequences [frames_i, d], which are decoded frame by
            frame with `context_frames` neighbours on each side.
        original: the same clips before anonymization; sequences have as many frames as their releases.
        speaker: int [n], of at least `MIN_PEOPLE` people.
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
    flat, mean = _stacked(truth), wanted.mean(axis=0)
    residual, total = float(((flat - restored) ** 2).sum()), float(((flat - mean) ** 2).sum())
    if not isinstance(truth, np.ndarray):
        restored = np.split(restored, np.cumsum([len(sequence) for sequence in truth])[:-1])  # type: ignore[assignment]
    return Restored(own, victims, restored, 1 - residual / total if total > 0 else 0.0)


def _pick(clips: Array | Sequence[Array], rows: Int64) -> Any:
    return clips[rows] if isinstance(clips, np.ndarray) else [clips[i] for i in rows]


def _stacked(clips: Any, context_frames: int = 0) -> Array:
    return clips if isinstance(clips, np.ndarray) else with_context(clips, context_frames)


def two_halves(speaker: Integers, seed: int) -> tuple[Int64, Int64]:
    """Rows of the attacker's own half of the people, and of the others, both ascending."""
    people = np.unique(speaker)
    known = np.isin(speaker, np.random.default_rng(seed).permutation(people)[: len(people) // 2])
    return np.flatnonzero(known), np.flatnonzero(~known)


def alternate(speaker: Integers) -> Bool:
    """bool [n]: every second clip of each speaker, beginning with the first, enrols it; the others are tried."""
    place = np.zeros(len(speaker), dtype=np.int64)
    for person in np.unique(speaker):
        place[speaker == person] = np.arange((speaker == person).sum())
    return np.asarray(place % 2 == 0)


def verify(enrolment: Array, enrolled: Integers, trial: Array, tried: Integers) -> Trials | None:
    """Every trial embedding [m, e] against the mean of each speaker's enrolment embeddings [n, e]; None without any."""
    gallery = np.unique(enrolled)
    centres = np.stack([unit_rows(enrolment[enrolled == person]).mean(axis=0) for person in gallery])
    if not len(tried):
        return None
    scores = unit_rows(trial) @ unit_rows(centres).T
    return Trials.of_speakers(scores.ravel(), np.tile(gallery, len(tried)), np.repeat(tried, len(gallery)))


def invert_with(
    name: str, original: ClipSet, released: ClipSet, *, about: Result, bootstrap: int, seed: int
) -> list[Result]:
    """One decoder, and the EER of every recogniser at hand on what it restores, on releases, and on originals."""
    speaker = released.labels
    if (people := len(released.speakers)) < MIN_PEOPLE:
        reason = f"{people} speakers: at least {MIN_PEOPLE} are needed to train on some and attack others"
        return [about.invalidated(reason, speakers=people)]
    restore_clips = _restore_codes if released.holds_codes else _RESTORE[released.modality]
    restored, decoded = restore_clips(DECODERS[name](seed), original, released, speaker, seed)
    enrolled, tried = trial_rows(speaker, seed)
    places = np.searchsorted(restored.victims, tried)
    shown = {"unprotected": original.subset(tried)}
    if not released.holds_codes:  # what recognises originals cannot read a code before it is decoded
        shown["ignorant"] = released.subset(tried)
    shown["decoded"] = decoded(places)
    note = "share of what makes one clip differ from the mean that the decoder restores; the EERs say if it identifies"
    of_decoder = {"target": "original features", "attacker": f"{name} decoder", "metric": "explained_variance"}
    counts = {"chance": 0.0, "speakers": people, "clips": len(restored.victims), "note": note}
    found = [about.model_copy(update=of_decoder | counts).with_value(restored.explained)]
    own = original.subset(restored.own)
    for reader, (recognise, limit) in _recognisers(own, seed, sound=not released.holds_codes).items():
        enrolment = recognise(original.subset(enrolled))
        rows = []
        for scenario, clips in shown.items():
            attacker = f"{name} decoder, read by {reader}" if scenario == "decoded" else reader
            of_reader = about.model_copy(
                update={"attacker": attacker, "scenario": scenario, "metric": "eer", "chance": 0.5}
            )
            trials = verify(enrolment, speaker[enrolled], recognise(clips), speaker[tried])
            rows.append(_with_eer(of_reader, trials, bootstrap=bootstrap, seed=seed))
        anchor = rows[0].value
        if anchor is None or anchor > limit:
            figure = "no figure" if anchor is None else f"EER {anchor:.3f}, at most {limit} wanted"
            reason = f"{reader} cannot tell unprotected clips apart either ({figure})"
            rows = [row.invalidated(reason) for row in rows]
        found += rows
    return found


def _with_eer(about: Result, trials: Trials | None, *, bootstrap: int, seed: int) -> Result:
    """The EER of an inversion's trials, with its interval over speakers."""
    if trials is None:
        return about.invalidated("no speaker has a clip left to try")
    interval = bootstrap_trials({"eer": eer}, trials, resamples=bootstrap, seed=seed)["eer"]
    counts = {"speakers": len(trials.speakers), "clips": int(trials.mated.sum())}
    return about.with_value(eer(trials), interval, **counts)


def trial_rows(speaker: Int64, seed: int) -> tuple[Int64, Int64]:
    """Rows of the victims' clips that enrol them, and of those that are tried."""
    _, victims = two_halves(speaker, seed)
    rng = np.random.default_rng(seed)
    enrols = alternate(speaker[victims])

    def some(rows: Int64, limit: int) -> Int64:
        people = np.unique(speaker[rows])
        each = max(1, limit // max(1, len(people)))
        chosen = [rng.permutation(rows[speaker[rows] == person])[:each] for person in people]
        return np.sort(np.concatenate(chosen)) if chosen else rows

    return some(victims[enrols], MAX_ENROLLED), some(victims[~enrols], MAX_TRIALS)


def encoders_at_hand(modality: str) -> list[str]:
    """Which of `ENCODERS` can run here."""
    known = attacker_names(modality, "pretrained")  # type: ignore[arg-type]
    return [name for name in ENCODERS[modality] if name in known and get_attacker(name).missing() is None]


def with_embeddings(
    original: ClipSet, released: ClipSet, scratch: Path, cache_dir: Path | None, pool: Workers, *, seed: int
) -> tuple[ClipSet, ClipSet]:
    """Both voice sets, with the encoders' embeddings of what will be compared: once for all decoders."""
    if len(released.speakers) < MIN_PEOPLE or released.holds_codes:
        return original, released
    enrolled, tried = trial_rows(released.labels, seed)
    few: dict[SetName, ClipSet] = {
        "original": original.subset(np.union1d(enrolled, tried)),
        "released": released.subset(tried),
    }
    done = embed_once(encoders_at_hand(released.modality), few, scratch, cache_dir, pool)
    return replace(original, views=done["original"].views), replace(released, views=done["released"].views)


def _recognisers(own: ClipSet, seed: int, *, sound: bool) -> Mapping[str, tuple[Recogniser, float]]:
    """Each recogniser with the EER on originals above which it counts for nothing; encoders read sound only."""
    found: dict[str, tuple[Recogniser, float]] = {}
    for encoder in encoders_at_hand(own.modality) if sound else ():
        found[encoder] = (_used_as_it_is(encoder), get_attacker(encoder).max_unprotected_eer)
    cls = get_embedder(ADAPTIVE[own.modality])
    model = cls()
    model.fit(own, seed=seed)
    found[cls.name] = (model.embed, cls.max_unprotected_eer)
    return found


def _used_as_it_is(encoder: str) -> Recogniser:
    return lambda clips: embeddings_of(encoder, clips)


_Decoded = Callable[[Int64], ClipSet]
"""The decoded clips at some positions among the victims."""


def _restore_voice(
    decoder: InversionDecoder, original: ClipSet, released: ClipSet, speaker: Int64, seed: int
) -> tuple[Restored, _Decoded]:
    pairs = [(released.mfcc(i)[:MAX_FRAMES], original.mfcc(i)[:MAX_FRAMES]) for i in range(len(released))]
    lengths = [min(len(a), len(b)) for a, b in pairs]
    given = [np.asarray(a[:n]) for (a, _), n in zip(pairs, lengths, strict=True)]
    wanted = [np.asarray(b[:n]) for (_, b), n in zip(pairs, lengths, strict=True)]
    rows = MAX_ROWS["voice"]
    restored = restore(given, wanted, speaker, decoder=decoder, context_frames=CONTEXT, max_rows=rows, seed=seed)
    return restored, lambda places: _decoded_set(original, restored, places, "mfcc")


def _restore_codes(
    decoder: InversionDecoder, original: ClipSet, released: ClipSet, speaker: Int64, seed: int
) -> tuple[Restored, _Decoded]:
    """Codes keep no time that frames of sound could be matched with: statistics of the original are restored.

    They are their own statistics, as a code is.
    """
    given, wanted = (
        np.stack([clips.statistics(i) for i in range(len(clips))]).astype(np.float64) for clips in (released, original)
    )
    restored = restore(given, wanted, speaker, decoder=decoder, max_rows=MAX_ROWS["voice"], seed=seed)
    return restored, lambda places: _decoded_set(original, restored, places, "code")


def _restore_faces(
    decoder: InversionDecoder, original: ClipSet, released: ClipSet, speaker: Int64, seed: int
) -> tuple[Restored, _Decoded]:
    """Every frame is a picture of its own; afterwards they are clips again."""
    of_clip = np.concatenate([np.full(len(original.frames(i)), i) for i in range(len(original))])
    given, wanted = (
        np.concatenate([clips.frames(i) for i in range(len(clips))]).astype(np.float32) / 255
        for clips in (released, original)
    )
    by_frame = restore(given, wanted, speaker[of_clip], decoder=decoder, max_rows=MAX_ROWS["face"], seed=seed)
    own, victims = np.unique(of_clip[by_frame.own]), np.unique(of_clip[by_frame.victims])
    pictures = np.round(np.asarray(by_frame.clips) * 255).astype(np.uint8)
    clips = [pictures[of_clip[by_frame.victims] == i] for i in victims]
    restored = Restored(own, victims, clips, by_frame.explained)
    return restored, lambda places: _decoded_set(original, restored, places, "frames")


def _decoded_set(original: ClipSet, restored: Restored, places: Int64, form: Any) -> ClipSet:
    arrays = [restored.clips[i] if form == "frames" else np.asarray(restored.clips[i], np.float32) for i in places]
    described = [original.clips[i] for i in restored.victims[places]]
    return ClipSet.from_arrays(described, arrays, modality=original.modality, form=form)


_RESTORE = {"voice": _restore_voice, "face": _restore_faces}
