"""Figures of the networks of `cyclegan-voice`: `cycle_table.py RELEASED PUBLIC`, folders under CREMA-D's names.

Trains on PUBLIC at the defaults, and prints what is measured on public clips that were not trained on, and on all clips
of RELEASED: distortions, pitch, people taken for the other sex, and what a classifier of sex on GE2E reads.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from moretta.client.anonymizers.adversarial_embedding import public_encoder
from moretta.client.anonymizers.cyclegan_voice import CycleVoice
from moretta.shared.features.mfcc import SAMPLE_RATE
from moretta.shared.features.public_speech import Recording, recorded_speakers
from moretta.shared.features.world_voice import WorldVoice, mel_cepstra, pitch_of
from moretta.shared.models.replacement_autoencoder import SEXES
from moretta.shared.models.train_voice_cycle import measured
from moretta.shared.models.voice_cycle import COEFFICIENTS, VoiceCycle
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.study.schema import parse_study

EVERY = 5
"""One public clip in so many trains the classifier of sex."""


def main(released: Path, public: Path) -> None:
    """Train, release, and print."""
    options = {"public_speech": str(public.resolve())}
    study = parse_study({"voice": {"anonymizer": "cyclegan-voice", "options": options}, "face": {"enabled": False}})
    arrays = CycleVoice.prepare_public(study, print)
    made = CycleVoice.from_study(study, arrays)
    cycle = VoiceCycle.from_arrays(arrays, width=made._options.width)
    clips = [one for one in recorded_speakers(released, 1) if one.sex in SEXES]
    start = time.process_time()
    made.fit([(one.person, one.samples) for one in clips], SeededNoise(1))
    sounds = [made.release_clip(one.samples, SeededNoise(1), one.person) for one in clips]
    speed = sum(len(one.samples) for one in clips) / SAMPLE_RATE / (time.process_time() - start)
    print("public clips:", cycle.figures.stated())
    print("released:", measured(cycle, (_cepstra(clips, SEXES[0]), _cepstra(clips, SEXES[1]))).stated())
    wrong = {one.person for one in clips if made._pools[one.person] != SEXES.index(one.sex)}
    print(f"taken for the other sex: {len(wrong)} people; times real time: {speed:.1f}")
    for pool, sex in enumerate(SEXES):
        mine = [k for k, one in enumerate(clips) if made._pools[one.person] == pool]
        logs = np.log(np.concatenate([_voiced(sounds[k]) for k in mine]))
        print(f"log pitch from {sex}: {logs.mean():.3f}, wanted {cycle.pools.pitch[1 - pool]:.3f}")
    _print_sex(clips, sounds, [one for one in recorded_speakers(public, 1) if one.sex in SEXES][::EVERY])


def _cepstra(clips: list[Recording], sex: str) -> list[np.ndarray]:
    return [mel_cepstra(WorldVoice.of(one.samples).envelope, COEFFICIENTS) for one in clips if one.sex == sex]


def _voiced(sound: np.ndarray) -> np.ndarray:
    hertz = pitch_of(sound)
    return np.asarray(hertz[hertz > 0])


def _print_sex(clips: list[Recording], sounds: list[np.ndarray], known: list[Recording]) -> None:
    encoder, sexes = public_encoder("ge2e"), np.array([one.sex for one in clips])
    reader = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000))
    reader.fit(encoder.embed_many([one.samples for one in known]), [one.sex for one in known])
    tried = {"originals": [one.samples for one in clips], "releases": sounds}
    tried["vocoder alone"] = [WorldVoice.of(one.samples).sound() for one in clips]
    for name, said in tried.items():
        print(f"read as the own sex, {name}: {np.mean(reader.predict(encoder.embed_many(said)) == sexes):.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
