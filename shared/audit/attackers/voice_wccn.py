"""Statistics of MFCC, whitened within speakers, compared by cosine: an open-set attacker that needs few speakers."""

from __future__ import annotations

from moretta.shared.audit.attackers.attacker_registry import Embedder, Floats, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.compensation import WithinClass, choose_shrinkage
from moretta.shared.audit.learn.vectors import voice_statistics


@attacker("voice-wccn", modality="voice")
class VoiceWithinClass(Embedder):
    """Learns in which directions one voice varies with words and emotion, and ignores them."""

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Learn from other speakers' clips."""
        x, y = voice_statistics(clips), clips.labels
        self._model = WithinClass(choose_shrinkage(x, y, seed=seed)).fit(x, y)

    def embed(self, clips: ClipSet) -> Floats:
        """[clips, d]."""
        return self._model.transform(voice_statistics(clips))
