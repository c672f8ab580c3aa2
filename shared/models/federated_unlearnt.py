"""The branches of `unlearnt_gender` as an encoder that sites train together, from those of public people on.

Every site trains them on its own clips, with the model of emotion, and against the classifier of sex behind the
reversed gradient. The scales of public embeddings are in the last layers, so no layer mixes clips: each is an example
by itself, and either unit can be guaranteed. A clip without one of the modalities that are trained has no part.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Self

import numpy as np
import torch
from torch import nn

from moretta.shared.core.array_types import Array, Float32, Int64
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.core.terms import Modality
from moretta.shared.features.federated_encoder import Arrays, FederatedEncoder, SiteTraining, Unit
from moretta.shared.features.mfcc import MELS
from moretta.shared.models.adversaries import Labelled, dense, train_fresh
from moretta.shared.models.network_arrays import array_rules, network_of
from moretta.shared.models.replacement_autoencoder import SEXES
from moretta.shared.models.train_unlearnt import SEED, Split, measured_embeddings
from moretta.shared.models.unlearnt_gender import (
    BRANCHES,
    SIZES,
    WIDTH,
    UnlearntEmbedding,
    UnlearntFigures,
    UnlearntNet,
    losses,
    placed,
)
from moretta.shared.models.unlearnt_inputs import PublicClips
from moretta.shared.study.options import SiteTrainingPlan
from moretta.shared.study.public_arrays import Rules, check_public, scale_rules
from moretta.shared.study.schema import Study

CENTER, DEVIATION = "public.center", "public.deviation"
Modalities = tuple[Modality, ...]


@cache
def _rules(modalities: Modalities) -> Rules:
    """Rules of the arrays of a round."""
    rules = array_rules(partial(UnlearntNet, modalities, is_folded=True))
    return rules | scale_rules(CENTER, DEVIATION, MELS) if "voice" in modalities else rules


@dataclass(frozen=True, slots=True, eq=False)
class UnlearntEncoder(FederatedEncoder):
    """The branches with both heads."""

    modalities: Modalities
    classes: tuple[str, ...]
    """Classes of the study: a clip whose label is none of the six emotions has no part in the loss of emotion."""
    strength: float
    """Strength of the reversal: it does not rise any more."""

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, Array],
        *,
        modalities: Modalities,
        classes: tuple[str, ...] = EMOTIONS,
        strength: float,
    ) -> Self:
        """Check and take what the coordinator sent. Errors: see `public_arrays.check_public`."""
        return cls(check_public(arrays, _rules(modalities)), modalities, classes, strength)

    def normalized(self, values: Array, *, unit: Unit) -> Float32:  # noqa: ARG002
        """Inputs normalized by public people alone, each row by itself, whatever the unit is."""
        ends = np.cumsum([SIZES[name] for name in self.modalities])[:-1]
        parts = zip(self.modalities, np.split(values, ends, axis=1), strict=True)
        scale = (self.arrays[CENTER], self.arrays[DEVIATION]) if "voice" in self.modalities else None
        return np.hstack([placed(part, scale if name == "voice" else None) for name, part in parts])

    def network(self) -> UnlearntNet:
        """The network that was sent, with the reversal at its full strength."""
        return network_of(partial(UnlearntNet, self.modalities, self.strength, is_folded=True), self.arrays)

    def is_usable(self, sex: str | None) -> bool:
        """Only where the sex is known: without it there is nothing to train against."""
        return sex in SEXES

    def targets(
        self,
        normalized: Float32,  # noqa: ARG002
        labels: Int64,
        sexes: Sequence[str | None],
    ) -> torch.Tensor:
        """See `unlearnt_gender.losses`. Weights are equal: how often a class is there depends on other clips."""
        known = np.array([EMOTIONS.index(name) if name in EMOTIONS else -1 for name in self.classes], np.int64)
        emotion, sex = known[labels], [SEXES.index(one) if one in SEXES else 0 for one in sexes]
        rows = np.column_stack([np.maximum(emotion, 0), sex, emotion >= 0, np.ones(len(sex))])
        return torch.tensor(rows, dtype=torch.float32)

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Losses of emotion and of sex."""
        return losses(outputs, targets)


