"""The adversarial autoencoder of embeddings as an encoder that sites train together, from the one of public speech on.

Every site reconstructs the embeddings of its own clips. Both heads stand behind the reversed gradient: one reads the
sex in the site's table, the other which public person a clip is nearest to. No speaker of a site is a class: a head of
them would reveal who takes part, and how many. Each clip is an example by itself, so either unit can be guaranteed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Self

import numpy as np
import torch

from moretta.shared.core.array_types import Array, Float32, Float64, Int64
from moretta.shared.features.federated_encoder import Arrays, FederatedEncoder, SiteTraining, Unit
from moretta.shared.models.adversarial_embedding import (
    BOTTLENECK,
    CENTER,
    DEVIATION,
    PREFIX,
    ROUNDS,
    AdversarialEmbedding,
    EmbeddingNet,
    losses,
    terms,
)
from moretta.shared.models.adversaries import Labelled, dense, train_fresh
from moretta.shared.models.held_out_people import ATTRIBUTES, Split
from moretta.shared.models.network_arrays import LARGEST_WEIGHT, array_rules, network_of
from moretta.shared.models.replacement_autoencoder import LIMIT, SEXES, placed
from moretta.shared.models.train_embedding import SEED, Fitted, measured_embedding, targets_of
from moretta.shared.study.public_arrays import Rule, Rules, check_public, scale_rules

PUBLIC_CENTER, PUBLIC_DEVIATION, PEOPLE = "public.center", "public.deviation", "public.people"
"""The last are mean places of public people."""
_HIDDEN = {"speaker": (BOTTLENECK,), "sex": (32,)}
"""Sizes of the hidden layers of both heads, as in `EmbeddingNet`."""


@cache
def _rules(width: int) -> Rules:
    """Rules of the arrays of a round; none limits the number of public people."""
    rules = array_rules(partial(EmbeddingNet, width, 2))
    last = max(name for name in rules if name.startswith("person.") and name.endswith(".weight"))
    rules[last] = Rule(("people", BOTTLENECK), LARGEST_WEIGHT)
    rules[last.replace("weight", "bias")] = Rule(("people",), LARGEST_WEIGHT)
    return rules | scale_rules(PUBLIC_CENTER, PUBLIC_DEVIATION, width) | {PEOPLE: Rule(("people", width), LIMIT)}


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingEncoder(FederatedEncoder):
    """The autoencoder with both heads."""

    strength: float
    """Strength of both reversals: it does not rise any more."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], *, width: int, strength: float) -> Self:
        """Check and take what the coordinator sent. Errors: see `public_arrays.check_public`."""
        return cls(check_public(arrays, _rules(width)), strength)

    def normalized(self, values: Array, *, unit: Unit) -> Float32:  # noqa: ARG002
        """Measurements normalized by public speech alone, each row by itself, whatever the unit is."""
        return placed(values, (self.arrays[PUBLIC_CENTER], self.arrays[PUBLIC_DEVIATION])).astype(np.float32)

    def network(self) -> EmbeddingNet:
        """The network that was sent, with the reversal at its full strength."""
        people, width = self.arrays[PEOPLE].shape
        return network_of(partial(EmbeddingNet, width, people, self.strength), self.arrays)

    def is_usable(self, sex: str | None) -> bool:
        """Only where the sex is known: without it there is nothing to train against."""
        return sex in SEXES

    def targets(
        self,
        normalized: Float32,
        labels: Int64,  # noqa: ARG002
        sexes: Sequence[str | None],
    ) -> torch.Tensor:
        """See `adversarial_embedding.terms`. A row's own place gives the nearest public person."""
        people = self.arrays[PEOPLE]
        apart = np.square(people).sum(axis=1) - 2 * normalized @ people.T  # but for what all people have in common
        sex = [SEXES.index(one) if one in SEXES else 0 for one in sexes]
        heads = np.column_stack([apart.argmin(axis=1), sex, np.ones((len(sex), 2))])
        return torch.tensor(np.hstack([normalized, heads]), dtype=torch.float32)

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Losses of reconstruction, speaker and sex."""
        return losses(outputs, targets)


class EmbeddingTraining(SiteTraining):
    """Training from the public autoencoder to the one of all sites."""

    trained = frozenset(AdversarialEmbedding.rules(1)) - {CENTER, DEVIATION, ROUNDS}
    rounds_arrays = frozenset({ROUNDS})
    monitored = "encoder.2.weight"
    learning_rate = 0.3
    least_signal = 0.5  # noise is on all weights, and wrecks a network before it hides one array

    @property
    @abstractmethod
    def width(self) -> int:
        """Values of an embedding."""

    @property
    @abstractmethod
    def strength(self) -> float:
        """Strength of both reversals."""

    def first_arrays(self, public: Mapping[str, Array]) -> Arrays:
        """The public autoencoder, heads that were trained afresh behind it, and where public people are."""
        made, split = self._made(public), self._split()
        sent = {name.removeprefix(PREFIX): array for name, array in made.arrays.items()}
        layers = {name: array for name, array in sent.items() if name.startswith(("encoder.", "decoder."))}
        known, scale = split.known, (made.arrays[CENTER], made.arrays[DEVIATION])
        encoder = network_of(partial(EmbeddingNet, self.width, 2), layers).encoder
        with torch.no_grad():
            codes, unseen = (
                encoder(torch.tensor(placed(some.values, scale), dtype=torch.float32)).numpy()
                for some in (known, split.unseen)
            )
        arrays = {**layers, PUBLIC_CENTER: scale[0], PUBLIC_DEVIATION: scale[1]}
        for name, attribute in zip(("person", "sex"), ATTRIBUTES, strict=True):
            label = known.attribute(attribute)
            make = partial(dense, BOTTLENECK, int(label.max()) + 1, _HIDDEN[attribute])
            rows = Labelled(codes, label), Labelled(unseen, split.unseen.attribute(attribute))
            head = train_fresh(make, *rows, seed=SEED).network.state_dict()
            arrays |= {f"{name}.network.{part}": np.asarray(tensor) for part, tensor in head.items()}
        places = placed(known.values, scale)
        arrays[PEOPLE] = np.stack([places[known.person == one].mean(axis=0) for one in np.unique(known.person)])
        return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}

    def encoder(self, arrays: Mapping[str, Array], number: int) -> EmbeddingEncoder:  # noqa: ARG002
        """See `EmbeddingEncoder.from_arrays`."""
        return EmbeddingEncoder.from_arrays(arrays, width=self.width, strength=self.strength)

    def public_after(self, public: Mapping[str, Array], weights: Arrays | None) -> Arrays:
        """The trained autoencoder, and what readers find in it on the held-out public people."""
        if weights is None:
            return {ROUNDS: np.array([self.plan.rounds], np.int64)}
        before, split, encoder = self._made(public), self._split(), self.encoder(weights, self.plan.rounds)
        scale, figures = (before.arrays[CENTER], before.arrays[DEVIATION]), before.figures
        guesses = np.log([figures.person.classes, len(SEXES)])
        worst = np.array([figures.worst_speaker_loss, figures.worst_sex_loss]) * guesses
        found = Fitted(encoder.network(), scale, np.stack([worst, _lost(encoder, targets_of(split.known, scale))]))
        able = figures.person.able, figures.sex.able
        return dict(measured_embedding(found, split, able=able, seed=SEED, rounds=self.plan.rounds).arrays)

    def _made(self, public: Mapping[str, Array]) -> AdversarialEmbedding:
        return AdversarialEmbedding.from_arrays(public, width=self.width)

    def _split(self) -> Split:
        return Split.of(self.public_rows(), seed=SEED)


def _lost(encoder: EmbeddingEncoder, targets: torch.Tensor) -> Float64:
    """Mean cross-entropies [2] of both heads on public people who were trained on, in nats."""
    places = targets[:, : encoder.arrays[PEOPLE].shape[1]]
    with torch.no_grad():
        _, *of_heads = terms(encoder.network()(places), targets)
    return np.array([float(each.mean()) for each in of_heads])
