"""Training of an adversarial autoencoder of embeddings on public people, a third of whom are held out.

Of the others one clip in four is set aside: there the heads in the loop are asked. The same network is trained without
reversal too: a head that cannot read speakers there could not have been beaten.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch

from moretta.shared.core.array_types import unit_rows
from moretta.shared.core.errors import StudyError
from moretta.shared.core.reproducibility import derive
from moretta.shared.core.workers import seeded
from moretta.shared.features.public_speech import Recording
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.features.voice_similarity import diagonal_dominance, gain_decibel, similarity_matrix
from moretta.shared.models.adversarial_embedding import FIGURES, AdversarialEmbedding, EmbeddingFigures, EmbeddingNet
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
from moretta.shared.models.replacement_autoencoder import SEXES, Floats, Scale, placed, scale_of
from moretta.shared.models.train_replacement import BATCH, RATE, READER_RATE
from moretta.shared.pretrained.encoder import PretrainedEncoder
from moretta.shared.study.public_arrays import PUBLIC_SEED

SEED = derive(PUBLIC_SEED, "adversarial embedding")
"""Of what is sent to sites: of weights, order, and the people who are held out. Not secret."""
FEWEST_CLIPS = 4
"""Of a person: one in four is set aside, and half of those of a held-out person train the fresh reader."""
_MOST_PAIRED = 400
"""Clips whose pairs calibrate similarities."""

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingTask:
    """How strongly speaker and sex are trained against."""

    strength: float
    """Of both reversals at their end; 0 reverses nothing."""
    epochs: int


class People(NamedTuple):
    """Clips of some people."""

    embeddings: Floats
    """[n, d], of length 1."""
    person: Labels
    """From 0 on, among these people."""
    sex: Labels
    """Index in `SEXES`."""

    @classmethod
    def of(cls, rows: PublicRows, mine: npt.NDArray[np.bool_]) -> Self:
        """Those of some rows."""
        _, person = np.unique(rows.person[mine], return_inverse=True)
        return cls(rows.values[mine], person.astype(np.int64), (rows.sex[mine] == SEXES[1]).astype(np.int64))

    def some(self, mine: npt.NDArray[np.bool_]) -> Self:
        """Some clips of them."""
        return self._replace(embeddings=self.embeddings[mine], person=self.person[mine], sex=self.sex[mine])

    def order(self) -> Labels:
        """[n], how many clips of the same person come before each."""
        return np.array([int((self.person[:row] == one).sum()) for row, one in enumerate(self.person)], np.int64)


class Split(NamedTuple):
    """Public people."""

    known: People
    """Clips that are trained on."""
    unseen: People
    """Other clips of the same people."""
    others: People
    """Clips of people who are held out."""

    @classmethod
    def of(cls, rows: PublicRows, *, seed: int) -> Self:
        """Hold out a third of the people of each sex; those of unknown sex or with fewer than four clips have no part.

        Raises:
            StudyError: fewer than three people of each sex are left.
        """
        rows = rows._replace(sex=np.where(_have_enough(rows), rows.sex, ""))
        is_held_out = held_out_people(rows, seed=seed)
        trained = People.of(rows, np.isin(rows.sex, SEXES) & ~is_held_out)
        is_unseen = trained.order() % FEWEST_CLIPS == 1
        return cls(trained.some(~is_unseen), trained.some(is_unseen), People.of(rows, is_held_out))


class Fitted(NamedTuple):
    """A network, and mean cross-entropies of its heads in each epoch."""

    network: EmbeddingNet
    scale: Scale
    lost: Floats
    """[epochs, 2] of speaker and of sex in nats, classes counting alike."""


def embedded(recordings: Iterable[Recording], encoder: PretrainedEncoder) -> PublicRows:
    """Embeddings of public speech, of length 1.

    Raises:
        StudyError: there is no clip.
    """
    found = [(encoder.embed_many([one.samples])[0], one.person, one.emotion, one.sex) for one in recordings]
    if not found:
        raise StudyError(
            "public speech without a usable clip",
            expected="speech of several people",
            fix="choose another folder as `public_speech`, or leave it out to use synthetic speech",
        )
    values, person, emotion, sex = zip(*found, strict=True)
    rows = np.stack(values).astype(np.float64)
    return PublicRows(rows, np.array(person), np.array(emotion, np.int64), np.array(sex, np.str_))


def people_without_part(rows: PublicRows) -> int:
    """How many people cannot be used: their sex is not known, or they have fewer than `FEWEST_CLIPS` clips."""
    return len(np.unique(rows.person[~(np.isin(rows.sex, SEXES) & _have_enough(rows))]))


def _have_enough(rows: PublicRows) -> npt.NDArray[np.bool_]:
    names, counts = np.unique(rows.person, return_counts=True)
    return np.isin(rows.person, names[counts >= FEWEST_CLIPS])


def train_embedding(rows: PublicRows, task: EmbeddingTask, *, seed: int) -> AdversarialEmbedding:
    """Train on two thirds of the public people, and measure on the others. Errors: see `Split`."""
    split = Split.of(rows, seed=seed)
    found = fitted(split.known, task, seed=seed)
    twin = fitted(split.known, replace(task, strength=0.0), seed=seed) if task.strength else found
    return measured_embedding(found, split, able=in_loop(twin, split.unseen), seed=seed)


def fitted(known: People, task: EmbeddingTask, *, seed: int) -> Fitted:
    """A network trained on all of these clips: squared error of places, and what both heads lose, people alike."""
    scale, people = scale_of(known.embeddings), int(known.person.max()) + 1
    with seeded(seed):
        network = EmbeddingNet(known.embeddings.shape[1], people)
        places = torch.tensor(placed(known.embeddings, scale), dtype=torch.float32)
        person, sex = torch.tensor(known.person), torch.tensor(known.sex)
        of_person, of_sex = balance(known.person, people), balance(known.sex, len(SEXES))
        trunk = [*network.encoder.parameters(), *network.decoder.parameters()]
        heads = [*network.person.parameters(), *network.sex.parameters()]
        groups: list[dict[str, Any]] = [{"params": trunk}, {"params": heads, "lr": READER_RATE}]
        optimizer = torch.optim.Adam(groups, lr=RATE, fused=True)
        lost = np.zeros((task.epochs, 2))
        for epoch in range(task.epochs):
            network.strength = strength_at(epoch / task.epochs, most=task.strength)
            for batch in batches(len(places), BATCH):
                optimizer.zero_grad()
                made, people_found, sexes_found = network(places[batch])
                of_people = cross_entropies(people_found, person[batch], of_person)
                of_sexes = cross_entropies(sexes_found, sex[batch], of_sex)
                missed = (made - places[batch]).square().mean(dim=1)
                (missed + of_people / np.log(people) + of_sexes / np.log(len(SEXES))).mean().backward()
                optimizer.step()
                lost[epoch] += float(of_people.detach().sum()), float(of_sexes.detach().sum())
        return Fitted(network, scale, lost / len(places))


@torch.no_grad()
def in_loop(found: Fitted, people: People) -> tuple[float, float]:
    """Balanced accuracies of both heads, of speaker and of sex."""
    _, person, sex = found.network(torch.tensor(placed(people.embeddings, found.scale), dtype=torch.float32))
    return recall(people.person, person.argmax(dim=1).numpy()), recall(people.sex, sex.argmax(dim=1).numpy())


def measured_embedding(found: Fitted, split: Split, *, able: tuple[float, float], seed: int) -> AdversarialEmbedding:
    """The arrays of a network with their figures.

    Args:
        able: what the heads of the same network without reversal read.
    """
    known, others = split.known, split.others
    bare = AdversarialEmbedding.of(found.network, found.scale, found.scale)
    made = AdversarialEmbedding.of(found.network, found.scale, scale_of(bare.reconstructed(known.embeddings)))
    released, read = made(others.embeddings), in_loop(found, split.unseen)
    odd = others.order() % 2 == 1
    kept = variation(made.reconstructed(others.embeddings), placed(others.embeddings, found.scale))
    person, of_person = Labelled(released[~odd], others.person[~odd]), Labelled(released[odd], others.person[odd])
    sex = Labelled(released, others.sex)
    fresh_person = fresh_readers(of_person, person, seed=seed)
    fresh_sex = fresh_readers(Labelled(made(known.embeddings), known.sex), sex, seed=seed)
    figures = EmbeddingFigures(
        AdversaryFigures(
            classes=int(known.person.max()) + 1,
            in_loop=read[0],
            able=able[0],
            loss=float(found.lost[-1, 0]),
            of_originals=linear_reader(Labelled(others.embeddings[odd], others.person[odd]), person),
            fresh_linear=fresh_person[0],
            fresh_forest=fresh_person[1],
            variation=kept,
        ),
        AdversaryFigures(
            classes=len(SEXES),
            in_loop=read[1],
            able=able[1],
            loss=float(found.lost[-1, 1]),
            of_originals=linear_reader(Labelled(known.embeddings, known.sex), sex),
            fresh_linear=fresh_sex[0],
            fresh_forest=fresh_sex[1],
            variation=kept,
        ),
        held_out=int(others.person.max()) + 1,
        cosine=float((released * others.embeddings).sum(axis=1).mean()),
        constant_cosine=float((others.embeddings @ unit_rows(known.embeddings.mean(axis=0, keepdims=True)).T).mean()),
        distinctiveness_gain=distinctiveness_gain(known, others, released),
        worst_speaker_loss=float(found.lost[:, 0].max() / np.log(int(known.person.max()) + 1)),
        worst_sex_loss=float(found.lost[:, 1].max() / np.log(len(SEXES))),
    )
    return AdversarialEmbedding({**made.arrays, FIGURES: figures.to_array()})


def distinctiveness_gain(known: People, others: People, released: Floats) -> float:
    """Gain of voice distinctiveness in decibel, by cosines; odd clips of a person are compared with even ones.

    Cosines become log-likelihood ratios by pairs of original clips of the people trained on: whoever compares released
    voices so does not know that they were changed.
    """
    from sklearn.linear_model import LogisticRegression

    step = -(-len(known.person) // _MOST_PAIRED)
    some, who = known.embeddings[::step], known.person[::step]
    left, right = np.triu_indices(len(who), k=1)
    cosines = (some @ some.T)[left, right][:, None]
    ratio = LogisticRegression(class_weight="balanced").fit(100 * cosines, who[left] == who[right])
    odd = others.order() % 2 == 1

    def dominance(voices: Floats) -> float:
        scores = voices[~odd] @ voices[odd].T
        llr = ratio.decision_function(100 * scores.reshape(-1, 1)).reshape(scores.shape)
        return diagonal_dominance(similarity_matrix(llr, others.person[~odd], others.person[odd]))

    before = dominance(others.embeddings)
    return gain_decibel(dominance(released) / before) if before else 0.0
