"""Training of embeddings against gender on public people, a third of whom are held out.

The figures are of those who were held out. The same networks are trained without reversal too: a classifier of sex that
cannot read it there could not have been beaten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from moretta.shared.core.array_types import Bool, Float32, Int64
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.core.reproducibility import derive
from moretta.shared.core.terms import Modality
from moretta.shared.core.workers import seeded
from moretta.shared.features.mfcc import MELS
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
from moretta.shared.models.replacement_autoencoder import SEXES, Scale
from moretta.shared.models.unlearnt_gender import (
    PICTURES,
    SIDE,
    SIZES,
    STEPS,
    WIDTH,
    UnlearntEmbedding,
    UnlearntFigures,
    UnlearntNet,
    losses,
    placed,
)
from moretta.shared.models.unlearnt_inputs import PublicClips
from moretta.shared.study.public_arrays import LEAST_SPREAD, PUBLIC_SEED

SEED = derive(PUBLIC_SEED, "unlearnt gender")
"""Seed of weights, order and the choice of held-out people. Not secret."""
BATCH, RATE, MOMENTUM = 32, 5e-2, 0.8
"""Of gradient descent on the branches, whose rate falls to 0. Steps in proportion to the gradient matter: with those of
Adam the branches overshoot what the classifier of sex has just learned, and write sex into the embedding."""
READER_RATE, READER_STEPS, READER_DECAY = 1e-2, 5, 1.0
"""Of the classifier of sex (AdamW): it takes several steps for each of the branches, and its weights are held small, so
that its gradient does not vanish where it is sure."""
WARM_UP = 0.1
"""Share of the training in which the classifier of sex learns and nothing is reversed."""
HIDDEN = 0.25
"""Share of the clips of which one of two modalities is hidden, so that each embedding can be read alone."""
_BANDS_STRETCHED, _STEPS_STRETCHED, _STEPS_MOVED = 0.15, 0.15, 0.08
"""Largest changes of voices, as shares; the last is a share of half a clip."""
_TURNED, _SCALED, _MOVED = 0.1, 0.08, 0.08
"""Largest changes of faces: radians, a share, and half sides."""
_COLOUR, _NOISE = 0.3, 0.2
"""Deviations, of values whose own is 1."""
Labels = Int64


def _scale_of(voices: Float32 | None, mine: Bool) -> Scale:
    """Mean and deviations [bands] of the steps of some clips; without voices, nothing is moved."""
    if voices is None:
        return np.zeros(MELS, np.float32), np.ones(MELS, np.float32)
    bands = voices[mine].reshape(-1, MELS)
    deviation = np.maximum(np.nanstd(bands, axis=0), LEAST_SPREAD)
    return np.nanmean(bands, axis=0).astype(np.float32), deviation.astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlearntTask:
    """How strongly gender is unlearnt."""

    strength: float
    """Strength of the reversal at its end; 0 unlearns nothing."""
    epochs: int


class Split(NamedTuple):
    """Public clips as branches take them, divided by people."""

    places: dict[Modality, Float32]
    emotion: Labels
    sex: Labels
    """Index in `SEXES`."""
    is_held_out: Bool
    scale: Scale

    @classmethod
    def of(cls, clips: PublicClips, *, seed: int, scale: Scale | None = None) -> Self:
        """Hold out a third of the people of each sex; people whose sex is not known have no part.

        Args:
            scale: of a network that was trained before; None takes that of the people who are trained on.

        Raises:
            StudyError: fewer than three people of each sex whose sex is known.
        """
        people = clips.people
        is_held, used = held_out_people(people, seed=seed), np.isin(people.sex, SEXES)
        if scale is None:
            scale = _scale_of(clips.inputs.get("voice"), used & ~is_held)
        scales: dict[Modality, Scale | None] = {"voice": scale, "face": None}
        places = {name: placed(rows[used], scales[name]) for name, rows in clips.inputs.items()}
        sex = (people.sex[used] == SEXES[1]).astype(np.int64)
        return cls(places, people.emotion[used], sex, is_held[used], scale)

    def some(self, *, held_out: bool) -> Split:
        """The clips of held-out people, or of the others."""
        mine = self.is_held_out == held_out
        places = {name: rows[mine] for name, rows in self.places.items()}
        return Split(places, self.emotion[mine], self.sex[mine], self.is_held_out[mine], self.scale)

    def tensor(self) -> Tensor:
        """All modalities side by side, [n, values]."""
        return torch.from_numpy(np.hstack([*self.places.values()]))

    def targets(self) -> Tensor:
        """See `unlearnt_gender.losses`: classes count alike, of emotion and of sex."""
        emotion, sex = balance(self.emotion, len(EMOTIONS)).numpy(), balance(self.sex, len(SEXES)).numpy()
        rows = np.column_stack([self.emotion, self.sex, emotion[self.emotion], sex[self.sex]])
        return torch.tensor(rows, dtype=torch.float32)


def train_unlearnt(clips: PublicClips, task: UnlearntTask, *, seed: int) -> dict[Modality, UnlearntEmbedding]:
    """Train on two thirds of the public people, all modalities together, and measure on the others.

    Errors: see `Split.of`.
    """
    split = Split.of(clips, seed=seed)
    known = split.some(held_out=False)
    network = fitted(known, task, seed=seed)
    twin = fitted(known, replace(task, strength=0.0), seed=seed) if task.strength else network
    return measured_embeddings(network, twin, split, seed=seed)


def fitted(known: Split, task: UnlearntTask, *, seed: int) -> UnlearntNet:
    """A network trained on all of these clips, each varied anew in every epoch."""
    names = tuple(known.places)
    with seeded(seed):
        network = UnlearntNet(names)
        clips, targets = known.tensor(), known.targets()
        trunk = [*network.branches.parameters(), *network.emotion.parameters()]
        optimizer = torch.optim.SGD(trunk, lr=RATE, momentum=MOMENTUM)
        reader = torch.optim.AdamW(network.sex.parameters(), lr=READER_RATE, weight_decay=READER_DECAY, fused=True)
        for epoch in range(task.epochs):
            network.strength = strength_at(epoch / task.epochs, most=task.strength, warm_up=WARM_UP)
            optimizer.param_groups[0]["lr"] = RATE * float(np.cos(np.pi / 2 * epoch / task.epochs))
            for batch in batches(len(clips), BATCH):
                parts = _partly_hidden(network.embedded(varied(clips[batch], names)))
                embeddings = torch.cat([*parts.values()], dim=1)
                for _ in range(READER_STEPS):  # it keeps up with what it reads
                    step_down(losses(network.heads(embeddings.detach()), targets[batch]).mean(), reader)
                step_down(losses(network.heads(embeddings), targets[batch]).mean(), optimizer)
        network.eval().fold()
        return network


def measured_embeddings(
    network: UnlearntNet, twin: UnlearntNet, split: Split, *, seed: int, rounds: int = 0
) -> dict[Modality, UnlearntEmbedding]:
    """The arrays of each branch, with what readers of sex find in its embedding alone, on held-out people.

    Args:
        twin: the same network without reversal.
        rounds: of training at the sites.
    """
    found: dict[Modality, UnlearntEmbedding] = {}
    known, others = split.some(held_out=False), split.some(held_out=True)
    for name in split.places:
        of_known, of_others = _embedding(network, known, name), _embedding(network, others, name)
        linear, forest = fresh_readers(Labelled(of_known, known.sex), Labelled(of_others, others.sex), seed=seed)
        read, plain = _read(network, others, name), _read(twin, others, name)
        originals = (Labelled(_summary(part.places[name], name), part.sex) for part in (known, others))
        sex = AdversaryFigures(
            classes=len(SEXES),
            in_loop=read.sex,
            able=plain.sex,
            loss=_read(network, known, name).loss,
            of_originals=linear_reader(*originals),
            fresh_linear=linear,
            fresh_forest=forest,
            variation=variation(of_others, _embedding(twin, others, name)),
        )
        figures = UnlearntFigures(sex, read.emotion, plain.emotion)
        found[name] = UnlearntEmbedding.of(network, name, split.scale, figures, rounds)
    return found


def varied(clips: Tensor, modalities: Sequence[Modality]) -> Tensor:
    """Clips [n, values] as other people, rooms and cameras might have made them; drawn by torch's generator."""
    parts = torch.split(clips, [SIZES[name] for name in modalities], dim=1)
    return torch.cat([_VARIED[name](part) for name, part in zip(modalities, parts, strict=True)], dim=1)


