"""Training of an adversarial autoencoder of embeddings on public people, a third of whom are held out.

Of the others one clip in four is set aside: there the heads in the loop are asked. The same network is trained without
reversal too: a head that cannot read speakers there could not have been beaten.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from moretta.shared.core.array_types import Float64, unit_rows
from moretta.shared.core.errors import StudyError
from moretta.shared.core.reproducibility import derive
from moretta.shared.core.workers import seeded
from moretta.shared.features.public_speech import Recording
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.features.voice_similarity import diagonal_dominance, gain_decibel, similarity_matrix
from moretta.shared.models.adversarial_embedding import (
    FIGURES,
    AdversarialEmbedding,
    EmbeddingFigures,
    EmbeddingNet,
    divided,
    terms,
)
from moretta.shared.models.adversaries import balance, batches, recall, strength_at, variation
from moretta.shared.models.held_out_people import ATTRIBUTES, People, Split, read_afresh
from moretta.shared.models.optimizers import step_down
from moretta.shared.models.replacement_autoencoder import SEXES, Scale, placed, scale_of
from moretta.shared.models.train_replacement import BATCH, RATE, READER_RATE
from moretta.shared.pretrained.encoder import PretrainedEncoder
from moretta.shared.study.public_arrays import PUBLIC_SEED

SEED = derive(PUBLIC_SEED, "adversarial embedding")
"""Seed of weights, order and the choice of held-out people. Not secret."""
_MOST_PAIRED = 400
"""Clips whose pairs calibrate similarities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingTask:
    """How strongly speaker and sex are trained against."""

    strength: float
    """Strength of both reversals at their end; 0 reverses nothing."""
    epochs: int


class Fitted(NamedTuple):
    """A network, and mean cross-entropies of its heads in each epoch."""

    network: EmbeddingNet
    scale: Scale
    lost: Float64
    """[epochs, 2] of speaker and of sex in nats, classes counting alike."""


def embedded(recordings: Iterable[Recording], encoder: PretrainedEncoder) -> PublicRows:
    """Embeddings of public speech, of length 1. Raises StudyError: there is no clip."""
    found = [(encoder.embed_many([one.samples])[0], one.whose) for one in recordings]
    if not found:
        raise StudyError(
            "public speech without a usable clip",
            expected="speech of several people",
            fix="choose another folder as `public_speech`, or leave it out to use synthetic speech",
        )
    rows = np.stack([row for row, _ in found]).astype(np.float64)
    return PublicRows.of(rows, [whose for _, whose in found])


def train_embedding(rows: PublicRows, task: EmbeddingTask, *, seed: int) -> AdversarialEmbedding:
    """Train on two thirds of the public people, and measure on the others. Errors: see `Split`."""
    split = Split.of(rows, seed=seed)
    found = fitted(split.known, task, seed=seed)
    twin = fitted(split.known, replace(task, strength=0.0), seed=seed) if task.strength else found
    return measured_embedding(found, split, able=in_loop(twin, split.unseen), seed=seed)


def fitted(known: People, task: EmbeddingTask, *, seed: int) -> Fitted:
    """A network trained on all of these clips: squared error of places, and what both heads lose, people alike."""
    scale, people = scale_of(known.values), int(known.person.max()) + 1
    with seeded(seed):
        network = EmbeddingNet(known.values.shape[1], people)
        targets = targets_of(known, scale)
        places = targets[:, : known.values.shape[1]].contiguous()
        trunk = [*network.encoder.parameters(), *network.decoder.parameters()]
        heads = [*network.person.parameters(), *network.sex.parameters()]
        groups: list[dict[str, Any]] = [{"params": trunk}, {"params": heads, "lr": READER_RATE}]
        optimizer = torch.optim.Adam(groups, lr=RATE, fused=True)
        lost = np.zeros((task.epochs, 2))
        for epoch in range(task.epochs):
            network.strength = strength_at(epoch / task.epochs, most=task.strength)
            for batch in batches(len(places), BATCH):
                missed, of_people, of_sexes = terms(network(places[batch]), targets[batch])
                step_down((missed + of_people / np.log(people) + of_sexes / np.log(len(SEXES))).mean(), optimizer)
                lost[epoch] += float(of_people.detach().sum()), float(of_sexes.detach().sum())
        return Fitted(network, scale, lost / len(places))


