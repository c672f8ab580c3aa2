"""Training of a replacement autoencoder on public speech, a third of whose people are held out.

The figures that come with it are of held-out people. The same network is trained without reversal too: an adversary
that cannot read sex there could not have been beaten.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from moretta.shared.core.array_types import Bool, Float64, Int64
from moretta.shared.core.errors import StudyError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.core.reproducibility import derive
from moretta.shared.core.workers import seeded
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.models.adversaries import (
    AdversaryFigures,
    Labelled,
    balance,
    batches,
    cross_entropies,
    fresh_readers,
    linear_reader,
    recall,
    strength_at,
    variation,
)
from moretta.shared.models.held_out_people import held_out_people
from moretta.shared.models.optimizers import step_down
from moretta.shared.models.replacement_autoencoder import (
    FIGURES,
    SEXES,
    WIDTH,
    ReplacementAutoencoder,
    ReplacementNet,
    Scale,
    losses,
    placed,
    scale_of,
)
from moretta.shared.study.public_arrays import PUBLIC_SEED

SEED = derive(PUBLIC_SEED, "replacement autoencoder")
"""Seed of weights, order, donors and the choice of held-out people. Not secret."""
BATCH, RATE, READER_RATE = 64, 1e-3, 3e-3
"""Rates of Adam; the classifier of sex learns faster, or the encoder outruns it and both swing."""
WARM_UP = 0.1
"""Share of the training in which the classifier of sex learns and nothing is reversed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacementTask:
    """The emotion to hide, its replacement, and the training."""

    sensitive: int | None
    """Class index of the emotion that is replaced; None replaces nothing."""
    replacement: int
    """Class index of the emotion that it is replaced by."""
    strength: float
    """Strength of the reversal at its end; 0 reverses nothing."""
    epochs: int


class PublicSplit(NamedTuple):
    """Public speech in places, divided by people."""

    places: Float64
    emotion: Int64
    sex: Int64
    """Index in `SEXES`."""
    is_held_out: Bool
    scale: Scale

    @classmethod
    def of(cls, rows: PublicRows, *, seed: int, scale: Scale | None = None) -> Self:
        """Hold out a third of the people of each sex; speakers whose sex is not known have no part.

        Args:
            scale: of an autoencoder that was trained before; None takes that of the people who are trained on.

        Raises:
            StudyError: fewer than three people of each sex whose sex is known.
        """
        used, is_held = np.isin(rows.sex, SEXES), held_out_people(rows, seed=seed)
        if scale is None:
            scale = scale_of(rows.values[used & ~is_held])
        sex = (rows.sex[used] == SEXES[1]).astype(np.int64)
        places = placed(rows.values[used], scale)
        return cls(places, rows.emotion[used], sex, is_held[used], scale)

    def some(self, *, held_out: bool) -> PublicSplit:
        """The speech of held-out people, or of the others."""
        mine = self.is_held_out == held_out
        return self._replace(
            places=self.places[mine], emotion=self.emotion[mine], sex=self.sex[mine], is_held_out=self.is_held_out[mine]
        )

    def donors(self, task: ReplacementTask) -> list[Int64]:
        """Rows of the replacement emotion for each sex. Raises StudyError: there are none, or no row of the sensitive
        emotion."""
        found = [np.flatnonzero((self.emotion == task.replacement) & (self.sex == sex)) for sex in range(len(SEXES))]
        if task.sensitive is None:
            return found
        missing = [f"{EMOTIONS[task.replacement]} of {sex} speakers" for sex, rows in zip(SEXES, found, strict=True)]
        missing = [what for what, rows in zip(missing, found, strict=True) if not len(rows)]
        if not (self.emotion == task.sensitive).any():
            missing.append(EMOTIONS[task.sensitive])
        if missing:
            raise StudyError(
                f"public speech without a clip of {' or of '.join(missing)} among the people that are trained on",
                expected="clips of the sensitive emotion, and of its replacement by both sexes",
                fix="add such recordings to `public_speech`, or choose other emotions as `sensitive` and `replacement`",
            )
        return found


