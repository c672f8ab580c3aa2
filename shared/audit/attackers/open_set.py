"""Open-set attackers that need few speakers: vectors whitened within speakers, and heads on pretrained encoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from moretta.shared.audit.attackers.base import Embedder, attacker, attacker_row, get_attacker, get_embedder
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.views import Features, MotionFeatures, PlainFeatures, face_picture, voice_statistics
from moretta.shared.core.array_types import Array, Float32, Int64
from moretta.shared.core.terms import Modality

SHRINKAGES = (0.1, 0.3, 0.6)


class WithinClass:
    """Whitening by the covariance within speakers, shrunk towards a sphere (Hatch et al., Interspeech 2006).

    With few speakers a discriminant analysis keeps only as many directions as there are; this keeps them all, and
    only turns down those in which one person varies.
    """

    def __init__(self, shrinkage: float) -> None:
        self._shrinkage = shrinkage

    def fit(self, x: Array, y: Int64) -> WithinClass:
        """Learn from vectors [n, d] and speakers [n]."""
        exact = np.asarray(x, np.float64)
        self._mean, deviation = exact.mean(0), exact.std(0)
        # A direction in which the training clips are all equal is not known to be small in others: it is left out.
        flat = deviation <= 1e-6 * max(float(deviation.max()), 1e-12)
        self._scale = np.where(flat, np.inf, deviation)
        scaled = (exact - self._mean) / self._scale
        within = np.concatenate([scaled[y == speaker] - scaled[y == speaker].mean(0) for speaker in np.unique(y)])
        covariance = within.T @ within / len(within)
        sphere = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        values, vectors = np.linalg.eigh((1 - self._shrinkage) * covariance + self._shrinkage * sphere)
        floor = max(float(values.max()) * 1e-6, 1e-12)
        self._whiten = vectors / np.sqrt(np.maximum(values, floor))
        return self

    def transform(self, x: Array) -> Float32:
        """[n, d] to [n, d]."""
        scaled = (np.asarray(x, np.float64) - self._mean) / self._scale
        whitened: Float32 = (scaled @ self._whiten).astype(np.float32)
        return whitened


def choose_shrinkage(x: Array, y: Int64, *, seed: int) -> float:
    """The shrinkage that best tells apart speakers held out of the fit, all of them the attacker's own."""
    speakers = np.random.default_rng(seed).permutation(np.unique(y))
    if len(speakers) < 4:
        return SHRINKAGES[1]
    errors = dict.fromkeys(SHRINKAGES, 0.0)
    for known in (speakers[0::2], speakers[1::2]):
        inside = np.isin(y, known)
        for shrinkage in SHRINKAGES:
            vectors = WithinClass(shrinkage).fit(x[inside], y[inside]).transform(x[~inside])
            errors[shrinkage] += _equal_error_rate(vectors, y[~inside])
    return min(SHRINKAGES, key=errors.__getitem__)


def _equal_error_rate(vectors: Float32, y: Int64) -> float:
    from moretta.shared.audit.metrics import Trials
    from moretta.shared.audit.metrics.verification import eer
    from moretta.shared.audit.scoring import cosines

    few = np.linspace(0, len(y) - 1, min(len(y), 400)).round().astype(int)
    left, right = np.triu_indices(len(few), 1)
    scores = cosines(vectors[few], vectors[few])[left, right]
    same = y[few][left] == y[few][right]
    if same.all() or not same.any():
        return 0.5
    return eer(Trials.of_speakers(scores, y[few][left], y[few][right]))


class WithinClassEmbedder(Embedder):
    """Learns in which directions a speaker's vectors vary with words, emotion or expression, and ignores them."""

    features: ClassVar[Callable[[], Features]]
    components: ClassVar[int | None] = None
    """Principal components that vectors are reduced to, at most; None keeps them as they are."""
    scaled: ClassVar[bool] = False
    """Whether vectors are standardised before they are reduced."""

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Learn from other speakers' clips."""
        from sklearn.decomposition import PCA
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import StandardScaler

        self._features = type(self).features().fit(clips, seed=seed)
        x, y = self._features.vectors(clips), clips.labels
        steps: list[tuple[str, Any]] = [("scale", StandardScaler())] if self.scaled else []
        if self.components is not None:
            steps.append(("reduce", PCA(min(self.components, len(x) - 1, x.shape[1]), svd_solver="full")))
        self._reduce = Pipeline(steps).fit(x) if steps else None
        reduced = self._reduced(x)
        self._whitening = WithinClass(choose_shrinkage(reduced, y, seed=seed)).fit(reduced, y)

    def embed(self, clips: ClipSet) -> Float32:
        """[clips, dimensions]."""
        return self._whitening.transform(self._reduced(self._features.vectors(clips)))

    def _reduced(self, x: Float32) -> Array:
        return x if self._reduce is None else np.asarray(self._reduce.transform(x))


@attacker("voice-wccn", modality="voice")
class VoiceWithinClass(WithinClassEmbedder):
    """On statistics of MFCC."""

    features = staticmethod(lambda: PlainFeatures(voice_statistics))


@attacker("face-wccn", modality="face")
class FaceWithinClass(WithinClassEmbedder):
    """On gradients, the mean frame and its movement."""

    features = staticmethod(lambda: PlainFeatures(face_picture))
    components = 150


@attacker("face-motion-wccn", modality="face")
class MotionWithinClass(WithinClassEmbedder):
    """On how the face moves: a biometric that a release without any likeness may still carry."""

    features = MotionFeatures
    components = 100
    scaled = True


class HeadOn(WithinClassEmbedder):
    """On the embeddings of an encoder used as it is: what its owner would do first against anonymization."""

    @classmethod
    def missing(cls) -> str | None:
        """What its encoder misses."""
        return get_attacker(cls.encoder).missing()


def register_head(encoder: str, modality: Modality) -> None:
    """Register the head of an untrained encoder, as NAME+head."""
    features = staticmethod(lambda: PlainFeatures(lambda clips: embeddings_of(encoder, clips)))
    attacker_row(f"{encoder}+head", HeadOn, modality=modality, encoder=encoder, features=features)


def embeddings_of(encoder: str, clips: ClipSet) -> Float32:
    """float32 [clips, d]: those that the audit has computed already, or new ones."""
    view = clips.views.get(f"embedding {encoder}")
    if view is not None:
        return np.stack([view[row][0] for row in clips.rows])
    return get_embedder(encoder)().embed(clips)
