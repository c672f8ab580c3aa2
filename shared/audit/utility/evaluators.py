"""Utility evaluators, found by name: emotion read off originals and releases of people they were not trained on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast

import numpy as np

from moretta.shared.audit.crossval import estimator, out_of_fold
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.metrics.confusion import bootstrap, confusion_by_speaker, uar
from moretta.shared.audit.pretrained.face_network import ExpressionEvaluator
from moretta.shared.audit.protocol import SCENARIOS, Scenario, SetName
from moretta.shared.audit.result import Result, failure
from moretta.shared.audit.run_attacks import run_all
from moretta.shared.audit.runner import matched
from moretta.shared.audit.utility.content import METERS, PARALLEL_METERS, MeterInput
from moretta.shared.audit.utility.face_content import FACE_METERS
from moretta.shared.audit.views import face_gradients, face_pixels, voice_statistics
from moretta.shared.core.array_types import Float32, Int64
from moretta.shared.core.errors import AttackersError
from moretta.shared.core.labels import EMOTIONS, class_of
from moretta.shared.core.plugins import Registry
from moretta.shared.core.terms import Modality
from moretta.shared.core.workers import Progress, Workers, one_thread
from moretta.shared.pretrained.speaker_encoders import HubertEncoder, SelfSupervisedEncoder, Wav2Vec2Encoder

EvaluatorKind = Literal["trained", "pretrained"]
EMOTION_LAYER = 9
"""Layer of twelve: emotion is read best from the upper middle layers (Pepino et al., Interspeech 2021, section 4)."""
_CHUNK = 16


class UtilityEvaluator(ABC):
    """Reads emotion off clips. Made for the study's classes, once for each set of people it is trained on.

    A `trained` evaluator learns from labelled clips of some people and is tested on others; a `pretrained` one is used
    as it is, and its `fit` does nothing. Same seed, same clips: same scores.
    """

    name: ClassVar[str]
    modality: ClassVar[Modality]
    kind: ClassVar[EvaluatorKind]
    only_named: ClassVar[bool] = False
    """Whether it takes minutes, and runs only where a study or a command names it."""

    holds_codes = False
    """Whether it is trained on codes; set before `fit`."""

    def __init__(self, classes: Sequence[str] = EMOTIONS) -> None:
        self.classes = tuple(classes)

    @classmethod
    def missing(cls) -> str | None:
        """The reason why this evaluator cannot run here, with the command that helps; None if it can run."""
        return None

    @classmethod
    def unfit(cls, classes: Sequence[str]) -> str | None:
        """The reason why this evaluator cannot separate these classes; None if it can."""
        del classes
        return None

    @abstractmethod
    def vectors(self, clips: ClipSet) -> Float32:
        """float32 [clips, ...]: the evaluator's features, computed once for a set."""

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
    """Find an evaluator by name. Raises AttackersError: unknown; the message lists the known ones."""
    return EVALUATORS.get(name)


def evaluator_names(modality: Modality | None = None, *, only_named: bool | None = None) -> list[str]:
    """Names of all evaluators, sorted; `only_named`: of those that run only where they are named, or of the others."""
    found = [cls for cls in EVALUATORS.items() if modality in (None, cls.modality)]
    return [cls.name for cls in found if only_named in (None, cls.only_named)]


_forest = estimator("ensemble.RandomForestClassifier", 300, n_jobs=1, scaled=True)
"""300 trees, as the original project's classifier of emotion."""
_logistic = estimator("linear_model.LogisticRegression", C=0.01, max_iter=2000, scaled=True)
"""Multinomial, strongly regularised: there are more features than people."""


class ClassifierEvaluator(UtilityEvaluator):
    """A scikit-learn classifier with probabilities on standardised vectors, on one thread."""

    classifier: ClassVar[Callable[[int], Any]] = staticmethod(_logistic)
    """Makes a classifier from a seed."""

    def fit(self, vectors: Float32, emotions: Int64, *, seed: int) -> None:
        """Learn the emotions that occur."""
        self._model = type(self).classifier(seed).fit(vectors, emotions)

    def scores(self, vectors: Float32) -> Float32:
        """Probabilities; 0 for an emotion that did not occur in training."""
        found = np.zeros((len(vectors), len(self.classes)), np.float32)
        found[:, self._model.classes_] = self._model.predict_proba(vectors)
        return found


class SelfSupervised(ClassifierEvaluator):
    """Logistic regression on one hidden layer of a network that was trained on speech without labels."""

    encoder: ClassVar[type[SelfSupervisedEncoder]]

    @classmethod
    def missing(cls) -> str | None:
        """As of its encoder."""
        return cls.encoder.missing()

    def vectors(self, clips: ClipSet) -> Float32:
        """Mean and standard deviation over time, [clips, 2 * width]."""
        network = self.encoder.load()
        chunks = ([clips.waveform(i) for i in chunk] for chunk in clips.batches(_CHUNK))
        return np.concatenate([network.summarise(chunk, layer=EMOTION_LAYER) for chunk in chunks])


def _row(name: str, family: type[Any], modality: Modality, **settings: Any) -> None:
    utility_evaluator(name, modality=modality)(cast(type[UtilityEvaluator], type(name, (family,), settings)))


_VOICE, _PIXELS, _GRADIENTS = map(staticmethod, (voice_statistics, face_pixels, face_gradients))
_row("voice-forest", ClassifierEvaluator, "voice", vectors=_VOICE, classifier=staticmethod(_forest))
_row("voice-logistic", ClassifierEvaluator, "voice", vectors=_VOICE)
_row("face-forest", ClassifierEvaluator, "face", vectors=_PIXELS, classifier=staticmethod(_forest))
_row("face-logistic", ClassifierEvaluator, "face", vectors=_GRADIENTS)
_row("hubert-emotion", SelfSupervised, "voice", encoder=HubertEncoder)
_row("wav2vec2-emotion", SelfSupervised, "voice", encoder=Wav2Vec2Encoder)


