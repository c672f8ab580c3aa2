"""Promises of `moretta.shared.features.head_fit`, with the renderer as exact oracle: true points give the true head."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.deploy.synth.expression_scenes import random_moment
from moretta.shared.core.errors import ClipError
from moretta.shared.features.dense_landmarks import shipped_landmarks
from moretta.shared.features.head_fit import fit_head, reading
from moretta.shared.models.head import make_identity
from moretta.shared.models.head.expression import ACTIONS, CHANNELS
from moretta.shared.models.head_model import POSE, HeadModel, head_points, mirrored_points, true_points

WIDTH, HEIGHT = 320, 240
STRANGERS = range(7_000_000, 7_000_012)
"""Seeds of people whose shapes are not in the basis."""
EACH = 6


@pytest.fixture(scope="module")
def model() -> HeadModel:
    return shipped_landmarks().model


def moments(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points [6, points, 2], channels [6, channels] and poses [6, 3] of a person."""
    identity, rng = make_identity(seed), np.random.default_rng([seed, 9])
    drawn = [random_moment(rng) for _ in range(EACH)]
    places = np.stack([true_points(identity, weights, view, WIDTH, HEIGHT) for _, weights, view in drawn])
    channels = np.stack([[*actions, *view.gaze] for actions, _, view in drawn])
    return places, channels, np.array([view.pose for *_, view in drawn])


@pytest.fixture(scope="module")
def strangers() -> list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    return [(seed, *moments(seed)) for seed in STRANGERS]


def sigma(places: np.ndarray, size: float = 0.3) -> np.ndarray:
    return np.full(places.shape[:-1], size)


def distance(shape: np.ndarray, truth: np.ndarray) -> float:
    """Mean over points in millimetres, after the best similarity transform."""
    a, b = shape - shape.mean(0), truth - truth.mean(0)
    u, sizes, vt = np.linalg.svd(a.T @ b)
    return float(np.linalg.norm(sizes.sum() / (a**2).sum() * a @ u @ vt - b, axis=1).mean() * 100)


@pytest.mark.parametrize(("together", "most", "least"), [(1, 1.3, 0.80), (6, 1.1, 0.90)])
def test_true_points_give_the_true_head(model, strangers, together: int, most: float, least: float) -> None:
    shapes, turned, found, truth = [], [], [], []
    for seed, places, channels, poses in strangers:
        own = make_identity(seed).vertices[model.vertices]
        for start in range(0, EACH, together):
            part = slice(start, start + together)
            fit = fit_head(model, places[part], sigma(places[part]), steadiness=np.inf)
            shapes.append(distance(model.neutral(fit.identity), own))
            turned.append(np.abs(fit.pose[:, :3] - poses[part]))
            found.append(fit.channels)
            truth.append(channels[part])
    assert np.mean(shapes) <= most
    assert np.degrees(np.concatenate(turned)).mean() <= 0.5
    pairs = zip(np.concatenate(found).T[: len(ACTIONS)], np.concatenate(truth).T, strict=False)
    assert np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs]) >= least


def test_the_model_puts_points_where_the_renderer_does(model) -> None:
    """Of a head in the span of the basis nothing is left over: camera, neck and gaze are the renderer's."""
    places, _, _ = moments(STRANGERS[0])
    fit = fit_head(model, places, sigma(places), steadiness=np.inf, steps=20)
    left = np.linalg.norm(model.places(fit.identity, fit.channels, fit.pose) - places, axis=2)
    assert left.mean() < 0.6  # of 70 pixels per decimetre: what `loosely` does differently on each side


def test_slopes_are_those_of_the_places(model) -> None:
    rng = np.random.default_rng(1)
    pose = np.concatenate([rng.normal(0, 0.2, (2, 3)), [[4.2, 80, 60], [3.9, 50, 70]]], axis=1)
    head = [rng.normal(size=len(model.identity)), rng.uniform(0, 1, (2, len(CHANNELS))), pose]
    slopes = model.seen(*head).slopes
    start = np.cumsum([0, len(model.identity), len(CHANNELS), POSE])
    for part, first in enumerate(start[:-1]):
        moved = [value.copy() for value in head]
        moved[part][..., 2] += 1e-5
        measured = (model.places(*moved) - model.places(*head)) / 1e-5
        np.testing.assert_allclose(slopes[..., first + 2], measured, atol=0.02 + 1e-3 * np.abs(measured).max())


