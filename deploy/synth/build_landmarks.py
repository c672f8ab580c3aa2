"""Train the network of dense landmarks, on drawn people alone, and write `landmarks.safetensors` with the head model.

    python -m moretta.deploy.synth.build_landmarks --out landmarks.safetensors --work build

Seeds are fixed. Training should take some 13 minutes; `--device cuda` uses a GPU. An interrupted build goes on
after the last step that it finished.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save

from moretta.deploy.synth.build_expression import (
    PUBLIC_PEOPLE,
    Arrays,
    Notify,
    kept,
    public_tracks,
    relative_loss,
)
from moretta.deploy.synth.landmark_scenes import (
    EACH,
    HEIGHT,
    LandmarkScenes,
    batch,
    draw_scenes,
    in_face,
    misaligned,
    sample,
)
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.device import resolve_device
from moretta.shared.core.workers import limit_threads
from moretta.shared.features.dense_landmarks import CROP_SIDE, landmarks_from
from moretta.shared.features.head_fit import reading
from moretta.shared.features.speaker_scale import PublicMeasures
from moretta.shared.models.expression_nets import net_arrays
from moretta.shared.models.head_model import HeadModel
from moretta.shared.models.landmark_net import MODES, LandmarkNet, negative_log_likelihood
from moretta.shared.models.optimizers import step_down

FIRST_HEAD, FIRST_SCENE, FIRST_HELD_OUT = 5_000_000, 5_100_000, 5_200_000
"""Seeds of the people whose shapes make the basis, of those in the training data, and of those held out of it."""
HEADS, PEOPLE, HELD_OUT = 1_500, 1_000, 60
EPOCHS, BATCH_PEOPLE = 12, 12
RATE = 2e-3
WARM_UP = 0.1
"""Share of the steps with sigma as it starts: places first."""
MODE_LOSS = 1.0
"""Weight of errors in the directions in which expression moves a face. They are smaller than others, and the likelihood
alone leaves them at their mean."""
UNCERTAIN = 0.03
"""Deviation of the landmarks, in decimetres, from which the skull's points are read."""
ACCURACY = 0.02
"""Deviation of the points, in decimetres, for which those directions are taken."""


def train(
    scenes: LandmarkScenes,
    model: HeadModel,
    progress: Notify,
    *,
    epochs: int = EPOCHS,
    people: int = BATCH_PEOPLE,
    each: int = 4,
    device: torch.device | None = None,
) -> LandmarkNet:
    """Learn places and their accuracy from crops as poor cameras take them, new ones in each epoch."""
    device = device or torch.device("cpu")
    torch.manual_seed(0)
    rng, heads = np.random.default_rng(0), len(scenes.pictures) // EACH
    net = LandmarkNet(len(model))
    net.start(*_modes(scenes, rng))
    net = net.to(device).to(memory_format=torch.channels_last)
    read = torch.from_numpy(reading(model, ACCURACY) / model.spread[:, None, None]).float().to(device)
    steps = max(1, epochs * len(scenes.pictures) // (people * each))
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.2)

    def next_batch() -> tuple[torch.Tensor, torch.Tensor]:
        chosen = rng.choice(heads, min(people, heads), replace=False)
        rows = np.concatenate([EACH * head + rng.choice(EACH, each, replace=False) for head in chosen])
        return batch(scenes, rows, rng)

    with ThreadPoolExecutor(1) as prepare:  # the next batch, while this one is learned
        coming = prepare.submit(next_batch)
        for step in range(steps):
            pictures, truth = (part.to(device) for part in coming.result())
            coming = prepare.submit(next_batch)
            with torch.autocast(device.type, torch.bfloat16):
                found = net(pictures.to(memory_format=torch.channels_last))
            places, log_sigma = found[:, :, :2], found[:, :, 2]
            if step < WARM_UP * steps:
                log_sigma = torch.full_like(log_sigma, -2.5)
            likelihood = negative_log_likelihood(places, log_sigma, truth).mean()
            modes = relative_loss(torch.einsum("npk,cpk->nc", places - truth, read), each)
            step_down(likelihood + MODE_LOSS * modes, optimizer, schedule, longest=5.0)
            if step % 100 == 0 or step == steps - 1:
                error = (places - truth).norm(dim=2).mean().item()
                losses = f"likelihood {likelihood.item():.3f}, modes {modes.item():.3f}"
                progress(f"landmarks {step} of {steps}: {losses}, error {error:.4f} dm")
    return net.cpu().to(memory_format=torch.contiguous_format).eval()


