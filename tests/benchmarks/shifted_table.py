"""`shifted-encoder` by the measures of its paper: `python tests/benchmarks/shifted_table.py [--folder F] [--figure P]`.

A plain autoencoder and its tuned encoders, of drawn people, are tried on other drawn people, and on the photographs of
a folder. SFace compares each output with its original, and the outputs of different people. Needs the weights of
`moretta attackers fetch`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from moretta.shared.audit.pretrained.face_encoders import SFaceEncoder
from moretta.shared.core.array_types import Float32, Int64, UInt8
from moretta.shared.models.autoencoder import Autoencoder, AutoencoderSpec, Reconstructor, load_autoencoder
from moretta.shared.models.face_images import (
    PICTURES_PER_PERSON,
    image_files,
    read_face_images,
    render_face_images,
)
from moretta.shared.models.shifted_encoder import Shift, ShiftTask, tune_encoder
from moretta.shared.models.train_autoencoder import train_autoencoder
from moretta.shared.models.training_state import TrainOptions

TRAIN_SEED, QUOTED_SEED, SHOWN = 77, 123, 8
SHIFTS: tuple[Shift, ...] = ("supervised", "unsupervised")
Report = Callable[[str, Autoencoder], None]


def released(model: Autoencoder, pictures: UInt8, noise: float = 0.1) -> UInt8:
    """Pictures that a site would release in place of these."""
    values = pictures.astype(np.float32) / np.float32(255)
    drawn = np.random.default_rng(1).normal(0, noise, values.shape).astype(np.float32)
    return Reconstructor(model)(np.clip(values + drawn, 0, 1))


def reporter(encoder: SFaceEncoder, pictures: UInt8, people: Int64) -> Report:
    """Prints how unlike their originals the outputs of a network are, and how unlike each other."""

    def vectors(some: UInt8) -> Float32:
        return encoder.embed_many([picture[None] for picture in some])

    left, right = np.triu_indices(len(pictures), 1)
    unlike = people[left] != people[right]
    originals = vectors(pictures)

    def between(found: Float32) -> Float32:
        return np.asarray((found[left] * found[right]).sum(axis=1)[unlike])

    impostors = between(originals)
    limit, apart = np.quantile(impostors, 0.95), 1 - impostors.mean()

    def report(name: str, model: Autoencoder) -> None:
        found = vectors(released(model, pictures))
        own = (originals * found).sum(axis=1)
        # of each person the first output enrols, and the second is tried: whoever compares releases by SFace as it is
        first = [int(np.flatnonzero(people == person)[0]) for person in np.unique(people)]
        second = [row + 1 for row in first]
        top1 = float(((found[second] @ found[first].T).argmax(axis=1) == np.arange(len(first))).mean())
        print(
            f"| {name} | {own.mean():.2f} | {(own < limit).mean():.2f} | {(1 - between(found).mean()) / apart:.2f} "
            f"| {top1:.2f} |",
            flush=True,
        )

    print(f"{len(pictures)} pictures; 95 % of impostors are below {limit:.2f}, and their mean distance is {apart:.2f}")
    print("| encoder | cosine to the original | below the impostors' | diversity | top-1 |\n|---|---|---|---|---|")
    return report


def main() -> None:
    """Train, tune, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=("small", "exact"), default="small")
    parser.add_argument("--faces", type=int, default=600, help="drawn to train on, and as many to tune on")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument(
        "--weights", type=Path, help="a plain autoencoder of `moretta train-face`, instead of one made here"
    )
    parser.add_argument("--distance", type=float, nargs="+", default=(0.5, 0.8, 1.0), help="shares of the way")
    parser.add_argument("--quoted", type=int, default=40, help="drawn people to try it on")
    parser.add_argument("--folder", type=Path, help="photographs, two of each person one after the other")
    parser.add_argument("--figure", type=Path, help="a PNG to write: drawn people above, what is released below")
    given = parser.parse_args()
    spec, people = AutoencoderSpec.preset(given.preset), given.faces // PICTURES_PER_PERSON
    if given.weights is not None:
        plain = load_autoencoder(given.weights)
        spec = plain.spec
    else:
        started = time.monotonic()
        drawn = render_face_images(people, spec.side, seed=TRAIN_SEED, workers=1).pictures
        plain = train_autoencoder(drawn, TrainOptions(spec=spec, epochs=given.epochs, batch=8)).model
        print(f"plain autoencoder after {time.monotonic() - started:.0f} s with drawing")
    others = render_face_images(people, spec.side, seed=TRAIN_SEED + 1, workers=1)
    whose, shown = np.repeat(np.arange(people), PICTURES_PER_PERSON), np.unique(others.emotions, return_inverse=True)[1]
    networks = {"plain": plain}
    for task in (ShiftTask(shift=shift, distance=distance) for shift in SHIFTS for distance in given.distance):
        started = time.monotonic()
        made = tune_encoder(plain, others.pictures, whose, shown, task)
        name = f"{task.shift}, {task.distance:g}"
        print(
            f"{name}: code error {made.before:.3f} -> {made.after:.3f}, {time.monotonic() - started:.0f} s", flush=True
        )
        networks[name] = made.model
    quoted = np.asarray(render_face_images(given.quoted, spec.side, seed=QUOTED_SEED, workers=1).pictures)
    sets = {"drawn people": (quoted, np.repeat(np.arange(given.quoted), PICTURES_PER_PERSON))}
    if given.folder is not None:
        read = np.asarray(read_face_images(given.folder, image_files(given.folder), spec.side, workers=1).pictures)
        sets[str(given.folder.name)] = read, np.arange(len(read)) // 2
    encoder = SFaceEncoder.load()
    for label, (pictures, persons) in sets.items():
        print(label)
        report = reporter(encoder, pictures, persons)
        for name, model in networks.items():
            report(name, model)
    if given.figure is not None:
        rows = quoted[: SHOWN * PICTURES_PER_PERSON : PICTURES_PER_PERSON]
        tried = [rows, *(released(networks[name], rows) for name in ("plain", "supervised, 0.8", "unsupervised, 0.8"))]
        sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in tried])
        cv2.imwrite(str(given.figure), sheet[:, :, ::-1])


if __name__ == "__main__":
    main()
