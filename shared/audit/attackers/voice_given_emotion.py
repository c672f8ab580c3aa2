"""Who it is, given the emotion that the release states: statistics of MFCC or codes, emotion by emotion."""

from __future__ import annotations

from moretta.shared.audit.attackers.attacker_registry import Floats, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.given_emotion import EmotionAwareIdentifier
from moretta.shared.audit.learn.vectors import voice_statistics


@attacker("voice-given-emotion", modality="voice")
class VoiceGivenEmotion(EmotionAwareIdentifier):
    """A set of weights for each emotion."""

    def plain_vectors(self, clips: ClipSet) -> Floats:
        """[clips, d]."""
        return voice_statistics(clips)