def sigma_factor(net: LandmarkNet, scenes: LandmarkScenes) -> float:
    """Factor of sigma with which the mean of e^2 / (2 sigma^2) is 1 for people of these scenes."""
    rng, parts = np.random.default_rng(1), []
    with torch.inference_mode():
        for rows in np.array_split(np.arange(len(scenes.pictures)), max(1, len(scenes.pictures) // 48)):
            pictures, truth = batch(scenes, rows, rng)
            found = net(pictures)
            parts.append(((found[:, :, :2] - truth).square().sum(2) / 2 * torch.exp(-2 * found[:, :, 2])).mean().item())
    return math.sqrt(float(np.mean(parts)))


def skull_reading(scenes: LandmarkScenes) -> npt.NDArray[np.float16]:
    """Ridge regression of the skull's five points on the landmarks of aligned faces, [1 + 2 * points, 10].

    Both in decimetres; the first row is the constant.
    """
    rng = np.random.default_rng(2)
    matrices = [misaligned(scenes, row, rng, wider=2.0) for row in range(len(scenes.places))]
    seen, wanted = (
        np.stack([in_face(own, matrix).ravel() for own, matrix in zip(points, matrices, strict=True)])
        for points in (scenes.places, scenes.skull)
    )
    centred, middle = seen - seen.mean(0), wanted.mean(0)
    square = centred.T @ centred / len(seen) + UNCERTAIN**2 * np.eye(seen.shape[1])
    weights = np.linalg.solve(square, centred.T @ (wanted - middle) / len(seen))
    return np.vstack([middle - seen.mean(0) @ weights, weights]).astype(np.float16)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="keeps each finished step; the next run goes on there")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps or auto")
    options = parser.parse_args(arguments)
    limit_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    notify: Notify = lambda text: print(text, flush=True)  # noqa: E731, T201 - a program for a terminal
    scenes = _scenes(options.work / "scenes", FIRST_SCENE, PEOPLE)
    held_out = _scenes(options.work / "held-out", FIRST_HELD_OUT, HELD_OUT)
    model = HeadModel.of_drawn_people(range(FIRST_HEAD, FIRST_HEAD + HEADS), scenes.values)

    def trained() -> Arrays:
        net = train(scenes, model, notify, device=resolve_device(options.device))
        factor = sigma_factor(net, held_out)
        notify(f"sigma times {factor:.2f}")
        return {**net_arrays(net, "net."), "factor": np.array([factor], np.float32)}

    arrays = kept(options.work / "net", trained) | model.to_arrays("model.") | {"skull": skull_reading(scenes)}
    notify("fits of public people")
    tracks = public_tracks(landmarks_from(arrays), PUBLIC_PEOPLE, side=CROP_SIDE, height=HEIGHT)
    write_atomic(options.out, save({**arrays, **PublicMeasures.of(tracks).to_arrays("public.")}))


def _modes(scenes: LandmarkScenes, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [points, 2] and principal modes [MODES, points, 2] of aligned faces, each of its own size."""
    places = np.stack([sample(scenes, row, rng, spoilt=False)[1] for row in range(len(scenes.pictures))])
    mean = places.mean(0)
    _, sizes, parts = np.linalg.svd((places - mean).reshape(len(places), -1), full_matrices=False)
    modes = np.zeros((MODES, places.shape[1] * 2))
    known = min(MODES, len(sizes))
    modes[:known] = sizes[:known, None] / math.sqrt(len(places)) * parts[:known]
    return torch.from_numpy(mean).float(), torch.from_numpy(modes.reshape(MODES, -1, 2)).float()


def _scenes(path: Path, first: int, people: int) -> LandmarkScenes:
    return LandmarkScenes(**kept(path, lambda: asdict(draw_scenes(first, people, workers=None))))


if __name__ == "__main__":
    main()
