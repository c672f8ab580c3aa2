"""Inversion as a unit of work: decode releases of people never seen, and let recognisers of originals look at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.attackers.attacker_registry import Embedder, attacker_names, get_attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.embeddings import embed_once
from moretta.shared.audit.inference.decoders import DECODERS, InversionDecoder, MlpDecoder
from moretta.shared.audit.inference.findings import InferenceFinding, from_trials, invalid_finding
from moretta.shared.audit.inference.inversion import MIN_SPEAKERS, Restored, alternate, restore, two_halves, verify
from moretta.shared.audit.learn.heads import embeddings_of
from moretta.shared.audit.scenarios import SetName
from moretta.shared.audit.worker_pool import Workers

Array = npt.NDArray[Any]
Recogniser = Callable[[ClipSet], Array]
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
MLP_EPOCHS = 30


def encoders_at_hand(modality: str) -> list[str]:
    """Which of `ENCODERS` can run here."""
    known = attacker_names(modality, "pretrained")  # type: ignore[arg-type]
    return [name for name in ENCODERS[modality] if name in known and get_attacker(name).missing() is None]


def invert_with(
    name: str, original: ClipSet, released: ClipSet, *, bootstrap: int, seed: int
) -> list[InferenceFinding]:
    """One decoder, and the EER of every recogniser at hand on what it restores, on releases, and on originals."""
    modality = released.modality
    speaker = released.labels
    if (speakers := len(released.speakers)) < MIN_SPEAKERS:
        reason = f"{speakers} speakers: at least {MIN_SPEAKERS} are needed to train on some and attack others"
        return [invalid_finding("inversion", modality, "speaker", "decoded", reason, speakers=speakers)]
    restore_clips = _restore_codes if released.holds_codes else _RESTORE[modality]
    restored, decoded = restore_clips(_decoder(name, seed), original, released, speaker, seed)
    enrolled, tried = trial_rows(speaker, seed)
    places = np.searchsorted(restored.victims, tried)
    shown = {"original": original.subset(tried), "released": released.subset(tried), "decoded": decoded(places)}
    if released.holds_codes:
        del shown["released"]  # what recognises originals cannot read a code before it is decoded
    found = [_explained(name, restored, released, speakers)]
    own = original.subset(restored.own)
    for reader, (recognise, limit) in _recognisers(own, seed, sound=not released.holds_codes).items():
        enrolment = recognise(original.subset(enrolled))
        rows = [
            from_trials(
                verify(enrolment, speaker[enrolled], recognise(clips), speaker[tried]),
                modality,
                source,  # type: ignore[arg-type]
                f"{name} decoder, read by {reader}" if source == "decoded" else reader,
                bootstrap=bootstrap,
                seed=seed,
            )
            for source, clips in shown.items()
        ]
        found += _scored(rows, reader, limit)
    return found


def trial_rows(speaker: npt.NDArray[np.int64], seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of the victims' clips that enrol them, and of those that are tried."""
    _, victims = two_halves(speaker, seed)
    rng = np.random.default_rng(seed)
    enrols = alternate(speaker[victims])

    def some(rows: npt.NDArray[np.int64], limit: int) -> npt.NDArray[np.int64]:
        speakers = np.unique(speaker[rows])
        each = max(1, limit // max(1, len(speakers)))
        chosen = [rng.permutation(rows[speaker[rows] == person])[:each] for person in speakers]
        return np.sort(np.concatenate(chosen)) if chosen else rows

    return some(victims[enrols], MAX_ENROLLED), some(victims[~enrols], MAX_TRIALS)


def with_embeddings(
    original: ClipSet, released: ClipSet, scratch: Path, cache_dir: Path | None, pool: Workers, *, seed: int
) -> tuple[ClipSet, ClipSet]:
    """Both voice sets, with the encoders' embeddings of what will be compared: once for all decoders."""
    if len(released.speakers) < MIN_SPEAKERS or released.holds_codes:
        return original, released
    enrolled, tried = trial_rows(released.labels, seed)
    few: dict[SetName, ClipSet] = {
        "original": original.subset(np.union1d(enrolled, tried)),
        "released": released.subset(tried),
    }
    done = embed_once(encoders_at_hand(released.modality), few, scratch, cache_dir, pool)
    return replace(original, views=done["original"].views), replace(released, views=done["released"].views)


def _scored(rows: list[InferenceFinding], reader: str, limit: float) -> list[InferenceFinding]:
    anchor = rows[0].value
    if anchor is not None and anchor <= limit:
        return rows
    figure = "no figure" if anchor is None else f"EER {anchor:.3f}, at most {limit} wanted"
    return [row.invalidated(f"{reader} cannot tell unprotected clips apart either ({figure})") for row in rows]


def _explained(name: str, restored: Restored, released: ClipSet, speakers: int) -> InferenceFinding:
    return InferenceFinding(
        attack="inversion",
        modality=released.modality,
        target="original features",
        attacker=f"{name} decoder",
        source="decoded",
        metric="explained_variance",
        value=restored.explained,
        chance=0.0,
        speakers=speakers,
        clips=len(restored.victims),
        note="share of what makes one clip differ from the mean that the decoder restores; whose it is, the EERs tell",
    )


def _recognisers(own: ClipSet, seed: int, *, sound: bool) -> Mapping[str, tuple[Recogniser, float]]:
    """Each recogniser with the EER on originals above which it counts for nothing; encoders listen to sound only."""
    found: dict[str, tuple[Recogniser, float]] = {}
    for encoder in encoders_at_hand(own.modality) if sound else ():
        found[encoder] = (_used_as_it_is(encoder), get_attacker(encoder).max_unprotected_eer)
    cls = get_attacker(ADAPTIVE[own.modality])
    assert issubclass(cls, Embedder)
    model = cls()
    model.fit(own, seed=seed)
    found[cls.name] = (model.embed, cls.max_unprotected_eer)
    return found


def _used_as_it_is(encoder: str) -> Recogniser:
    return lambda clips: embeddings_of(encoder, clips)


def _decoder(name: str, seed: int) -> InversionDecoder:
    return MlpDecoder(seed, epochs=MLP_EPOCHS) if name == "mlp" else DECODERS[name](seed)


_Decoded = Callable[[npt.NDArray[np.int64]], ClipSet]
"""The decoded clips at some positions among the victims."""


def _restore_voice(
    decoder: InversionDecoder, original: ClipSet, released: ClipSet, speaker: npt.NDArray[np.int64], seed: int
) -> tuple[Restored, _Decoded]:
    pairs = [(released.mfcc(i)[:MAX_FRAMES], original.mfcc(i)[:MAX_FRAMES]) for i in range(len(released))]
    lengths = [min(len(a), len(b)) for a, b in pairs]
    given = [np.asarray(a[:n]) for (a, _), n in zip(pairs, lengths, strict=True)]
    wanted = [np.asarray(b[:n]) for (_, b), n in zip(pairs, lengths, strict=True)]
    rows = MAX_ROWS["voice"]
    restored = restore(given, wanted, speaker, decoder=decoder, context_frames=CONTEXT, max_rows=rows, seed=seed)

    def decoded(places: npt.NDArray[np.int64]) -> ClipSet:
        arrays = [np.asarray(restored.clips[i], np.float32) for i in places]
        return _set(original, restored.victims[places], arrays)

    return restored, decoded


def _restore_codes(
    decoder: InversionDecoder, original: ClipSet, released: ClipSet, speaker: npt.NDArray[np.int64], seed: int
) -> tuple[Restored, _Decoded]:
    """Codes keep no time that frames of sound could be matched with: statistics of the original are restored."""
    given, wanted = (
        np.stack([clips.statistics(i) for i in range(len(clips))]).astype(np.float64) for clips in (released, original)
    )
    restored = restore(given, wanted, speaker, decoder=decoder, max_rows=MAX_ROWS["voice"], seed=seed)

    def decoded(places: npt.NDArray[np.int64]) -> ClipSet:
        """Statistics are their own statistics, as a code is."""
        arrays = [np.asarray(restored.clips[i], np.float32) for i in places]
        described = [original.clips[i] for i in restored.victims[places]]
        return ClipSet.from_arrays(described, arrays, modality="voice", form="code")

    return restored, decoded


def _restore_faces(
    decoder: InversionDecoder, original: ClipSet, released: ClipSet, speaker: npt.NDArray[np.int64], seed: int
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

    def decoded(places: npt.NDArray[np.int64]) -> ClipSet:
        return _set(original, victims[places], [clips[i] for i in places])

    return Restored(own, victims, clips, by_frame.explained), decoded


def _set(like: ClipSet, rows: npt.NDArray[np.int64], arrays: Sequence[Array]) -> ClipSet:
    form: Any = "mfcc" if like.modality == "voice" else "frames"
    return ClipSet.from_arrays([like.clips[i] for i in rows], arrays, modality=like.modality, form=form)


_RESTORE = {"voice": _restore_voice, "face": _restore_faces}
