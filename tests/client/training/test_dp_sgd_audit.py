"""Canaries in DP-SGD as it really runs: what they prove lies under the claim, and broken steps are caught.

Every canary is an example with a feature of its own, so that its gradient shares no parameter with any other's and
its noise is its own: each canary is a trial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from privacy_auditing import CanaryTrials, gaussian_lower_bound, lower_bound, one_run_lower_bound

from moretta.client.accounting.planning import TrainingPlan
from moretta.client.training import dp_sgd
from moretta.client.training.dp_sgd import Randomness, SeededRandomness, TrainingExamples, private_steps
from moretta.shared.privacy.dp_sgd import SampledGaussian

CANARIES, CLASSES, DELTA, CONFIDENCE = 500, 6, 1e-5, 0.999
WHOLE = SampledGaussian(noise_multiplier=1.5, rate=1.0, steps=1)
SAMPLED = SampledGaussian(noise_multiplier=1.0, rate=0.3, steps=6)


@dataclass
class Halved:
    """Half of the requested noise."""

    source: Randomness

    def chosen(self, units: int, rate: float) -> torch.Tensor:
        return self.source.chosen(units, rate)

    def noisy(self, gradients: Sequence[torch.Tensor], scale: float) -> list[torch.Tensor]:
        return self.source.noisy(gradients, scale / 2)

    def order(self, size: int) -> torch.Tensor:
        return self.source.order(size)


def unclipped(gradients: Sequence[torch.Tensor], norm: float) -> list[torch.Tensor]:
    return [each.sum(dim=0) for each in gradients]


def scores(
    claim: SampledGaussian,
    included: np.ndarray,
    randomness: Randomness,
    *,
    clips_each: int = 1,
    size: float = 30.0,
) -> np.ndarray:
    """How far a run moved each canary's own parameters the way its gradient points, in clipping norms.

    Args:
        included: bool [canaries], which of them were trained on.
        clips_each: of a canary that is a speaker.
        size: of the one feature of a canary: its gradient is that large before it is clipped to 1.
    """
    who = np.repeat(np.flatnonzero(included), clips_each)
    features = torch.zeros(len(who), len(included))
    features[torch.arange(len(who)), torch.from_numpy(who)] = size
    network = torch.nn.Sequential(torch.nn.Linear(len(included), CLASSES, bias=False))
    torch.nn.init.zeros_(network[0].weight)
    units = int(included.sum())
    owners = np.unique(who, return_inverse=True)[1] if claim.unit == "speaker" else np.arange(len(who))
    plan = TrainingPlan(claim, units, rounds=1, models=1, most_clips=clips_each)
    rate = 1e-3  # so small that gradients of later steps point the same way
    private_steps(
        network,
        TrainingExamples(features, torch.zeros(len(who), dtype=torch.int64), owners.astype(np.int64)),
        plan,
        randomness,
        max_grad_norm=1.0,
        learning_rate=rate,
        after_step=lambda: None,
    )
    pull = torch.full((CLASSES,), -1 / CLASSES)
    pull[0] += 1
    moved = (network[0].weight.detach() * (pull / pull.norm())[:, None]).sum(dim=0)  # [canaries]
    return np.asarray(moved * plan.expected_batch / rate, np.float64)


def audited(
    claim: SampledGaussian,
    source: Callable[[int], Randomness] = SeededRandomness,
    *,
    runs: int = 6,
    **options: Any,
) -> CanaryTrials:
    """Trials of some runs, in each of which a fair coin decides over every canary."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for run in range(runs):
        included = np.random.default_rng(run).random(CANARIES) < 0.5
        found.append((scores(claim, included, source(run), **options), included))
    return CanaryTrials(
        np.concatenate([s[inside] for s, inside in found]), np.concatenate([s[~inside] for s, inside in found])
    )


def proven(trials: CanaryTrials) -> float:
    """A canary is worth 1, so half of it is the threshold, whatever the scores say."""
    return gaussian_lower_bound(trials, delta=DELTA, cut=0.5, confidence=CONFIDENCE)


