"""Mel-cepstral distortion where the truth is known, of synthetic voices: `distortion_table.py`, without arguments."""

from __future__ import annotations

import numpy as np

from moretta.shared.audit.utility.kept_speech import mel_cepstral_distortion
from moretta.shared.features.world_voice import WorldVoice
from moretta.shared.models.speech.parallel import drawn_voices, parallel_corpus

UTTERANCES, SEED = 6, 1


def main() -> None:
    """Print the mean of each change, in dB from the first voice's own speech."""
    rows: dict[str, list[float]] = {}
    for _, said in parallel_corpus(drawn_voices(4, 3), UTTERANCES, SEED):
        own, voice = said[0], WorldVoice.of(said[0])
        changed = {
            "itself": own,
            "half as loud": 0.5 * own,
            "through WORLD and back": voice.sound(),
            "20 % slower": voice.stretched(1.2).sound(),
            "vocal tract shorter by a tenth": voice.warped(1.1).sound(),
            "second voice": said[1],
            "third voice": said[2],
        }
        for name, sound in changed.items():
            rows.setdefault(name, []).append(mel_cepstral_distortion(own, sound))
    for name, values in rows.items():
        print(f"{name:32} {np.mean(values):5.2f} dB, from {min(values):.2f} to {max(values):.2f}")


if __name__ == "__main__":
    main()
