"""How the network of a learnt code is trained, as the study says it."""

from __future__ import annotations

from dataclasses import dataclass

from moretta.shared.study.voice import VoiceSection


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderOptions:
    """Of `code_encoder = "network"`."""

    noise: float = 0.0
    """Standard deviation of that with which codes will be released: the network learns under it."""

    @classmethod
    def of(cls, section: VoiceSection) -> EncoderOptions | None:
        """None where the code is made of directions."""
        return cls(noise=section.code_noise) if section.code_encoder == "network" else None