def test_the_attack_sees_the_whole_of_a_canary_and_the_calibrated_noise() -> None:
    trials = audited(WHOLE)
    assert trials.present.mean() == pytest.approx(1.0, abs=0.2)
    assert trials.absent.mean() == pytest.approx(0.0, abs=0.2)
    assert trials.absent.std() == pytest.approx(1.5, rel=0.1)


def test_what_canaries_prove_of_an_honest_step_lies_under_its_claim_and_near_it() -> None:
    claim = WHOLE.epsilon(DELTA)
    assert claim is not None
    found = proven(audited(WHOLE))
    assert 0.4 * claim < found <= claim


def test_half_the_noise_is_caught() -> None:
    claim = WHOLE.epsilon(DELTA)
    trials = audited(WHOLE, lambda run: Halved(SeededRandomness(run)))
    assert proven(trials) > (claim or 0)


def test_a_clipping_that_was_left_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dp_sgd, "_clipped_sums", unclipped)
    trials = audited(WHOLE)
    claim = WHOLE.epsilon(DELTA)
    assert proven(trials) > (claim or 0)
    assert lower_bound(trials, delta=DELTA) > 4.0  # as much as so many trials can prove of anything


def test_noise_from_a_known_seed_is_caught() -> None:
    """An attacker with the seed subtracts the noise: nothing is left of the guarantee."""
    claim, included = WHOLE.epsilon(DELTA), np.random.default_rng(1).random(CANARIES) < 0.5
    seen = scores(WHOLE, included, SeededRandomness(7))
    noise = SeededRandomness(7)
    noise.chosen(int(included.sum()), 1.0)
    (drawn,) = noise.noisy([torch.zeros(CLASSES, CANARIES)], 1.5)
    pull = torch.full((CLASSES,), -1 / CLASSES)
    pull[0] += 1
    without = seen + np.asarray((drawn * (pull / pull.norm())[:, None]).sum(dim=0), np.float64)
    trials = CanaryTrials(without[included], without[~included])
    assert proven(trials) > (claim or 0)


@pytest.mark.parametrize("unit", ["clip", "speaker"])
def test_sampled_steps_keep_their_claim(unit: Any) -> None:
    claim = SampledGaussian(noise_multiplier=1.0, rate=0.3, steps=6, unit=unit)
    epsilon = claim.epsilon(DELTA)
    assert epsilon is not None
    trials = audited(claim, runs=3, clips_each=3 if unit == "speaker" else 1)
    assert 0 < lower_bound(trials, delta=DELTA, confidence=CONFIDENCE) <= epsilon


def test_one_run_with_many_canaries_keeps_its_claim_and_catches_a_missing_clipping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without any assumption on how canaries touch each other."""
    included = np.random.default_rng(4).random(CANARIES) < 0.5
    little = SampledGaussian(noise_multiplier=3.0, rate=1.0, steps=1)  # epsilon 1.3
    claim = little.epsilon(DELTA)
    assert claim is not None
    honest = scores(little, included, SeededRandomness(9))
    assert one_run_lower_bound(honest, included, guesses=200, delta=DELTA, confidence=CONFIDENCE) <= claim
    monkeypatch.setattr(dp_sgd, "_clipped_sums", unclipped)
    broken = scores(little, included, SeededRandomness(9))
    assert one_run_lower_bound(broken, included, guesses=200, delta=DELTA, confidence=CONFIDENCE) > claim


def clip_by_clip(parts: Iterable[list[torch.Tensor]], owners: torch.Tensor) -> list[torch.Tensor]:
    return [torch.cat(each) for each in zip(*parts, strict=True)]


def test_a_speaker_is_hidden_whole_and_one_that_counts_clip_by_clip_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = SampledGaussian(noise_multiplier=1.5, rate=1.0, steps=1, unit="speaker")
    epsilon = claim.epsilon(DELTA)
    assert epsilon is not None
    honest = audited(claim, runs=5, clips_each=4)
    assert 0.3 * epsilon < proven(honest) <= epsilon
    monkeypatch.setattr(dp_sgd, "_average_over_owners", clip_by_clip)
    broken = audited(claim, runs=5, clips_each=4)
    assert proven(broken) > epsilon
