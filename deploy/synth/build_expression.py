"""Train the networks that read expressions, on drawn people alone, and write `expression.safetensors`.

    python -m moretta.deploy.synth.build_expression --out expression.safetensors --work build

Seeds are fixed. Drawing 5,040 pictures takes about 90 seconds of one core, training 210, public tracks 50. An
interrupted build goes on after the last step that it finished.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load, save

from moretta.deploy.synth.expression_scenes import Scenes, aligned, boxed, draw_scenes
from moretta.shared.core.array_types import Array, Float32, Float64, UInt8
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.core.workers import limit_threads
from moretta.shared.features.face_detectors import Hog
from moretta.shared.features.face_track import CROP_SIDE, Track, TrackReader, reader_from
from moretta.shared.features.faces import FaceCropper
from moretta.shared.features.speaker_scale import PublicMeasures
from moretta.shared.models.expression_nets import ChannelNet, PointNet, net_arrays, standardised
from moretta.shared.models.head import make_identity, render_clip
from moretta.shared.models.optimizers import step_down

FIRST_SCENE, FIRST_PUBLIC = 2_000_000, 4_000_000
"""Seeds of the people in the training data, and of those whose tracks are public. Corpora and autoencoders draw theirs
from 30 bits and more, so that nobody of them is likely to be somebody here."""
PEOPLE, EACH = 360, 14
PUBLIC_PEOPLE, PUBLIC_CLIPS, PUBLIC_FRAMES, PUBLIC_FPS = 30, 12, 7, 3
STRONGEST = 1.2
"""Largest value of a channel; larger ones are cut before training."""
LEVELS = (0.65, 1.0, 1.0, 1.0, 1.3)
RELATIVE = 0.7
"""Share of the loss that compares a person's pictures with each other, as the release will."""

Notify = Callable[[str], None]
Arrays = dict[str, Array]


def train_points(scenes: Scenes, progress: Notify, *, epochs: int = 5, batch: int = 64) -> PointNet:
    """Learn where the skull's points are."""
    torch.manual_seed(0)
    net, rng = PointNet(), np.random.default_rng(0)
    steps = epochs * len(scenes) // batch
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        samples = [boxed(scenes, int(row), rng) for row in rng.integers(0, len(scenes), batch)]
        wanted = np.stack([points for _, points, _ in samples]).reshape(batch, -1).astype(np.float32)
        found = net(standardised(np.stack([picture for picture, _, _ in samples])))
        loss = torch.nn.functional.smooth_l1_loss(found, torch.from_numpy(wanted), beta=0.05)
        step_down(loss, optimizer, schedule)
        if step % 250 == 0:
            progress(f"points {step} of {steps}: {loss.item():.6f}")
    return net.eval()


def train_channels(
    scenes: Scenes, progress: Notify, *, epochs: int = 12, people: int = 16, each: int = 6
) -> tuple[ChannelNet, Float32]:
    """Learn what each channel does, mostly from how pictures of one person differ; and the channels' spreads."""
    values = np.clip(scenes.values, -0.6, STRONGEST)
    weights = (1 / values.std(0)).astype(np.float32)
    clipped = Scenes(scenes.pictures, values, scenes.points, scenes.people)
    rows = [np.flatnonzero(scenes.people == person) for person in np.unique(scenes.people)]
    torch.manual_seed(0)
    net, rng = ChannelNet(), np.random.default_rng(0)
    steps = epochs * len(scenes) // (people * each)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        chosen = rng.choice(len(rows), people, replace=False)
        picked = np.concatenate([rng.choice(rows[person], each, replace=False) for person in chosen])
        samples = [aligned(clipped, int(row), rng) for row in picked]
        wanted = torch.from_numpy(np.stack([own for _, own in samples]).astype(np.float32) * weights)
        error = net(standardised(np.stack([picture for picture, _ in samples]))) - wanted
        loss = relative_loss(error, each)
        step_down(loss, optimizer, schedule)
        if step % 250 == 0:
            progress(f"channels {step} of {steps}: {loss.item():.6f}")
    return net.eval(), np.asarray(1 / weights, np.float32)


def public_tracks(
    read: Callable[[UInt8], Track], people: int, *, side: int = CROP_SIDE, height: int = 120
) -> list[list[Track]]:
    """Tracks of public people who say sentences in all emotions, a list for each person.

    `read` gets crops of `side` pixels, out of frames of `height` rows.
    """
    cropper, tracks = FaceCropper(side, Hog()), []
    for person in range(people):
        identity = make_identity(FIRST_PUBLIC + person)
        own = []
        for number in range(PUBLIC_CLIPS):
            rng = np.random.default_rng([person, number, 5])
            frames = render_clip(
                identity,
                EMOTIONS[number % len(EMOTIONS)],
                _speech(rng),
                fps=PUBLIC_FPS,
                intensity=float(rng.choice(LEVELS) * np.exp(rng.normal(0, 0.15))),
                seed=int(rng.integers(1 << 30)),
                width=height * 4 // 3,
                height=height,
            )
            own.append(read(cropper.crop_clip(np.stack(list(frames))).pictures))
        tracks.append(own)
    return tracks


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="keeps each finished step; the next run goes on there")
    options = parser.parse_args(arguments)
    limit_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    notify: Notify = lambda text: print(text, flush=True)  # noqa: E731, T201 - a program for a terminal
    scenes = Scenes(**kept(options.work / "scenes", lambda: asdict(draw_scenes(FIRST_SCENE, PEOPLE, EACH))))
    points = kept(options.work / "points", lambda: net_arrays(train_points(scenes, notify), "points."))
    channels = kept(options.work / "channels", lambda: _channel_arrays(*train_channels(scenes, notify)))
    reader = reader_from({**points, **channels})
    notify("tracks of public people")
    write(options.out, reader, public_tracks(reader, PUBLIC_PEOPLE))


def write(path: Path, reader: TrackReader, tracks: list[list[Track]]) -> None:
    """Everything a site needs, as one file."""
    arrays: Arrays = {**PublicMeasures.of(tracks).to_arrays("public.")}
    arrays |= {**net_arrays(reader.points, "points."), **_channel_arrays(reader.channels, reader.spread)}
    path.write_bytes(save(arrays))


def _channel_arrays(net: ChannelNet, spread: Float32) -> Arrays:
    return {**net_arrays(net, "channels."), "spread": spread}


def kept(path: Path, make: Callable[[], Arrays]) -> Arrays:
    """The content of a file, which is made and written if it is not there."""
    if not path.exists():
        write_atomic(path, save(make()))
    return load(path.read_bytes())


def relative_loss(error: torch.Tensor, each: int) -> torch.Tensor:
    """Loss of errors [N, channels], of which `each` in a row are of one person."""
    by_person = error.view(-1, each, error.shape[1])
    apart = by_person - by_person.mean(1, keepdim=True)
    relative = apart.square().mean() * each / (each - 1)
    return RELATIVE * relative + (1 - RELATIVE) * error.square().mean()


def _speech(rng: np.random.Generator) -> Float64:
    """Loudness of speech at each frame, 0 to 1."""
    seconds = np.arange(PUBLIC_FRAMES) / PUBLIC_FPS
    sentence = np.clip(np.sin(np.pi * seconds / seconds[-1]), 0, 1) ** 0.3
    syllables = 0.45 + 0.4 * np.sin(2 * np.pi * rng.uniform(3, 5) * seconds + rng.uniform(0, 6))
    return np.asarray(np.clip(sentence * syllables + 0.1 * rng.standard_normal(PUBLIC_FRAMES), 0, 1))


if __name__ == "__main__":
    main()
