"""An encoder that sites train together: logistic regression of the emotion through a linear code of measurements.

Training starts from a code of public speech. What it changes is the code; the layer behind it is thrown away, or gives
the labeler. Measurements are normalized either within the speaker, as they will be when clips are released, or by
public speech. The first fits better. A guarantee for a single clip needs the second: among ranks, one clip moves all
clips of its speaker.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moretta.shared.core.errors import StudyError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.public_speech import PublicSpeechOptions
from moretta.shared.features.speaker_code import MIN_SPREAD, PublicRows, SpeakerCode
from moretta.shared.features.speaker_normalization import RANK_LIMIT, SpeakerRanks
from moretta.shared.study.options import SiteTrainingPlan
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import Delta

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
    """The encoder before one round of its training."""

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
        """Measurements [rows, n] of all clips of a speaker, as the encoder is trained on them.

        Args:
            values: of the speaker.
            unit: `speaker`: ranks within the speaker; `clip`: each by itself, by public speech.
        """
        if unit == "speaker":
            ranks = SpeakerRanks.of(values, np.ones(len(values)), self.arrays[_SPREAD])
            return ranks(values).astype(np.float32)
        against_public = (values - self.arrays[_CENTER]) / self.arrays[_DEVIATION]
        return np.clip(against_public, -RANK_LIMIT, RANK_LIMIT).astype(np.float32)

    def network(self) -> torch.nn.Sequential:
        """From normalized measurements to logits of emotions."""
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
    """Whether a change is larger than noise alone would be.

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


class EncoderOptions(PublicSpeechOptions):
    """Options of an anonymizer whose encoder sites may train together."""

    code_size: int = Field(default=5, ge=2, le=64)
    """Values in a code."""
    code_unit: Literal["clip", "speaker"] = "speaker"
    """Training at the sites: whom the guarantee is for, as `unit` in `[privacy]` says."""
    code_epsilon: Annotated[float, Field(ge=0, le=1000)] = 4.0
    """The same: for one unit, over all rounds, at `budget_delta`; 0 trains without noise or guarantee."""
    code_rounds: int = Field(default=20, ge=1, le=1000)
    """The same: one step each."""
    budget_delta: Delta = 1e-5
    """The delta of `code_epsilon`."""

    def training_plan(self) -> SiteTrainingPlan:
        """What these options say of training at the sites."""
        return SiteTrainingPlan(
            rounds=self.code_rounds,
            unit=self.code_unit,
            epsilon=self.code_epsilon,
            delta=self.budget_delta,
            epsilon_key="code_epsilon",
        )


class SiteTraining(ABC):
    """The training of an encoder at the sites: how it starts, and what it makes of the public arrays.

    Args:
        study: that asks for it.
        plan: rounds and guarantee.
        size: values in the code.
        in_windows: whether a clip is measured second by second, and not as a whole.
    """

    trained: frozenset[str]
    """Names of the public arrays that it changes."""

    def __init__(self, study: Study, plan: SiteTrainingPlan, *, size: int, in_windows: bool) -> None:
        self.study, self.plan, self.size, self.in_windows = study, plan, size, in_windows

    @abstractmethod
    def public_rows(self) -> PublicRows:
        """Measurements of public speech."""

    @abstractmethod
    def public_code(self, public: Mapping[str, npt.NDArray[Any]]) -> SpeakerCode:
        """The code that training starts from."""

    @abstractmethod
    def public_after(self, public: Mapping[str, npt.NDArray[Any]], weights: Arrays | None) -> Arrays:
        """The public arrays that change, with the encoder's arrays after the last round; None where noise exceeds the
        sum of the updates."""

    def first_arrays(self, public: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """The encoder's arrays before the first round."""
        return first_arrays(self.public_rows(), self.public_code(public), self.study.classes)

    def encoder(self, arrays: Mapping[str, npt.NDArray[Any]]) -> FederatedEncoder:
        """Check arrays that the coordinator sent. Errors: see `FederatedEncoder.from_arrays`."""
        return FederatedEncoder.from_arrays(arrays, size=self.size, classes=len(self.study.classes))

    def may_become(self, name: str, approved: npt.NDArray[Any] | None, array: npt.NDArray[Any]) -> bool:
        """Whether this training can have made an array of the one that was approved, None if there was none."""
        if approved is None or (approved.dtype, approved.shape) != (array.dtype, array.shape):
            return False
        return bool(np.isfinite(array).all()) and (name in self.trained or np.array_equal(array, approved))
