"""How fast pretrained attackers embed clips: `python tests/benchmarks/bench_encoders.py [--clips N]`.

One thread, synthetic people, the best of three passes; voice clips of 2.6 s, face clips of 13 pictures of 128 x 128.
Encoders whose weights are not there are named with what would get them.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from moretta.shared.audit.attackers.base import Embedder, attacker_names, get_attacker
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.core.labels import Emotion
from moretta.shared.core.workers import limit_threads
from moretta.shared.data.corpora.cremad import Level
from moretta.shared.features.public_speech import synthetic_speech
from moretta.shared.models.face_images import render_face_images
from moretta.shared.release import PseudonymKey, ReleasedClip

KEY = PseudonymKey.seeded(0, "benchmark")
VOICE_SAMPLES, FACE_FRAMES, FACE_SIDE = int(2.6 * 16_000), 13, 128


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=24)
    options = parser.parse_args()
    limit_threads(1)
    sets = {"voice": _voices(options.clips), "face": _faces(options.clips)}
    print(f"{'encoder':12}{'clips/s':>10}")
    for name in attacker_names(kind="pretrained"):
        cls = get_attacker(name)
        if (missing := cls.missing()) is not None:
            print(f"{name:12}{'-':>10}  {missing}")
            continue
        assert issubclass(cls, Embedder)
        clips = sets[cls.modality]
        encoder = cls()
        encoder.embed(clips.subset([0]))
        seconds = min(_timed(encoder, clips) for _ in range(3))
        print(f"{name:12}{len(clips) / seconds:10.1f}", flush=True)


def _timed(encoder: Embedder, clips: ClipSet) -> float:
    start = time.perf_counter()
    encoder.embed(clips)
    return time.perf_counter() - start


def _voices(count: int) -> ClipSet:
    speech = np.concatenate(list(synthetic_speech(4, 1)))
    arrays = [np.take(speech, range(i * VOICE_SAMPLES, (i + 1) * VOICE_SAMPLES), mode="wrap") for i in range(count)]
    return ClipSet.from_arrays(_meta(count), arrays, modality="voice", form="waveform")


def _faces(count: int) -> ClipSet:
    pictures = np.array(render_face_images(min(count, 8), FACE_SIDE, seed=1, workers=1).pictures)
    frames = [np.repeat(pictures[i % len(pictures)][None], FACE_FRAMES, axis=0) for i in range(count)]
    return ClipSet.from_arrays(_meta(count), frames, modality="face", form="frames")


def _meta(count: int) -> list[ReleasedClip]:
    return [
        ReleasedClip(
            clip=KEY.clip(str(i)), speaker=KEY.speaker(str(i)), emotion=Emotion.NEU, sentence="IEO", level=Level.XX
        )
        for i in range(count)
    ]


if __name__ == "__main__":
    main()
