"""An autoencoder of speaker embeddings whose bottleneck is trained against speaker and sex.

Perero-Codosero, Espinoza-Cuadros and Hernandez-Gomez, "X-vector anonymization using autoencoders and adversarial
training for preserving speech privacy", Computer Speech and Language 2022. The released array is an embedding again:
each dimension has the mean and the deviation of public embeddings, and the whole has length 1. The paper's third head
reads the accent; no public speech here has labels of it, so it is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from moretta.shared.core.array_types import Array, Float32, Float64, unit_rows
from moretta.shared.models.adversaries import Adversary, AdversaryFigures, cross_entropies, dense
from moretta.shared.models.network_arrays import LARGEST_WEIGHT
from moretta.shared.models.replacement_autoencoder import (
    MAX_ROUNDS,
    SEXES,
    Scale,
    dense_autoencoder,
    placed,
    reconstructed,
)
from moretta.shared.privacy.noise import bounded
from moretta.shared.study.public_arrays import LARGEST, Rule, Rules, named, scale_rules

BETWEEN, BOTTLENECK = 128, 64
PREFIX = "voice/embedding/"
CENTER, DEVIATION, MADE_CENTER, MADE_DEVIATION, FIGURES, ROUNDS = (
    PREFIX + name for name in ("center", "deviation", "made-center", "made-deviation", "figures", "rounds")
)


class EmbeddingNet(nn.Module):
    """Places [n, d] to reconstructed places, the logits of k people and those of both sexes, [n, d + k + 2].

    Both heads stand behind a reversal, and give logits.
    """

    def __init__(self, width: int, people: int, strength: float = 0.0) -> None:
        super().__init__()
        self.encoder, self.decoder = dense_autoencoder(width, BETWEEN, BOTTLENECK, is_bounded=True)
        self.person = Adversary(dense(BOTTLENECK, people, (BOTTLENECK,)))
        self.sex = Adversary(dense(BOTTLENECK, len(SEXES)))
        self.strength = strength

    def forward(self, places: Tensor) -> Tensor:
        """All three outputs side by side, so that one loss of each row is one gradient of each row."""
        code = self.encoder(places)
        heads = self.person(code, self.strength), self.sex(code, self.strength)
        return torch.cat([self.decoder(code), *heads], dim=1)


def divided(outputs: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Places [n, width], and the logits of people and of both sexes, of what the network gives."""
    people = outputs.shape[1] - width - len(SEXES)
    made, person, sex = torch.split(outputs, [width, people, len(SEXES)], dim=1)
    return made, person, sex


