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
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moretta.shared.core.labels import EMOTIONS
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.public_speech import PublicSpeechOptions
from moretta.shared.features.speaker_code import MIN_SPREAD, PublicRows, SpeakerCode, measured_public_speech
from moretta.shared.features.speaker_normalization import RANK_LIMIT, SpeakerRanks
from moretta.shared.study.options import SiteTrainingPlan
from moretta.shared.study.public_arrays import LEAST_SPREAD, Rule, check_public
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
_CLEAR = 2.0
"""Standard deviations of the squared norm of noise by which a change must be longer than noise alone."""
_MOST = 1e6
"""No value is larger, so gradients stay finite, whatever the clips: others could not be clipped, and would show."""

Arrays = dict[str, npt.NDArray[Any]]


def first_arrays(rows: PublicRows, code: SpeakerCode, classes: Sequence[str] = EMOTIONS) -> Arrays:
    """What training starts from, all of it public: the code, a layer fitted behind it, and what clips are scaled by.

    Public speech has the six emotions: of other `classes` nothing is known at first.
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
        """Check and take what the coordinator sent. Errors: see `public_arrays.check_public`."""
        width = len(MEASUREMENTS)
        rules = {CODE: Rule((size, width), _MOST), HEAD: Rule((classes, size), _MOST), BIAS: Rule((classes,), _MOST)}
        rules |= {_CENTER: Rule((width,), _MOST)}
        rules |= {name: Rule((width,), _MOST, LEAST_SPREAD) for name in (_SPREAD, _DEVIATION)}
        check_public(arrays, rules)
        return cls({name: np.ascontiguousarray(array) for name, array in arrays.items()})

    def normalized(self, values: npt.NDArray[Any], *, unit: Literal["clip", "speaker"]) -> npt.NDArray[np.float32]:
        """Measurements [rows, n] of all clips of a speaker, as the encoder is trained on them: of the unit `speaker` as
        ranks within the speaker, of `clip` each by itself, by public speech."""
        if unit == "speaker":
            ranks = SpeakerRanks.of(values, np.ones(len(values)), self.arrays[_SPREAD])
            return ranks(values).astype(np.float32)
        against_public = (values - self.arrays[_CENTER]) / self.arrays[_DEVIATION]
        return np.clip(against_public, -RANK_LIMIT, RANK_LIMIT).astype(np.float32)

    def network(self) -> torch.nn.Sequential:
        """From normalized measurements to logits of emotions."""
        import torch

        size, width = self.arrays[CODE].shape
        code, emotion = torch.nn.Linear(width, size, bias=False), torch.nn.Linear(size, len(self.arrays[BIAS]))
        network = torch.nn.Sequential(OrderedDict[str, torch.nn.Module](code=code, emotion=emotion))
        network.load_state_dict({name: torch.from_numpy(self.arrays[name]) for name in TRAINED})
        return network

    def after(self, network: torch.nn.Module) -> Arrays:
        """The same arrays with what training made of the network's."""
        return {**self.arrays, **{name: np.asarray(array) for name, array in network.state_dict().items()}}


def is_clear(before: npt.NDArray[Any], after: npt.NDArray[Any], *, noise: float) -> bool:
    """Whether a change is larger than noise alone would be.

    The squared norm of n values of noise of deviation s is n s^2, give or take s^2 times the root of 2 n. A change that
    is not longer than that would, on average, do the code more harm than good. `noise` is the deviation, 0 for none.
    """
    change = float(np.square(np.asarray(after, np.float64) - before).sum())
    return change > float(noise**2 * (before.size + _CLEAR * np.sqrt(2 * before.size)))


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

    federated_by: ClassVar[str]
    """The option whose value `federated` has the encoder trained at the sites."""

    def site_training(self) -> SiteTrainingPlan | None:
        """What these options say of training at the sites."""
        if getattr(self, self.federated_by) != "federated":
            return None
        rounds, unit, epsilon = self.code_rounds, self.code_unit, self.code_epsilon
        return SiteTrainingPlan(
            rounds=rounds, unit=unit, epsilon=epsilon, delta=self.budget_delta, epsilon_key="code_epsilon"
        )


class SiteTraining(ABC):
    """The training of an encoder at the sites: how it starts, and what it makes of the public arrays."""

    trained: frozenset[str]
    """Names of the public arrays that it changes."""

    def __init__(self, study: Study, plan: SiteTrainingPlan, *, in_windows: bool) -> None:
        self.study, self.plan, self.in_windows = study, plan, in_windows
        options = EncoderOptions.of(study.voice.options)
        self.size, self._folder = options.code_size, options.public_speech

    @classmethod
    def of(cls, study: Study, *, in_windows: bool) -> Self | None:
        """The training that a study plans, if any. In windows, a clip is measured second by second."""
        plan = study.voice.site_training()
        return None if plan is None else cls(study, plan, in_windows=in_windows)

    @abstractmethod
    def public_code(self, public: Mapping[str, npt.NDArray[Any]]) -> SpeakerCode:
        """The code that training starts from."""

    @abstractmethod
    def public_after(self, public: Mapping[str, npt.NDArray[Any]], weights: Arrays | None) -> Arrays:
        """The public arrays that change, with the encoder's arrays after the last round; None where noise exceeds the
        sum of the updates."""

    def public_rows(self) -> PublicRows:
        """Measurements of the study's public speech."""
        return measured_public_speech(self._folder, in_windows=self.in_windows)

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
