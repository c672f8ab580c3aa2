"""A site's own part of site-level differential privacy: cut to the norm, its share of noise, sent once and alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moretta.client.clips.release import make_release
from moretta.client.training import local_training
from moretta.client.training.data import training_set
from moretta.client.training.local_training import noisy_update
from moretta.client.training.rounds import RoundRequest, train_round
from moretta.shared.models.emotion import emotion_model, initial_weights, trained_names
from moretta.shared.privacy.site_updates import SitePlan, plan_site_level
from moretta.shared.study.schema import Study, parse_study

STUDY: dict[str, Any] = {"sites": 2, "face": {"enabled": False}, "train": {"rounds": 2}, "split": {"folds": 2}}
DISTRIBUTED = {"dp": "distributed", "min_sites": 4, "curious_sites": 1, "clipping_norm": 0.5}
MODEL = emotion_model("voice", "statistics")


def _study(**changes: Any) -> Study:
    return parse_study({**STUDY, "voice": {"codebook_size": 16}, **changes})


def _weights(features: int = 78) -> dict[str, Any]:
    start = initial_weights(MODEL, np.zeros((2, features), np.float32), seed=1, standardise=False)
    return {name: np.asarray(tensor) for name, tensor in start.items()}


def _plan(study: Study) -> SitePlan:
    plan = plan_site_level(study)
    assert plan is not None
    return plan


def _hidden(simulated: Any, study: Study, update: dict[str, Any], number: int = 1, **changes: Any) -> Any:
    sent = _weights()
    settings = replace(simulated.site(), **changes)
    hidden = noisy_update(settings, study, "voice", sent, update, round_number=number)
    trained = sorted(trained_names(MODEL, sent))
    return np.concatenate([(hidden[n].astype(np.float64) - sent[n]).ravel() for n in trained]), hidden


def test_an_update_leaves_cut_to_the_norm_with_the_share_of_noise_that_was_planned(simulated: Any) -> None:
    study = _study(aggregation=DISTRIBUTED)
    far = {name: array + 100 for name, array in _weights().items()}
    moved, hidden = _hidden(simulated, study, far)
    plan = _plan(study)
    assert plan.share == pytest.approx(plan.noise_multiplier * 0.5 / np.sqrt(3))
    assert moved.std() == pytest.approx(plan.share, rel=0.15)
    quiet, _ = _hidden(simulated, study, _weights())
    assert np.linalg.norm(moved - quiet) == pytest.approx(0.5, rel=0.02)  # the same noise: the update, cut
    assert np.array_equal(hidden["0.mean"], _weights()["0.mean"])


def test_noise_is_from_the_system_in_deployment_and_of_site_and_round_in_a_simulation(simulated: Any) -> None:
    study, still = _study(aggregation=DISTRIBUTED), _weights()
    seeded = [
        _hidden(simulated, study, still, number, **named)[0].tobytes()
        for number in (1, 1, 2)
        for named in ({}, {"name": "site-01"})
    ]
    assert len(set(seeded)) == 4  # two rounds at two sites
    real = [_hidden(simulated, study, still, simulated_seed=None)[0].tobytes() for _ in range(2)]
    assert len(set(real)) == 2


@pytest.mark.parametrize("dp_sgd", [False, True])
def test_a_round_requested_again_has_the_same_noise_and_neither_loss_nor_clips_are_released(
    simulated: Any, dp_sgd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _study(aggregation=DISTRIBUTED, privacy={"dp_sgd": dp_sgd})
    settings = simulated.site()
    make_release(settings, study, simulated.public)
    weights = _weights(training_set(settings, study, "voice").features.shape[1])
    first = train_round(settings, RoundRequest(study, "voice", 1, weights))
    monkeypatch.setattr(local_training, "train_locally", lambda *a, **k: pytest.fail("trained again"))
    again = train_round(settings, RoundRequest(study, "voice", 1, weights))
    assert all(np.array_equal(first.arrays[name], again.arrays[name]) for name in weights)
    assert first.metrics["num-examples"] == 1
    assert "loss" not in first.metrics
