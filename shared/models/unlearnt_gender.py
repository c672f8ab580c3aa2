"""Embeddings of a voice and of a face that are trained to keep emotion and to unlearn gender.

Jaiswal and Provost, "Privacy Enhanced Multimodal Neural Representations for Emotion Recognition", AAAI 2020. Each
modality has a branch of convolutions that ends in an embedding; the embeddings meet only in the model of emotion (late
fusion), and in the classifier of sex whose gradient is reversed. The embedding is what leaves, one modality or both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from moretta.shared.core.array_types import Array, Float32
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.core.terms import Modality
from moretta.shared.features.mfcc import MELS
from moretta.shared.models.adversaries import Adversary, AdversaryFigures, cross_entropies, dense
from moretta.shared.models.network_arrays import array_rules, arrays_of, network_of
from moretta.shared.models.replacement_autoencoder import MAX_ROUNDS, SEXES, Scale
from moretta.shared.privacy.noise import bounded
from moretta.shared.study.public_arrays import LARGEST, Rule, Rules, named, scale_rules

STEPS = 128
"""Steps of 20 ms, from the middle of a clip."""
PICTURES, SIDE = 6, 48
"""Number of pictures of a clip, and pixels of their sides."""
SIZES: dict[Modality, int] = {"voice": STEPS * MELS, "face": PICTURES * SIDE * SIDE}
"""Values of one clip, as a branch takes them."""
WIDTH = 32
"""Values of an embedding."""
LIMIT = 5.0
"""Largest distance of bands and embedded values from the public mean, in public standard deviations."""
_CELLS = 3
"""Cells along each side that a picture is pooled to."""


class Recurrent(nn.Module):
    """A gated recurrent unit (Cho et al., EMNLP 2014), [n, width, steps] to the same shape.

    It is made of layers whose gradients are known example by example, which `torch.nn.GRU` has not.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.given, self.known = nn.Conv1d(width, 3 * width, 1), nn.Linear(width, 3 * width)
        self.width = width
        nn.init.xavier_normal_(self.given.weight)
        for gate in self.known.weight.data.chunk(3):
            nn.init.orthogonal_(gate)

    def forward(self, inputs: Tensor) -> Tensor:
        """Its state after each step."""
        gates, wide = self.given(inputs), 2 * self.width
        state, states = inputs.new_zeros(len(inputs), self.width), []
        for now in gates.unbind(dim=2):
            before = self.known(state)
            reset, kept = torch.sigmoid(now[:, :wide] + before[:, :wide]).chunk(2, dim=1)
            fresh = torch.tanh(now[:, wide:] + reset * before[:, wide:])
            state = fresh + kept * (state - fresh)
            states.append(state)
        return torch.stack(states, dim=2)


