"""Training of a small HuBERT on public speech without labels: units of hidden frames are named.

Units are clusters of MFCC with their first and second differences, as in HuBERT's first iteration (Hsu et al. 2021,
section II-B); only hidden frames count (alpha = 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from moretta.shared.core.errors import StudyError
from moretta.shared.core.workers import seeded
from moretta.shared.features.mfcc import COEFFICIENTS, Audio, Frames
from moretta.shared.features.public_speech import MIN_STD
from moretta.shared.features.voice_forms import fit_codebook, nearest
from moretta.shared.models.mini_hubert import (
    MASK_FRAMES,
    MASK_SHARE,
    UNITS,
    MiniHubert,
    MiniHubertNet,
    heard_frames,
    standardised,
)
from moretta.shared.models.optimizers import step_down

BATCH, CROP_FRAMES = 16, 200
"""Crops of 2 s in a step."""
RATE, WARM_UP = 1e-3, 0.08
_CLUSTERED = 60_000
_READ = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniHubertTask:
    """How long to train."""

    steps: int
    seed: int


class Named(NamedTuple):
    """A clip: standardised frames [t, 40], and the unit of each second one [ceil(t / 2)]."""

    frames: Frames
    units: npt.NDArray[np.int32]


class Trained(NamedTuple):
    """An encoder, and how well it named hidden frames."""

    encoder: MiniHubert
    loss: list[float]
    """Cross-entropy of each step in nats; a guess has that of log 64."""


def train_mini_hubert(clips: Iterable[Audio], task: MiniHubertTask, step: Callable[[], Any] = lambda: None) -> Trained:
    """Train on speech of any people; `step` is called after each step. Raises StudyError: not one clip of a second."""
    frames = _all_frames(clips)
    every = np.concatenate(frames)
    mean, std = every.mean(axis=0), np.maximum(every.std(axis=0), MIN_STD)
    named = _named(frames, mean, std, seed=task.seed)
    with seeded(task.seed):
        generator = np.random.default_rng([task.seed, 0x4B3])
        network = MiniHubertNet()
        optimizer = torch.optim.AdamW(network.parameters(), RATE, betas=(0.9, 0.98), eps=1e-6, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: _rate(done / task.steps))
        lost = []
        for _ in range(task.steps):
            batch, units = _crops(named, generator)
            mask = _mask(units.shape, generator)
            loss = functional.cross_entropy(network(batch, mask)[mask], units[mask])
            step_down(loss, optimizer, schedule, longest=1.0)
            lost.append(loss.item())
            step()
        return Trained(MiniHubert.of(network, mean, std), lost)


def _rate(progress: float) -> float:
    """Rises over the first steps, then falls along a line."""
    return min((progress + 1e-3) / WARM_UP, (1 - progress) / (1 - WARM_UP))


def _all_frames(clips: Iterable[Audio]) -> list[Frames]:
    found: list[Frames] = []
    part: list[Audio] = []
    for clip in clips:
        part.append(clip)
        if len(part) == _READ:
            found += heard_frames(part)
            part = []
    found += heard_frames(part)
    if not (long := [frames for frames in found if len(frames) >= CROP_FRAMES // 2]):
        raise StudyError(
            f"{len(found)} clips of public speech, none of them a second long",
            expected="speech to train the encoder on",
            fix="name more of it as `public_speech` or `encoder_speech`",
        )
    return long


def _named(frames: Sequence[Frames], mean: Any, std: Any, *, seed: int) -> list[Named]:
    described = [_described(one[:, :COEFFICIENTS])[::2] for one in frames]
    every = np.concatenate(described)
    scale = np.maximum(every.std(axis=0), MIN_STD)
    chosen = np.random.default_rng([seed, 0x4B2]).permutation(len(every))[:_CLUSTERED]
    codebook = fit_codebook(every[chosen] / scale, UNITS, seed=seed)
    return [
        Named(standardised(one, mean, std), nearest(other / scale, codebook))
        for one, other in zip(frames, described, strict=True)
    ]


def _described(mfcc: Frames) -> Frames:
    """[t, 39]: with first and second differences, each over two frames."""
    first = np.gradient(mfcc, axis=0)
    return np.hstack([mfcc, first, np.gradient(first, axis=0)])


def _crops(named: Sequence[Named], generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Frames [n, 200, 40] of clips drawn by their length, and units [n, 100]. Shorter clips are repeated."""
    lengths = np.array([len(one.frames) for one in named], np.float64)
    frames, units = [], []
    for index in generator.choice(len(named), BATCH, p=lengths / lengths.sum()):
        one = named[index]
        repeats = -(-CROP_FRAMES // (2 * (len(one.frames) // 2)))
        even = 2 * (len(one.frames) // 2)
        start = 2 * int(generator.integers((repeats * even - CROP_FRAMES) // 2 + 1))
        frames.append(np.tile(one.frames[:even], (repeats, 1))[start : start + CROP_FRAMES])
        units.append(np.tile(one.units[: even // 2], repeats)[start // 2 : (start + CROP_FRAMES) // 2])
    return torch.tensor(np.stack(frames)), torch.tensor(np.stack(units), dtype=torch.int64)


def _mask(shape: Sequence[int], generator: np.random.Generator) -> Tensor:
    """Which frames are hidden: spans that overlap begin at 8 % of them, and at one at least."""
    starts = generator.random(tuple(shape)) < MASK_SHARE
    starts[:, generator.integers(shape[1])] |= ~starts.any(axis=1)
    hidden = np.zeros(tuple(shape), bool)
    for later in range(MASK_FRAMES):
        hidden[:, later:] |= starts[:, : shape[1] - later]
    return torch.tensor(hidden)
