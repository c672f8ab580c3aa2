"""Adversaries: networks that read an attribute from a representation while it is trained to hide that attribute.

Gradient reversal stands between the two (Ganin and Lempitsky, ICML 2015, section 3.1): the adversary learns to read,
the encoder learns from the same loss, reversed. An adversary at chance in the loop proves nothing, because the encoder
may have won against this one network alone. So `AdversaryFigures` has the readers that were trained afresh beside it,
and names the ways in which an adversary can be fake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from moretta.shared.core.array_types import Array, Float32, Int64
from moretta.shared.core.workers import one_thread, seeded
from moretta.shared.models.optimizers import step_down

ABLE = 0.9
"""The least balanced accuracy in the loop, without reversal, of an adversary worth training against."""
WEAK = 0.9
"""Share of chance. An adversary below it is not defeated: it is broken, or reads the attribute upside down."""
COLLAPSED = 0.05
"""The least share of the variance that a representation must keep: a constant hides everything."""
STEEPNESS = 10.0
_BATCH, _RATE = 64, 2e-3


def reverse(representation: Tensor, strength: float | Tensor) -> Tensor:
    """The same values, with the gradient multiplied by minus `strength`.

    It has no function of its own to differentiate, so gradients of single examples work: hooks, and torch.func.
    """
    return (1 + strength) * representation.detach() - strength * representation


def strength_at(progress: float, *, most: float, warm_up: float = 0.0, steepness: float = STEEPNESS) -> float:
    """The strength of the reversal at a share of the training (Ganin and Lempitsky, section 4).

    Args:
        progress: from 0 to 1.
        most: what the strength rises to.
        warm_up: share of the training before the reversal begins; the adversary learns meanwhile.
        steepness: of the rise; 10 in the paper.
    """
    if progress < warm_up:
        return 0.0
    share = (progress - warm_up) / max(1 - warm_up, 1e-9)
    return most * float(2 / (1 + np.exp(-steepness * share)) - 1)


def dense(width: int, classes: int, hidden: Sequence[int] = (32,)) -> nn.Sequential:
    """Rectified linear layers from `width` values to the logits of `classes`."""
    layers: list[nn.Module] = []
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU()]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, classes))


class Adversary(nn.Module):
    """A network from a representation [n, d] to logits [n, classes], with the reversal before it. Raises ValueError:
    the network ends in probabilities. A reversal behind a softmax would reverse the adversary too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for layer in network.modules():
            if isinstance(layer, nn.Softmax | nn.LogSoftmax | nn.Sigmoid | nn.LogSigmoid):
                raise ValueError(f"an adversary with a {type(layer).__name__}: expected a network that gives logits")
        self.network = network

    def forward(self, representation: Tensor, strength: float | Tensor) -> Tensor:
        """Logits [n, classes]. The adversary's own gradient is never reversed, whatever the strength is."""
        logits: Tensor = self.network(reverse(representation, strength))
        return logits

    def replace(self, fresh: Fresh) -> None:
        """Take the weights of a verifier that was trained afresh (RDAL: Luong et al. 2023, section 2.3)."""
        self.network.load_state_dict(fresh.network.state_dict())


class Labelled(NamedTuple):
    """A representation [n, d], and of each row the class of an attribute: int64 [n], from 0 on."""

    representation: Array
    label: Int64


class Fresh(NamedTuple):
    """A verifier trained from nothing on a representation that does not change any more."""

    network: nn.Module
    loss: float
    """Least cross-entropy of held-out rows, in nats, classes counting alike."""
    recall: float
    """Balanced accuracy on them at that epoch."""


def recall(label: Array, found: Array) -> float:
    """Balanced accuracy: the mean over classes of the share of their rows that were found."""
    return float(np.mean([(found[label == one] == one).mean() for one in np.unique(label)]))


def balance(label: Int64, classes: int) -> Tensor:
    """Weights of classes, float32 [classes], by which rows of each class count alike; their mean over rows is 1."""
    counts = np.bincount(label, minlength=classes)
    return torch.tensor(len(label) / (classes * np.maximum(counts, 1)), dtype=torch.float32)


def cross_entropies(logits: Tensor, label: Tensor, weights: Tensor | None = None) -> Tensor:
    """One loss for each row, [n]: nothing mixes rows, so that DP-SGD can clip what each adds."""
    return functional.cross_entropy(logits, label, weight=weights, reduction="none")


