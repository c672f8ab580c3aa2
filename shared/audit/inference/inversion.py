"""Inversion: a decoder from released back to original, whose output recognisers of originals then attack.

The attacker trains it on people whose originals it has. The test of reversible anonymizers (Fantomas, arXiv
2210.10651): a release that defeats a recogniser, and no longer does once decoded, hid nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from moretta.shared.audit.attackers.base import attacker_names, get_attacker, get_embedder
from moretta.shared.audit.attackers.open_set import embed_once, embeddings_of
from moretta.shared.audit.crossval import estimator
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.metrics import Trials
from moretta.shared.audit.metrics.intervals import bootstrap_trials
from moretta.shared.audit.metrics.verification import eer
from moretta.shared.audit.protocol import SetName
from moretta.shared.audit.result import Result
from moretta.shared.audit.views import face_picture, voice_statistics
from moretta.shared.core.array_types import Array, Bool, Int64, Integers, unit_rows
from moretta.shared.core.device import computing_device
from moretta.shared.core.workers import Workers

Recogniser = Callable[[ClipSet], Array]
MIN_PEOPLE = 4
ENCODERS = {"voice": ("campplus", "ge2e"), "face": ("sface", "dlib")}
"""Encoders used as they are, where their weights are at hand; the others are slower and weaker."""
ADAPTIVE = {"voice": "voice-wccn", "face": "face-wccn"}
"""Trained on originals of the attacker's own people: always there."""
DECODERS_OF = {"voice": ("ridge", "mlp"), "face": ("conv",)}
"""Codes of either modality are decoded as voice is."""
CONTEXT = 4
"""Frames on each side that a voice decoder sees: 90 ms in all."""
MAX_FRAMES = 500
"""Most frames of a voice clip: 5 s."""
MAX_ROWS = {"voice": 20_000, "face": 600}
"""Frames that a decoder is trained on at most."""
MAX_ENROLLED, MAX_TRIALS = 96, 72
"""Clips that enrol the victims, and decoded clips that are tried, at most; at least one of each victim."""


class ConvDecoder:
    """A small residual convolutional network from picture to picture (the de-anonymizer of Fantomas, made small).

    Pictures are float32 [n, height, width, channels] in [0, 1], of one size on both sides, height and width even.
    """

    def __init__(self, seed: int = 0, steps: int = 400, width: int = 24, batch: int = 16) -> None:
        self.seed, self.steps, self.width, self.batch = seed, steps, width, batch

    def fit(self, released: Array, original: Array) -> Self:
        """Mean squared error with Adam; no global random state is touched."""
        import torch
        from torch import nn

        w, channels, device = self.width, released.shape[-1], computing_device()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            # Half resolution gives a wide view at little cost; the skip around the whole network keeps the detail.
            self._net: Any = nn.Sequential(
                nn.Conv2d(channels, w, 4, stride=2, padding=1),
                nn.LeakyReLU(0.1),
                nn.Conv2d(w, 2 * w, 3, padding=1),
                nn.LeakyReLU(0.1),
                nn.Conv2d(2 * w, 2 * w, 3, padding=1),
                nn.LeakyReLU(0.1),
                nn.Conv2d(2 * w, 4 * channels, 3, padding=1),
                nn.PixelShuffle(2),
            ).to(device)
            optimizer = torch.optim.Adam(self._net.parameters(), lr=2e-3)
            x, y = _pictures(released).to(device), _pictures(original).to(device)
            for _ in range(self.steps):
                rows = torch.randint(len(x), (self.batch,))
                loss = torch.nn.functional.mse_loss(self._net(x[rows]) + x[rows], y[rows])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
        return self

    def predict(self, released: Array) -> Array:
        """float32 [n, height, width, channels] in [0, 1]."""
        import torch

        device = next(self._net.parameters()).device
        with torch.no_grad():
            inputs = (part.to(device) for part in torch.split(_pictures(released), 64))
            parts = [(self._net(part) + part).cpu() for part in inputs]
        return np.asarray(torch.cat(parts).clamp(0, 1).permute(0, 2, 3, 1).numpy())


def _pictures(array: Array) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).permute(0, 3, 1, 2).contiguous()


# Regularised by leave-one-out over a grid; what survives a linear map is linear leakage.
_ridge = estimator("linear_model.RidgeCV", np.logspace(-2, 4, 13), scaled=True)
_hidden = estimator(
    "neural_network.MLPRegressor", hidden_layer_sizes=(128, 128), alpha=1e-2, max_iter=30, tol=1e-5, scaled=True
)


