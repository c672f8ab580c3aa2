"""Closed-set attackers on one vector a clip: each is a row of features, estimator and grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np

from moretta.shared.audit.attackers.base import Identifier, attacker_row
from moretta.shared.audit.crossval import check_learned, choose, estimator, held_out_accuracies
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.views import Features, Vectors, face_gradients, face_pixels, motion, plain, voice_statistics
from moretta.shared.core.array_types import Array, Float32
from moretta.shared.core.terms import Modality

Grid = Mapping[str, Sequence[Any]]
_LEAST_LOG_POSTERIOR = float(np.log(1e-3))
"""A forest gives many speakers no vote at all: how much less than this it believes in somebody says nothing more."""
_CODEWORDS, _CODEBOOK_FRAMES = 32, 10_000
_COMPONENTS, _PRIOR_CLIPS = 256, 2.0
"""Principal components, and clips that pull an emotion's mean towards the mean of all."""


def bigrams(clips: ClipSet, seed: int) -> Vectors:
    """Which sounds follow which: shares of codewords and of their pairs, [clips, codewords + codewords ** 2].

    The codebook is the attacker's own, by k-means. This is what is left of a voice in mere tokens; on quantized voice
    it finds the codebook again. Square roots of shares even out their variances.
    """
    from sklearn.cluster import MiniBatchKMeans

    frames = np.concatenate([clips.mfcc(i) for i in range(len(clips))])
    chosen = np.random.default_rng(seed).permutation(len(frames))[:_CODEBOOK_FRAMES]
    codewords = min(_CODEWORDS, len(np.unique(frames[chosen], axis=0)))
    scale = frames.std(0) + 1e-3
    codebook = MiniBatchKMeans(codewords, n_init=1, random_state=seed).fit(frames[chosen] / scale)
    centroids = codebook.cluster_centers_.astype(np.float32)

    def vectors(clips: ClipSet) -> Float32:
        rows = []
        for i in range(len(clips)):
            frames = clips.mfcc(i) / scale
            nearest = ((centroids**2).sum(1) - 2 * frames @ centroids.T).argmin(1)
            single = np.bincount(nearest, minlength=codewords)
            pairs = np.bincount(nearest[:-1] * codewords + nearest[1:], minlength=codewords**2)
            shares = np.concatenate([single / len(frames), pairs / max(1, len(frames) - 1)])
            rows.append(np.asarray(np.sqrt(shares), np.float32))
        return np.stack(rows)

    return vectors


def within_emotion(of: Vectors, clips: ClipSet, seed: int) -> Vectors:
    """Vectors without their emotion's mean, once for all emotions and once more for each of them alone.

    A release states the emotion of every clip. An anonymizer that keeps emotion moves clips far by it, and may hide
    what is different about a person's anger from a classifier that does not know that it is anger. A linear classifier
    of these vectors, [clips, (classes + 1) components], has one set of weights for every emotion, and a common one.
    Principal components only save time.
    """
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    del seed  # nothing is drawn
    x, classes = of(clips), len(clips.classes)
    components = min(_COMPONENTS, len(x), x.shape[1])
    reduce = make_pipeline(StandardScaler(), PCA(components, svd_solver="full")).fit(x)
    reduced = reduce.transform(x)
    # Components are centred, so the mean of all, towards which the few clips of an emotion are pulled, is 0.
    sums = np.stack([reduced[clips.emotions == number].sum(axis=0) for number in range(classes)])
    counts = np.bincount(clips.emotions, minlength=classes)[:, None]
    means = sums / (counts + _PRIOR_CLIPS)

    def vectors(clips: ClipSet) -> Float32:
        rest = reduce.transform(of(clips)) - means[clips.emotions]
        own = clips.emotions[:, None] == np.arange(classes)  # [clips, emotions]
        apart = (own[:, :, None] * rest[:, None]).reshape(len(rest), -1)
        return np.hstack([rest, apart]).astype(np.float32)

    return vectors


