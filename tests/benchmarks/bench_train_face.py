"""Images a second that `moretta train-face` learns: `python -m tests.benchmarks.bench_train_face [DEVICE]`.

With both presets; then the arithmetic of an epoch of 70,000 images, and on paper what it needs at a known rate.
"""

from __future__ import annotations

import statistics
import sys
import time
from itertools import pairwise

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from moretta.shared.core.device import describe_device, resolve_device
from moretta.shared.core.workers import cpu_count, keep_freed_memory, limit_threads
from moretta.shared.models.autoencoder import Autoencoder, AutoencoderSpec, Preset, fastest_precision
from moretta.shared.models.train_autoencoder import train_autoencoder
from moretta.shared.models.training_state import TrainOptions
from tests.benchmarks.figures import repeats

BATCH = 32
STEPS: dict[str, int] = {"cpu": 4, "cuda": 200, "mps": 40}
FFHQ, HELD_OUT = 70_000, 0.1


def seconds_of_steps(spec: AutoencoderSpec, device: torch.device) -> list[float]:
    """Wall time of single steps, or on a GPU of ten, once the first are over."""
    together = 1 if device.type == "cpu" else 10
    steps = (repeats() + 1) * together * STEPS[device.type]
    pictures = np.random.default_rng(1).integers(
        0, 255, (round(steps * BATCH / 0.9), spec.side, spec.side, 3), np.uint8
    )
    ends: list[float] = []

    def step() -> None:
        if len(ends) % together == 0 and device.type == "cuda":
            torch.cuda.synchronize()
        ends.append(time.perf_counter())

    train_autoencoder(pictures, TrainOptions(spec=spec, epochs=1, batch=BATCH), device=device, step=step)
    warm = ends[STEPS[device.type] * together - 1 :: together]
    return [(end - start) / together for start, end in pairwise(warm)]


def flops_of_an_image(spec: AutoencoderSpec) -> float:
    """Of forward and backward pass, counted by PyTorch; a product and a sum are two."""
    with torch.device("meta"):
        model, images = Autoencoder(spec), torch.empty(BATCH, 3, spec.side, spec.side)
    with FlopCounterMode(display=False) as counted:
        model(images).mean().backward()
    return counted.get_total_flops() / BATCH


def main(name: str) -> None:
    """Print a row for each preset."""
    limit_threads(cpu_count())
    keep_freed_memory()
    device = resolve_device(name)
    print(f"{describe_device(device)}, {fastest_precision(device)}, {cpu_count()} CPUs, batch {BATCH}")
    presets: tuple[Preset, ...] = ("exact", "small")
    for preset in presets:
        spec = AutoencoderSpec.preset(preset)
        rates = [BATCH / seconds for seconds in seconds_of_steps(spec, device)]
        rate, flops = statistics.median(rates), flops_of_an_image(spec)
        epoch = FFHQ * (1 - HELD_OUT) / rate
        print(
            f"{preset}: {rate:.1f} images/s (median of {len(rates)} steps, {min(rates):.1f} to {max(rates):.1f}); "
            f"{flops / 1e9:.2f} GFLOP an image, {flops * rate / 1e12:.3f} TFLOP/s; "
            f"an epoch of {FFHQ:,} images: {epoch / 60:.1f} minutes"
        )
        total = flops * FFHQ * (1 - HELD_OUT)
        print(f"  on paper: {total / 1e12:.0f} TFLOP an epoch, {total / 312e12:.1f} s at 312 TFLOP/s of bfloat16")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "auto")
