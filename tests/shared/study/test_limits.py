from __future__ import annotations

from typing import Any

import pytest

from moretta.shared.core.errors import StudyError
from moretta.shared.study.limits import check_limits, check_training_sites
from moretta.shared.study.schema import parse_study

NO_UPDATES = {"updates": False}


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ({"gate": {"max_epsilon": 2.0}, "privacy": {"epsilon": 8.0}}, ("gate.max_epsilon", "privacy.epsilon")),
        ({"gate": {"max_epsilon": 9.0}, "privacy": {"dp_sgd": False}}, ("gate.max_epsilon", "privacy.dp_sgd")),
        ({"gate": {"max_top1": 0.5}, "audit": {"enabled": False}}, ("gate.max_top1", "audit.enabled")),
        ({"gate": {"min_eer": 0.2}, "audit": {"enabled": False}}, ("gate.min_eer", "audit.enabled")),
        ({"gate": {"min_eer": 0.6}}, ("gate.min_eer", "0.5")),
        (
            {"aggregation": {"dp": "central", "clipping_norm": 2.0}, "train": {"max_update_norm": 1.0}},
            ("aggregation.clipping_norm", "train.max_update_norm"),
        ),
    ],
)
def test_limits_that_no_run_can_keep_are_refused_by_their_keys(content: dict[str, Any], keys: tuple[str, ...]) -> None:
    with pytest.raises(StudyError) as refused:
        check_limits(parse_study(content))
    assert all(key in refused.value.message for key in keys)
    assert refused.value.exit_code == 3


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"train": {"min_sites": 4}}, "train.min_sites"),
        *(({"stages": {s: {"min_sites": 4}}}, f"stages.{s}.min_sites") for s in ("release", "train", "evaluate")),
        ({"aggregation": {"dp": "central", "min_sites": 4}}, "aggregation.min_sites"),
        ({"aggregation": {"secure": True, "min_sites": 4}, "audit": NO_UPDATES}, "aggregation.min_sites"),
        ({"train": {"strategy": "Bulyan", "strategy_options": {"num_malicious_nodes": 1}}}, "Bulyan needs 7"),
        ({"train": {"strategy": "Krum", "strategy_options": {"num_malicious_nodes": 1}}}, "Krum needs 5"),
        ({"train": {"strategy": "MultiKrum", "strategy_options": {"num_nodes_to_select": 4}}}, "num_nodes_to_select"),
        ({"train": {"fraction_train": 0.6, "min_sites": 2}}, "1 of 3 sites take part in a round"),
        ({"train": {"fraction_train": 0.7}, "aggregation": {"dp": "central"}}, "2 of 3 sites take part in a round"),
        (
            {"train": {"fraction_train": 0.8, "strategy": "Krum", "strategy_options": {"num_malicious_nodes": 1}}},
            "train.strategy Krum needs 5",
        ),
    ],
)
def test_limits_that_so_many_sites_cannot_keep_are_refused_by_their_keys(content: dict[str, Any], key: str) -> None:
    study = parse_study(content)
    check_limits(study)
    check_limits(study, sites=7)
    with pytest.raises(StudyError, match=key.replace(".", r"\.")):
        check_limits(study, sites=3)


def test_a_study_of_defaults_has_no_contradiction_with_one_site_or_with_many() -> None:
    for sites in (1, 2, 1000):
        check_limits(parse_study({}), sites=sites)
    check_limits(parse_study({"gate": {"max_epsilon": 8.0, "max_top1": 0.1, "min_eer": 0.5}}), sites=1)


def test_noise_for_more_sites_than_have_clips_to_train_on_is_refused_before_it_is_planned() -> None:
    study = parse_study({"aggregation": {"dp": "central", "min_sites": 3}})
    check_training_sites(study, [["voice", "face"]] * 3)
    with pytest.raises(StudyError, match="fraction_train"):
        check_training_sites(study.with_changes(train__fraction_train=0.7), [["voice", "face"]] * 3)
    with pytest.raises(StudyError, match="2 of 3 sites have clips of face"):
        check_training_sites(study, [["voice", "face"], ["voice", "face"], ["voice"]])
    check_training_sites(parse_study({"train": {"min_sites": 3}}), [["voice"]])  # such a round needs no more