@dataclass(frozen=True)
class VectorAttack:
    """A closed-set attack on one vector a clip: its features and its classifier."""

    features: Features
    estimator: Callable[[int], Any]
    """Makes a scikit-learn classifier of one thread, with `predict_proba` or `decision_function`, from a seed."""
    grid: Grid = field(default_factory=dict)
    """Values to try, by parameter name; empty fits the classifier as it comes."""
    scaled: bool = True
    """Whether vectors are standardised first."""
    must_learn: bool = False
    """Whether it is checked that the training data were learned."""
    cost: int = 1
    """Relative training time."""

    def pipeline(self, seed: int) -> Any:
        """The classifier behind a scaler, not trained."""
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import StandardScaler

        scale = [("scale", StandardScaler())] if self.scaled else []
        return Pipeline([*scale, ("classify", self.estimator(seed))])

    def settings(self) -> dict[str, Sequence[Any]]:
        """The grid by the names that `pipeline` knows."""
        return {f"classify__{name}": values for name, values in self.grid.items()}


class VectorIdentifier(Identifier):
    """Chooses hyper-parameters by cross-validation on the enrolment clips, then fits."""

    how: ClassVar[VectorAttack]

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Learn the features, choose and train."""
        self.speakers = clips.speakers
        self._vectors = self.how.features(clips, seed)
        x, y = self._vectors(clips), clips.labels
        model = self.how.pipeline(seed)
        if self.how.grid:
            model.set_params(**choose(model, self.how.settings(), x, y, clips))
        self._model = model.fit(x, y)
        if self.how.must_learn:
            check_learned(x, y, self._model.predict(x))

    def scores(self, clips: ClipSet) -> Float32:
        """Log-posteriors, [clips, speakers]."""
        return log_posteriors(self._model, self._vectors(clips))


def log_posteriors(model: Any, x: Array) -> Float32:
    """[n, classes] of a trained scikit-learn classifier, up to a constant in each row."""
    if hasattr(model, "predict_proba"):
        posteriors = np.asarray(model.predict_proba(x), np.float32)
        return np.log(np.clip(posteriors, 1e-12, 1))
    decision = np.asarray(model.decision_function(x), np.float32)
    return np.stack([-decision, decision], 1) if decision.ndim == 1 else decision


class InvertedIdentifier(Identifier):
    """The least likely person, where a classifier does worse than chance on clips that it has not seen.

    Where all clips of a person were normalized together, those that an attacker has not seen lie on the far side of
    those it has: the speaker that a classifier finds least likely is then the right one.

    Of all settings of several classifiers, the one most often wrong about clips held out of enrolment is inverted. If
    none is right less often than chance the best one is taken as it is. Trial clips have no say in it. Where nobody has
    two clips to hold one out, the last one is inverted: as it is, it runs as an attacker of its own.
    """

    tried: ClassVar[tuple[VectorAttack, ...]]
    cost: ClassVar[int] = 2

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Try every classifier in every setting, choose, train."""
        self.speakers = clips.speakers
        found: list[tuple[float, VectorAttack, dict[str, Any]]] = []
        for how in self.tried:
            x = how.features(clips, seed)(clips)
            tested = held_out_accuracies(how.pipeline(seed), how.settings(), x, clips.labels, clips)
            found += [(accuracy, how, setting) for setting, accuracy in tested]
        if not found:
            last = self.tried[-1]
            found = [(0.0, last, {name: values[0] for name, values in last.settings().items()})]
        worst, best = (extreme(found, key=lambda one: one[0]) for extreme in (min, max))
        self._inverts = worst[0] < 1 / len(self.speakers)
        _, how, setting = worst if self._inverts else best
        self._vectors = how.features(clips, seed)
        self._model = how.pipeline(seed).set_params(**setting).fit(self._vectors(clips), clips.labels)

    def scores(self, clips: ClipSet) -> Float32:
        """Log-posteriors, or their opposite, [clips, speakers]."""
        found = log_posteriors(self._model, self._vectors(clips))
        return -np.maximum(found, _LEAST_LOG_POSTERIOR) if self._inverts else found


