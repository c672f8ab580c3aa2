"""Promises of `moretta.shared.features.dense_landmarks`: points of strangers, and how far they may be wrong."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest

from moretta.deploy.synth.expression_scenes import random_moment
from moretta.shared.audit.attackers import get_attacker
from moretta.shared.audit.pretrained.face_shape import FaceShape
from moretta.shared.features.dense_landmarks import CROP_SIDE, public_fits, shipped_landmarks
from moretta.shared.features.face_detectors import FaceBox
from moretta.shared.features.faces import cut
from moretta.shared.models.head import make_identity
from moretta.shared.models.head.expression import CHANNELS
from moretta.shared.models.head.render import draw
from moretta.shared.models.head_model import true_points
from moretta.shared.models.landmark_net import FILE

WIDTH, HEIGHT = 320, 240
STRANGERS = range(7_100_000, 7_100_006)
SIDE = 165.0
"""Of a detector's box, in pixels of a frame."""
MOST_BYTES = 3_000_000


def pictures(seed: int, each: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Crops [each, 160, 160, 3] of a person, as a detector cuts them, and true points in them."""
    rng, identity, crops, places = np.random.default_rng([seed, 5]), make_identity(seed), [], []
    for _ in range(each):
        _, weights, view = random_moment(rng)
        frame = draw(identity, weights, view, width=WIDTH, height=HEIGHT, supersample=1, rng=rng)
        points = true_points(identity, weights, view, WIDTH, HEIGHT)
        right, down = points.mean(0)
        crops.append(cut(frame, FaceBox(right, down, SIDE), CROP_SIDE))
        places.append((points - [right - SIDE / 2, down - SIDE / 2] + 0.5) * CROP_SIDE / SIDE - 0.5)
    return np.stack(crops), np.stack(places)


@pytest.fixture(scope="module")
def strangers() -> list[tuple[np.ndarray, np.ndarray]]:
    return [pictures(seed) for seed in STRANGERS]


def test_points_of_strangers_are_found_as_well_as_they_say(strangers) -> None:
    reader, wrong, said, apart = shipped_landmarks(), [], [], []
    for crops, places in strangers:
        found = reader.find(crops, follow=False)
        wrong.append(np.linalg.norm(found.places - places, axis=2))
        said.append(found.sigma)
        apart.append(np.linalg.norm(places[:, -2] - places[:, -1], axis=1))
    errors, sigma = np.concatenate(wrong), np.concatenate(said)
    assert (errors.mean(1) / np.concatenate(apart)).mean() < 0.08
    assert 0.3 < (errors**2 / (2 * sigma**2)).mean() < 3
    assert np.corrcoef(errors.ravel(), sigma.ravel())[0, 1] > 0.2


def test_a_patch_makes_the_points_below_it_less_certain(strangers) -> None:
    crops, places = strangers[0]
    hidden = crops[:1].copy()
    left, top = (places[0, :64].mean(0) - 22).astype(int)
    hidden[0, top : top + 44, left : left + 44] = 128
    reader = shipped_landmarks()
    plain, patched = reader.find(crops[:1]).sigma[0], reader.find(hidden).sigma[0]
    lids = slice(0, 64)
    assert patched[lids].mean() > 1.1 * plain[lids].mean()


def test_a_pictures_points_depend_on_no_other_picture(strangers) -> None:
    reader, (crops, _) = shipped_landmarks(), strangers[0]
    whole = reader.find(crops, follow=False)
    np.testing.assert_allclose(reader.find(crops[1:2], follow=False).places, whole.places[1:2], atol=1e-3)


def test_larger_crops_give_the_same_points_in_larger_pixels(strangers) -> None:
    import cv2

    reader, (crops, _) = shipped_landmarks(), strangers[0]
    large = np.stack([cv2.resize(crop, (320, 320), interpolation=cv2.INTER_CUBIC) for crop in crops])
    small, wide = reader.find(crops, follow=False), reader.find(large, follow=False)
    assert np.abs((wide.places + 0.5) / 2 - 0.5 - small.places).mean() < 1.0
    assert np.median(wide.sigma / small.sigma) == pytest.approx(2, rel=0.2)


@pytest.mark.parametrize("value", [0, 255])
def test_a_picture_without_a_face_gives_numbers_all_the_same(value: int) -> None:
    fit = shipped_landmarks().fit(np.full((1, 40, 40, 3), value, np.uint8))
    assert np.isfinite(fit.identity).all() and np.isfinite(fit.channels).all()


def test_the_file_is_small_and_public_people_are_in_it() -> None:
    model = shipped_landmarks().model
    assert files("moretta.shared.models").joinpath(FILE).stat().st_size < MOST_BYTES  # type: ignore[attr-defined]
    assert len(model) >= 300 and model.channels.shape[0] == len(CHANNELS)
    assert public_fits().quantiles.shape[1] == len(CHANNELS)


def test_fitted_shapes_of_one_person_are_alike() -> None:
    """The attacker `face-shape`: clips of one person lie together, whatever they show."""
    encoder, halves = FaceShape.load(), [pictures(seed, 4)[0] for seed in STRANGERS]
    one = encoder.embed_many([crops[:2] for crops in halves])
    two = encoder.embed_many([crops[2:] for crops in halves])
    likeness = one @ two.T
    assert np.diag(likeness).mean() > likeness[~np.eye(len(likeness), dtype=bool)].mean() + 0.15


def test_the_attacker_needs_no_weights_and_has_a_head() -> None:
    assert FaceShape.missing() is None
    assert {get_attacker(name).encoder for name in ("face-shape", "face-shape+head")} == {"face-shape"}
