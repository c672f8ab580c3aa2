"""`landmark-face` by the measures of its paper: `python tests/benchmarks/landmark_table.py [--unpaired] [--figure P]`.

The networks are trained, or taken from the cache, for the defaults of the study's options. They are tried on drawn
people whom nothing was trained on. The public person is drawn doing the same, which is the truth. Needs the weights of
`moretta attackers fetch`.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import cv2
import numpy as np

from moretta.client.anonymizers.landmark_face import LandmarkFaceAnonymizer, LandmarkOptions
from moretta.shared.audit.pretrained.face_encoders import SFaceEncoder
from moretta.shared.audit.utility.kept_face import landmark_error, structural_similarity
from moretta.shared.core.array_types import Float32, UInt8
from moretta.shared.features.faces import cut
from moretta.shared.features.landmarks import FaceMesh
from moretta.shared.models.drawn_landmarks import (
    MESH_POINTS,
    box_of,
    drawn_face,
    landmark_distance,
    normalized,
    random_showing,
    true_points,
)
from moretta.shared.models.head import make_identity
from moretta.shared.models.head.portrait import public_person
from moretta.shared.models.head.render import View, draw
from moretta.shared.models.landmark_face import SIDE, LandmarkFace
from moretta.shared.models.train_landmark_face import draw_portraits, draw_strangers, train_converter
from moretta.shared.study.schema import parse_study

PEOPLE, EACH, WIDTH, HEIGHT, SEED, FOLDS, SHOWN = 12, 24, 160, 120, 77, 4, 8
FIRST = 3_000_000
"""Seeds of the tried people: neither public people nor speakers of a corpus have them."""


class Tried:
    """Drawn people, what a site measures of them, and the public person who does the same."""

    def __init__(self, options: LandmarkOptions) -> None:
        rng, mesh, cropper = np.random.default_rng(SEED), FaceMesh.load(), FaceMesh.cropper()
        public, self.seconds = public_person(options.person), 0.0
        points, wanted, truth, faces, people = [], [], [], [], []
        for who in range(PEOPLE):
            head = make_identity(FIRST + who)
            for _ in range(EACH):
                shown = random_showing(rng)
                light = (float(rng.normal(0.2, 0.4)), float(rng.normal(0.5, 0.2)), 1.0)
                view = View(shown.pose, light)
                frame = draw(head, shown.weights, view, width=WIDTH, height=HEIGHT, supersample=1, rng=rng)
                started = time.process_time()
                found = mesh.in_clip(cropper.crop_clip(frame[None]).pictures)
                self.seconds += time.process_time() - started
                if found is None:
                    continue
                picture, target = drawn_face(public, shown, SIDE)
                points.append(normalized(found[0, list(MESH_POINTS)]))
                wanted.append(target)
                truth.append(picture)
                faces.append(cut(frame, box_of(true_points(head, shown, WIDTH, HEIGHT)), SIDE))
                people.append(who)
        self.points, self.wanted, self.people = np.stack(points), np.stack(wanted), np.array(people)
        self.truth, self.faces = np.stack(truth), np.stack(faces)


def top1(rows: Float32, people: np.ndarray) -> float:
    """Share of pictures whose person a forest finds that was trained on the person's others."""
    from sklearn.ensemble import RandomForestClassifier

    fold = np.arange(len(rows)) % FOLDS
    flat, right = rows.reshape(len(rows), -1), []
    for tested in range(FOLDS):
        forest = RandomForestClassifier(300, random_state=1, n_jobs=1).fit(flat[fold != tested], people[fold != tested])
        right += [forest.predict(flat[fold == tested]) == people[fold == tested]]
    return float(np.concatenate(right).mean())