def _varied_voices(places: Tensor) -> Tensor:
    """Other lengths of the vocal tract and tempos (bands and steps stretched), other levels, colours and noise."""
    count = len(places)
    moved = torch.zeros(count, 2, 3)
    moved[:, 0, 0] = 1 + _BANDS_STRETCHED * _even(count)
    moved[:, 0, 2] = moved[:, 0, 0] - 1  # the lowest band stays
    moved[:, 1, 1] = 1 + _STEPS_STRETCHED * _even(count)
    moved[:, 1, 2] = _STEPS_MOVED * _even(count)
    bands = _resampled(places.view(count, 1, STEPS, MELS), moved)
    colour = torch.randn(count, 1, 1) + torch.randn(count, 1, 1) * torch.linspace(-1, 1, MELS)
    bands = bands.squeeze(1) + _COLOUR * colour + _NOISE * torch.randn(count, STEPS, MELS)
    return bands.flatten(1)


def _varied_faces(places: Tensor) -> Tensor:
    """Mirrored, moved, turned and scaled a little, all pictures of a clip alike, with noise."""
    count = len(places)
    angle, size = _TURNED * _even(count), 1 + _SCALED * _even(count)
    mirror = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    rows = [size * mirror * angle.cos(), -size * angle.sin(), size * mirror * angle.sin(), size * angle.cos()]
    turned = torch.stack(rows, dim=1).view(count, 2, 2)
    moved = torch.cat([turned, (_MOVED * (2 * torch.rand(count, 2) - 1)).unsqueeze(2)], dim=2)
    pictures = _resampled(places.view(count, PICTURES, SIDE, SIDE), moved)
    return (pictures + _NOISE * torch.randn(pictures.shape)).flatten(1)


