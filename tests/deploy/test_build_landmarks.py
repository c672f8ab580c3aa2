"""Promises of `moretta.deploy.synth.build_landmarks`: the shipped network comes from drawn people, as documented."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moretta.deploy.synth import build_landmarks as build
from moretta.deploy.synth.build_landmarks import LandmarkScenes, batch, draw_scenes, sigma_factor, train
from moretta.shared.models.expression_nets import net_arrays, shipped_arrays
from moretta.shared.models.head_model import HeadModel
from moretta.shared.models.landmark_net import FILE, LandmarkNet, negative_log_likelihood


@pytest.fixture(scope="module")
def scenes() -> LandmarkScenes:
    return draw_scenes(9_000_000, 3)


@pytest.fixture(scope="module")
def model(scenes: LandmarkScenes) -> HeadModel:
    return HeadModel.of_drawn_people(range(9_100_000, 9_100_080), scenes.values)


def test_the_same_seed_draws_the_same_scenes(scenes: LandmarkScenes) -> None:
    again = draw_scenes(9_000_001, 1)
    np.testing.assert_array_equal(again.pictures, scenes.pictures[6:12])
    np.testing.assert_array_equal(again.places, scenes.places[6:12])


def test_mirrored_samples_have_their_points_on_the_other_side(scenes: LandmarkScenes) -> None:
    """The left eye of the subject stays the left eye, on the right of the picture."""
    rng = np.random.default_rng(2)
    _, places = batch(scenes, np.zeros(20, int), rng)
    left, right = places[:, -2], places[:, -1]
    assert (left[:, 0] - right[:, 0] > 0.3).all()
    assert len(torch.unique(torch.sign(places[:, :64, 0].mean(1)))) >= 1
    assert places.abs().max() < 2


def test_the_likelihood_is_best_where_sigma_is_the_error() -> None:
    truth = torch.zeros(1, 1, 2)
    places = torch.full((1, 1, 2), 0.1)
    losses = {s: negative_log_likelihood(places, torch.full((1, 1), s).log(), truth).item() for s in (0.05, 0.1, 0.2)}
    assert min(losses, key=losses.__getitem__) == 0.1  # e^2 / 2 per axis


def test_sigma_is_scaled_to_the_errors(scenes: LandmarkScenes, model: HeadModel) -> None:
    net = LandmarkNet(len(model)).eval()
    places = torch.from_numpy(scenes.places).mean(0)
    net.start(0 * places, torch.zeros(build.MODES, *places.shape))
    with torch.no_grad():
        before = sigma_factor(net, scenes)
        net.spread.bias += 1
        assert sigma_factor(net, scenes) == pytest.approx(before / np.e, rel=0.05)


@pytest.mark.slow
def test_training_learns_and_the_shipped_network_is_of_its_kind(scenes: LandmarkScenes, model: HeadModel) -> None:
    reported: list[str] = []
    net = train(scenes, model, reported.append, epochs=24, people=3)
    errors = [float(line.split("error ")[1].split()[0]) for line in reported]
    assert errors[-1] < 0.8 * errors[0]
    made, shipped = net_arrays(net, "net."), shipped_arrays(FILE)
    assert {name: array.shape for name, array in made.items()} == {
        name: array.shape for name, array in shipped.items() if name.startswith("net.")
    }
    again = train(scenes, model, lambda _: None, epochs=1, people=3)
    twice = train(scenes, model, lambda _: None, epochs=1, people=3)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), twice.state_dict().values(), strict=True))


def test_the_shipped_model_is_that_of_its_seeds(model: HeadModel) -> None:
    shipped = HeadModel.from_arrays(shipped_arrays(FILE), "model.")
    np.testing.assert_array_equal(shipped.vertices, model.vertices)
    np.testing.assert_allclose(shipped.channels, model.channels, atol=1e-3)
    np.testing.assert_allclose(shipped.turn, model.turn, atol=1e-5)
    assert np.abs(shipped.rest - model.rest).mean() < 0.02  # of other people: 2 mm
