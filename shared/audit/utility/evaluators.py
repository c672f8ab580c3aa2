"""Utility evaluators: what reads emotion off clips, and the registry that finds it by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, TypeVar, cast

import numpy as np

from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.pretrained.expression import ExpressionEvaluator
from moretta.shared.audit.pretrained.self_supervised import HubertEncoder, SelfSupervisedEncoder, Wav2Vec2Encoder
from moretta.shared.audit.views import face_gradients, face_pixels, voice_statistics
from moretta.shared.core.array_types import Float32, Int64
from moretta.shared.core.errors import AttackersError
from moretta.shared.core.labels import EMOTIONS, class_of
from moretta.shared.core.plugins import Registry
from moretta.shared.core.terms import Modality

EvaluatorKind = Literal["trained", "pretrained"]
EMOTION_LAYER = 9
"""Of twelve: emotion is read best from the upper middle layers (Pepino et al., Interspeech 2021, section 4)."""
_CHUNK = 16


class UtilityEvaluator(ABC):
    """Reads emotion off clips. Made for the study's classes, once for each set of people it is trained on.

    A `trained` evaluator learns from labelled clips of some people and is tested on others; a `pretrained` one is used
    as it is, and its `fit` does nothing. Same seed, same clips: same scores.
    """

    name: ClassVar[str]
    modality: ClassVar[Modality]
    kind: ClassVar[EvaluatorKind]

    def __init__(self, classes: Sequence[str] = EMOTIONS) -> None:
        self.classes = tuple(classes)

    @classmethod
    def missing(cls) -> str | None:
        """Why this evaluator cannot run here and the command that would help, or None."""
        return None

    @classmethod
    def unfit(cls, classes: Sequence[str]) -> str | None:
        """Why this evaluator cannot tell these classes apart, or None."""
        del classes
        return None

    @abstractmethod
    def vectors(self, clips: ClipSet) -> Float32:
        """float32 [clips, d]: what the evaluator looks at. Computed once for a set."""

    @abstractmethod
    def fit(self, vectors: Float32, emotions: Int64, *, seed: int) -> None:
        """Learn from int [clips] class indices."""

    @abstractmethod
    def scores(self, vectors: Float32) -> Float32:
        """float32 [clips, classes]: higher is likelier."""


E = TypeVar("E", bound=type[UtilityEvaluator])
EVALUATORS: Registry[type[UtilityEvaluator]] = Registry(
    "utility evaluator", group="moretta.evaluators", package="moretta.shared.audit.utility", error=AttackersError
)


def utility_evaluator(name: str, *, modality: Modality, kind: EvaluatorKind = "trained") -> Callable[[E], E]:
    """Register a class."""

    def register(cls: E) -> E:
        cls.name, cls.modality, cls.kind = name, modality, kind
        EVALUATORS.add(name, cls)
        return cls

    return register


def get_evaluator(name: str) -> type[UtilityEvaluator]:
    """Find an evaluator by name.

    Raises:
        AttackersError: unknown name; the message lists the known ones.
    """
    return EVALUATORS.get(name)


def evaluator_names(modality: Modality | None = None) -> list[str]:
    """Names of all evaluators, sorted."""
    return [cls.name for cls in EVALUATORS.items() if modality in (None, cls.modality)]


class ClassifierEvaluator(UtilityEvaluator):
    """Standardise vectors, then a scikit-learn classifier with probabilities, on one thread."""

    @staticmethod
    @abstractmethod
    def classifier(seed: int) -> Any:
        """A classifier that is not trained."""

    def fit(self, vectors: Float32, emotions: Int64, *, seed: int) -> None:
        """Learn the emotions that occur."""
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self._model = make_pipeline(StandardScaler(), self.classifier(seed)).fit(vectors, emotions)

    def scores(self, vectors: Float32) -> Float32:
        """Probabilities; 0 for an emotion that did not occur in training."""
        found = np.zeros((len(vectors), len(self.classes)), np.float32)
        found[:, self._model.classes_] = self._model.predict_proba(vectors)
        return found


def _forest(seed: int) -> Any:
    """300 trees, as the original project's classifier of emotion."""
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(300, random_state=seed, n_jobs=1)


def _logistic(seed: int) -> Any:
    """Multinomial, strongly regularised: there are more features than people."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=0.01, max_iter=2000, random_state=seed)


_TABLE: dict[str, tuple[Modality, Callable[[ClipSet], Float32], Callable[[int], Any]]] = {
    "voice-forest": ("voice", voice_statistics, _forest),
    "voice-logistic": ("voice", voice_statistics, _logistic),
    "face-forest": ("face", face_pixels, _forest),
    "face-logistic": ("face", face_gradients, _logistic),
}
for _name, (_modality, _features, _classifier) in _TABLE.items():
    _settings = {"vectors": staticmethod(_features), "classifier": staticmethod(_classifier)}
    utility_evaluator(_name, modality=_modality)(
        cast(type[UtilityEvaluator], type(_name, (ClassifierEvaluator,), _settings))
    )


class SelfSupervised(ClassifierEvaluator):
    """Logistic regression on one hidden layer of a network that was trained on speech without labels."""

    encoder: ClassVar[type[SelfSupervisedEncoder]]
    classifier = staticmethod(_logistic)

    @classmethod
    def missing(cls) -> str | None:
        """What its encoder misses."""
        found = cls.encoder.availability()
        return None if found.present else found.reason

    def vectors(self, clips: ClipSet) -> Float32:
        """Mean and standard deviation over time, [clips, 2 * width]."""
        network = self.encoder.load()
        starts = range(0, len(clips), _CHUNK)
        chunks = ([clips.waveform(i) for i in range(s, min(s + _CHUNK, len(clips)))] for s in starts)
        return np.concatenate([network.summarise(chunk, layer=EMOTION_LAYER) for chunk in chunks])


@utility_evaluator("hubert-emotion", modality="voice")
class Hubert(SelfSupervised):
    """On HuBERT."""

    encoder = HubertEncoder


@utility_evaluator("wav2vec2-emotion", modality="voice")
class Wav2Vec2(SelfSupervised):
    """On wav2vec 2.0."""

    encoder = Wav2Vec2Encoder


@utility_evaluator("face-api-expression", modality="face", kind="pretrained")
class Expression(UtilityEvaluator):
    """An outsider's view: the network has seen neither these people nor any released picture."""

    @classmethod
    def missing(cls) -> str | None:
        """Its weights."""
        found = ExpressionEvaluator.availability()
        return None if found.present else found.reason

    @classmethod
    def unfit(cls, classes: Sequence[str]) -> str | None:
        """It knows the six emotions, by any of their names."""
        other = [name for name in classes if class_of(name, EMOTIONS) is None]
        return f"the network does not know the classes {', '.join(other)}" if other else None

    def vectors(self, clips: ClipSet) -> Float32:
        """Its probabilities of the classes, [clips, classes]."""
        network = ExpressionEvaluator.load()
        found = np.concatenate([network.probabilities([clips.frames(i)]) for i in range(len(clips))])
        return found[:, [EMOTIONS.index(class_of(name, EMOTIONS) or "") for name in self.classes]]

    def fit(self, vectors: Float32, emotions: Int64, *, seed: int) -> None:
        """Nothing: it is used as it is."""

    def scores(self, vectors: Float32) -> Float32:
        """The probabilities."""
        return vectors
