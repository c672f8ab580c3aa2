"""Frames per second of the face anonymizer, step by step: `python tests/benchmarks/bench_face.py [threads]`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from moretta.client.anonymizers.autoencoder import AutoencoderFaceAnonymizer
from moretta.client.anonymizers.expression_track import ExpressionTrack, TrackOptions
from moretta.shared.core.labels import Emotion
from moretta.shared.core.workers import limit_threads
from moretta.shared.features.face_track import CROP_SIDE
from moretta.shared.features.faces import FaceCropper
from moretta.shared.models.autoencoder import (
    Autoencoder,
    AutoencoderSpec,
    Precision,
    Preset,
    Reconstructor,
    fastest_precision,
)
from moretta.shared.models.head import make_identity, render_frame
from moretta.shared.privacy.noise import SeededNoise, SystemNoise

FRAMES = 48
REPEATS = 5


def rate(work: Callable[[], object]) -> float:
    """Frames per second of the best of some runs, after one to warm up."""
    work()
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return FRAMES / best


def clip(width: int, height: int) -> np.ndarray:
    """[FRAMES, height, width, 3] of one synthetic person."""
    person = make_identity(1_000_001)
    frame = render_frame(person, Emotion.HAP, width=width, height=height)
    return np.stack([np.roll(frame, number % 4, axis=1) for number in range(FRAMES)])


def notify(what: str, work: Callable[[], object]) -> None:
    """Print one row of the table."""
    print(f"{what:<44}{rate(work):>9.0f} frames/s", flush=True)


def main(threads: int) -> None:
    """Print the table."""
    limit_threads(threads)
    print(f"{threads} threads, fastest precision {fastest_precision()}, {FRAMES} frames a clip, best of {REPEATS}")
    presets: tuple[Preset, ...] = ("exact", "small")
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for width, height in ((480, 360), (160, 120)):
        cropper, frames = FaceCropper(128), clip(width, height)
        notify(f"crop {width} x {height}, {cropper.detector}", partial(cropper.crop_clip, frames))
    for preset in presets:
        model = Autoencoder(AutoencoderSpec.preset(preset))
        side = model.spec.side
        values = np.random.default_rng(1).random((FRAMES, side, side, 3), dtype=np.float32)
        for precision in precisions:
            notify(f"autoencoder {preset}, {precision}", partial(Reconstructor(model, precision), values))
        anonymizer = AutoencoderFaceAnonymizer(FaceCropper(side), model, noise=0.1)
        for noise in (SeededNoise(1), SystemNoise()):
            notify(
                f"whole anonymizer {preset}, {noise.kind} noise",
                partial(anonymizer.release, [frames], [noise], ["nobody"]),
            )
    track = ExpressionTrack(FaceCropper(CROP_SIDE), TrackOptions(), fps=5.0)
    track.fit([("somebody", frames[:6])], SystemNoise())  # other frames than those released: each is measured anew
    whole = partial(track.release, [frames], [SystemNoise()], ["somebody"])
    notify("whole anonymizer expression-track, 64 x 64", whole)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
