"""No anonymization: the anchor that shows what attackers and models reach on open voices. For comparison only."""

from __future__ import annotations

import numpy as np

from moretta.client.anonymizers.anonymizer_registry import Array, anonymizer
from moretta.client.anonymizers.voice_waveform import NoiselessVoice


@anonymizer("none", modality="voice", version="1")
class IdentityVoice(NoiselessVoice):
    """Releases MFCC or the waveform as they are."""

    mechanism = "none"
    why = "voices are released as they are"

    def transform(self, samples: Array) -> Array:
        """The samples themselves."""
        return np.clip(samples, -1, 1)
