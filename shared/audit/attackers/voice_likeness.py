"""Who it is by how like a voice is to each clip that is known, within an emotion and across emotions."""

from __future__ import annotations

from moretta.shared.audit.attackers.base import Floats, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.features import voice_statistics
from moretta.shared.audit.learn.likeness import LikenessIdentifier


@attacker("voice-likeness", modality="voice")
class VoiceLikeness(LikenessIdentifier):
    """Nine numbers say what likeness counts."""

    def vectors(self, clips: ClipSet) -> Floats:
        """Statistics of MFCC, or codes."""
        return voice_statistics(clips)