def report(name: str, tried: Tried, made: LandmarkFace) -> UInt8:
    """Prints what one converter and drawing network do; returns the pictures."""
    started = time.process_time()
    coordinates = made.coordinates(tried.points)
    pictures = made.drawn(coordinates)
    seconds = time.process_time() - started
    shape, encoder, mesh = made.shape.points(coordinates), SFaceEncoder.load(), FaceMesh.load()
    similar = [structural_similarity(one, other) for one, other in zip(tried.truth, pictures, strict=True)]
    own = [structural_similarity(one, other) for one, other in zip(tried.faces, pictures, strict=True)]
    marks = [(mesh.points(one), mesh.points(other)) for one, other in zip(tried.truth, pictures, strict=True)]
    errors = [landmark_error(one, other) for one, other in marks if one is not None and other is not None]
    truth, faces, outputs = (
        encoder.embed_many([picture[None] for picture in some]) for some in (tried.truth, tried.faces, pictures)
    )
    left, right = np.triu_indices(len(faces), 1)
    unlike = tried.people[left] != tried.people[right]
    impostors = (faces[left] * faces[right]).sum(axis=1)[unlike]
    print(f"{name}: figures of training {made.figures.stated()}")
    print(f"  landmark error, exact: {landmark_distance(tried.points, tried.wanted):.3f} before, ", end="")
    print(f"{landmark_distance(shape, tried.wanted):.3f} after")
    print(f"  SSIM to the public person who does the same {np.mean(similar):.2f}, to the source {np.mean(own):.2f}")
    print(f"  landmark error by the face mesh {np.mean(errors):.3f}, found in {len(errors)} of {len(marks)}")
    print(f"  SFace cosine: to the public person {(truth * outputs).sum(axis=1).mean():.2f}, to the source ", end="")
    print(f"{(faces * outputs).sum(axis=1).mean():.2f}; between people {impostors.mean():.2f}, ", end="")
    print(f"public person to sources {(faces * truth).sum(axis=1).mean():.2f}")
    chosen = {"98 points": tried.points, "converted points": shape, "pictures": pictures / np.float32(255)}
    print(f"  top-1 of {PEOPLE} people by a forest: ", end="")
    print(", ".join(f"{label} {top1(np.asarray(rows), tried.people):.2f}" for label, rows in chosen.items()))
    cost = len(tried.points) / tried.seconds, len(tried.points) / seconds
    print(f"  a second of CPU: {cost[0]:.0f} frames measured, {cost[1]:.0f} converted and drawn", flush=True)
    return pictures


def unpaired(made: LandmarkFace, options: LandmarkOptions) -> LandmarkFace:
    """The same drawing network behind a converter that was trained as published, without pairs."""
    task = options.model_copy(update={"paired": False}).task()
    strangers = draw_strangers(task.heads, task.person, seed=SEED + 1, workers=1)
    portraits = draw_portraits(task.pictures // 4, task.person, seed=SEED + 1, workers=1)
    parts = train_converter(strangers, portraits.points, made.shape, task, seed=SEED, notify=print)
    return made.with_converter(*parts)


def main() -> None:
    """Train, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unpaired", action="store_true", help="also a converter without pairs, as published")
    parser.add_argument("--figure", type=Path, help="a PNG to write: people, what is released of them, the truth")
    given = parser.parse_args()
    options, before = LandmarkOptions(), os.times()
    study = parse_study({"voice": {"enabled": False}, "face": {"anonymizer": "landmark-face"}})
    made = LandmarkFace.from_arrays(LandmarkFaceAnonymizer.prepare_public(study, print))
    spent = sum(os.times()[:4]) - sum(before[:4])
    print(f"training, where it was not in the cache: {spent:.0f} s of CPU beside that of drawing", flush=True)
    tried = Tried(options)
    pictures = report("paired", tried, made)
    if given.figure is not None:
        rows = [np.flatnonzero(tried.people == who)[who] for who in range(SHOWN)]
        sheet = [np.concatenate(list(some[rows]), axis=1) for some in (tried.faces, pictures, tried.truth)]
        cv2.imwrite(str(given.figure), np.concatenate(sheet)[:, :, ::-1])
    if given.unpaired:
        report("unpaired, as published", tried, unpaired(made, options))


if __name__ == "__main__":
    main()
