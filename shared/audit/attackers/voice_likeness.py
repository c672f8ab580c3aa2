"""Who it is by how like a voice is to each clip that is known, within an emotion and across emotions."""

from __future__ import annotations

from moretta.shared.audit.attackers.attacker_registry import Floats, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.likeness import LikenessIdentifier
from moretta.shared.audit.learn.vectors import voice_statistics


@attacker("voice-likeness", modality="voice")
class VoiceLikeness(LikenessIdentifier):
    """Nine numbers say what likeness counts."""

    def vectors(self, clips: ClipSet) -> Floats:
        """Statistics of MFCC, or codes."""
        return voice_statistics(clips)
