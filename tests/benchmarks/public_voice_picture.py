"""A picture of what a voice that is sound becomes, of synthetic speech: `public_voice_picture.py OUT.png [SYSTEM]`.

Two synthetic people say one sentence, calmly and in anger; below each clip stands its release. SYSTEM is
`public-voice`, whose public voice is a third synthetic person, or `cyclegan-voice`, trained for 600 steps on others.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np

from moretta.client.anonymizers.cyclegan_voice import CycleOptions, CycleVoice
from moretta.client.anonymizers.public_voice import PublicVoiceOptions, SpokenByPublicVoice
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.features.public_speech import synthetic_speakers
from moretta.shared.features.sentence_recognizer import SentenceRecognizer
from moretta.shared.features.speaker_code import public_rows, train_speaker_code
from moretta.shared.models.speech import make_voice, synthesize
from moretta.shared.models.speech.make_voice_bank import bank_of, moves_of
from moretta.shared.models.train_voice_cycle import pools_of, train_cycle
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.anonymizer import Anonymizer

SENTENCE = "DFA"
PEOPLE, SHOWN = {"A": 42, "B": 44}, ("NEU", "ANG")
PUBLIC_VOICE, DRAWS = 3, 3
STEPS = 600


def main(out: Path, system: str = "public-voice") -> None:
    """Release every clip of both people, and draw those that are shown."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt
    from PIL import Image

    made = _cycle_voice() if system == "cyclegan-voice" else _public_voice()
    clips = {
        (person, emotion, draw): synthesize(make_voice(voice), emotion, SENTENCE, seed=10 * draw + n)
        for person, voice in PEOPLE.items()
        for n, emotion in enumerate(EMOTIONS)
        for draw in range(DRAWS)
    }
    made.fit([(key[0], clip) for key, clip in clips.items()], SeededNoise(1, "fit"))
    figure, axes = plt.subplots(2, 4, figsize=(11, 4.2), sharey=True, layout="constrained")
    for column, (person, emotion) in enumerate((p, e) for e in SHOWN for p in PEOPLE):
        keys = [key for key in clips if key[:2] == (person, emotion)]
        key, sound = next((k, s) for k in keys if isinstance(s := _released(made, clips[k], person), np.ndarray))
        for row, samples in enumerate((clips[key], sound)):
            axis = axes[row, column]
            axis.specgram(samples + 1e-5, NFFT=512, noverlap=432, Fs=16_000, cmap="magma", vmin=-120, vmax=-40)
            axis.set_ylim(0, 5_000)
            axis.set_title(f"{('clip', 'release')[row]}, person {person}, {emotion}", fontsize=9)
    axes[0, 0].set_ylabel("Hz")
    axes[1, 0].set_ylabel("Hz")
    figure.savefig(whole := io.BytesIO(), dpi=80)
    Image.open(whole).convert("RGB").quantize(64).save(out, optimize=True)


def _public_voice() -> Anonymizer:
    rows = public_rows(synthetic_speakers(1, voices=6, clips=12), in_windows=False)
    code, recognizer = train_speaker_code(rows, size=5, codebook_size=16, seed=1), SentenceRecognizer.load()
    own = [synthesize(make_voice(PUBLIC_VOICE), e, SENTENCE, seed=n) for n, e in enumerate(EMOTIONS)]
    bank = bank_of([(said, clip) for clip in own if (said := recognizer.spoken(clip))], code, moves_of(rows, code))
    return SpokenByPublicVoice(PublicVoiceOptions(), code, bank)


def _cycle_voice() -> Anonymizer:
    options = CycleOptions(steps=STEPS, width=16)
    clips = pools_of(synthetic_speakers(1, voices=12, clips=12), seed=1)
    return CycleVoice(options, train_cycle(clips, options.task(), seed=1, notify=print))


def _released(made: Anonymizer, clip: np.ndarray, person: str) -> object:
    return made.release([clip], [SeededNoise(1)], [person])[0]


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
