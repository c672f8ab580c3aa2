"""How the network of a learnt code is trained, as the study says it."""

from __future__ import annotations

from dataclasses import dataclass

from moretta.shared.study_voice import CodeAdversary, VoiceSection


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderOptions:
    """Of `code_encoder = "network"`."""

    adversary: CodeAdversary = "none"
    weight: float = 0.0
    """Of what the adversary can tell, in nats, beside the cross-entropy of emotions."""
    noise: float = 0.0
    """Standard deviation of that with which codes will be released: the network learns, and is attacked, under it."""

    @classmethod
    def of(cls, section: VoiceSection) -> EncoderOptions | None:
        """None where the code is made of directions."""
        if section.code_encoder != "network":
            return None
        return cls(adversary=section.code_adversary, weight=section.code_adversary_weight, noise=section.code_noise)
