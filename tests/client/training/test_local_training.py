"""DP-SGD at a site: what is spent grows, is what Opacus says, is on disk first, and noise and clipping are there."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moretta.client.accounting.budget import BudgetLimits, SiteBudget, spent
from moretta.client.accounting.ledger import Ledger
from moretta.client.accounting.planning import TrainingPlan, plan_training
from moretta.client.training import local_training as training
from moretta.client.training.data import TrainingSet
from moretta.client.training.local_training import train_locally
from moretta.shared.models.emotion import emotion_model
from moretta.shared.privacy.accounting import epsilon_spent
from moretta.shared.privacy.dp_sgd import SampledGaussian
from moretta.shared.study.schema import Study, parse_study

MODEL = emotion_model("voice", "statistics")


def _study(**privacy: Any) -> Study:
    return parse_study({"face": {"enabled": False}, "train": {"rounds": 5}, "privacy": privacy})


def _data(rng: np.random.Generator, clips: int = 60) -> TrainingSet:
    labels = rng.integers(0, 6, clips)
    features = rng.standard_normal((clips, 24)).astype(np.float32)
    features[np.arange(clips), labels] += 4
    return _set(features, labels)


def _set(features: np.ndarray, labels: np.ndarray, speakers: int = 6) -> TrainingSet:
    return TrainingSet(
        features,
        labels,
        speakers=tuple(f"s{number % speakers}" for number in range(len(labels))),
        clips=tuple(f"c{number}" for number in range(len(labels))),
    )


def _site_budget(path: Path, **limits: float) -> SiteBudget:
    return SiteBudget(Ledger(path), "key", BudgetLimits.unlimited().model_copy(update=limits))


def _plan(study: Study, clips: int) -> TrainingPlan:
    return plan_training(study, [clips])


def _initial() -> dict[str, torch.Tensor]:
    """Inputs are left as they are: mean 0, deviation 1."""
    return dict(MODEL.build((24,)).state_dict())


def _train(data: TrainingSet, study: Study, site_budget: SiteBudget, *, number: int = 1, seed: int | None = 5) -> Any:
    weights = _initial()
    return train_locally(MODEL, weights, data, study, site_budget, round_number=number, seed=seed)


def test_epsilon_grows_over_rounds_and_restarts_and_ends_at_the_target(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    study, data = _study(epsilon=4.0), _data(rng)
    seen = [
        _train(data, study, _site_budget(tmp_path / "ledger.jsonl"), number=n).epsilon for n in range(1, 6)
    ]  # the ledger is opened anew each round, as after a restart
    assert all(a < b for a, b in itertools.pairwise(seen))
    assert 3.9 < seen[-1] <= 4.0


def test_spent_is_what_opacus_own_accountant_says(tmp_path: Path, rng: np.random.Generator) -> None:
    from opacus.accountants import RDPAccountant

    study, data, site_budget = _study(epsilon=4.0), _data(rng), _site_budget(tmp_path / "l")
    for number in (1, 2, 3):
        _train(data, study, site_budget, number=number)
    plan = _plan(study, len(data)).round
    oracle = RDPAccountant()
    for _ in range(3 * plan.steps):
        oracle.step(noise_multiplier=plan.noise_multiplier, sample_rate=plan.rate)
    assert spent(site_budget.ledger, study) == pytest.approx(oracle.get_epsilon(study.privacy.delta), rel=1e-9)


def test_the_budget_is_shared_by_the_two_models() -> None:
    both = parse_study({"train": {"rounds": 5}, "privacy": {"epsilon": 4.0}})
    planned = _plan(both, 60)
    plan = planned.round
    assert planned.models == 2
    total = SampledGaussian(noise_multiplier=plan.noise_multiplier, rate=plan.rate, steps=plan.steps * 5 * 2)
    assert 3.9 < epsilon_spent([total], delta=both.privacy.delta) <= 4.0


def test_the_ledger_has_the_loss_before_the_first_step(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "private_steps", crash)
    with pytest.raises(KeyboardInterrupt):
        _train(_data(rng), _study(), _site_budget(tmp_path / "l"))
    assert spent(Ledger(tmp_path / "l"), _study()) > 0


def test_one_clip_moves_an_update_no_further_than_its_clipped_gradient(tmp_path: Path) -> None:
    """Sensitivity, seen from outside: with the noise the same, adding an outlier changes a step by <= C / batch."""
    study = _study(epsilon=1e6, max_grad_norm=0.5)  # so much budget that the calibrated noise is next to none
    features = np.zeros((16, 24), np.float32)
    features[0] = 1e4
    labels = np.zeros(16, np.int64)
    update = _train(_set(features, labels), study, _site_budget(tmp_path / "l"))
    plan = _plan(study, 16).round
    start = _initial()
    moved = np.sqrt(sum(float(((t - start[n]) ** 2).sum()) for n, t in update.weights.items()))
    bound = plan.steps * study.train.learning_rate * study.privacy.max_grad_norm * 16 / (plan.rate * 16)
    assert moved <= bound * 1.1


def test_noise_is_added_and_has_the_calibrated_size(tmp_path: Path) -> None:
    study = _study(epsilon=1.0)
    blank = _set(np.zeros((64, 24), np.float32), np.zeros(64, np.int64))  # gradients of the weights are zero
    update = _train(blank, study, _site_budget(tmp_path / "l"))
    plan = _plan(study, 64).round
    weight = next(t for name, t in update.weights.items() if name.endswith("weight"))
    expected = (
        study.train.learning_rate
        * plan.noise_multiplier
        * study.privacy.max_grad_norm
        / (plan.rate * 64)
        * np.sqrt(plan.steps)
    )
    assert float(weight.std()) == pytest.approx(expected, rel=0.25)


def test_seeded_training_repeats_and_unseeded_does_not(tmp_path: Path, rng: np.random.Generator) -> None:
    data = _data(rng)
    runs = [_train(data, _study(), _site_budget(tmp_path / str(i)), seed=s) for i, s in enumerate((5, 5, None, None))]
    weights = [torch.cat([t.flatten() for t in run.weights.values()]) for run in runs]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[2], weights[3])


def test_no_loss_is_released_under_dp_sgd_and_without_it_training_learns(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    data = _data(rng)
    assert _train(data, _study(), _site_budget(tmp_path / "a")).loss is None
    plain = _train(data, _study(dp_sgd=False), _site_budget(tmp_path / "b"))
    assert plain.loss is not None
    assert plain.loss < np.log(6)
    assert plain.epsilon is None


def test_an_empty_poisson_batch_still_releases_noise(tmp_path: Path) -> None:
    study = parse_study({"face": {"enabled": False}, "train": {"rounds": 1, "batch_size": 1}})
    lonely = _set(np.zeros((40, 24), np.float32), np.zeros(40, np.int64))
    update = _train(
        lonely, study, _site_budget(tmp_path / "l")
    )  # at rate 1/40 more than a third of the batches are empty
    assert all(torch.isfinite(t).all() for t in update.weights.values())


def test_the_proximal_term_keeps_weights_near_their_start(tmp_path: Path, rng: np.random.Generator) -> None:
    data, study = _data(rng), _study(dp_sgd=False)
    weights = _initial()
    moved = []
    for proximal in (0.0, 1.9):
        update = train_locally(
            MODEL,
            weights,
            data,
            study,
            _site_budget(tmp_path / str(proximal)),
            round_number=1,
            seed=1,
            proximal=proximal,
        )
        moved.append(sum(float((update.weights[n] - t).square().sum()) for n, t in weights.items()))
    assert moved[1] < 0.5 * moved[0]


@pytest.mark.parametrize("private", [True, False])
def test_the_studys_optimizer_moves_the_weights_and_adam_costs_what_sgd_does(
    tmp_path: Path, rng: np.random.Generator, private: bool
) -> None:
    data, start, moved, cost = _data(rng), _initial(), {}, {}
    for name in ("sgd", "adam"):
        changes: Any = {"train__optimizer": name, "train__learning_rate": 0.001, "train__batch_size": 60}
        study = _study(dp_sgd=private).with_changes(**changes)
        done = _train(data, study, _site_budget(tmp_path / name))
        moved[name] = (done.weights["2.weight"] - start["2.weight"]).abs()
        cost[name] = done.epsilon
    assert cost["sgd"] == cost["adam"] and (cost["sgd"] is not None) == private
    assert moved["adam"].mean() == pytest.approx(0.001, rel=0.01)  # its first step is as long for each weight
    assert moved["sgd"].std() > 0.3 * moved["sgd"].mean()
