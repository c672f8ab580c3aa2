"""Logistic regression of the emotion through a linear code of measurements, which sites train together.

Training starts from a code of public speech and changes it; the layer behind the code is discarded, or gives the
labeler. Measurements are normalized either within the speaker, as they will be when clips are released, or by
public speech. The first fits better. A guarantee for a single clip needs the second: among ranks, one clip moves all
clips of its speaker.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import Field

from moretta.shared.core.array_types import Array, Float32
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.features.federated_encoder import Arrays, FederatedEncoder, SiteTrainedOptions, SiteTraining, Unit
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.public_speech import PublicSpeechOptions
from moretta.shared.features.speaker_code import MIN_SPREAD, PublicRows, SpeakerCode
from moretta.shared.features.speaker_normalization import RANK_LIMIT, SpeakerRanks
from moretta.shared.study.options import SiteTrainingPlan
from moretta.shared.study.public_arrays import LEAST_SPREAD, Rule, check_public
from moretta.shared.study.schema import Study

if TYPE_CHECKING:
    import torch

CODE, HEAD, BIAS = "code.weight", "emotion.weight", "emotion.bias"
TRAINED = (CODE, HEAD, BIAS)
_SPREAD, _CENTER, _DEVIATION = "public.spread", "public.center", "public.deviation"
_MOST = 1e6
"""Largest value of an array, so that gradients stay finite for all clips: others could not be clipped."""


def first_arrays(rows: PublicRows, code: SpeakerCode, classes: Sequence[str] = EMOTIONS) -> Arrays:
    """Arrays that training starts from, all public: the code, a layer fitted behind it, and the scale of clips.

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


class EmotionEncoder(FederatedEncoder):
    """A linear code, and the logits of emotions behind it."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], *, size: int, classes: int = len(EMOTIONS)) -> Self:
        """Check and take what the coordinator sent. Errors: see `public_arrays.check_public`."""
        width = len(MEASUREMENTS)
        rules = {CODE: Rule((size, width), _MOST), HEAD: Rule((classes, size), _MOST), BIAS: Rule((classes,), _MOST)}
        rules |= {_CENTER: Rule((width,), _MOST)}
        rules |= {name: Rule((width,), _MOST, LEAST_SPREAD) for name in (_SPREAD, _DEVIATION)}
        return cls(check_public(arrays, rules))

    def normalized(self, values: Array, *, unit: Unit) -> Float32:
        """Ranks within the speaker for the unit `speaker`; for `clip` each row by itself, by public speech."""
        if unit == "speaker":
            ranks = SpeakerRanks.of(values, np.ones(len(values)), self.arrays[_SPREAD])
            return ranks(values).astype(np.float32)
        against_public = (values - self.arrays[_CENTER]) / self.arrays[_DEVIATION]
        return np.clip(against_public, -RANK_LIMIT, RANK_LIMIT).astype(np.float32)

    def network(self) -> torch.nn.Sequential:
        """The network from normalized measurements [rows, n] to logits of emotions."""
        import torch

        size, width = self.arrays[CODE].shape
        code, emotion = torch.nn.Linear(width, size, bias=False), torch.nn.Linear(size, len(self.arrays[BIAS]))
        network = torch.nn.Sequential(OrderedDict[str, torch.nn.Module](code=code, emotion=emotion))
        network.load_state_dict({name: torch.from_numpy(self.arrays[name]) for name in TRAINED})
        return network


class _SizedOptions(PublicSpeechOptions):
    code_size: int = Field(default=5, ge=2, le=64)
    """Values in a code."""


class EncoderOptions(SiteTrainedOptions, _SizedOptions):
    """Options of an anonymizer whose code sites may train together.

    The size stands before the others, as it always has: the digest of a study depends on the order.
    """


class EmotionTraining(SiteTraining):
    """The training of a code by the emotions of the sites' clips."""

    monitored = CODE
    learning_rate = 0.5

    def __init__(self, study: Study, plan: SiteTrainingPlan, *, in_windows: bool = False) -> None:
        super().__init__(study, plan, in_windows=in_windows)
        self.size = EncoderOptions.of(study.voice.options).code_size

    @abstractmethod
    def public_code(self, public: Mapping[str, Array]) -> SpeakerCode:
        """The code that training starts from."""

    def first_arrays(self, public: Mapping[str, Array]) -> Arrays:
        """The code, and a layer fitted behind it."""
        return first_arrays(self.public_rows(), self.public_code(public), self.study.classes)

    def encoder(self, arrays: Mapping[str, Array], number: int) -> EmotionEncoder:  # noqa: ARG002
        """See `EmotionEncoder.from_arrays`."""
        return EmotionEncoder.from_arrays(arrays, size=self.size, classes=len(self.study.classes))
