"""Whether two clips show one way of moving a face, learnt from other people."""

from __future__ import annotations

from moretta.shared.audit.attackers.attacker_registry import Embedder, Floats, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.compensation import WithinClass, choose_shrinkage
from moretta.shared.audit.learn.movement import Movement

_COMPONENTS = 100


@attacker("face-motion-wccn", modality="face")
class FaceMotionWithinClass(Embedder):
    """Statistics over time of all frames, reduced, whitened within people, compared by cosine."""

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Learn from other people's clips."""
        from sklearn.decomposition import PCA
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self._movement = Movement().fit(clips, seed=seed)
        x, y = self._movement.vectors(clips), clips.labels
        components = min(_COMPONENTS, len(x) - 1, x.shape[1])
        self._reduce = make_pipeline(StandardScaler(), PCA(components, svd_solver="full")).fit(x)
        reduced = self._reduce.transform(x)
        self._model = WithinClass(choose_shrinkage(reduced, y, seed=seed)).fit(reduced, y)

    def embed(self, clips: ClipSet) -> Floats:
        """[clips, up to 100]."""
        return self._model.transform(self._reduce.transform(self._movement.vectors(clips)))
