"""The replacement autoencoder as an encoder that sites train together, from the one of public speech on.

Every site reconstructs its own clips, a sensitive one as a public clip of the same sex, and trains the classifier of
sex behind the reversed gradient. No clip of a site stands in for another one: donors are public. Clips are measured
against public speech, so each is an example by itself, and either unit can be guaranteed.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
import torch

from moretta.shared.core.array_types import Array, Float32, Int64
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.features.federated_encoder import Arrays, FederatedEncoder, SiteTraining, Unit
from moretta.shared.models.network_arrays import array_rules, network_of
from moretta.shared.models.replacement_autoencoder import (
    FIGURES,
    LIMIT,
    PREFIX,
    ROUNDS,
    SEXES,
    WIDTH,
    ReplacementAutoencoder,
    ReplacementNet,
    losses,
    placed,
    weight_shapes,
)
from moretta.shared.models.train_replacement import SEED, PublicSplit, ReplacementTask, measured_autoencoder
from moretta.shared.study.public_arrays import Rule, check_public, scale_rules

CENTER, DEVIATION = "public.center", "public.deviation"
DONORS = tuple(f"public.donors.{sex}" for sex in SEXES)
MAX_DONORS = 64
"""Public clips of each sex that sites replace theirs by."""


@dataclass(frozen=True, slots=True, eq=False)
class ReplacementEncoder(FederatedEncoder):
    """The autoencoder and its adversary, with public donors."""

    sensitive: int | None
    """Class index of the study; None where nothing is replaced."""
    strength: float
    """Strength of the reversal: it does not rise any more."""
    number: int
    """Number of the round: donors are drawn anew in each."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], *, sensitive: int | None, strength: float, number: int) -> Self:
        """Check and take what the coordinator sent. Errors: see `public_arrays.check_public`."""
        rules = array_rules(ReplacementNet) | scale_rules(CENTER, DEVIATION, WIDTH)
        rules |= {name: Rule((f"{name} clips", WIDTH), LIMIT) for name in DONORS}
        return cls(check_public(arrays, rules), sensitive, strength, number)

    def normalized(self, values: Array, *, unit: Unit) -> Float32:  # noqa: ARG002
        """Measurements normalized by public speech alone, each row by itself, whatever the unit is."""
        return placed(values, (self.arrays[CENTER], self.arrays[DEVIATION])).astype(np.float32)

    def network(self) -> ReplacementNet:
        """The network that was sent, with the reversal at its full strength."""
        return network_of(partial(ReplacementNet, self.strength), self.arrays)

    def is_usable(self, sex: str | None) -> bool:
        """Only where the sex is known: without it there is no donor, and nothing to train against."""
        return sex in SEXES

    def targets(self, normalized: Float32, labels: Int64, sexes: Sequence[str | None]) -> torch.Tensor:
        """See `losses`. A donor is drawn by a digest of the row and the round, so no other row changes it."""
        wanted = normalized.copy()
        sex = np.array([SEXES.index(one) if one in SEXES else 0 for one in sexes], np.int64)
        for row in np.flatnonzero(labels == self.sensitive) if self.sensitive is not None else ():
            donors = self.arrays[DONORS[sex[row]]]
            digest = hashlib.sha256(normalized[row].tobytes() + bytes(f" {self.number}", "ascii")).digest()
            wanted[row] = donors[int.from_bytes(digest[:8], "little") % len(donors)]
        return torch.tensor(np.column_stack([wanted, sex, np.ones(len(sex))]), dtype=torch.float32)

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Losses of reconstruction and of sex."""
        return losses(outputs, targets)


class ReplacementTraining(SiteTraining):
    """Training from the public autoencoder to the one of all sites."""

    trained = frozenset({*(PREFIX + name for name in weight_shapes()), FIGURES})
    rounds_arrays = frozenset({ROUNDS})
    monitored = "encoder.2.weight"
    learning_rate = 0.1
    least_signal = 0.5  # noise is on all weights, and wrecks a network before it hides one array

    @property
    @abstractmethod
    def task(self) -> ReplacementTask:
        """The replacement and the options of its training."""

    def first_arrays(self, public: Mapping[str, Array]) -> Arrays:
        """The public autoencoder, and public clips of the replacement emotion by each sex."""
        made = ReplacementAutoencoder.from_arrays(public)
        known = self._split(made).some(held_out=False)
        arrays = {name: made.arrays[PREFIX + name] for name in weight_shapes()}
        arrays |= dict(zip((CENTER, DEVIATION), made.scale, strict=True))
        for name, rows in zip(DONORS, known.donors(self.task), strict=True):
            # Where nothing is replaced nobody looks at donors, and there may be none
            arrays[name] = known.places[rows[:MAX_DONORS]] if len(rows) else np.zeros((1, WIDTH))
        return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}

    def encoder(self, arrays: Mapping[str, Array], number: int) -> ReplacementEncoder:
        """See `ReplacementEncoder.from_arrays`."""
        sensitive = None if self.task.sensitive is None else EMOTIONS[self.task.sensitive]
        classes = self.study.classes
        return ReplacementEncoder.from_arrays(
            arrays,
            sensitive=classes.index(sensitive) if sensitive in classes else None,
            strength=self.task.strength,
            number=number,
        )

    def public_after(self, public: Mapping[str, Array], weights: Arrays | None) -> Arrays:
        """The trained autoencoder, and what readers find in it on the held-out public people."""
        before = ReplacementAutoencoder.from_arrays(public)
        if weights is None:
            return {ROUNDS: np.array([self.plan.rounds], np.int64)}
        network = self.encoder(weights, self.plan.rounds).network()
        able = before.figures.able
        made = measured_autoencoder(
            network, self._split(before), self.task, able=able, seed=SEED, rounds=self.plan.rounds
        )
        return dict(made.arrays)

    def _split(self, made: ReplacementAutoencoder) -> PublicSplit:
        return PublicSplit.of(self.public_rows(), seed=SEED, scale=made.scale)