def _even(count: int) -> Tensor:
    """[count], evenly from -1 to 1."""
    return 2 * torch.rand(count) - 1


def _resampled(pictures: Tensor, moved: Tensor) -> Tensor:
    """Pictures [n, channels, h, w] by maps [n, 2, 3] of places; the mean lies beyond their edges."""
    grid = functional.affine_grid(moved, list(pictures.shape), align_corners=False)
    return functional.grid_sample(pictures, grid, align_corners=False)


_VARIED = {"voice": _varied_voices, "face": _varied_faces}


def _partly_hidden(embeddings: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
    """The embeddings, with zeros for one of two modalities in some clips."""
    if len(embeddings) == 1:
        return dict(embeddings)
    count = len(next(iter(embeddings.values())))
    which = torch.where(torch.rand(count) < HIDDEN, torch.randint(len(embeddings), (count,)), -1)
    return {
        name: torch.where((which == number)[:, None], 0.0, part)
        for number, (name, part) in enumerate(embeddings.items())
    }


@torch.inference_mode()
def _embedding(network: UnlearntNet, split: Split, modality: Modality) -> Float32:
    return np.asarray(network.branches[modality](torch.from_numpy(split.places[modality])))


class _Read(NamedTuple):
    """Balanced accuracies of the network's own heads on one modality alone, and the loss of sex in nats."""

    emotion: float
    sex: float
    loss: float


@torch.inference_mode()
def _read(network: UnlearntNet, split: Split, modality: Modality) -> _Read:
    embeddings = torch.zeros(len(split.sex), len(split.places) * WIDTH)
    place = WIDTH * list(split.places).index(modality)
    embeddings[:, place : place + WIDTH] = torch.from_numpy(_embedding(network, split, modality))
    emotion, sex = torch.split(network.heads(embeddings), [len(EMOTIONS), len(SEXES)], dim=1)
    loss = cross_entropies(sex, torch.tensor(split.sex), balance(split.sex, len(SEXES))).mean()
    found = recall(split.emotion, emotion.argmax(dim=1).numpy()), recall(split.sex, sex.argmax(dim=1).numpy())
    return _Read(*found, float(loss))


def _summary(places: Float32, modality: Modality) -> Float32:
    """Input of a linear reader of originals: mean and deviation of each band, or the mean picture, [n, d]."""
    if modality == "face":
        return np.asarray(places.reshape(len(places), PICTURES, -1).mean(axis=1))
    bands = places.reshape(len(places), STEPS, MELS)
    return np.hstack([bands.mean(axis=1), bands.std(axis=1)])
