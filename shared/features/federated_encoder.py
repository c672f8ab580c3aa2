"""A speaker code in training: logistic regression of the emotion through a linear code, which starts as public speech
has it.

What is learnt is the code; the layer behind it is thrown away. Measurements are told either relative to the person, as
they will be when clips are released, or relative to public speech. The first fits better. The second is what a
guarantee for a single clip needs: among ranks, one clip moves all clips of its person.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from moretta.shared.core.errors import StudyError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.speaker_code import MIN_SPREAD, PublicRows, SpeakerCode
from moretta.shared.features.speaker_ranks import RANK_LIMIT, SpeakerRanks

if TYPE_CHECKING:
    import torch

LEARNING_RATE = 0.5
CLIPPING_NORM = 1.0
"""What the gradient of one unit is cut to."""
CODE, HEAD, BIAS = "code.weight", "emotion.weight", "emotion.bias"
TRAINED = (CODE, HEAD, BIAS)
_SPREAD, _CENTER, _DEVIATION = "public.spread", "public.center", "public.deviation"
_REFERENCE = (_SPREAD, _CENTER, _DEVIATION)
_CLEAR = 2.0
"""Standard deviations of the squared norm of noise by which a change must be longer than noise alone."""

_MOST = 1e6
"""No value is larger: gradients stay finite, whatever the clips. One that did not could not be cut, and would tell."""

Arrays = dict[str, npt.NDArray[Any]]


def first_arrays(rows: PublicRows, code: SpeakerCode, classes: Sequence[str] = EMOTIONS) -> Arrays:
    """What training starts from, all of it public: the code, a layer fitted behind it, and what to tell clips against.

    Args:
        rows: public speech.
        code: learnt on it.
        classes: of the sites' labels. Public speech has the six emotions: of other classes nothing is known at first.
    """
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(max_iter=500).fit(rows.places() @ code.projection, rows.emotion)
    head, bias = np.zeros((len(classes), code.size)), np.full(len(classes), float(np.min(fitted.intercept_)))
    if tuple(classes) == EMOTIONS:
        shown = fitted.classes_ if len(fitted.classes_) > 2 else fitted.classes_[1:]
        head[shown], bias[shown] = fitted.coef_, fitted.intercept_
    arrays = {
        CODE: code.projection.T,
        HEAD: head,
        BIAS: bias,
        _SPREAD: code.spread,
        _CENTER: rows.values.mean(axis=0),
        _DEVIATION: np.maximum(rows.values.std(axis=0), MIN_SPREAD),
    }
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}


@dataclass(frozen=True, slots=True, eq=False)
class FederatedEncoder:
    """A code as one round of its training finds it."""

    arrays: Arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], *, size: int, classes: int = len(EMOTIONS)) -> Self:
        """Check and take what the coordinator sent.

        Raises:
            StudyError: an array is missing or too much, of another shape, or holds values that cannot be.
        """
        width = len(MEASUREMENTS)
        shapes = {CODE: (size, width), HEAD: (classes, size), BIAS: (classes,)} | dict.fromkeys(_REFERENCE, (width,))
        found = {name: (str(array.dtype), array.shape) for name, array in arrays.items()}
        if found != {name: ("float32", shape) for name, shape in shapes.items()}:
            raise StudyError(f"a code in training of {found}", expected=f"float32 {shapes}")
        taken = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        spread = taken[_SPREAD].min() >= MIN_SPREAD / 2 and taken[_DEVIATION].min() >= MIN_SPREAD / 2
        if not spread or not all(float(np.abs(array).max()) <= _MOST for array in taken.values()):  # false for NaN
            raise StudyError(
                "a code in training with values that cannot be",
                expected=f"finite, up to {_MOST:g}; spreads from {MIN_SPREAD / 2:g}",
            )
        return cls(taken)

    def normalized(self, values: npt.NDArray[Any], *, unit: Literal["clip", "speaker"]) -> npt.NDArray[np.float32]:
        """Measurements [rows, n] of one person as the code is trained on them.

        Args:
            values: all that the person says.
            unit: `speaker`: ranks within the person; `clip`: each by itself, against public speech.
        """
        if unit == "speaker":
            ranks = SpeakerRanks.of(values, np.ones(len(values)), self.arrays[_SPREAD])
            return ranks(values).astype(np.float32)
        against_public = (values - self.arrays[_CENTER]) / self.arrays[_DEVIATION]
        return np.clip(against_public, -RANK_LIMIT, RANK_LIMIT).astype(np.float32)

    def network(self) -> torch.nn.Sequential:
        """From told measurements to logits of emotions."""
        import torch

        size, width = self.arrays[CODE].shape
        layers: OrderedDict[str, torch.nn.Module] = OrderedDict()
        layers["code"] = torch.nn.Linear(width, size, bias=False)
        layers["emotion"] = torch.nn.Linear(size, len(self.arrays[BIAS]))
        network = torch.nn.Sequential(layers)
        network.load_state_dict({name: torch.from_numpy(self.arrays[name]) for name in TRAINED})
        return network

    def after(self, network: torch.nn.Module) -> Arrays:
        """The same arrays with what training made of the network's."""
        return {**self.arrays, **{name: np.asarray(array) for name, array in network.state_dict().items()}}


def is_clear(before: npt.NDArray[Any], after: npt.NDArray[Any], *, noise: float) -> bool:
    """Whether a change tells more than noise alone would.

    The squared norm of n values of noise of deviation s is n s^2, give or take s^2 times the root of 2 n. A change that
    is not longer than that would, on average, do the code more harm than good.

    Args:
        before: of any shape.
        after: of the same.
        noise: standard deviation in each value of the change; 0 for none.
    """
    change = float(np.square(np.asarray(after, np.float64) - before).sum())
    least = float(noise**2 * (before.size + _CLEAR * np.sqrt(2 * before.size)))
    return change > least
