"""Points become the public person's, and a picture is drawn of them alone, whatever the weights are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moretta.shared.core.array_types import Float32
from moretta.shared.core.errors import StudyError
from moretta.shared.features.landmarks import FaceMesh
from moretta.shared.features.speaker_scale import WIDEST, PublicMeasures
from moretta.shared.models.drawn_landmarks import (
    COUNT,
    MESH_POINTS,
    VERTICES,
    Showing,
    box_of,
    drawn_face,
    in_box,
    landmark_distance,
    normalized,
    random_showing,
    true_points,
)
from moretta.shared.models.head import make_identity
from moretta.shared.models.head.portrait import public_person
from moretta.shared.models.landmark_face import (
    DECODER,
    DRAWER,
    MODES,
    SIDE,
    Drawer,
    LandmarkFace,
    LandmarkFigures,
    LandmarkTask,
    PointLayers,
    PointModes,
)
from moretta.shared.models.picture_gan import Adversary, Descent, PatchDiscriminator
from moretta.shared.models.train_landmark_face import (
    Portraits,
    Strangers,
    draw_strangers,
    train_converter,
    train_drawer,
)
from moretta.shared.study.public_arrays import check_public

REST = Showing({}, (0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def own() -> Float32:
    """Exact points of the public person in random showings."""
    rng, head = np.random.default_rng(0), public_person("cedar")
    return normalized(np.stack([true_points(head, random_showing(rng), 160, 120) for _ in range(120)]))


def planted(own: Float32, seed: int = 1) -> LandmarkFace:
    """Networks of random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = LandmarkFace.of(PointLayers(), PointLayers(), Drawer(), PointModes.of(own))
    rows = np.random.default_rng(seed).normal(size=(3, 5, 1, MODES)).clip(-2, 2)
    return made.finished(PublicMeasures.of(rows), LandmarkFigures(0.05, 0.02, 0.01))


def test_points_are_each_once_and_normalized_points_say_neither_place_nor_size() -> None:
    assert len(set(MESH_POINTS)) == len(set(VERTICES)) == COUNT == 98
    head = make_identity(3_000_001)
    small, large = (true_points(head, REST, 4 * side, 3 * side) for side in (40, 80))
    np.testing.assert_allclose(normalized(small), normalized(large + 7), atol=1e-5)
    assert landmark_distance(normalized(small)[None], normalized(large)[None]) < 1e-4


def test_a_drawn_face_shows_its_points_where_it_says() -> None:
    """The pupil of an open eye is darker than the cheek, in every picture of a public person."""
    rng, head = np.random.default_rng(3), public_person("amber")
    for _ in range(3):
        shown = Showing({}, random_showing(rng).pose)
        picture, points = drawn_face(head, shown, SIDE)
        np.testing.assert_allclose(normalized(points), points, atol=1e-5)
        pixels = true_points(head, shown, 320, 240)
        places = in_box(pixels, box_of(pixels), SIDE)
        eye, cheek = places[26:34].mean(axis=0), 0.5 * (places[26:34].mean(axis=0) + places[42:62].mean(axis=0))
        dark, bright = (picture[round(float(p[1])), round(float(p[0]))].astype(int).sum() for p in (eye, cheek))
        assert dark < bright - 100


def test_a_converter_brings_people_near_whom_it_was_not_trained_on(own: Float32) -> None:
    rng = np.random.default_rng(1)
    people = np.repeat(np.arange(40), 3)
    points = normalized(own + rng.normal(0, 0.04, (40, COUNT, 2))[people])
    known, new = people < 32, people >= 32
    strangers, shape = Strangers(points[known], own[known], people[known]), PointModes.of(own)
    parts = train_converter(strangers, own, shape, LandmarkTask(converter_steps=60), seed=1, notify=lambda text: None)
    made = planted(own).with_converter(*parts)
    assert landmark_distance(made.converted(points[new]), own[new]) < 0.75 * landmark_distance(points[new], own[new])