def train_replacement(rows: PublicRows, task: ReplacementTask, *, seed: int) -> ReplacementAutoencoder:
    """Train on two thirds of the public people, and measure on the others. Errors: see `PublicSplit`."""
    split = PublicSplit.of(rows, seed=seed)
    known = split.some(held_out=False)
    network = fitted(known, task, seed=seed)
    twin = network if not task.strength else fitted(known, replace(task, strength=0.0), seed=seed)
    able, _ = in_loop(twin, split.some(held_out=True))
    return measured_autoencoder(network, split, task, able=able, seed=seed)


def fitted(known: PublicSplit, task: ReplacementTask, *, seed: int) -> ReplacementNet:
    """A network trained on all of these rows; replacements are drawn anew in every epoch."""
    donors, drawn = known.donors(task), np.random.default_rng([seed, 0xD04])
    with seeded(seed):
        network = ReplacementNet()
        places = torch.tensor(known.places, dtype=torch.float32)
        weights = balance(known.sex, len(SEXES)).numpy()[known.sex]
        groups: list[dict[str, Any]] = [
            {"params": [*network.encoder.parameters(), *network.decoder.parameters()]},
            {"params": network.adversary.parameters(), "lr": READER_RATE},
        ]
        optimizer = torch.optim.Adam(groups, lr=RATE, fused=True)
        for epoch in range(task.epochs):
            network.strength = strength_at(epoch / task.epochs, most=task.strength, warm_up=WARM_UP)
            wanted = known.places.copy()
            for sex, rows in enumerate(donors):
                mine = np.flatnonzero((known.emotion == task.sensitive) & (known.sex == sex))
                wanted[mine] = known.places[drawn.choice(rows, len(mine))] if len(mine) else wanted[mine]
            targets = torch.tensor(np.column_stack([wanted, known.sex, weights]), dtype=torch.float32)
            for batch in batches(len(places), BATCH):
                step_down(losses(network(places[batch]), targets[batch]).mean(), optimizer)
        return network


def measured_autoencoder(
    network: ReplacementNet, split: PublicSplit, task: ReplacementTask, *, able: float, seed: int, rounds: int = 0
) -> ReplacementAutoencoder:
    """The arrays of a network, with what readers of sex find in its output on held-out people.

    Args:
        able: what the adversary of the same network without reversal reads.
        rounds: of training at the sites.
    """
    made = ReplacementAutoencoder.of(
        network, split.scale, np.zeros(len(AdversaryFigures.names()) + 1, np.float32), rounds
    )
    known, others = split.some(held_out=False), split.some(held_out=True)
    released, kept = made(others.places), others.emotion != task.sensitive
    originals = Labelled(known.places, known.sex)
    linear, forest = fresh_readers(Labelled(made(known.places), known.sex), Labelled(released, others.sex), seed=seed)
    figures = AdversaryFigures(
        classes=len(SEXES),
        in_loop=in_loop(network, others)[0],
        able=able,
        loss=in_loop(network, known)[1],
        of_originals=linear_reader(originals, Labelled(released, others.sex)),
        fresh_linear=linear,
        fresh_forest=forest,
        variation=variation(released, others.places),
    )
    missed = np.square(released - others.places)[kept].sum()
    whole = np.square(others.places[kept] - others.places[kept].mean(axis=0)).sum()
    explained = 1 - missed / max(whole, 1e-9)
    array = np.append(figures.to_array(), np.float32(max(explained, -1.0)))
    return ReplacementAutoencoder({**made.arrays, FIGURES: array})


@torch.no_grad()
def in_loop(network: ReplacementNet, split: PublicSplit) -> tuple[float, float]:
    """Balanced accuracy and cross-entropy, sexes counting alike, of the adversary in the loop."""
    logits = network(torch.tensor(split.places, dtype=torch.float32))[:, WIDTH:]
    loss = cross_entropies(logits, torch.tensor(split.sex), balance(split.sex, len(SEXES))).mean()
    return recall(split.sex, logits.argmax(dim=1).numpy()), float(loss)
