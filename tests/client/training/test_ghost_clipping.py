"""Ghost clipping takes the steps that clipping example by example takes, on every model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from moretta.client.accounting.planning import TrainingPlan
from moretta.client.training.dp_sgd import SeededRandomness, TrainingExamples, private_steps
from moretta.shared.core.errors import StudyError
from moretta.shared.models.emotion import emotion_model
from moretta.shared.privacy.dp_sgd import SampledGaussian
from moretta.shared.study.schema import parse_study

SHAPES: dict[tuple[Any, str], tuple[int, ...]] = {
    ("voice", "statistics"): (78,),
    ("voice", "layered"): (78,),
    ("voice", "cnn"): (13, 256),
    ("face", "gradients"): (576,),
    ("face", "cnn"): (3, 48, 48),
    ("fusion", "gate"): (14,),
}
CLIPS = 12


def trained(model: tuple[Any, str], clipping: Any, *, steps: int = 3, rate: float = 0.5, **changes: Any) -> Any:
    """All trained weights, flat, after some steps from the same start with the same batches and noise."""
    torch.manual_seed(1)
    network = emotion_model(*model).build(SHAPES[model])
    generator = np.random.default_rng(2)
    features = torch.from_numpy(3 * generator.standard_normal((CLIPS, *SHAPES[model])).astype(np.float32))
    labels = torch.from_numpy(generator.integers(0, 6, CLIPS))
    claim = SampledGaussian(noise_multiplier=0.5, rate=rate, steps=steps)
    plan = TrainingPlan(replace(claim, **changes), CLIPS, rounds=1, models=1, most_clips=1)
    private_steps(
        network,
        TrainingExamples(features, labels, np.arange(CLIPS)),
        plan,
        SeededRandomness(3),
        max_grad_norm=0.7,
        learning_rate=0.5,
        after_step=lambda: None,
        clipping=clipping,
    )
    return torch.cat([parameter.detach().ravel() for parameter in network.parameters()]).numpy()


@pytest.mark.parametrize("model", SHAPES, ids="/".join)
def test_ghost_clipping_gives_the_same_weights(model: tuple[Any, str]) -> None:
    plain, ghost = trained(model, "per-example"), trained(model, "ghost")
    start = trained(model, "per-example", noise_multiplier=1e-20, rate=1e-9)  # empty batches and no noise
    assert np.abs(plain - start).max() > 0.01
    assert np.allclose(plain, ghost, atol=2e-5)


def test_an_empty_batch_is_a_step_of_noise_alone() -> None:
    model = ("voice", "statistics")
    plain, ghost = (trained(model, clipping, rate=1e-9) for clipping in ("per-example", "ghost"))
    assert np.array_equal(plain, ghost)
    assert np.abs(ghost).max() > 0


def test_a_study_of_speakers_cannot_have_it_and_the_error_has_the_reason() -> None:
    with pytest.raises(StudyError, match="mean of several, whose norm does not follow"):
        parse_study({"privacy": {"unit": "speaker", "clipping": "ghost"}})
    assert parse_study({"privacy": {"clipping": "ghost"}}).privacy.clipping == "ghost"
