"""Made-up speakers: clouds of MFCC frames, with or without a place of their own."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.result import Result
from moretta.shared.audit.runner import audit
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.core.terms import Modality
from moretta.shared.data.corpora.cremad import Level
from moretta.shared.release import PseudonymKey, ReleasedClip

KEY = PseudonymKey.seeded(0, "test")
SENTENCES = ("DFA", "IOM", "ITH", "TIE")


def voices(*, speakers: int = 8, clips: int = 12, apart: float = 1.5, seed: int = 0) -> ClipSet:
    """`apart` is the distance of speakers in standard deviations of a frame; 0 hides them."""
    rng = np.random.default_rng(seed)
    meta, arrays = [], []
    for speaker in range(speakers):
        centre = apart * rng.normal(size=13)
        for number in range(clips):
            meta.append(describe(speaker, number))
            arrays.append((centre + 0.3 * rng.normal(size=13) + rng.normal(size=(40, 13))).astype(np.float32))
    return ClipSet.from_arrays(meta, arrays, modality="voice", form="mfcc")


def codes(
    *,
    form: Literal["code", "code-sequence", "code-tokens"] = "code",
    modality: Modality = "voice",
    speakers: int = 8,
    clips: int = 12,
    apart: float = 2.0,
    lively: float = 0.0,
    seed: int = 0,
) -> ClipSet:
    """Learned codes of 6 values under the names of `voices`; `lively` is the distance of emotions."""
    rng = np.random.default_rng(seed)
    places, emotions = apart * rng.normal(size=(speakers, 6)), lively * rng.normal(size=(6, 6))
    meta = [describe(speaker, number) for speaker in range(speakers) for number in range(clips)]
    arrays: list[np.ndarray] = []
    for index, clip in enumerate(meta):
        centre = places[index // clips] + emotions[EMOTIONS.index(clip.emotion)]
        sequence = (centre + rng.normal(size=(1 if form == "code" else 12, 6))).astype(np.float32)
        arrays.append(sequence[0] if form == "code" else sequence)
    if form != "code-tokens":
        return ClipSet.from_arrays(meta, arrays, modality=modality, form=form)
    book = np.concatenate(arrays)[:: len(meta) // 16]
    nearest = [((a[:, None] - book) ** 2).sum(2).argmin(1).astype(np.int32) for a in arrays]
    return ClipSet.from_arrays(meta, nearest, modality=modality, form=form, codebook=book)


def faces(*, speakers: int = 6, clips: int = 8, apart: float = 60.0, seed: int = 0) -> ClipSet:
    """Frames of 48 x 48: a pattern for each person, and noise."""
    rng = np.random.default_rng(seed)
    meta, arrays = [], []
    for speaker in range(speakers):
        pattern = np.kron(rng.normal(size=(6, 6, 3)), np.ones((8, 8, 1))) * apart
        for number in range(clips):
            frames = 128 + pattern + 15 * rng.normal(size=(4, 48, 48, 3))
            meta.append(describe(speaker, number))
            arrays.append(np.clip(frames, 0, 255).astype(np.uint8))
    return ClipSet.from_arrays(meta, arrays, modality="face", form="frames")


def describe(speaker: int, number: int) -> ReleasedClip:
    emotion, sentence = EMOTIONS[number % 6], SENTENCES[number % len(SENTENCES)]
    return ReleasedClip(
        clip=KEY.clip(f"{speaker} {number}"),
        speaker=KEY.speaker(speaker),
        emotion=emotion,
        sentence=sentence,
        level=Level.XX,
        sex="female" if speaker % 2 else "male",
    )


def run_audit(original: ClipSet | None, released: ClipSet, **options: Any) -> list[Result]:
    """All results of an audit."""
    return audit(original, released, **options).results