@utility_evaluator("face-api-expression", modality="face", kind="pretrained")
class Expression(UtilityEvaluator):
    """An outsider's view: the network has seen neither these people nor any released picture."""

    @classmethod
    def missing(cls) -> str | None:
        """Its weights."""
        return ExpressionEvaluator.missing()

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


FOLDS = 5
OTHER_FORM = "codes were released: an evaluator that was trained on sound or pictures cannot read them"
UTILITY_SCENARIOS = ("unprotected", "semi-informed", "ignorant")
"""Trained and tested on originals, trained and tested on releases, and trained on originals but tested on releases.
The last is the VoicePrivacy Challenge's question: does a model of open data still work? A pretrained evaluator is
tested on originals (`unprotected`) and on releases (`ignorant`)."""


def evaluate_utility(
    original: ClipSet | None,
    released: ClipSet,
    *,
    evaluators: Sequence[str] = (),
    more: Sequence[str] = (),
    seed: int = 0,
    draws: int = 1000,
    sentences: Mapping[str, str] | None = None,
    truth: ClipSet | None = None,
    workers: int | None = None,
    scratch: Path,
    progress: Progress | None = None,
) -> list[Result]:
    """Results of every evaluator of this modality, by name; then, where none is named, of the meters of its content.

    Args:
        original: the same clips before anonymization; None without them.
        draws: resamples of each interval, over speakers.
        sentences: texts by code, where they are neither CREMA-D's nor RAVDESS's.
        truth: the same clips of voice as they should sound, under the same pseudonyms; without it nothing is measured
            against them.

    Raises:
        AttackersError: an unknown evaluator.
        RunError: the originals are of other clips.
    """
    wanted = [*(evaluators or evaluator_names(only_named=False)), *more]
    names = [n for n in wanted if get_evaluator(n).modality == released.modality]
    names = sorted(dict.fromkeys(names))
    with one_thread(), Workers(workers) as pool:
        both, *_ = matched(original, released, scratch, pool, progress=progress)
        meters = [] if evaluators else list(METERS if released.modality == "voice" else FACE_METERS)
        meters += PARALLEL_METERS if truth is not None and meters and released.modality == "voice" else []
        given = MeterInput(both, seed, draws, sentences or {}, truth)
        tasks = [(name, given) for name in (*names, *meters)]
        labels = [*(f"emotion by {name}" for name in names), *meters]
        return run_all(_measure, tasks, labels, what="utility evaluators done", pool=pool, progress=progress)


def _measure(name: str, given: MeterInput) -> list[Result]:
    """One evaluator or meter, in a process of its own."""
    meter = {**METERS, **PARALLEL_METERS, **FACE_METERS}.get(name)
    if meter is None:
        return _evaluate(name, given.sets, given.seed, given.draws)
    try:
        return meter(given)
    except Exception as error:
        return [given.result(name, name, "none", "ignorant").invalidated(failure(error))]


def _evaluate(name: str, sets: Mapping[SetName, ClipSet], seed: int, draws: int) -> list[Result]:
    """One evaluator. Whatever goes wrong becomes a reason, never an exception of the audit."""
    from sklearn.model_selection import GroupKFold

    cls = get_evaluator(name)
    clips = sets["released"]
    emotions, people, classes = clips.emotions, clips.labels, clips.classes
    present, speakers = len(np.unique(emotions)), len(clips.speakers)
    about = Result(
        attack="utility",
        target="emotion",
        modality=cls.modality,
        attacker=name,
        kind=cls.kind,
        scenario="",
        metric="uar",
        chance=1 / max(1, present),
        speakers=speakers,
        clips=len(clips),
    )
    reason = cls.missing() or cls.unfit(classes)
    if reason is None and (present < 2 or speakers < 2):
        reason = f"{present} emotions of {speakers} speakers, at least two of each are needed"
    vectors: dict[SetName, Float32] = {}

    def tested(scenario: Scenario) -> Result:
        of_scenario = about.model_copy(update={"scenario": scenario.name})
        train, trial = scenario.trial if cls.kind == "pretrained" else scenario.train, scenario.trial
        if reason is not None:
            return of_scenario.invalidated(reason)
        if sets[train].holds_codes != sets[trial].holds_codes:
            return of_scenario.invalidated(OTHER_FORM)
        try:
            for key in (train, trial):
                vectors[key] = vectors[key] if key in vectors else cls(classes).vectors(sets[key])

            def scores(known: Int64, held_out: Int64) -> Float32:
                evaluator = cls(classes)
                evaluator.holds_codes = sets[train].holds_codes
                evaluator.fit(vectors[train][known], emotions[known], seed=seed)
                return evaluator.scores(vectors[trial][held_out])

            folds = GroupKFold(min(FOLDS, speakers)).split(people, groups=people)
            predicted = out_of_fold(scores, folds).argmax(1)
            counts = confusion_by_speaker(emotions, predicted, people.tolist(), classes=len(classes))
            interval = bootstrap(counts, uar, seed=seed, draws=draws)
            return of_scenario.with_value(float(uar(counts.sum(axis=0))), interval)
        except Exception as error:
            return of_scenario.invalidated(failure(error))

    # A pretrained evaluator has no training data, so releases are one scenario.
    of_kind = [s for s in UTILITY_SCENARIOS if cls.kind == "trained" or s != "semi-informed"]
    chosen = [s for name in of_kind for s in SCENARIOS if s.name == name]
    return [tested(s) for s in chosen if {s.trial, s.trial if cls.kind == "pretrained" else s.train} <= set(sets)]
