"""Training of `landmark_face` on drawn people: points of heads that are nobody's, and pictures of one public person.

Losses of the paper, as its authors' code has them: the converter is trained to give each person's points back, to give
them back by way of the public person, and to keep the encoder's output near the points; points inside the boundary
count 1.5 times. Pictures: 12 times L1, 0.1 times the landmarks that a frozen network finds in them, 0.03 times the
hinge, 0.03 times features. Adam takes the place of RMSprop, with rates for a hundredth of the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from moretta.shared.core.array_types import Float32, Int64, UInt8
from moretta.shared.core.workers import map_files, seeded
from moretta.shared.features.faces import FaceCropper
from moretta.shared.features.landmarks import FaceMesh
from moretta.shared.features.speaker_scale import PublicMeasures
from moretta.shared.models.drawn_landmarks import (
    BOUNDARY,
    COUNT,
    MESH_POINTS,
    drawn_face,
    landmark_distance,
    normalized,
    random_showing,
    true_points,
)
from moretta.shared.models.face_images import FIRST_PUBLIC_IDENTITY
from moretta.shared.models.head import PublicPerson, make_identity
from moretta.shared.models.head.portrait import public_person
from moretta.shared.models.head.render import View, draw
from moretta.shared.models.landmark_face import (
    SIDE,
    Drawer,
    LandmarkFace,
    LandmarkFigures,
    LandmarkTask,
    PointLayers,
    PointModes,
)
from moretta.shared.models.optimizers import Descent
from moretta.shared.models.picture_gan import Adversary, PatchDiscriminator

Notify = Callable[[str], None]
SHOWN = 16
"""Pictures of each head."""
HELD_OUT = 8
"""One head in so many is measured, and not trained on."""
_FRAMES = ((160, 120), (320, 240))
_INNER = 1.5
_RECONSTRUCTION, _ENCODED, _CYCLE = 5.0, 3.5, 0.2
_L1, _LANDMARKS, _HINGE, _FEATURES = 12.0, 0.1, 0.03, 0.03
_BATCH, _POINTS_BATCH, _PEOPLE_BATCH = 8, 64, 4
_CONVERTER_RATE, _DRAWER_RATE, _FINDER_RATE = 1e-3, 1e-3, 1e-3
_FINDER_SHARE = 3
"""The landmark network has one step for so many of the drawing network."""
_NARROW = 128
_JITTER = 0.1


class Strangers(NamedTuple):
    """Measured points of drawn heads, and the wanted points."""

    points: Float32
    """[n, 98, 2], normalized, as the face mesh finds them."""
    wanted: Float32
    """[n, 98, 2], those of the public person who does the same."""
    people: Int64
    """[n], ascending."""


class Portraits(NamedTuple):
    """Pictures of the public person."""

    pictures: UInt8
    """[n, 64, 64, 3]."""
    points: Float32
    """[n, 98, 2], normalized, exact."""


def draw_strangers(heads: int, person: PublicPerson, *, seed: int, workers: int | None = None) -> Strangers:
    """Draw heads, `SHOWN` pictures of each, and measure them as a site does. Raises AttackersError: no face mesh."""
    FaceMesh.load()
    found = map_files(partial(_stranger, person=person, seed=seed), range(heads), workers=workers)
    points, wanted = (np.concatenate([part[which] for part in found]) for which in (0, 1))
    return Strangers(points, wanted, np.repeat(np.arange(heads), [len(part[0]) for part in found]))


def draw_portraits(count: int, person: PublicPerson, *, seed: int, workers: int | None = None) -> Portraits:
    """Draw the public person in random expressions and poses."""
    found = map_files(partial(_portrait, person=person, seed=seed), range(count), workers=workers)
    return Portraits(np.stack([picture for picture, _ in found]), np.stack([points for _, points in found]))


def _stranger(number: int, *, person: PublicPerson, seed: int) -> tuple[Float32, Float32]:
    rng = np.random.default_rng([seed, number, 0x5A])
    head, public = make_identity(FIRST_PUBLIC_IDENTITY + int(rng.integers(2**30))), public_person(person)
    mesh, cropper = _finder()
    points, wanted = [], []
    for _ in range(SHOWN):
        shown, (width, height) = random_showing(rng), _FRAMES[int(rng.integers(len(_FRAMES)))]
        light = (float(rng.normal(0.2, 0.4)), float(rng.normal(0.5, 0.2)), 1.0)
        view = View(shown.pose, light, (float(rng.normal(0, 0.1)), float(rng.normal(0, 0.1))))
        frame = draw(head, shown.weights, view, width=width, height=height, supersample=1, rng=rng)
        crop = cropper.crop_clip(frame[None])
        measured = None if crop.centred else mesh.in_clip(crop.pictures)
        if measured is not None:
            points.append(normalized(measured[0, list(MESH_POINTS)]))
            wanted.append(normalized(true_points(public, shown, width, height)))
    empty = np.zeros((0, COUNT, 2), np.float32)
    return (np.stack(points), np.stack(wanted)) if points else (empty, empty)


@cache
def _finder() -> tuple[FaceMesh, FaceCropper]:
    return FaceMesh.load(), FaceMesh.cropper()


def _portrait(number: int, *, person: PublicPerson, seed: int) -> tuple[UInt8, Float32]:
    rng = np.random.default_rng([seed, number, 0x9A])
    return drawn_face(public_person(person), random_showing(rng), SIDE)


def train_converter(
    strangers: Strangers, own: Float32, shape: PointModes, task: LandmarkTask, *, seed: int, notify: Notify
) -> tuple[PointLayers, PointLayers]:
    """The shared encoder and the public person's decoder.

    Args:
        own: normalized points [n, 98, 2] of the public person.
        shape: the mean that layers see points from.
        task: steps, and whether the truth of pairs is trained with: the paper has none.
    """
    parts = strangers.points, strangers.wanted, own
    rows, wanted, target = (torch.from_numpy(shape.from_mean(part)) for part in parts)
    rows_of = [torch.from_numpy(np.flatnonzero(strangers.people == who)) for who in np.unique(strangers.people)]
    weights = torch.full((COUNT,), _INNER)
    weights[BOUNDARY:] = 1
    each = max(1, _POINTS_BATCH // _PEOPLE_BATCH)

    def apart(found: Tensor, truth: Tensor) -> Tensor:
        squares = (found - truth).square().view(-1, COUNT, 2).sum(dim=2)
        mean: Tensor = (weights * (squares + 1e-8).sqrt()).mean()
        return mean

    with seeded(seed):
        encoder, decoder = PointLayers(), PointLayers()
        decoders = nn.ModuleList(PointLayers(_NARROW) for _ in rows_of)
        trained = nn.ModuleList([encoder, decoder, decoders])
        descend = Descent(trained.parameters(), task.converter_steps, _CONVERTER_RATE)
        for step in range(task.converter_steps):
            mine = target[torch.randint(len(target), (_POINTS_BATCH,))]
            who = torch.randint(len(rows_of), (_PEOPLE_BATCH,)).tolist()
            chosen = torch.cat([of[torch.randint(len(of), (each,))] for of in (rows_of[person] for person in who)])
            theirs = rows[chosen]
            seen = torch.cat([mine, theirs])
            codes = encoder(seen + _JITTER * torch.randn_like(seen))
            own_code, code = codes[: len(mine)], codes[len(mine) :]
            made, moved = decoder(own_code), decoder(code)
            again = encoder(moved)

            def by_their_own(codes: Tensor, people: list[int] = who) -> Tensor:
                parts = zip(people, torch.split(codes, each), strict=True)
                return torch.cat([decoders[person](part) for person, part in parts])

            here = _RECONSTRUCTION * apart(by_their_own(code), theirs) + _ENCODED * apart(code, theirs)
            cycle = _ENCODED * apart(again, moved.detach()) + _RECONSTRUCTION * apart(by_their_own(again), theirs)
            kept = _RECONSTRUCTION * apart(made, mine) + _ENCODED * apart(own_code, mine)
            loss = 2 * kept + here + _CYCLE * cycle
            if task.paired:
                loss = loss + 2 * _RECONSTRUCTION * apart(moved, wanted[chosen])
            value = descend(loss)
            if (step + 1) % max(1, task.converter_steps // 10) == 0:
                notify(f"points, step {step + 1} of {task.converter_steps}: loss {value:.3f}")
    return encoder.eval(), decoder.eval()


class LandmarkFinder(nn.Module):
    """Pictures [n, 3, 64, 64] of the public person to points [n, 196], by the means of heat maps."""

    places: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 24, 3, 2, 1), nn.Conv2d(24, 48, 3, 2, 1)
        self.third, self.fourth = nn.Conv2d(48, 64, 3, 2, 1), nn.Conv2d(64, 64, 3, 1, 1)
        self.last = nn.Conv2d(112, COUNT, 3, 1, 1)
        places = torch.linspace(-2.2, 2.2, SIDE // 4)  # of normalized points; the picture shows 2 to each side
        self.register_buffer("places", places)

    def forward(self, pictures: Tensor) -> Tensor:
        """See the class."""
        fine = functional.relu(self.second(functional.relu(self.first(pictures))))
        coarse = functional.relu(self.fourth(functional.relu(self.third(fine))))
        heat = self.last(torch.cat([fine, functional.interpolate(coarse, scale_factor=2)], dim=1))
        shares = functional.softmax(heat.flatten(2), dim=2).view_as(heat)
        right, down = shares.sum(dim=2) @ self.places, shares.sum(dim=3) @ self.places
        return torch.stack([right, down], dim=2).flatten(1)


def train_drawer(portraits: Portraits, shape: PointModes, task: LandmarkTask, *, seed: int, notify: Notify) -> Drawer:
    """The network from points to pictures, against a discriminator of patches."""
    places = torch.from_numpy(shape.points(shape.coordinates(portraits.points))).flatten(1)
    truth = torch.from_numpy(portraits.points).flatten(1)
    with seeded(seed):
        finder = _trained_finder(portraits.pictures, truth, max(1, task.steps // _FINDER_SHARE))
        drawer, adversary = Drawer(), Adversary(PatchDiscriminator(3, 16), task.steps, 2e-4)
        descend = Descent(drawer.parameters(), task.steps, _DRAWER_RATE)
        for step in range(task.steps):
            chosen = torch.randint(len(places), (_BATCH,))
            real = _pictures(portraits.pictures, chosen)
            made = drawer(places[chosen])
            fooled = adversary.losses(real, made)
            pixels, found = (made - real).abs().mean(), (finder(made) - truth[chosen]).abs().mean()
            descend(_L1 * pixels + _LANDMARKS * found + _HINGE * fooled.hinge + _FEATURES * fooled.features)
            discriminated = adversary.learn(real, made)
            if (step + 1) % max(1, task.steps // 10) == 0:
                losses = f"pixels {float(pixels.detach()):.4f}, landmarks {float(found.detach()):.3f}"
                notify(f"pictures, step {step + 1} of {task.steps}: {losses}, discriminator {discriminated:.2f}")
    return drawer.eval()


def _trained_finder(pictures: UInt8, truth: Tensor, steps: int) -> LandmarkFinder:
    finder = LandmarkFinder()
    descend = Descent(finder.parameters(), steps, _FINDER_RATE)
    for _ in range(steps):
        chosen = torch.randint(len(truth), (_BATCH,))
        descend((finder(_pictures(pictures, chosen)) - truth[chosen]).abs().mean())
    return finder.eval().requires_grad_(False)


def _pictures(pictures: UInt8, chosen: Tensor) -> Tensor:
    return torch.from_numpy(pictures[chosen.numpy()]).permute(0, 3, 1, 2).float() / 255


def train_landmark_face(
    task: LandmarkTask,
    *,
    seed: int,
    notify: Notify = lambda text: None,  # noqa: ARG005
) -> LandmarkFace:
    """Draw, train, and measure on heads and pictures that had no part. Raises AttackersError: no face mesh."""
    notify(f"drawing {task.heads} heads, {SHOWN} pictures of each, and {task.pictures} of the public person")
    strangers = draw_strangers(task.heads, task.person, seed=seed)
    portraits = draw_portraits(task.pictures, task.person, seed=seed)
    held, later = strangers.people % HELD_OUT == 0, np.arange(len(portraits.points)) % HELD_OUT == 0
    known, shown = Strangers(*(part[~held] for part in strangers)), Portraits(*(part[~later] for part in portraits))
    shape = PointModes.of(shown.points)
    networks = train_converter(known, shown.points, shape, task, seed=seed, notify=notify)
    made = LandmarkFace.of(*networks, train_drawer(shown, shape, task, seed=seed, notify=notify), shape)
    coordinates = made.coordinates(known.points)
    people = [[row[None] for row in coordinates[known.people == who]] for who in np.unique(known.people)]
    found = made.coordinates(strangers.points[held]), shape.coordinates(portraits.points[later])
    return made.finished(
        PublicMeasures.of(people),
        LandmarkFigures(
            before=landmark_distance(strangers.points[held], strangers.wanted[held]),
            after=landmark_distance(shape.points(found[0]), strangers.wanted[held]),
            picture=float(np.abs(made.drawn(found[1]) / 255 - portraits.pictures[later] / 255).mean()),
        ),
    )
