from __future__ import annotations

from typing import Any

import pytest

from moretta.shared.core.errors import StudyError
from moretta.shared.study.schema import Study, parse_study

CLIPS = [(f"speaker{n % 10}", f"clip{n}") for n in range(600)]


def _study(**changes: Any) -> Study:
    return parse_study({"fusion": {"kind": "learned"}}).with_changes(**changes)


def test_a_study_that_says_nothing_trains_two_models_on_all_clips() -> None:
    study = Study()
    assert study.models == ("voice", "face")
    assert study.sharing_clips == (("voice", "face"),)
    assert all(study.learns(kind, speaker=s, clip=c) for kind in study.models for s, c in CLIPS)


@pytest.mark.parametrize("unit", ["clip", "speaker"])
def test_no_unit_that_is_protected_is_in_both_parts_and_each_is_in_one(unit: str) -> None:
    study = _study(privacy__unit=unit, fusion__held_back=0.3)
    assert study.models == ("voice", "face", "fusion")
    assert study.sharing_clips == (("voice", "face"), ("fusion",))
    parts = {
        kind: {pair for pair in CLIPS if study.learns(kind, speaker=pair[0], clip=pair[1])} for kind in study.models
    }
    assert parts["voice"] == parts["face"]
    column = 1 if unit == "clip" else 0
    assert not {pair[column] for pair in parts["voice"]} & {pair[column] for pair in parts["fusion"]}
    assert parts["voice"] | parts["fusion"] == set(CLIPS)


def test_as_many_are_held_back_as_requested_and_others_under_another_seed() -> None:
    studies = [_study(fusion__held_back=0.25, seed=seed) for seed in (1, 2)]
    one, two = ({c for s, c in CLIPS if study.learns("fusion", speaker=s, clip=c)} for study in studies)
    assert 0.2 < len(one) / len(CLIPS) < 0.3
    assert one != two


def test_with_nothing_held_back_three_models_share_all_clips() -> None:
    study = _study(fusion__held_back=0.0)
    assert study.sharing_clips == (("voice", "face", "fusion"),)
    assert all(study.learns(kind, speaker=s, clip=c) for kind in study.models for s, c in CLIPS)


def test_one_modality_alone_has_nothing_to_be_fused() -> None:
    study = _study(face__enabled=False)
    assert study.models == ("voice",)
    assert all(study.learns("voice", speaker=s, clip=c) for s, c in CLIPS)


@pytest.mark.parametrize("wrong", [{"kind": "both"}, {"held_back": 0.9}, {"dropout": 1.0}, {"weight": 0.6}])
def test_what_makes_no_sense_is_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match="fusion"):
        parse_study({"fusion": wrong})