class UnlearntTraining(SiteTraining):
    """Training from the public branches to those of all sites."""

    learning_rate = 0.1
    least_signal = 0.5  # noise is on all weights, and wrecks a network before it hides one array

    def __init__(self, study: Study, plan: SiteTrainingPlan, *, in_windows: bool = False) -> None:
        super().__init__(study, plan, in_windows=in_windows)
        self.modalities = study.trained_modalities
        self.monitored = f"branches.{self.modalities[0]}.narrow.weight"
        self.rounds_arrays = frozenset(f"{UnlearntEmbedding.prefix(name)}rounds" for name in self.modalities)
        sent = frozenset(name for modality in self.modalities for name in UnlearntEmbedding.rules(modality))
        self.trained = frozenset(name for name in sent if not name.endswith(("/center", "/deviation", "/rounds")))

    @property
    @abstractmethod
    def strength(self) -> float:
        """Strength of the reversal."""

    @abstractmethod
    def public_clips(self) -> PublicClips:
        """Clips of the public people, with all of the modalities."""

    def first_arrays(self, public: Mapping[str, Array]) -> Arrays:
        """The public branches, and heads that were trained afresh behind them."""
        made = self._made(public)
        split = self._split(made)
        arrays = {f"branches.{m}.{n}": made[m].arrays[made[m].prefix(m) + n] for m in made for n in _names(m)}
        network = network_of(partial(UnlearntNet, self.modalities, is_folded=True), arrays)
        known, others = (_embeddings(network, split.some(held_out=held)) for held in (False, True))
        for name, attribute in (("emotion", "emotion"), ("sex.network", "sex")):
            labels = (getattr(split.some(held_out=held), attribute) for held in (False, True))
            rows = (Labelled(part, label) for part, label in zip((known, others), labels, strict=True))
            head = train_fresh(
                partial(_head, len(self.modalities), attribute), *rows, seed=SEED, classes=_HEADS[attribute]
            )
            arrays |= {f"{name}.{part}": np.asarray(tensor) for part, tensor in head.network.state_dict().items()}
        if "voice" in made:
            arrays |= dict(zip((CENTER, DEVIATION), made["voice"].scale, strict=True))
        return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}

    def encoder(self, arrays: Mapping[str, Array], number: int) -> UnlearntEncoder:  # noqa: ARG002
        """See `UnlearntEncoder.from_arrays`."""
        return UnlearntEncoder.from_arrays(
            arrays, modalities=self.modalities, classes=self.study.classes, strength=self.strength
        )

    def public_after(self, public: Mapping[str, Array], weights: Arrays | None) -> Arrays:
        """The trained branches, and what readers find in each on the held-out public people.

        Figures of the same network without reversal were measured when the public branches were trained.
        """
        if weights is None:
            return {name: np.array([self.plan.rounds], np.int64) for name in self.rounds_arrays}
        before = self._made(public)
        first, trained = (self.encoder(arrays, 1).network() for arrays in (self.first_arrays(public), weights))
        after = measured_embeddings(trained, first, self._split(before), seed=SEED, rounds=self.plan.rounds)
        arrays: Arrays = {}
        for modality, made in after.items():
            was = before[modality].figures
            kept = made.figures.sex.variation * was.sex.variation
            sex = replace(made.figures.sex, able=was.sex.able, variation=kept)
            figures = UnlearntFigures(sex, made.figures.emotion, was.emotion_kept)
            arrays |= {**made.arrays, f"{made.prefix(modality)}figures": figures.to_array()}
        return arrays

    def _made(self, public: Mapping[str, Array]) -> dict[Modality, UnlearntEmbedding]:
        return {modality: UnlearntEmbedding.from_arrays(modality, public) for modality in self.modalities}

    def _split(self, made: Mapping[Modality, UnlearntEmbedding]) -> Split:
        return Split.of(self.public_clips(), seed=SEED, scale=made["voice"].scale if "voice" in made else None)


_HEADS = {"emotion": len(EMOTIONS), "sex": len(SEXES)}
"""Classes of both heads."""


def _head(modalities: int, attribute: str) -> nn.Module:
    """A head as in `UnlearntNet`."""
    width, classes = modalities * WIDTH, _HEADS[attribute]
    return nn.Linear(width, classes) if attribute == "emotion" else dense(width, classes)


@cache
def _names(modality: Modality) -> tuple[str, ...]:
    """Names of the arrays of a branch."""
    return tuple(array_rules(BRANCHES[modality]))


def _embeddings(network: UnlearntNet, split: Split) -> Float32:
    with torch.no_grad():
        return torch.cat([*network.embedded(split.tensor()).values()], dim=1).numpy()
