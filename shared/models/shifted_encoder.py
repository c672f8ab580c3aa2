"""An autoencoder's encoder, tuned so that its codes leave their own person: Nousi et al., 2020.

P. Nousi, S. Papadopoulos, A. Tefas, I. Pitas, "Deep autoencoders for attribute preserving face de-identification",
Signal Processing: Image Communication 81, 2020. Only the abstract could be read: the encoder is fine-tuned, supervised
or not, so that faces become others and attributes stay; how codes are shifted is ours. The decoder is frozen.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from moretta.shared.core.array_types import Float32, Int64
from moretta.shared.core.errors import CorpusError, RunError
from moretta.shared.models.autoencoder import BATCH, Autoencoder
from moretta.shared.models.face_images import Pictures

Shift = Literal["supervised", "unsupervised"]
HELD_OUT = 0.1
"""Part of the people, the last ones, whom the encoder is not tuned on: the error of their codes is measured."""
_MAX_GRADIENT = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftTask:
    """How far codes are moved, and to what."""

    shift: Shift = "supervised"
    """`supervised`: to the mean of the nearest codes of other people who show the same emotion; `unsupervised`: to the
    nearest centroid of all codes."""
    distance: float = 0.8
    """Share of the way, above 0, at most 1."""
    neighbours: int = 8
    """Number of other people's codes that are averaged."""
    centroids: int = 16
    epochs: int = 10
    batch: int = 16
    learning_rate: float = 0.0005
    """Learning rate at the start; it falls to zero along half a cosine."""
    noise: float = 0.1
    """Standard deviation of the corruption of inputs, for values in [0, 1]."""
    seed: int = 1


@dataclass(frozen=True, slots=True)
class TunedEncoder:
    """The result, and how far the codes of held-out people were from their targets, in mean squares."""

    model: Autoencoder
    before: float
    after: float


def codes_of(model: Autoencoder, pictures: Pictures) -> Float32:
    """float32 [N, latent] of uint8 [N, side, side, 3]."""
    model.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pictures), BATCH):
            parts.append(model.encoder(_tensor(pictures[start : start + BATCH])).numpy())
    return np.concatenate(parts)


def shifted(codes: Float32, bank: Float32, task: ShiftTask, *, same: Callable[[int], Int64]) -> Float32:
    """Where codes [N, d] are to go.

    Args:
        bank: codes [M, d] of the people that the encoder is tuned on.
        same: rows of the bank that code `n` may be moved towards; not used by `unsupervised`.

    Raises:
        CorpusError: nobody else shows the same emotion, or fewer codes than centroids.
    """
    if task.shift == "unsupervised":
        goals = _nearest_centroids(codes, bank, task)
    else:
        goals = np.stack([_mean_of_nearest(code, bank[same(row)], task) for row, code in enumerate(codes)])
    return np.asarray((1 - task.distance) * codes + task.distance * goals, np.float32)


def _mean_of_nearest(code: Float32, others: Float32, task: ShiftTask) -> Float32:
    if not len(others):
        found = "public faces among which nobody else shows the same emotion"
        raise CorpusError(found, expected="several people of each emotion", fix="draw more training_faces")
    apart = np.square(others - code).sum(axis=1)
    return np.asarray(others[np.argsort(apart, kind="stable")[: task.neighbours]].mean(axis=0))


def _nearest_centroids(codes: Float32, bank: Float32, task: ShiftTask) -> Float32:
    from sklearn.cluster import KMeans

    if len(bank) < task.centroids:
        raise CorpusError(f"{len(bank)} public faces for {task.centroids} centroids", expected="at least as many")
    fitted = KMeans(task.centroids, n_init=4, random_state=task.seed).fit(bank)
    return np.asarray(fitted.cluster_centers_[fitted.predict(codes)], np.float32)


def tune_encoder(
    model: Autoencoder,
    pictures: Pictures,
    people: Int64,
    emotions: Int64,
    task: ShiftTask,
    *,
    step: Callable[[], None] | None = None,
) -> TunedEncoder:
    """Tune a copy of the encoder towards the shifted codes, by mean squared error. The decoder is not touched.

    Args:
        pictures: [N, side, side, 3], those of one person together.
        people: [N], ascending; the last tenth is held out.
        emotions: [N].

    Raises:
        CorpusError: too few people or pictures for the task.
        RunError: the training diverged.
    """
    persons = np.unique(people)
    if len(persons) < 3:
        raise CorpusError(f"public faces of {len(persons)} people", expected="at least 3, and hundreds to be of use")
    kept = np.isin(people, persons[: max(2, len(persons) - max(1, round(HELD_OUT * len(persons))))])
    known, unknown = np.flatnonzero(kept), np.flatnonzero(~kept)
    codes = codes_of(model, pictures)

    def same(row: int) -> Int64:
        return np.flatnonzero((people[known] != people[row]) & (emotions[known] == emotions[row]))

    targets = torch.from_numpy(shifted(codes, codes[known], task, same=same))
    before = float(np.square(codes[unknown] - targets.numpy()[unknown]).mean())
    tuned = copy.deepcopy(model)
    _learn(tuned, pictures, known, targets, task, step=step)
    after = float(np.square(codes_of(tuned, pictures[unknown]) - targets.numpy()[unknown]).mean())
    return TunedEncoder(tuned.eval(), before, after)


def tuning_steps(task: ShiftTask, people: int, each: int) -> int:
    """How often `tune_encoder` calls its `step`."""
    return task.epochs * math.ceil((people - max(1, round(HELD_OUT * people))) * each / task.batch)


def _learn(
    model: Autoencoder,
    pictures: Pictures,
    rows: Int64,
    targets: Tensor,
    task: ShiftTask,
    *,
    step: Callable[[], None] | None,
) -> None:
    rng, encoder = np.random.default_rng(task.seed), model.encoder.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=task.learning_rate)
    batches = math.ceil(len(rows) / task.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, task.epochs * batches)
    for _ in range(task.epochs):
        order = rng.permutation(rows)
        for part in np.array_split(order, batches):
            part = np.sort(part)  # noqa: PLW2901 - a memory map is read forwards
            clean = _tensor(pictures[part])
            drawn = torch.from_numpy(rng.standard_normal(tuple(clean.shape), dtype=np.float32))
            encoder.train()
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(
                encoder((clean + task.noise * drawn).clamp(0, 1)), targets[torch.from_numpy(part)]
            )
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(encoder.parameters(), _MAX_GRADIENT)
            if not bool(torch.isfinite(norm)):
                raise RunError("the tuning diverged", expected="finite gradients", fix="lower the noise")
            optimizer.step()
            schedule.step()
            if step is not None:
                step()


def _tensor(part: Pictures) -> Tensor:
    """uint8 [B, side, side, 3] -> float32 [B, 3, side, side] in [0, 1], channels last."""
    return torch.from_numpy(np.ascontiguousarray(part)).permute(0, 3, 1, 2).float() / 255
