"""DP-SGD where a speaker is one example: sampled, averaged, clipped and accounted for as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from moretta.client.accounting.account import Account, Cohort
from moretta.client.accounting.budget import BudgetLimits, SiteBudget
from moretta.client.accounting.ledger import Ledger
from moretta.client.accounting.planning import plan_training
from moretta.client.training import dp_sgd
from moretta.client.training.data import TrainingSet
from moretta.client.training.local_training import LocalUpdate, train_locally
from moretta.shared.models.emotion import emotion_model
from moretta.shared.privacy.dp_sgd import SampledGaussian
from moretta.shared.privacy.noise import SystemNoise
from moretta.shared.study.schema import Study, parse_study

MODEL = emotion_model("voice", "statistics")


def _study(*, rounds: int = 3, **privacy: Any) -> Study:
    content = {"face": {"enabled": False}, "train": {"rounds": rounds}, "privacy": {"unit": "speaker", **privacy}}
    return parse_study(content)


def _data(speakers: list[str], seed: int = 1) -> TrainingSet:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, len(speakers))
    features = rng.standard_normal((len(speakers), 24)).astype(np.float32)
    return TrainingSet(features, labels, tuple(speakers), tuple(f"c{n}" for n in range(len(speakers))))


def _train(data: TrainingSet, study: Study, path: Path, *, seed: int | None = 5) -> LocalUpdate:
    site_budget = SiteBudget(Ledger(path / "ledger.jsonl"), "key", BudgetLimits.unlimited())
    weights = dict(MODEL.build((24,)).state_dict())
    return train_locally(MODEL, weights, data, study, site_budget, round_number=1, seed=seed)


def _flat(update: LocalUpdate) -> torch.Tensor:
    return torch.cat([update.weights[name].flatten() for name in ("2.weight", "2.bias")])


def test_a_speaker_with_one_clip_is_a_clip(tmp_path: Path) -> None:
    """Both units are then the same mechanism, chance for chance."""
    data = _data([f"s{number:02}" for number in range(30)])
    by_speaker = _train(data, _study(), tmp_path / "a")
    by_clip = _train(data, _study(unit="clip"), tmp_path / "b")
    assert by_speaker.noise_multiplier == by_clip.noise_multiplier
    torch.testing.assert_close(_flat(by_speaker), _flat(by_clip))


def test_copies_of_a_speakers_clips_change_nothing(tmp_path: Path) -> None:
    """A speaker's part is the mean over its clips: who was recorded more often does not weigh more."""
    once = _data(["ann", "bob", "cid"])
    copied = TrainingSet(
        np.repeat(once.features, (1, 5, 1), axis=0),
        np.repeat(once.labels, (1, 5, 1)),
        ("ann", *["bob"] * 5, "cid"),
        tuple(f"c{n}" for n in range(7)),
    )
    study = _study(epsilon=1e6).with_changes(train__batch_size=64)
    torch.testing.assert_close(
        _flat(_train(once, study, tmp_path / "a")), _flat(_train(copied, study, tmp_path / "b")), atol=1e-4, rtol=0
    )


def test_one_step_is_the_sum_of_clipped_mean_gradients_by_hand(tmp_path: Path) -> None:
    data = _data(["ann"] * 4 + ["bob"] * 2 + ["cid"])
    study = _study(epsilon=1e8, max_grad_norm=0.3, rounds=1).with_changes(train__batch_size=64)
    update = _train(data, study, tmp_path)
    total: dict[str, torch.Tensor] = {}
    for speaker in ("ann", "bob", "cid"):
        network = MODEL.build((24,))
        mine = torch.tensor([s == speaker for s in data.speakers])
        loss = cross_entropy(network(torch.from_numpy(data.features)[mine]), torch.from_numpy(data.labels)[mine])
        loss.backward()
        gradients = {name: p.grad for name, p in network.named_parameters()}
        norm = torch.sqrt(sum((g.square().sum() for g in gradients.values()), torch.tensor(0.0)))
        assert norm > 0.3  # each of them is cut
        for name, gradient in gradients.items():
            total[name] = total.get(name, 0) + gradient * 0.3 / norm
    for name, summed in total.items():
        expected = -study.train.learning_rate * summed / 3
        torch.testing.assert_close(update.weights[name], expected, atol=2e-4, rtol=0)


def test_one_speaker_moves_an_update_no_further_than_one_clipped_gradient(tmp_path: Path) -> None:
    """However many clips the speaker has, and however loud they are."""
    calm = _data(["ann", "bob", "cid", "dan"])
    loud = TrainingSet(
        np.concatenate([calm.features, np.full((50, 24), 1e4, np.float32)]),
        np.concatenate([calm.labels, np.zeros(50, np.int64)]),
        (*calm.speakers, *["eve"] * 50),
        tuple(f"c{n}" for n in range(54)),
    )
    study = _study(epsilon=1e8, max_grad_norm=0.5, rounds=1).with_changes(train__batch_size=512)
    without, with_eve = _flat(_train(calm, study, tmp_path / "a")), _flat(_train(loud, study, tmp_path / "b"))
    sums = [-without * 4 / 0.3, -with_eve * 5 / 0.3]  # learning rate 0.3; the mean is over 4 and 5 speakers
    assert float((sums[1] - sums[0]).norm()) <= 0.5 * 1.01