def terms(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Three terms of each row, [n] each: squared error of places, and cross-entropies of both heads in nats.

    Args:
        outputs: [n, d + k + 2], as the network gives them.
        targets: [n, d + 4]: places, person (from 0 on), sex (0 or 1), and the weights of both cross-entropies.
    """
    width = targets.shape[1] - 4
    made, person, sex = divided(outputs, width)
    wanted, rest = targets[:, :width], targets[:, width:]
    of_person = rest[:, 2] * cross_entropies(person, rest[:, 0].long())
    return (made - wanted).square().mean(dim=1), of_person, rest[:, 3] * cross_entropies(sex, rest[:, 1].long())


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """One loss for each row, [n]: the sum of its `terms`, those of heads in units of a guess."""
    people = outputs.shape[1] - (targets.shape[1] - 4) - len(SEXES)
    missed, of_person, of_sex = terms(outputs, targets)
    return missed + of_person / float(np.log(max(people, 2))) + of_sex / float(np.log(len(SEXES)))


class EmbeddingFigures(NamedTuple):
    """Figures of the trained autoencoder, measured on public people."""

    person: AdversaryFigures
    """Readers of the person: in the loop on unseen clips of training people; fresh ones on held-out people."""
    sex: AdversaryFigures
    """Readers of sex, likewise; fresh ones are trained on the training people."""
    held_out: int
    """People who were held out."""
    cosine: float
    """Mean cosine of an embedding of a held-out person and what is made of it."""
    constant_cosine: float
    """The cosine if always the mean public embedding were released: a larger one shows that something is kept."""
    distinctiveness_gain: float
    """Gain of voice distinctiveness of held-out people in decibel: 0 is as distinct as before, -14 is one voice."""
    worst_speaker_loss: float
    """Largest mean cross-entropy of the speaker head in an epoch, in units of that of a guess."""
    worst_sex_loss: float
    """Largest mean cross-entropy of the head of sex, likewise."""

    @classmethod
    def size(cls) -> int:
        """Length of the array."""
        return 2 * len(AdversaryFigures.names()) + 1 + len(cls._fields[2:])

    def to_array(self) -> Float32:
        """The figures as one array, as the coordinator sends it."""
        others = np.array([self.person.classes, *self[2:]], np.float32)
        return np.concatenate([self.person.to_array(), self.sex.to_array(), others])

    @classmethod
    def from_array(cls, array: Array) -> Self:
        """The inverse of `to_array`."""
        size = len(AdversaryFigures.names())
        people, held_out, *rest = array[2 * size :].tolist()
        person = AdversaryFigures.from_array(array[:size], classes=max(2, int(people)))
        sex = AdversaryFigures.from_array(array[size : 2 * size], classes=len(SEXES))
        return cls(person, sex, int(held_out), *rest)

    def faults(self) -> tuple[str, ...]:
        """Reasons not to believe that anything was hidden, or that anything is left; empty if there are none."""
        found = [f"speaker: {fault}" for fault in self.person.faults()]
        return (*found, *(f"sex: {fault}" for fault in self.sex.faults()))

    def stated(self) -> dict[str, Any]:
        """Rounded figures by name, for the statement of a release."""
        rest = {name: round(value, 3) for name, value in self._asdict().items() if not hasattr(value, "stated")}
        return {"speaker": self.person.stated(), "sex": self.sex.stated(), **rest}


@dataclass(frozen=True, slots=True, eq=False)
class AdversarialEmbedding:
    """A trained autoencoder as plain arrays, without its heads; sites apply it without torch."""

    arrays: Mapping[str, Array]

    @classmethod
    def rules(cls, width: int) -> Rules:
        """Rules for the arrays, by name: shape and bounds, for embeddings of `width` values."""
        sizes = {"encoder.0": (width, BETWEEN), "encoder.2": (BETWEEN, BOTTLENECK)}
        sizes |= {"decoder.0": (BOTTLENECK, BETWEEN), "decoder.2": (BETWEEN, width)}
        weights = {f"{PREFIX}{layer}.weight": Rule((to, of), LARGEST_WEIGHT) for layer, (of, to) in sizes.items()}
        biases = {f"{PREFIX}{layer}.bias": Rule((to,), LARGEST_WEIGHT) for layer, (_, to) in sizes.items()}
        scales = scale_rules(CENTER, DEVIATION, width) | scale_rules(MADE_CENTER, MADE_DEVIATION, width)
        others = {FIGURES: Rule((EmbeddingFigures.size(),), LARGEST), ROUNDS: Rule((1,), MAX_ROUNDS, 0, dtype="int64")}
        return {**scales, **weights, **biases, **others}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], *, width: int) -> Self:
        """Check and take what the coordinator sent. Errors: see `public_arrays.named`."""
        return cls(named(arrays, cls.rules(width)))

    @classmethod
    def of(cls, network: EmbeddingNet, scale: Scale, made: Scale, rounds: int = 0) -> Self:
        """Without figures: the network, the scale of public embeddings, and that of what it makes of their places."""
        state = {name: np.asarray(tensor) for name, tensor in network.state_dict().items()}
        weights = {PREFIX + name: array for name, array in state.items() if name.startswith(("encoder.", "decoder."))}
        scales = dict(zip((CENTER, DEVIATION, MADE_CENTER, MADE_DEVIATION), (*scale, *made), strict=True))
        figures = np.zeros(EmbeddingFigures.size(), np.float32)
        return cls({**scales, **weights, FIGURES: figures, ROUNDS: np.array([rounds], np.int64)})

    @property
    def figures(self) -> EmbeddingFigures:
        """Figures on public people."""
        return EmbeddingFigures.from_array(self.arrays[FIGURES])

    @property
    def rounds(self) -> int:
        """Rounds of training at the sites; 0 means that it was trained on public speech alone."""
        return int(self.arrays[ROUNDS][0])

    def reconstructed(self, embeddings: Array) -> Float64:
        """Places [n, d] that the decoder makes of embeddings [n, d]."""
        places = placed(embeddings, (self.arrays[CENTER], self.arrays[DEVIATION]))
        return reconstructed(self.arrays, places, prefix=PREFIX, is_bounded=True)

    def __call__(self, embeddings: Array) -> Float64:
        """Embeddings [n, d] to those that are released: finite and of length 1, whatever the weights are.

        Each dimension is put back on the scale of public embeddings. Without that all voices become one.
        """
        made = placed(self.reconstructed(embeddings), (self.arrays[MADE_CENTER], self.arrays[MADE_DEVIATION]))
        values = bounded(made * self.arrays[DEVIATION] + self.arrays[CENTER], LARGEST)
        return np.asarray(unit_rows(values), np.float64)
