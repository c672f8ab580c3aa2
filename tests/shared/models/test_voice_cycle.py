"""Training on planted mel-cepstra: what a short training must reach, and what breaks it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moretta.shared.models import train_voice_cycle
from moretta.shared.models.train_voice_cycle import CycleTask, PoolClip, train_cycle
from moretta.shared.models.voice_cycle import (
    COEFFICIENTS,
    CycleFigures,
    Generator,
    Pools,
    VoiceCycle,
    distortion,
)

WIDTH, STEPS = 8, 60


def planted() -> tuple[list[PoolClip], list[PoolClip]]:
    """Cepstra that two smooth values decide; one coefficient is higher in the second pool, another one lower."""
    generator, made = np.random.default_rng(1), ([], [])  # type: ignore[var-annotated]
    patterns = generator.normal(size=(2, COEFFICIENTS))
    for pool in range(2):
        for _ in range(30):
            latent = np.apply_along_axis(
                lambda c: np.convolve(c, np.ones(15) / 4, "same"), 0, generator.normal(size=(170, 2))
            )
            rows = latent @ patterns * 0.3
            rows[:, 2] += 2 * (pool - 0.5)
            rows[:, 5] -= 2 * (pool - 0.5)
            made[pool].append(PoolClip(rows, generator.normal(5.3 - 0.5 * pool, 0.2, 100)))
    return made


@pytest.fixture(scope="module")
def trained() -> VoiceCycle:
    """In few steps, so at ten times the rate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_voice_cycle, "_GENERATOR_RATE", 3e-3)
        return train_cycle(planted(), CycleTask(width=WIDTH, steps=STEPS), seed=1)


def test_training_lowers_the_cycle_and_what_identity_changes(trained: VoiceCycle) -> None:
    untrained = train_cycle(planted(), CycleTask(width=WIDTH, steps=1), seed=1).figures
    assert trained.figures.cycle < 0.8 * untrained.cycle
    assert trained.figures.identity < 0.8 * untrained.identity
    assert trained.figures.after < trained.figures.before


def test_conversion_moves_to_the_other_pool_and_reversed_labels_would_not(trained: VoiceCycle) -> None:
    assert trained.figures.moved >= 0.9
    first, second = ([clip.cepstra for clip in pool] for pool in planted())
    right = train_voice_cycle.measured(trained, (first[:9], second[:9]))
    wrong = train_voice_cycle.measured(trained, (second[:9], first[:9]))
    assert right.own >= 0.9 and right.moved >= 0.9
    assert wrong.own <= 0.1
    assert any("their own sex" in fault for fault in wrong.faults())


def test_a_constant_generator_is_a_fault(trained: VoiceCycle) -> None:
    names = [name for name in trained.arrays if name.endswith(".last.weight")]
    constant = {name: np.zeros_like(trained.arrays[name]) for name in names if "layers" not in name}
    assert len(constant) == 2
    first, second = planted()
    wide = [[4 * clip.cepstra for clip in pool[:9]] for pool in (first, second)]
    broken = VoiceCycle({**trained.arrays, **constant}, WIDTH)
    faults = train_voice_cycle.measured(broken, (wide[0], wide[1])).faults()
    assert any("comes back" in fault for fault in faults)
    assert any("own pool changes" in fault for fault in faults)


def test_faults_are_named() -> None:
    assert CycleFigures(3.9, 2.9, 4, 5, 1, 0.9, 0.95).faults() == []
    assert len(CycleFigures(4.1, 3.1, 4, 5, 1, 0.9, 0.5).faults()) == 3


def test_each_optimizer_has_its_own_rate_and_decays_to_nothing() -> None:
    made, crop = train_voice_cycle._Trained(CycleTask(width=4, steps=10)), torch.zeros(1, COEFFICIENTS, 128)
    rates = []
    for _ in range(10):
        rates.append([o.optimizer.param_groups[0]["lr"] for o in made.descents])
        made.step(crop + torch.randn(1, COEFFICIENTS, 128), crop)
    assert rates[0] == rates[5] == [2e-4, 1e-4]
    assert rates[9] == pytest.approx([4e-5, 2e-5])
    assert [o.optimizer.param_groups[0]["lr"] for o in made.descents] == pytest.approx([0, 0])


@pytest.mark.parametrize("frames", [1, 3, 16, 33, 400])
def test_clips_of_any_length_come_back_as_long(frames: int) -> None:
    torch.manual_seed(1)
    pools = Pools(np.zeros((2, 24)), np.ones((2, 24)), np.array([5.3, 4.8]), np.full(2, 0.2))
    cycle = VoiceCycle.of((Generator(4), Generator(4)), pools, CycleFigures(*[0.0] * 7), width=4)
    made = cycle.cepstra(np.random.default_rng(1).normal(size=(frames, 24)), 0)
    assert made.shape == (frames, 24)
    assert np.isfinite(made).all()


def test_distortion_is_decibels_of_the_log_spectrum() -> None:
    """Of an envelope and one with a slope of 10 dB each way over half of the mel axis; the level does not count."""
    one = np.zeros((4, COEFFICIENTS))
    other = one.copy()
    other[:, 0], other[:, 3] = 7, np.log(10)  # 10 dB, root mean square
    assert distortion(one, other) == pytest.approx(10)