def targets_of(known: People, scale: Scale) -> torch.Tensor:
    """See `adversarial_embedding.terms`: each clip's own place, and people and sexes count alike."""
    person = balance(known.person, int(known.person.max()) + 1).numpy()[known.person]
    sex = balance(known.sex, len(SEXES)).numpy()[known.sex]
    rows = np.column_stack([placed(known.values, scale), known.person, known.sex, person, sex])
    return torch.tensor(rows, dtype=torch.float32)


@torch.no_grad()
def in_loop(found: Fitted, people: People) -> tuple[float, float]:
    """Balanced accuracies of both heads, of speaker and of sex."""
    places = torch.tensor(placed(people.values, found.scale), dtype=torch.float32)
    _, person, sex = divided(found.network(places), places.shape[1])
    return recall(people.person, person.argmax(dim=1).numpy()), recall(people.sex, sex.argmax(dim=1).numpy())


def measured_embedding(
    found: Fitted, split: Split, *, able: tuple[float, float], seed: int, rounds: int = 0
) -> AdversarialEmbedding:
    """The arrays of a network with their figures.

    Args:
        able: what the heads of the same network without reversal read.
        rounds: of training at the sites.
    """
    known, others = split.known, split.others
    bare = AdversarialEmbedding.of(found.network, found.scale, found.scale)
    made = AdversarialEmbedding.of(found.network, found.scale, scale_of(bare.reconstructed(known.values)), rounds)
    released, read = made(others.values), in_loop(found, split.unseen)
    kept = variation(made.reconstructed(others.values), placed(others.values, found.scale))
    original, output = (known.values, others.values), (made(known.values), released)
    person, sex = (
        read_afresh(
            split,
            attribute,
            original,
            output,
            in_loop=read[number],
            able=able[number],
            loss=float(found.lost[-1, number]),
            variation=kept,
            seed=seed,
        )
        for number, attribute in enumerate(ATTRIBUTES)
    )
    figures = EmbeddingFigures(
        person,
        sex,
        held_out=int(others.person.max()) + 1,
        cosine=float((released * others.values).sum(axis=1).mean()),
        constant_cosine=float((others.values @ unit_rows(known.values.mean(axis=0, keepdims=True)).T).mean()),
        distinctiveness_gain=distinctiveness_gain(known, others, released),
        worst_speaker_loss=float(found.lost[:, 0].max() / np.log(int(known.person.max()) + 1)),
        worst_sex_loss=float(found.lost[:, 1].max() / np.log(len(SEXES))),
    )
    return AdversarialEmbedding({**made.arrays, FIGURES: figures.to_array()})


def distinctiveness_gain(known: People, others: People, released: Float64) -> float:
    """Gain of voice distinctiveness in decibel, by cosines; odd clips of a person are compared with even ones.

    Cosines become log-likelihood ratios by pairs of original clips of the people trained on: whoever compares released
    voices so does not know that they were changed.
    """
    from sklearn.linear_model import LogisticRegression

    step = -(-len(known.person) // _MOST_PAIRED)
    some, who = known.values[::step], known.person[::step]
    left, right = np.triu_indices(len(who), k=1)
    cosines = (some @ some.T)[left, right][:, None]
    ratio = LogisticRegression(class_weight="balanced").fit(100 * cosines, who[left] == who[right])
    odd = others.order() % 2 == 1

    def dominance(voices: Float64) -> float:
        scores = voices[~odd] @ voices[odd].T
        llr = ratio.decision_function(100 * scores.reshape(-1, 1)).reshape(scores.shape)
        return diagonal_dominance(similarity_matrix(llr, others.person[~odd], others.person[odd]))

    before = dominance(others.values)
    return gain_decibel(dominance(released) / before) if before else 0.0
