"""Gradients of a clip's mean face, reduced, whitened within people, compared by cosine: few people suffice."""

from __future__ import annotations

from moretta.shared.audit.attackers.attacker_registry import Embedder, Floats, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.compensation import WithinClass, choose_shrinkage
from moretta.shared.audit.learn.vectors import face_gradients, face_pixels

_COMPONENTS = 150


@attacker("face-wccn", modality="face")
class FaceWithinClass(Embedder):
    """Learns in which directions one face varies with expression, and ignores them."""

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Learn from other people's clips."""
        from sklearn.decomposition import PCA

        x, y = self._vectors(clips), clips.labels
        self._reduce = PCA(min(_COMPONENTS, len(x) - 1), svd_solver="full").fit(x)
        reduced = self._reduce.transform(x)
        self._model = WithinClass(choose_shrinkage(reduced, y, seed=seed)).fit(reduced, y)

    def embed(self, clips: ClipSet) -> Floats:
        """[clips, up to 150]."""
        return self._model.transform(self._reduce.transform(self._vectors(clips)))

    @staticmethod
    def _vectors(clips: ClipSet) -> Floats:
        import numpy as np

        return np.hstack([face_gradients(clips), face_pixels(clips)])
