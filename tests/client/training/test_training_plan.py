from __future__ import annotations

import pytest

from moretta.client.accounting.account import Cohort
from moretta.client.accounting.planning import plan_training
from moretta.shared.core.errors import StudyError
from moretta.shared.privacy.accounting import composed_epsilon
from moretta.shared.study.schema import parse_study


@pytest.mark.parametrize("clips", [[1], [1] * 5, [1, 400], [3000]])
@pytest.mark.parametrize("unit", ["clip", "speaker"])
@pytest.mark.parametrize("delta", [1e-15, 1e-13, 1e-5, 0.0999])
@pytest.mark.parametrize(("batch", "rounds"), [(1, 10), (4096, 10_000)])
def test_every_size_of_site_and_study_is_planned_within_its_target(
    clips: list[int], unit: str, delta: float, batch: int, rounds: int
) -> None:
    study = parse_study(
        {"privacy": {"delta": delta, "unit": unit}, "train": {"batch_size": batch, "rounds": rounds, "local_epochs": 3}}
    )
    plan = plan_training(study, clips)
    assert 0 < plan.round.rate <= 1
    losses = plan.loss(Cohort(()), rounds * plan.models).mechanisms[unit]
    spent = composed_epsilon(losses, delta=delta)
    assert spent is not None and spent <= study.privacy.epsilon


def test_a_target_out_of_reach_is_refused_before_any_noise_is_drawn() -> None:
    with pytest.raises(StudyError, match=r"no noise of DP-SGD keeps epsilon 0\.001 at delta 1e-13"):
        plan_training(parse_study({"privacy": {"epsilon": 0.001, "delta": 1e-13}}), [40, 40])