def test_a_drawing_network_learns_its_pictures_and_the_same_seed_gives_the_same_one(own: Float32) -> None:
    pictures = np.tile(np.array([230, 40, 120], np.uint8), (len(own), SIDE, SIDE, 1))
    said: list[str] = []
    shape, task = PointModes.of(own), LandmarkTask(steps=20)
    one, other = (train_drawer(Portraits(pictures, own), shape, task, seed=2, notify=said.append) for _ in range(2))
    assert all(torch.equal(one.state_dict()[name], tensor) for name, tensor in other.state_dict().items())
    errors = [float(line.split("pixels ")[1].split(",")[0]) for line in said[:10]]
    assert errors[-1] < 0.7 * errors[0]


def test_coordinates_are_few_bounded_and_finite_and_pictures_are_pictures_whatever_the_weights(own: Float32) -> None:
    made = planted(own)
    far = LandmarkFace({n: a + 9 if n.startswith(DECODER) and a.ndim == 1 else a for n, a in made.arrays.items()})
    assert np.abs(far.coordinates(own)).max() == WIDEST
    for value in (np.nan, np.inf, 1e3, 0.0):
        spoiled = LandmarkFace({n: np.full_like(a, value) if "layers" not in n else a for n, a in made.arrays.items()})
        for network in (made, spoiled, LandmarkFace({**made.arrays, f"{DRAWER}last.bias": np.full(12, value, "f4")})):
            with np.errstate(all="ignore"):
                found = network.coordinates(own[:2])
            assert found.shape == (2, MODES) and np.isfinite(found).all() and np.abs(found).max() <= WIDEST
            with np.errstate(all="ignore"):
                drawn = network.drawn(found)
            assert drawn.shape == (2, SIDE, SIDE, 3) and drawn.dtype == np.uint8


def test_coordinates_give_the_persons_own_points_back(own: Float32) -> None:
    shape = PointModes.of(own)
    assert landmark_distance(shape.points(shape.coordinates(own)), own) < 0.01
    np.testing.assert_allclose(shape.restored(shape.from_mean(own)), own, atol=1e-5)


def test_arrays_go_there_and_back_and_others_are_refused(own: Float32) -> None:
    made = planted(own)
    check_public(made.arrays, LandmarkFace.rules())
    again = LandmarkFace.from_arrays(made.arrays)
    np.testing.assert_array_equal(again.drawn(again.coordinates(own[:2])), made.drawn(made.coordinates(own[:2])))
    assert again.figures.stated() == {"before": 0.05, "after": 0.02, "picture": 0.01}
    name = f"{DRAWER}last.bias"
    for wrong in (np.full(12, np.nan, np.float32), np.full(12, 1e9, np.float32), np.zeros(4, np.float32)):
        with pytest.raises(StudyError, match=name):
            LandmarkFace.from_arrays({**made.arrays, name: wrong})


def test_the_losses_of_pictures_do_not_train_the_discriminator_and_its_own_step_does() -> None:
    torch.manual_seed(0)
    network = PatchDiscriminator(1, 4)
    adversary, real, made = Adversary(network, 60, 1e-3), torch.ones(4, 1, 16, 16), torch.zeros(4, 1, 16, 16)
    made.requires_grad_(True)
    losses = adversary.losses(real, made)
    (losses.hinge + losses.features).backward()
    assert made.grad is not None and all(weights.grad is None for weights in network.parameters())
    first = adversary.learn(real, made)
    for _ in range(40):
        last = adversary.learn(real, made)
    assert last < 0.5 * first
    assert network(real)[1].mean() > network(made)[1].mean()


def test_the_rate_is_constant_and_then_falls_to_nothing() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    descend, places = Descent([weight], 40, 0.1), [0.0]
    for _ in range(40):
        descend((weight - 100).square().sum())
        places.append(float(weight.detach()))
    steps = np.diff(places)
    assert steps[15] == pytest.approx(steps[0], rel=0.1) and steps[-1] < 0.1 * steps[0]


@pytest.mark.user_cache
def test_the_face_mesh_finds_points_of_drawn_heads_near_the_true_ones() -> None:
    if FaceMesh.missing():
        pytest.skip("run `moretta attackers fetch face-mesh`")
    found = draw_strangers(2, "cedar", seed=1, workers=1)
    assert len(found.points) == len(found.wanted) == len(found.people) >= 20
    assert 0.01 < landmark_distance(found.points, found.wanted) < 0.12