def _mlp(seed: int) -> Any:
    """Two hidden layers of 128 on standardised pairs; it is measured by what it restores even at its last epoch."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.preprocessing import StandardScaler

    return TransformedTargetRegressor(_hidden(seed), transformer=StandardScaler())


DECODERS: Mapping[str, Callable[[int], Any]] = {"ridge": _ridge, "mlp": _mlp, "conv": ConvDecoder}
"""Makes a regressor with `fit` and `predict`, from a seed; clips or frames are on the first axis."""


@dataclass(frozen=True)
class Restored:
    """Decoded clips of people that the decoder was not trained on."""

    own: Int64
    """Rows of the attacker's people."""
    victims: Int64
    """Rows of the others."""
    clips: Any
    """`clips[i]` restores `original[victims[i]]`."""
    explained: float
    """Share of the victims' variance that is restored: 1 for all, 0 for none of it; negative where guessing the
    attacker's own mean is better."""


def restore(
    released: Array | Sequence[Array],
    original: Array | Sequence[Array],
    speaker: Integers,
    *,
    decoder: Any,
    context_frames: int = 0,
    max_rows: int | None = None,
    seed: int = 0,
) -> Restored:
    """Train a decoder on half of the people and decode the other half's clips.

    Args:
        released: clips as an array [n, ...], or as a list of sequences [frames_i, d], which are decoded frame by frame
            with `context_frames` neighbours on each side.
        original: the same clips before anonymization; sequences have as many frames as their releases.
        speaker: int [n], of at least `MIN_PEOPLE` people.
        max_rows: clips or frames that the decoder is trained on at most, drawn at random; None for all.
    """

    def picked(clips: Array | Sequence[Array], rows: Int64, context: int = 0) -> Array:
        return clips[rows] if isinstance(clips, np.ndarray) else with_context([clips[i] for i in rows], context)

    own, victims = two_halves(speaker, seed)
    known, wanted = picked(released, own, context_frames), picked(original, own)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(known))[:max_rows])
    restored = np.asarray(decoder.fit(known[drawn], wanted[drawn]).predict(picked(released, victims, context_frames)))
    truth, mean = picked(original, victims), wanted.mean(axis=0)
    residual, total = float(((truth - restored) ** 2).sum()), float(((truth - mean) ** 2).sum())
    clips: Any = restored
    if not isinstance(original, np.ndarray):
        clips = np.split(restored, np.cumsum([len(original[i]) for i in victims])[:-1])
    return Restored(own, victims, clips, 1 - residual / total if total > 0 else 0.0)


def with_context(sequences: Sequence[Array], frames: int) -> Array:
    """Frames of sequences [frames_i, d] with so many neighbours on each side; edges are repeated.

    Returns:
        [sum of frames_i, (2 * frames + 1) * d], in order.
    """
    padded = [np.pad(s, ((frames, frames), (0, 0)), mode="edge") for s in sequences]
    windows = [
        np.concatenate([p[i : i + len(s)] for i in range(2 * frames + 1)], axis=1)
        for p, s in zip(padded, sequences, strict=True)
    ]
    return np.concatenate(windows)


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
    return Trials(scores.ravel(), np.tile(gallery, len(tried)), np.repeat(tried, len(gallery)))


