"""How fast voice is anonymized: `python tests/benchmarks/bench_voice.py [--threads N] [--seconds S]`.

Prints seconds of speech per second of time, on synthetic speech of clips as long as CREMA-D's. The best of three runs,
since other programs can only slow one down.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from moretta.client.anonymizers.mfcc_quantizer import MfccQuantizer
from moretta.client.anonymizers.voice_baselines import McAdams
from moretta.shared.core.workers import limit_threads
from moretta.shared.features.mfcc import SAMPLE_RATE, mfcc_batch
from moretta.shared.features.public_speech import make_public_voice, synthetic_speech
from moretta.shared.privacy.noise import NoiseSource, SeededNoise, SystemNoise
from moretta.shared.study.schema import Study

CLIP_SECONDS = 2.6
TARGET = 200.0
"""Times real time, without the waveform step."""


def main() -> None:
    """Measure every step and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=300.0, help="of speech")
    options = parser.parse_args()
    limit_threads(options.threads)
    clips = _clips(int(options.seconds / CLIP_SECONDS))
    print(f"{len(clips)} clips of {CLIP_SECONDS} s, {options.threads} thread(s); target {TARGET:.0f} x real time")
    print(f"{'step':58}{'x real time':>12}{'clips/s':>10}")
    _report("MFCC", clips, lambda: mfcc_batch(clips))
    for size in (16, 64, 256):
        public = make_public_voice(codebook_size=size, voices=4).to_arrays()
        for preset in ("bounded", "original"):
            quantizer = _quantizer(public, preset, "tokens", size)
            quantizer.fit([("somebody", clip) for clip in clips], SeededNoise(1))
            _report(f"MFCC + noise + tokens, {preset}, k={size}, seeded noise", clips, _release(quantizer, clips, True))
        _report(f"MFCC + noise + tokens, {preset}, k={size}, system noise", clips, _release(quantizer, clips, False))
    few = clips[:20]
    _report("MFCC + noise + tokens + waveform, bounded, k=256", few, _release(_waveform(public), few, True))
    _report("McAdams", few, lambda: McAdams("waveform", 13).release(few, _noise(few, True), _whose(few)))


def _clips(number: int) -> list[np.ndarray]:
    speech = np.concatenate(list(synthetic_speech(8, 1)))
    samples = int(CLIP_SECONDS * SAMPLE_RATE)
    return [np.take(speech, range(i * samples, (i + 1) * samples), mode="wrap") for i in range(number)]


def _quantizer(public: dict[str, np.ndarray], preset: str, form: str, size: int) -> MfccQuantizer:
    study = Study().with_changes(voice__options__preset=preset, voice__form=form, voice__options__codebook_size=size)
    return MfccQuantizer.from_study(study, public)


def _waveform(public: dict[str, np.ndarray]) -> MfccQuantizer:
    return _quantizer(public, "bounded", "waveform", 256)


def _noise(clips: list[np.ndarray], seeded: bool) -> list[NoiseSource]:
    return [SeededNoise(1, index) if seeded else SystemNoise() for index in range(len(clips))]


def _whose(clips: list[np.ndarray]) -> list[str]:
    return ["somebody"] * len(clips)


def _release(quantizer: MfccQuantizer, clips: list[np.ndarray], seeded: bool) -> Callable[[], object]:
    def run() -> None:
        noise = _noise(clips, seeded)
        for start in range(0, len(clips), 16):
            batch = clips[start : start + 16]
            out = quantizer.release(batch, noise[start : start + 16], _whose(batch))
            assert all(isinstance(array, np.ndarray) for array in out)

    return run


def _report(step: str, clips: list[np.ndarray], run: Callable[[], object]) -> None:
    run()
    seconds = min(_timed(run) for _ in range(3))
    speech = sum(map(len, clips)) / SAMPLE_RATE
    print(f"{step:58}{speech / seconds:12.0f}{len(clips) / seconds:10.0f}", flush=True)


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