def _rectified(layer: nn.Conv1d | nn.Conv2d) -> nn.Module:
    """Weights by He et al., ICCV 2015: with smaller ones, five layers pass on too little to learn from few people."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer


class VoiceBranch(nn.Module):
    """Log-mel bands [n, steps x bands] to embeddings [n, 32]: 24 thousand weights."""

    def __init__(self) -> None:
        super().__init__()
        convolutions: list[nn.Module] = []
        for width, stride in ((MELS, 2), (WIDTH, 2), (WIDTH, 1)):
            convolutions += [_rectified(nn.Conv1d(width, WIDTH, 3, stride=stride, padding=1)), nn.ReLU()]
        self.convolutions = nn.Sequential(*convolutions)
        self.recurrent = nn.Sequential(Recurrent(WIDTH), Recurrent(WIDTH))
        self.narrow = nn.Linear(WIDTH, WIDTH)

    def forward(self, places: Tensor) -> Tensor:
        """The mean over time goes into the last layer."""
        filtered = self.convolutions(places.view(-1, STEPS, MELS).mT)
        embedding: Tensor = self.narrow(self.recurrent(filtered).mean(dim=2))
        return embedding


class FaceBranch(nn.Module):
    """Grey pictures [n, pictures x side x side] to embeddings [n, 32]: 15 thousand weights."""

    def __init__(self) -> None:
        super().__init__()
        convolutions: list[nn.Module] = []
        for width, wider in ((1, 8), (8, 16), (16, 32)):
            convolutions += [_rectified(nn.Conv2d(width, wider, 3, stride=2, padding=1)), nn.ReLU()]
        self.convolutions = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(_CELLS), nn.Flatten())
        self.narrow = nn.Linear(32 * _CELLS**2, WIDTH)

    def forward(self, places: Tensor) -> Tensor:
        """The mean over pictures goes into the last layer."""
        seen = self.convolutions(places.reshape(-1, 1, SIDE, SIDE))
        embedding: Tensor = self.narrow(seen.view(len(places), PICTURES, -1).mean(dim=1))
        return embedding


BRANCHES: dict[Modality, type[VoiceBranch | FaceBranch]] = {"voice": VoiceBranch, "face": FaceBranch}


class UnlearntNet(nn.Module):
    """Clips [n, values of all modalities] to the logits of emotions and of both sexes, [n, 6 + 2].

    While it is trained on public people, each value of an embedding is scaled to a deviation of 1 (batch normalization
    without weights): else it could beat the classifier of sex by large values, and small ones would hide from it. With
    `is_folded` those scales are in the last layers, see `fold`, and no layer mixes rows.
    """

    def __init__(self, modalities: Sequence[Modality], strength: float = 0.0, *, is_folded: bool = False) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({modality: BRANCHES[modality]() for modality in modalities})
        scale: Callable[[], nn.Module] = nn.Identity if is_folded else partial(nn.BatchNorm1d, WIDTH, affine=False)
        self.scales = nn.ModuleDict({modality: scale() for modality in modalities})
        width = WIDTH * len(modalities)
        self.emotion, self.sex = nn.Linear(width, len(EMOTIONS)), Adversary(dense(width, len(SEXES)))
        self.strength = strength

    def embedded(self, clips: Tensor) -> dict[Modality, Tensor]:
        """The embeddings [n, 32] of each modality."""
        names: list[Any] = list(self.branches)
        parts = torch.split(clips, [SIZES[name] for name in names], dim=1)
        return {name: self.scales[name](self.branches[name](part)) for name, part in zip(names, parts, strict=True)}

    @torch.no_grad()
    def fold(self) -> None:
        """Put the scales of the embeddings into the last layers, which then give what was trained."""
        for name, scale in self.scales.items():
            branch: Any = self.branches[name]
            scaled: Any = scale
            deviation = (scaled.running_var + scaled.eps).sqrt()
            branch.narrow.weight /= deviation[:, None]
            branch.narrow.bias.sub_(scaled.running_mean).div_(deviation)
        self.scales = nn.ModuleDict({name: nn.Identity() for name in self.scales})

    def heads(self, embeddings: Tensor) -> Tensor:
        """Both kinds of logits side by side, so that one loss of each row is one gradient of each row."""
        return torch.cat([self.emotion(embeddings), self.sex(embeddings, self.strength)], dim=1)

    def forward(self, clips: Tensor) -> Tensor:
        """All logits."""
        return self.heads(torch.cat([*self.embedded(clips).values()], dim=1))


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """One loss for each row, [n]: cross-entropies of emotion and of sex.

    Args:
        outputs: [n, 8], as the network gives them.
        targets: [n, 4]: class index of emotion, sex (0 or 1), and the weights of both losses.
    """
    emotions = len(EMOTIONS)
    of_emotion = cross_entropies(outputs[:, :emotions], targets[:, 0].long())
    return targets[:, 2] * of_emotion + targets[:, 3] * cross_entropies(outputs[:, emotions:], targets[:, 1].long())


class UnlearntFigures(NamedTuple):
    """Figures of the network, measured on held-out public people."""

    sex: AdversaryFigures
    emotion: float
    """Balanced accuracy of the network's own model of emotion, by this modality alone."""
    emotion_kept: float
    """Balanced accuracy without reversal: the difference is the cost of the reversal."""

    @classmethod
    def size(cls) -> int:
        """Length of the array."""
        return len(AdversaryFigures.names()) + len(cls._fields) - 1

    def to_array(self) -> Float32:
        """The figures as one array, as the coordinator sends it."""
        return np.append(self.sex.to_array(), np.array(self[1:], np.float32))

    @classmethod
    def from_array(cls, array: Array) -> Self:
        """The inverse of `to_array`."""
        size = len(AdversaryFigures.names())
        return cls(AdversaryFigures.from_array(array[:size], classes=len(SEXES)), *array[size:].tolist())

    def stated(self) -> dict[str, Any]:
        """Rounded figures by name, for the statement of a release."""
        return {"sex": self.sex.stated(), **{name: round(getattr(self, name), 3) for name in self._fields[1:]}}