def train_fresh(
    make: Callable[[], nn.Module],
    known: Labelled,
    held_out: Labelled,
    *,
    seed: int,
    epochs: int = 100,
    classes: int | None = None,
) -> Fresh:
    """Train a verifier from nothing, and keep the epoch at which held-out rows are read best.

    That epoch is chosen on the rows it is quoted on, in favour of the attacker.

    Args:
        classes: that the network has; None takes those that rows have.
    """
    with seeded(seed):
        network = make()
        (rows, labels), (others, truth) = _tensors(known), _tensors(held_out)
        classes = classes or int(max(labels.max(), truth.max())) + 1
        weights, fair = balance(known.label, classes), balance(held_out.label, classes)
        optimizer = torch.optim.Adam(network.parameters(), lr=_RATE, fused=True)
        best = Fresh(network, float("inf"), 0.0)
        state = network.state_dict()
        for _ in range(epochs):
            network.train()
            for batch in batches(len(rows), _BATCH):
                step_down(cross_entropies(network(rows[batch]), labels[batch], weights).mean(), optimizer)
            network.eval()
            with torch.no_grad():
                logits = network(others)
            loss = float(cross_entropies(logits, truth, fair).mean())
            if loss < best.loss:
                best = Fresh(network, loss, recall(held_out.label, logits.argmax(dim=1).numpy()))
                state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        network.load_state_dict(state)
        return best


def linear_reader(known: Labelled, held_out: Labelled) -> float:
    """Balanced accuracy on held-out rows of a logistic regression trained on the others."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, class_weight="balanced"))
    return _read_by(linear, known, held_out)


def fresh_readers(known: Labelled, held_out: Labelled, *, seed: int) -> tuple[float, float]:
    """Balanced accuracy on held-out people of a logistic regression and of a forest, trained on the representation."""
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(
        200, min_samples_leaf=2, class_weight="balanced", random_state=seed & 0x7FFFFFFF, n_jobs=1
    )
    return linear_reader(known, held_out), _read_by(forest, known, held_out)


def _read_by(reader: Any, known: Labelled, held_out: Labelled) -> float:
    with one_thread():
        return recall(held_out.label, reader.fit(*known).predict(held_out.representation))


def variation(representation: Array, reference: Array) -> float:
    """Total variance over rows, as a share of that of the reference: 0 for a constant."""
    total = float(np.var(reference, axis=0).sum())
    return float(np.var(representation, axis=0).sum()) / total if total else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdversaryFigures:
    """Balanced accuracy of readers of an attribute in a representation, on people whom nothing was trained on.

    `faults` lists reasons to doubt the figures. A high figure of a fresh reader is no fault: it is the result.
    """

    classes: int
    """Number of classes of the attribute."""
    in_loop: float
    """The adversary that the representation was trained against."""
    able: float
    """The same adversary where nothing was reversed."""
    loss: float
    """Cross-entropy of the adversary in the loop on rows it was trained on, in nats."""
    of_originals: float
    """A linear model of originals: an attacker that knows nothing of the anonymizer."""
    fresh_linear: float
    """A linear model that was trained on the representation."""
    fresh_forest: float
    """A random forest that was trained on the representation."""
    variation: float
    """See `variation`, against the original, or against a representation trained without reversal."""

    def faults(self) -> tuple[str, ...]:
        """Reasons not to believe that anything was hidden, or that anything is left; empty if there are none."""
        if not np.isfinite(self.to_array()).all():
            return ("figures that are not finite: the training diverged",)
        found = {
            f"the adversary reads {self.able:.2f} without reversal, less than {ABLE}: beating it proves nothing": (
                self.able < ABLE
            ),
            f"the adversary in the loop reads {self.in_loop:.2f}, below chance: it is weak, and nothing is hidden": (
                self.in_loop < WEAK / self.classes
            ),
            f"the representation keeps {self.variation:.3f} of its variance: it has collapsed": (
                self.variation < COLLAPSED
            ),
            f"the adversary's loss is {self.loss:.3g}, above twice chance: its own gradient is reversed": (
                self.loss > 2 * np.log(self.classes)
            ),
        }
        return tuple(what for what, is_found in found.items() if is_found)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the figures, in the order of `to_array`."""
        return tuple(field.name for field in fields(cls) if field.name != "classes")

    def to_array(self) -> Float32:
        """The figures as one array, as the coordinator sends it."""
        return np.array([getattr(self, name) for name in self.names()], np.float32)

    @classmethod
    def from_array(cls, array: Array, *, classes: int) -> Self:
        """The inverse of `to_array`."""
        return cls(classes=classes, **{name: float(value) for name, value in zip(cls.names(), array, strict=True)})

    def stated(self) -> dict[str, Any]:
        """Rounded figures by name, for the statement of a release."""
        return {name: round(value, 3) for name, value in asdict(self).items()} | {"faults": list(self.faults())}


def batches(rows: int, size: int) -> Iterator[Tensor]:
    """Rows in a new order, by torch's generator, in parts of about one size."""
    yield from torch.randperm(rows).tensor_split(max(1, round(rows / size)))


def _tensors(rows: Labelled) -> tuple[Tensor, Tensor]:
    return torch.tensor(rows.representation, dtype=torch.float32), torch.tensor(rows.label)