def _logistic(steps: int = 300) -> Callable[[int], Any]:
    return estimator("linear_model.LogisticRegression", max_iter=steps)


def _components_then_logistic(seed: int, *, explained: float) -> Any:
    """Logistic regression on the principal components that explain a share of the variance."""
    from sklearn.decomposition import PCA
    from sklearn.pipeline import Pipeline

    return Pipeline([("reduce", PCA(explained, svd_solver="full")), ("regress", _logistic()(seed))])


def _perceptron(*hidden: int) -> Callable[[int], Any]:
    """Stops when its loss does; whether it learned is checked by its predictions, not by its last step."""
    return estimator("neural_network.MLPClassifier", hidden, max_iter=60, n_iter_no_change=5, tol=1e-3)


_VOICE, _PIXELS, _GRADIENTS = map(plain, (voice_statistics, face_pixels, face_gradients))
_PENALTIES = (0.1, 0.01, 1.0)
_NEIGHBOURS: Grid = {"n_neighbors": (5, 1, 3)}
_forest = estimator("ensemble.RandomForestClassifier", 300, n_jobs=1)
_neighbours = estimator("neighbors.KNeighborsClassifier", weights="distance")
_support_vectors = estimator("svm.SVC", decision_function_shape="ovr")

QUICK: dict[Modality, dict[str, VectorAttack]] = {
    "voice": {
        "forest": VectorAttack(_VOICE, _forest),
        "knn": VectorAttack(_VOICE, _neighbours, _NEIGHBOURS),
        "svm": VectorAttack(_VOICE, _support_vectors, {"C": (10.0, 1.0), "gamma": ("scale", 0.001)}),
        "logistic": VectorAttack(_VOICE, _logistic(), {"C": _PENALTIES}),
    },
    "face": {
        "forest": VectorAttack(_PIXELS, _forest),
        "knn": VectorAttack(_GRADIENTS, _neighbours, _NEIGHBOURS),
        "svm": VectorAttack(_GRADIENTS, _support_vectors, {"C": (10.0, 1.0, 0.1)}),
        "logistic": VectorAttack(
            _PIXELS, partial(_components_then_logistic, explained=0.98), {"regress__C": _PENALTIES}
        ),
    },
}
"""The quick classifiers, by modality and name; `inverted` tries all of them in every setting."""

_GIVEN_EMOTION = partial(VectorAttack, estimator=_logistic(), grid={"C": _PENALTIES}, scaled=False, cost=2)
_PERCEPTRON = partial(VectorAttack, _VOICE, grid={"alpha": (1.0, 0.01)}, must_learn=True, cost=3)
_SLOW: dict[Modality, dict[str, VectorAttack]] = {
    "voice": {
        "bigrams": VectorAttack(bigrams, _logistic(200), {"C": (0.01, 0.001)}, cost=2),
        "given-emotion": _GIVEN_EMOTION(partial(within_emotion, voice_statistics)),
        "mlp1": _PERCEPTRON(_perceptron(128)),
        "mlp2": _PERCEPTRON(_perceptron(128, 128)),
        "mlp3": _PERCEPTRON(_perceptron(128, 128, 64)),
    },
    "face": {
        "given-emotion": _GIVEN_EMOTION(partial(within_emotion, face_pixels)),
        "motion": VectorAttack(motion, partial(_components_then_logistic, explained=0.95), {"regress__C": _PENALTIES}),
    },
}

for _modality, _quick in QUICK.items():
    for _name, _how in (_quick | _SLOW[_modality]).items():
        attacker_row(f"{_modality}-{_name}", VectorIdentifier, modality=_modality, how=_how, cost=_how.cost)
    attacker_row(f"{_modality}-inverted", InvertedIdentifier, modality=_modality, tried=tuple(_quick.values()))