def test_all_clips_of_a_sampled_speaker_are_in_the_batch_or_none_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moretta.client.training import dp_sgd

    seen: list[frozenset[int]] = []
    names = ["ann", "bob", "ann", "cid", "bob", "ann", "dan", "dan"]
    data = _data(names)
    row = {features.tobytes(): clip for clip, features in enumerate(data.features)}

    class Spy(dp_sgd.ExampleGradients):
        def __call__(self, features: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
            seen.append(frozenset(row[each.numpy().tobytes()] for each in features))
            return super().__call__(features, labels)

    monkeypatch.setattr(dp_sgd, "ExampleGradients", Spy)
    _train(data, _study().with_changes(train__batch_size=4, train__local_epochs=10), tmp_path)
    assert len(set(seen)) > 3
    for batch in seen:
        sampled = {names[clip] for clip in batch}
        assert batch == {clip for clip, name in enumerate(names) if name in sampled}


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_the_target_is_met_for_the_speaker_and_the_ledger_has_both_units(tmp_path: Path, accountant: str) -> None:
    study, data = _study(epsilon=4.0, rounds=1, accountant=accountant), _data(["ann"] * 9 + ["bob"] * 3 + ["cid"] * 8)
    update = _train(data, study, tmp_path)
    assert 3.8 < (update.epsilon or 0) <= 4.0
    account = Account.read(Ledger(tmp_path / "ledger.jsonl"))
    speaker, clip = (account.epsilon(unit, "model", delta=study.privacy.delta) for unit in ("speaker", "clip"))
    assert speaker is not None
    assert speaker <= 4.0
    assert clip is not None
    assert speaker < clip < 4 * speaker  # a clip moves its speaker's mean, which its absence would take away


def test_a_plan_expects_one_speaker_a_batch_at_least() -> None:
    study = _study()  # batches of 16 clips
    assert plan_training(study, [44, 44]).round.rate == 0.5
    assert plan_training(study, [10] * 20).round.rate == pytest.approx(16 / 200)
    assert plan_training(study, [3]).round.rate == 1.0
    assert plan_training(study, [44, 44]).expected_batch == 1.0


def test_per_clip_training_costs_a_speaker_far_more_than_training_per_speaker() -> None:
    clips = [44] * 10
    by_clip = plan_training(_study(unit="clip"), clips)
    by_speaker = plan_training(_study(), clips)
    (clip_steps,), (speaker_steps,) = (p.loss(Cohort(()), 3).mechanisms["speaker"] for p in (by_clip, by_speaker))
    assert isinstance(clip_steps, SampledGaussian)
    assert clip_steps.group == 44
    assert (clip_steps.epsilon(1e-3) or 0) > 20 * (speaker_steps.epsilon(1e-3) or 0)


def test_deployed_noise_is_the_operating_systems_and_lies_on_its_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[float, tuple[int, ...]]] = []
    real = SystemNoise.private_normal

    def spy(self: SystemNoise, scale: float, shape: tuple[int, ...]) -> Any:
        drawn.append((scale, shape))
        return real(self, scale, shape)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("torch's generator was asked")

    monkeypatch.setattr(SystemNoise, "private_normal", spy)
    for name in ("rand", "normal", "randn", "randperm"):
        monkeypatch.setattr(torch, name, never)
    study = _study(rounds=1)
    update = _train(_data(["ann"] * 3 + ["bob"] * 3), study, tmp_path, seed=None)
    steps = plan_training(study, [3, 3]).round.steps
    assert [shape for _, shape in drawn] == steps * [(24 * 6 + 6,)]  # a weight and a bias at a time
    assert {scale for scale, _ in drawn} == {update.noise_multiplier * study.privacy.max_grad_norm}
    (drawn_once,) = dp_sgd.Randomness().noisy([torch.zeros(1000)], 3.0)
    noisy = drawn_once.double() * 2.0**11
    torch.testing.assert_close(noisy, noisy.round())


def test_deployed_noise_has_the_spread_that_was_calibrated() -> None:
    (noisy,) = dp_sgd.Randomness().noisy([torch.full((40_000,), 2.0)], 1.7)
    assert noisy.dtype == torch.float32
    assert float(noisy.mean()) == pytest.approx(2.0, abs=0.05)
    assert float(noisy.std()) == pytest.approx(1.7, rel=0.03)
    sampled = dp_sgd.Randomness().chosen(40_000, 0.3)
    assert float(sampled.float().mean()) == pytest.approx(0.3, abs=0.015)