def invert_with(
    name: str, original: ClipSet, released: ClipSet, *, about: Result, bootstrap: int, seed: int
) -> list[Result]:
    """One decoder, and the EER of every recogniser at hand on what it restores, on releases, and on originals."""
    speaker = released.labels
    if (people := len(released.speakers)) < MIN_PEOPLE:
        reason = f"{people} speakers: at least {MIN_PEOPLE} are needed to train on some and attack others"
        return [about.invalidated(reason, speakers=people)]
    restored, form = _restored(DECODERS[name](seed), original, released, speaker, seed)
    enrolled, tried = trial_rows(speaker, seed)
    shown = {"unprotected": original.subset(tried)}
    if not released.holds_codes:  # a recogniser of originals cannot read a code before it is decoded
        shown["ignorant"] = released.subset(tried)
    arrays = [restored.clips[i] for i in np.searchsorted(restored.victims, tried)]
    arrays = arrays if form == "frames" else [np.asarray(array, np.float32) for array in arrays]
    described = [original.clips[row] for row in tried]
    shown["decoded"] = ClipSet.from_arrays(described, arrays, modality=original.modality, form=form)
    note = "share of what makes one clip differ from the mean that the decoder restores; the EERs say if it identifies"
    counts: dict[str, Any] = {"chance": 0.0, "speakers": people, "clips": len(restored.victims), "note": note}
    of_decoder = about.model_copy(update={"target": "original features", "attacker": f"{name} decoder"})
    found = [of_decoder.with_value(restored.explained, metric="explained_variance", **counts)]
    own = original.subset(restored.own)
    for reader, (recognise, limit) in _recognisers(own, seed, decoded=not released.holds_codes).items():
        enrolment = recognise(original.subset(enrolled))
        rows = []
        for scenario, clips in shown.items():
            attacker = f"{name} decoder, read by {reader}" if scenario == "decoded" else reader
            changes = {"attacker": attacker, "scenario": scenario, "metric": "eer", "chance": 0.5}
            trials = verify(enrolment, speaker[enrolled], recognise(clips), speaker[tried])
            if trials is None:
                rows.append(about.invalidated("no speaker has a clip left to try", **changes))
                continue
            interval = bootstrap_trials({"eer": eer}, trials, resamples=bootstrap, seed=seed)["eer"]
            counts = {"speakers": len(trials.speakers), "clips": int(trials.mated.sum())}
            rows.append(about.with_value(eer(trials), interval, **changes, **counts))
        anchor = rows[0].value
        if anchor is None or anchor > limit:
            figure = "no figure" if anchor is None else f"EER {anchor:.3f}, at most {limit} wanted"
            reason = f"{reader} cannot tell unprotected clips apart either ({figure})"
            rows = [row.invalidated(reason) for row in rows]
        found += rows
    return found


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


def _recognisers(own: ClipSet, seed: int, *, decoded: bool) -> Mapping[str, tuple[Recogniser, float]]:
    """Each recogniser with the EER on originals above which it counts for nothing.

    `decoded`: whether sound or pictures are restored, which alone encoders can read.
    """
    found: dict[str, tuple[Recogniser, float]] = {}
    for encoder in encoders_at_hand(own.modality) if decoded else ():
        found[encoder] = (partial(embeddings_of, encoder), get_attacker(encoder).max_unprotected_eer)
    cls = get_embedder(ADAPTIVE[own.modality])
    model = cls()
    model.fit(own, seed=seed)
    return found | {cls.name: (model.embed, cls.max_unprotected_eer)}


def _restored(decoder: Any, original: ClipSet, released: ClipSet, speaker: Int64, seed: int) -> tuple[Restored, Any]:
    """The decoded clips of the victims, and their form."""
    options: dict[str, Any] = {"decoder": decoder, "max_rows": MAX_ROWS[released.modality], "seed": seed}
    sides = (released, original)
    if released.holds_codes:
        # Codes keep no time that frames could be matched with: statistics of the original are restored. They are their
        # own statistics, as a code is.
        seen = face_picture if original.holds_pictures else voice_statistics
        given, wanted = voice_statistics(released).astype(np.float64), seen(original).astype(np.float64)
        return restore(given, wanted, speaker, **options), "code"
    if released.modality == "voice":
        pairs = [[clips.mfcc(i)[:MAX_FRAMES] for clips in sides] for i in range(len(released))]
        pairs = [[np.asarray(clip[: min(map(len, pair))]) for clip in pair] for pair in pairs]
        coded, plain = ([pair[side] for pair in pairs] for side in (0, 1))
        return restore(coded, plain, speaker, context_frames=CONTEXT, **options), "mfcc"
    # Every frame is a picture of its own; afterwards they are clips again.
    of_clip = np.concatenate([np.full(len(original.frames(i)), i) for i in range(len(original))])
    frames, truth = (np.concatenate([c.frames(i) for i in range(len(c))]).astype(np.float32) / 255 for c in sides)
    by_frame = restore(frames, truth, speaker[of_clip], **options)
    own, victims = np.unique(of_clip[by_frame.own]), np.unique(of_clip[by_frame.victims])
    pictures = np.round(np.asarray(by_frame.clips) * 255).astype(np.uint8)
    clips = [pictures[of_clip[by_frame.victims] == i] for i in victims]
    return Restored(own, victims, clips, by_frame.explained), "frames"