@dataclass(frozen=True, eq=False)
class UnlearntEmbedding:
    """The trained branch of one modality as plain arrays, without the heads."""

    modality: Modality
    arrays: Mapping[str, Array]

    @classmethod
    def prefix(cls, modality: Modality) -> str:
        """Prefix of the names of the arrays."""
        return f"{modality}/unlearnt/"

    @classmethod
    def rules(cls, modality: Modality) -> Rules:
        """Rules for the arrays, by name: type, shape and bounds."""
        prefix = cls.prefix(modality)
        others = scale_rules("center", "deviation", MELS) if modality == "voice" else {}
        others |= {"figures": Rule((UnlearntFigures.size(),), LARGEST)}
        others |= {"rounds": Rule((1,), MAX_ROUNDS, 0, dtype="int64")}
        return {**array_rules(BRANCHES[modality], prefix), **{prefix + name: rule for name, rule in others.items()}}

    @classmethod
    def from_arrays(cls, modality: Modality, arrays: Mapping[str, Array]) -> Self:
        """Check and take what the coordinator sent. Errors: see `public_arrays.named`."""
        return cls(modality, named(arrays, cls.rules(modality)))

    @classmethod
    def of(
        cls, network: UnlearntNet, modality: Modality, scale: Scale, figures: UnlearntFigures, rounds: int = 0
    ) -> Self:
        """The arrays of the trained branch of a modality."""
        prefix = cls.prefix(modality)
        arrays = arrays_of(network.branches[modality], prefix)
        if modality == "voice":
            arrays |= {f"{prefix}center": scale[0], f"{prefix}deviation": scale[1]}
        arrays |= {f"{prefix}figures": figures.to_array(), f"{prefix}rounds": np.array([rounds], np.int64)}
        return cls(modality, arrays)

    @property
    def figures(self) -> UnlearntFigures:
        """Figures on held-out public people."""
        return UnlearntFigures.from_array(self._array("figures"))

    @property
    def scale(self) -> Scale:
        """Mean and deviations [40] of the bands of public voices."""
        return self._array("center"), self._array("deviation")

    @property
    def rounds(self) -> int:
        """Rounds of training at the sites; 0 means that it was trained on public people alone."""
        return int(self._array("rounds")[0])

    def __call__(self, measured: Array) -> Float32:
        """Clips [n, values], as `shared/features/unlearnt_inputs.py` measures them, to [n, 32] within +-`LIMIT`.

        Finite whatever the weights are.
        """
        places = placed(measured, self.scale if self.modality == "voice" else None)
        with torch.inference_mode():
            found = self._branch(torch.from_numpy(places)).numpy()
        return bounded(found, LIMIT).astype(np.float32)

    @cached_property
    def _branch(self) -> nn.Module:
        return network_of(partial(BRANCHES[self.modality]), self.arrays, self.prefix(self.modality)).eval()

    def _array(self, name: str) -> Array:
        return self.arrays[self.prefix(self.modality) + name]


def placed(measured: Array, scale: Scale | None) -> Float32:
    """Measured clips [n, values] as a branch takes them: each band in public standard deviations from the public mean.

    Where there is no sound, and no number, it is the mean. Faces have their own scale already, and no other.
    """
    if scale is None:
        return bounded(measured, LIMIT).astype(np.float32)
    bands = np.asarray(measured, np.float32).reshape(-1, STEPS, MELS)
    return bounded((bands - scale[0]) / scale[1], LIMIT).reshape(len(bands), -1).astype(np.float32)
