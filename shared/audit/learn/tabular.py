"""Closed-set attackers on one vector a clip, whatever the classifier."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.attackers.attacker_registry import Floats, Identifier, NotConvergedError
from moretta.shared.audit.clipset import ClipSet

Ints = npt.NDArray[np.int64]


class VectorIdentifier(Identifier):
    """Standardise, choose hyper-parameters by cross-validation on the enrolment clips, fit.

    Subclasses say which vectors, which scikit-learn classifier, and which of its parameters are tried.
    """

    grid: ClassVar[Mapping[str, Sequence[Any]]] = MappingProxyType({})
    """Values to try, by parameter name; empty fits the classifier as it comes."""

    @abstractmethod
    def vectors(self, clips: ClipSet) -> Floats:
        """float32 [clips, d]."""

    @abstractmethod
    def classifier(self, seed: int) -> Any:
        """A scikit-learn classifier with `predict_proba` or `decision_function`, on one thread."""

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Choose and train."""
        self.speakers = clips.speakers
        x, y = self.vectors(clips), clips.labels
        model = self.pipeline(seed)
        if self.grid:
            model.set_params(**choose(model, self.settings(), x, y, clips))
        self._model = model.fit(x, y)

    def pipeline(self, seed: int) -> Any:
        """The classifier behind a scaler, not trained."""
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import StandardScaler

        return Pipeline([("scale", StandardScaler()), ("classify", self.classifier(seed))])

    def settings(self) -> dict[str, Sequence[Any]]:
        """The grid by the names that `pipeline` knows."""
        return {f"classify__{name}": values for name, values in self.grid.items()}

    def scores(self, clips: ClipSet) -> Floats:
        """Log-posteriors, [clips, speakers]."""
        return log_posteriors(self._model, self.vectors(clips))


def log_posteriors(model: Any, x: npt.NDArray[Any]) -> Floats:
    """[n, classes] of a trained scikit-learn classifier, up to a constant in each row."""
    if hasattr(model, "predict_proba"):
        posteriors = np.asarray(model.predict_proba(x), np.float32)
        return np.log(np.clip(posteriors, 1e-12, 1))
    decision = np.asarray(model.decision_function(x), np.float32)
    return np.stack([-decision, decision], 1) if decision.ndim == 1 else decision


def choose(
    model: Any, grid: Mapping[str, Sequence[Any]], x: npt.NDArray[Any], y: Ints, clips: ClipSet
) -> dict[str, Any]:
    """The best parameters by cross-validation over sentences, as the attack itself crosses sentences.

    Only clips that the attacker has are used. With too few clips to hold any out, the first value of each is taken.

    Raises:
        NotConvergedError: no setting fits every fold.
    """
    tried = held_out_accuracies(model, grid, x, y, clips)
    if not tried:
        return {name: values[0] for name, values in grid.items()}
    return max(tried, key=lambda one: one[1])[0]


def held_out_accuracies(
    model: Any, grid: Mapping[str, Sequence[Any]], x: npt.NDArray[Any], y: Ints, clips: ClipSet
) -> list[tuple[dict[str, Any], float]]:
    """Every setting of a grid that trains, and its accuracy on clips held out of `clips`. Empty: too few clips.

    Raises:
        NotConvergedError: no setting fits every fold.
    """
    from sklearn.model_selection import GridSearchCV

    folds = cross_validation(y, clips)
    if folds is None:
        return []
    search = GridSearchCV(model, dict(grid), cv=folds, n_jobs=1, refit=False, error_score=np.nan)
    search.fit(x, y)
    results = zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True)
    found = [(dict(setting), float(accuracy)) for setting, accuracy in results if np.isfinite(accuracy)]
    if not found:
        raise NotConvergedError("no hyper-parameters that train", expected="one setting that fits every fold")
    return found


def cross_validation(y: Ints, clips: ClipSet) -> list[tuple[Ints, Ints]] | None:
    """Up to three folds, disjoint in sentence if every fold's training part still has every speaker.

    None where no speaker has two clips.
    """
    sentences = np.array([clip.sentence for clip in clips.clips])
    names = np.unique(sentences)
    folds = min(3, len(names))
    if folds > 1:
        fold_of = np.searchsorted(names, sentences) % folds
        splits = [(np.flatnonzero(fold_of != f), np.flatnonzero(fold_of == f)) for f in range(folds)]
        if all(len(np.unique(y[train])) == len(np.unique(y)) for train, _ in splits):
            return splits
    own = np.bincount(y)
    many = np.flatnonzero(own[y] > 1)  # the only clip of a speaker is never held out
    if not len(many):
        return None
    from sklearn.model_selection import StratifiedKFold

    held_out = [many[test] for _, test in StratifiedKFold(min(3, int(own[own > 1].min()))).split(many, y[many])]
    return [(np.setdiff1d(np.arange(len(y)), test), test) for test in held_out]
