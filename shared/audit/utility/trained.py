"""Evaluators trained on the clips at hand: a forest as in the original project, and a linear model, for voice and
face."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.vectors import face_gradients, face_pixels, voice_statistics
from moretta.shared.audit.utility.evaluator_registry import Floats, Ints, UtilityEvaluator, utility_evaluator
from moretta.shared.data.clip_names import EMOTIONS

_TREES = 300


class ClassifierEvaluator(UtilityEvaluator):
    """Standardise, then a scikit-learn classifier with probabilities."""

    @abstractmethod
    def classifier(self, seed: int) -> Any:
        """A classifier with `predict_proba`, on one thread."""

    def fit(self, vectors: Floats, emotions: Ints, *, seed: int) -> None:
        """Learn the emotions that occur."""
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self._model = make_pipeline(StandardScaler(), self.classifier(seed)).fit(vectors, emotions)

    def scores(self, vectors: Floats) -> Floats:
        """Probabilities; 0 for an emotion that did not occur in training."""
        found = np.zeros((len(vectors), len(EMOTIONS)), np.float32)
        found[:, self._model.classes_] = self._model.predict_proba(vectors)
        return found


class Forest(ClassifierEvaluator):
    """Random forest."""

    def classifier(self, seed: int) -> Any:
        """Of 300 trees, as the central check of a study."""
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(_TREES, random_state=seed, n_jobs=1)


class Linear(ClassifierEvaluator):
    """Multinomial logistic regression, strongly regularised: there are more features than people."""

    def classifier(self, seed: int) -> Any:
        """L2, C = 0.01 on standardised features."""
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=0.01, max_iter=2000, random_state=seed)


@utility_evaluator("voice-forest", modality="voice")
class VoiceForestEvaluator(Forest):
    """On statistics of MFCC over a clip."""

    def vectors(self, clips: ClipSet) -> Floats:
        """[clips, d]."""
        return voice_statistics(clips)


@utility_evaluator("voice-logistic", modality="voice")
class VoiceLinear(Linear):
    """On statistics of MFCC over a clip."""

    def vectors(self, clips: ClipSet) -> Floats:
        """[clips, d]."""
        return voice_statistics(clips)


@utility_evaluator("face-forest", modality="face")
class FaceForestEvaluator(Forest):
    """On the mean picture of a clip and how much each pixel moves."""

    def vectors(self, clips: ClipSet) -> Floats:
        """[clips, d]."""
        return face_pixels(clips)


@utility_evaluator("face-logistic", modality="face")
class FaceLinear(Linear):
    """On oriented gradients of the mean picture of a clip."""

    def vectors(self, clips: ClipSet) -> Floats:
        """[clips, 900]."""
        return face_gradients(clips)
