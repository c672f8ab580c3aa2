"""Multilayer perceptrons on one vector a clip."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.convergence import check_learned
from moretta.shared.audit.learn.tabular import VectorIdentifier
from moretta.shared.audit.learn.vectors import voice_statistics
from moretta.shared.audit.views import Floats


class LayeredIdentifier(VectorIdentifier):
    """Hidden layers of rectifiers on MFCC statistics; weight decay chosen by cross-validation."""

    hidden: ClassVar[tuple[int, ...]]
    """Units of each hidden layer."""
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"alpha": (1.0, 0.01)}
    cost: ClassVar[int] = 3

    def vectors(self, clips: ClipSet) -> Floats:
        """Statistics of MFCC."""
        return voice_statistics(clips)

    def classifier(self, seed: int) -> Any:
        """A perceptron that stops when its loss does."""
        from sklearn.neural_network import MLPClassifier

        return MLPClassifier(self.hidden, max_iter=60, n_iter_no_change=5, tol=1e-3, random_state=seed)

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Train, and check that it learned what it was shown."""
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # judged by what it learned, not by its last step
            super().fit(clips, seed=seed)
        x = self.vectors(clips)
        check_learned(x, clips.labels, self._model.predict(x))
