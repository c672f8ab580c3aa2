"""Dense landmarks and fitted heads on drawn people of whom nobody was trained on.

    python tests/benchmarks/landmarks_table.py [--people 40] [--first 6000000] [--height 240] [--figure PATH]

Each person is drawn in six pictures by an exact renderer, so that every point, channel, pose and shape is known. Faces
are found by the best detector of this machine. Needs face-mesh of `moretta attackers fetch` for the second input.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from moretta.deploy.synth.expression_scenes import random_moment
from moretta.shared.audit.metrics import Trials
from moretta.shared.audit.metrics.verification import eer
from moretta.shared.core.array_types import Array, Float64, UInt8
from moretta.shared.core.workers import limit_threads
from moretta.shared.features.dense_landmarks import CROP_SIDE, FoundPoints, LandmarkReader, shipped_landmarks
from moretta.shared.features.face_detectors import best_detector
from moretta.shared.features.face_track import CROP_SIDE as TRACK_SIDE
from moretta.shared.features.face_track import shipped_reader
from moretta.shared.features.faces import cut
from moretta.shared.features.head_fit import FittedHead, fit_head
from moretta.shared.features.landmarks import FaceMesh
from moretta.shared.models.head import Portrait, make_identity
from moretta.shared.models.head.expression import ACTIONS, CHANNELS
from moretta.shared.models.head.render import draw
from moretta.shared.models.head_model import HeadModel, true_points

EACH, MILLIMETRES = 6, 100
CALIBRATION = range(5_300_000, 5_300_030)
"""Seeds of people on whom points of FaceMesh are matched with those of the model."""
SHOWN = (0, 7, 14, 21)


@dataclass(frozen=True)
class Person:
    """Pictures of one person, in crops of 160 and of 96 pixels, and what is true of them."""

    crops: UInt8
    small: UInt8
    places: Float64
    channels: Float64
    poses: Float64
    shape: Float64


def drawn(seed: int, height: int, model: HeadModel) -> Person:
    rng, identity, detector = np.random.default_rng([seed, 9]), make_identity(seed), best_detector()
    rows: list[tuple[Any, ...]] = []
    width = height * 4 // 3
    while len(rows) < EACH:
        actions, weights, view = random_moment(rng)
        frame = draw(identity, weights, view, width=width, height=height, supersample=1, rng=rng)
        if not (boxes := detector.find_all(frame)):
            print(f"no face found in a picture of {seed}: drawn again")
            continue
        box = boxes[0]
        corner = np.array([box.x, box.y]) - box.size / 2
        places = (true_points(identity, weights, view, width, height) - corner + 0.5) * CROP_SIDE / box.size - 0.5
        crops = (cut(frame, box, CROP_SIDE), cut(frame, box, TRACK_SIDE))
        rows.append((*crops, places, np.array([*actions, *view.gaze]), np.array(view.pose)))
    large, small, seen_at, channels, poses = (np.stack(part) for part in zip(*rows, strict=True))
    return Person(large, small, seen_at, channels, poses, identity.vertices[model.vertices].astype(np.float64))


def distance(shape: Array, truth: Array) -> float:
    """Mean over points in millimetres, after the similarity transform that fits best."""
    a, b = shape - shape.mean(0), truth - truth.mean(0)
    u, sizes, vt = np.linalg.svd(a.T @ b)
    signs = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    turned = (sizes * signs).sum() / (a**2).sum() * a @ (u * signs) @ vt
    return float(np.linalg.norm(turned - b, axis=1).mean() * MILLIMETRES)


def agreement(found: Float64, truth: Float64) -> Float64:
    """Correlation of each channel over all pictures."""
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(found.T, truth.T, strict=True)])


def report(name: str, model: HeadModel, people: list[Person], fits: list[list[FittedHead]]) -> None:
    """Errors of fits, one list for each person: of one clip, or of each picture alone."""
    shapes = [
        [distance(model.neutral(fit.identity), p.shape) for fit in own] for p, own in zip(people, fits, strict=True)
    ]
    channels = np.concatenate([fit.channels for own in fits for fit in own])
    poses = np.concatenate([fit.pose[:, :3] for own in fits for fit in own])
    r = agreement(channels, np.concatenate([p.channels for p in people]))
    turned = np.degrees(np.abs(poses - np.concatenate([p.poses for p in people]))).mean()
    print(
        f"{name:34s} shape {np.mean(shapes):.2f} mm, pose {turned:.2f} deg, mean r of 15 {r[: len(ACTIONS)].mean():.2f}"
    )
    print("   " + ", ".join(f"{c} {value:.2f}" for c, value in zip(CHANNELS, r, strict=True)))


def both(name: str, model: HeadModel, people: list[Person], places: list[Float64], sigma: list[Float64]) -> None:
    """Fits to each picture alone, and to the six of a person."""
    pairs = list(zip(places, sigma, strict=True))
    start = time.perf_counter()
    alone = [[fit_head(model, p[k : k + 1], s[k : k + 1]) for k in range(len(p))] for p, s in pairs]
    seconds = (time.perf_counter() - start) / sum(map(len, places))
    report(f"{name}, one picture", model, people, alone)
    report(f"{name}, six", model, people, [[fit_head(model, p, s, steadiness=np.inf)] for p, s in pairs])
    print(f"   {seconds:.3f} s a picture for a fit")


def occluded(crops: UInt8, rng: np.random.Generator) -> UInt8:
    """A grey patch of a quarter of the side over each picture's face."""
    hidden = crops.copy()
    side = crops.shape[1]
    for picture in hidden:
        top, left = rng.integers(side // 4, side // 2, 2)
        picture[top : top + side // 4, left : left + side // 4] = rng.integers(0, 256)
    return hidden


def matched_mesh(mesh: FaceMesh, height: int, model: HeadModel) -> tuple[Float64, Float64]:
    """For each point of the model FaceMesh's nearest one, and the median way from it in units of the eyes' distance."""
    pairs = [
        (found, places)
        for seed in CALIBRATION
        for person in [drawn(seed, height, model)]
        for crop, places in zip(person.crops, person.places, strict=True)
        if (found := mesh.points(crop)) is not None
    ]
    apart = np.array([np.linalg.norm(places[-2] - places[-1]) for _, places in pairs])
    way = np.stack([places[:, None] - found for found, places in pairs]) / apart[:, None, None, None]
    nearest = np.linalg.norm(way, axis=3).mean(0).argmin(1)
    return nearest, np.median(way[:, np.arange(len(model)), nearest], axis=0)


def picture(people: list[Person], reader: LandmarkReader, path: Path) -> None:
    """Crops, points with their accuracy, the fitted head's points, and the public head with the fitted expression."""
    rows, portrait = [], Portrait(320, "cedar")
    for person in people:
        found, fit = reader.find(person.crops[:1], follow=False), reader.fit(person.crops[:1])
        big = cv2.resize(person.crops[0], (320, 320), interpolation=cv2.INTER_CUBIC)
        marked, placed = big.copy(), big.copy()
        for place, size in zip(2 * found.places[0] + 0.5, 2 * found.sigma[0], strict=True):
            cv2.circle(marked, tuple(int(v) for v in place), max(1, round(float(size))), (255, 220, 0), 1, cv2.LINE_AA)
        for place in 2 * reader.model.places(fit.identity, fit.channels, fit.pose)[0] + 0.5:
            cv2.circle(placed, tuple(int(v) for v in place), 1, (0, 255, 120), -1, cv2.LINE_AA)
        rows.append(np.vstack([big, marked, placed, portrait(fit.channels[0])]))
    whole = cv2.cvtColor(np.hstack(rows), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(path), cv2.resize(whole, None, fx=0.625, fy=0.625, interpolation=cv2.INTER_AREA))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--first", type=int, default=6_000_000)
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    limit_threads(1)
    reader = shipped_landmarks()
    model = reader.model
    people = [drawn(options.first + k, options.height, model) for k in range(options.people)]
    if options.figure:
        picture([people[k] for k in SHOWN if k < len(people)], reader, options.figure)
    size = f"{options.height * 4 // 3} x {options.height}"
    print(f"{len(people)} people x {EACH} pictures of {size}, faces by {best_detector().name}")
    print(f"mean head {np.mean([distance(model.rest, p.shape) for p in people]):.2f} mm")
    exact = [p.places for p in people]
    both("true points", model, people, exact, [np.full(p.shape[:2], 0.3) for p in exact])

    start = time.perf_counter()
    found = [reader.find(p.crops, follow=False) for p in people]
    print(f"{(time.perf_counter() - start) / EACH / len(people):.3f} s a picture for points")
    wrong = np.concatenate([np.linalg.norm(f.places - p.places, axis=2) for f, p in zip(found, people, strict=True)])
    sigma = np.concatenate([f.sigma for f in found])
    apart = np.linalg.norm(np.concatenate(exact)[:, -2] - np.concatenate(exact)[:, -1], axis=1)
    of_points = (wrong / apart[:, None]).mean(0)
    print(f"NME {of_points.mean():.3f}, {np.median(of_points):.3f} of the median point")
    print(f"mean e^2 / (2 sigma^2) {(wrong**2 / 2 / sigma**2).mean():.2f}", end=", ")
    print(f"corr(sigma, error) {np.corrcoef(sigma.ravel(), wrong.ravel())[0, 1]:.2f}")
    both("found points", model, people, [f.places for f in found], [f.sigma for f in found])
    flat = [np.full(f.sigma.shape, np.sqrt((f.sigma**2).mean())) for f in found]
    both("found points, unweighted", model, people, [f.places for f in found], flat)
    rng = np.random.default_rng(3)
    patched = [reader.find(occluded(p.crops, rng), follow=False) for p in people]
    both("under patches", model, people, [f.places for f in patched], [f.sigma for f in patched])
    flat = [np.full(f.sigma.shape, np.sqrt((f.sigma**2).mean())) for f in patched]
    both("under patches, unweighted", model, people, [f.places for f in patched], flat)

    tracks = np.concatenate([shipped_reader()(np.stack([crop])) for p in people for crop in p.small])
    r = agreement(tracks, np.concatenate([p.channels for p in people]))
    print(f"expression-track's reader, mean r of 15 {r[: len(ACTIONS)].mean():.2f}")
    print("   " + ", ".join(f"{c} {value:.2f}" for c, value in zip(CHANNELS, r, strict=True)))

    likeness_of_shapes(model, found)
    mesh_input(model, people, options.height)


def likeness_of_shapes(model: HeadModel, found: list[FoundPoints]) -> None:
    """Whether the identity fitted to half of a person's pictures finds the other half: what `face-shape` compares."""
    halves = [
        [fit_head(model, f.places[k::2], f.sigma[k::2], steadiness=np.inf).identity for k in (0, 1)] for f in found
    ]
    unit = np.array(halves) / np.linalg.norm(halves, axis=2, keepdims=True)
    likeness = unit[:, 0] @ unit[:, 1].T
    same = np.eye(len(unit), dtype=bool)
    print(
        f"cosine of fitted identities: same person {likeness[same].mean():.2f}, others {likeness[~same].mean():.2f}",
        end="",
    )
    print(f", EER {eer(Trials(likeness.ravel(), *np.indices(likeness.shape).reshape(2, -1))):.2f}")


def mesh_input(model: HeadModel, people: list[Person], height: int) -> None:
    """FaceMesh in place of the network."""
    if reason := FaceMesh.missing():
        print(reason)
        return
    mesh = FaceMesh.load()
    nearest, offset = matched_mesh(mesh, height, model)
    seen = [(p, [mesh.points(crop) for crop in p.crops]) for p in people]
    missed = sum(points is None for _, own in seen for points in own)
    kept = [(p, [points for points in own if points is not None]) for p, own in seen if all(q is not None for q in own)]
    fits: list[list[FittedHead]] = []
    for person, own in kept:
        apart = np.linalg.norm(person.places[:, -2] - person.places[:, -1], axis=1)[:, None]
        places = [points[nearest] + offset * size for points, size in zip(own, apart, strict=True)]
        sigma = 0.06 * np.ones((1, len(model)))
        fits.append([fit_head(model, q[None], sigma * size) for q, size in zip(places, apart, strict=True)])
    values = np.concatenate([np.concatenate([f.channels.ravel(), f.pose.ravel()]) for own in fits for f in own])
    finite = np.isfinite(values).all()
    print(f"FaceMesh: no points in {missed} of {EACH * len(people)} pictures; all fits finite: {finite}")
    report("FaceMesh's points, one picture", model, [person for person, _ in kept], fits)


if __name__ == "__main__":
    main()
