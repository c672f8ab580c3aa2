"""A plan's costs equal those on the ledger afterwards."""

from __future__ import annotations

from typing import Any

import pytest

from moretta.client.accounting.account import AUDIENCES, UNITS, Account
from moretta.client.accounting.ledger import Ledger
from moretta.client.accounting.planning import estimate_cost
from moretta.client.clips.release import make_release
from moretta.client.training.data import training_set
from moretta.client.training.rounds import RoundRequest, train_round
from moretta.shared.models.emotion import emotion_model
from moretta.shared.study.schema import Study


@pytest.mark.parametrize("unit", ["clip", "speaker"])
@pytest.mark.parametrize("dp_sgd", [True, False])
def test_the_forecast_of_a_study_is_what_its_ledger_says_in_the_end(
    simulated: Any, study: Study, unit: str, dp_sgd: bool
) -> None:
    requested = study.with_changes(privacy__unit=unit, privacy__dp_sgd=dp_sgd)
    site = simulated.site()
    make_release(site, requested, simulated.public)
    features = training_set(site, requested, "voice").features
    weights = emotion_model("voice", "statistics").build(features.shape[1:]).state_dict()
    for number in range(1, requested.train.rounds + 1):
        arrays = {name: tensor.numpy() for name, tensor in weights.items()}
        train_round(site, RoundRequest(requested, "voice", number, arrays))
    account = Account.read(Ledger(site.ledger))
    released = estimate_cost(requested, [12, 12], seconds=0.6)  # two speakers are released
    trained = estimate_cost(requested, [12], seconds=0.6)  # and one of them is trained on
    planned = {"server": released.composed()["server"], "model": trained.composed()["model"]}
    for audience in AUDIENCES:
        for level in UNITS:
            spent = account.epsilon(level, audience, delta=requested.privacy.delta)
            assert spent == pytest.approx(planned[audience][level], rel=1e-6)


def test_the_forecast_meets_the_target_of_the_study() -> None:
    study = Study().with_changes(face__enabled=False, privacy__epsilon=4.0)
    planned = estimate_cost(study, [44] * 10, seconds=2.6)
    assert planned.trainings
    first, last = (planned.training_epsilon("clip", rounds) for rounds in (1, study.train.rounds))
    assert first is not None
    assert last is not None
    assert first < last <= 4.0


def test_a_face_release_has_no_figure_and_neither_has_the_whole() -> None:
    planned = estimate_cost(Study(), [10] * 4, seconds=2.6)
    assert planned.release_epsilon("face", "clip") is None
    assert planned.composed()["server"] == {"clip": None, "speaker": None}
    assert planned.composed()["model"]["clip"] is not None


@pytest.mark.parametrize("unit", ["clip", "speaker"])
@pytest.mark.parametrize("epsilon", [0.0, 3.0])
def test_a_code_that_sites_train_is_part_of_the_forecast(unit: Any, epsilon: float) -> None:
    voice = {
        "anonymizer": "speaker-normalized",
        "code_training": "federated",
        "code_unit": unit,
        "code_epsilon": epsilon,
        "code_noise": 50.0,
    }
    study = Study().with_changes(face__enabled=False, voice=voice)
    planned = estimate_cost(study, [12] * 4, seconds=2.6)
    without = estimate_cost(study.with_changes(voice__options__code_training="public"), [12] * 4, seconds=2.6)
    assert without.code is None
    assert without.code_epsilon("clip") == 0.0
    whole, less = planned.composed(), without.composed()
    for audience in AUDIENCES:
        for level in UNITS:
            if epsilon:
                assert (whole[audience][level] or 0) > (less[audience][level] or 0)
            else:
                assert whole[audience][level] is None
    if epsilon:
        assert 0 < (planned.code_epsilon(unit) or 0) <= epsilon  # at a larger delta
    else:
        assert planned.code_epsilon("clip") is None