def test_points_that_are_known_badly_count_less(model, strangers) -> None:
    """A fifth of the points is wrong by 15 pixels, and says so."""
    weighted, equal = [], []
    for seed, places, _, _ in strangers[:6]:
        rng, own = np.random.default_rng(seed), make_identity(seed).vertices[model.vertices]
        bad = rng.random(places.shape[:2]) < 0.2
        wrong = places + np.where(bad, 15.0, 0.3)[..., None] * rng.normal(size=places.shape)
        for into, known in ((weighted, np.where(bad, 15.0, 0.5)), (equal, sigma(places, 7.0))):
            into.append(distance(model.neutral(fit_head(model, wrong, known, steadiness=np.inf).identity), own))
    assert np.mean(weighted) < 0.7 * np.mean(equal)


def test_expression_changes_slowly_where_frames_follow_each_other(model, strangers) -> None:
    rng = np.random.default_rng(3)
    still = np.repeat(strangers[0][1][:1], 8, axis=0)
    shaken = still + rng.normal(0, 2.0, still.shape)
    changes = {
        steadiness: np.abs(
            np.diff(fit_head(model, shaken, sigma(shaken, 2.0), steadiness=steadiness).channels, axis=0)
        ).mean()
        for steadiness in (0.1, 0.5, np.inf)
    }
    assert changes[0.1] < 0.5 * changes[0.5] and changes[0.5] < changes[np.inf]


def test_frames_that_may_not_differ_show_what_they_show_together(model, strangers) -> None:
    """All frames of a very steady clip have the channels of one frame with the mean of their points."""
    still, rng = strangers[1][1][0], np.random.default_rng(4)
    shaken = still + rng.normal(0, 0.05, (5, *still.shape))
    steady = fit_head(model, shaken, sigma(shaken, 0.05), steadiness=1e-3, steps=40).channels
    once = fit_head(model, shaken.mean(0)[None], sigma(shaken[:1], 0.05 / np.sqrt(5)), steps=40).channels
    assert np.abs(np.diff(steady, axis=0)).max() < 1e-3
    assert np.abs(steady.mean(0) - once).max() < 0.1


def test_where_nothing_is_known_the_head_is_the_usual_one(model, strangers) -> None:
    places = strangers[0][1][:2]
    fit = fit_head(model, places, sigma(places, 1e6))
    np.testing.assert_allclose(fit.identity, 0, atol=1e-3)
    np.testing.assert_allclose(fit.channels, np.tile(model.usual, (2, 1)), atol=1e-3)


def test_a_small_error_of_points_becomes_the_error_of_channels_that_was_foretold(model) -> None:
    """The linear part of the fit, at the mean head from the front, with 1 pixel for a decimetre."""
    usual, still = model.usual[None], np.zeros(len(model.identity))
    places = model.places(still, usual, np.zeros((1, POSE)))
    aside = 1e-4 * np.random.default_rng(2).normal(size=places.shape)
    moved = [fit_head(model, p, sigma(p, 0.02 * 0.5)).channels[0] for p in (places, places + aside)]
    foretold = np.einsum("cpk,pk->c", reading(model, 0.02), aside[0])
    assert np.corrcoef(moved[1] - moved[0], foretold)[0, 1] > 0.8


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p, s: (p[:0], s[:0]),
        lambda p, s: (p[:, :5], s[:, :5]),
        lambda p, s: (p[0], s[0]),
        lambda p, s: (np.where(np.arange(len(s[0]))[:, None] == 3, np.nan, p), s),
        lambda p, s: (p, np.where(np.arange(len(s[0])) == 3, np.inf, s)),
        lambda p, s: (p, 0 * s),
        lambda p, s: (p, -s),
    ],
)
def test_points_that_are_none_are_refused(model, strangers, spoil) -> None:
    places = strangers[0][1][:1]
    with pytest.raises(ClipError) as raised:
        fit_head(model, *spoil(places, sigma(places)))
    assert raised.value.reason == "bad-points"


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 1e-9, 1.0, 1e3, 1e6]), st.integers(1, 3))
def test_whatever_the_points_are_the_fit_is_finite(seed: int, size: float, frames: int) -> None:
    model, rng = shipped_landmarks().model, np.random.default_rng(seed)
    places = size * rng.standard_normal((frames, len(model), 2))
    fit = fit_head(model, places, rng.uniform(1e-3, 1e3, places.shape[:2]))
    assert all(np.isfinite(part).all() for part in (fit.identity, fit.channels, fit.pose))


def test_landmarks_are_alike_on_both_sides() -> None:
    points, mirrored = head_points(), mirrored_points()
    assert len(points) == len(set(points)) >= 300
    np.testing.assert_array_equal(mirrored[mirrored], np.arange(len(points)))
