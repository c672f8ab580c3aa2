from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from moretta.client.clips.release import make_release
from moretta.client.training.data import by_rule, held_out
from moretta.shared.core.errors import RunError
from moretta.shared.core.pseudonym import PseudonymKey
from moretta.shared.study.schema import Study, parse_study

KEY = PseudonymKey(bytes(32))


def speakers(count: int) -> frozenset[str]:
    return frozenset(KEY.speaker(number) for number in range(count))


def split(folds: int, fold: int, seed: int = 1) -> Study:
    return parse_study({"seed": seed, "split": {"folds": folds, "test_fold": fold}})


@pytest.mark.parametrize("count", [2, 3, 4, 5, 12, 23])
def test_over_all_test_folds_each_speaker_is_held_out_and_none_too_often(count: int) -> None:
    everyone = speakers(count)
    chosen = [by_rule(KEY, everyone, split(5, fold)) for fold in range(5)]
    assert frozenset().union(*chosen) == everyone
    assert all(0 < len(part) < count for part in chosen)  # somebody to test on, somebody to train on
    if count >= 5:
        assert sum(map(len, chosen)) == count


def test_the_choice_is_the_site_s_own_and_the_study_s() -> None:
    everyone, other = speakers(12), PseudonymKey(b"\1" * 32)
    assert by_rule(KEY, everyone, split(3, 0)) == by_rule(KEY, everyone, split(3, 0))
    assert by_rule(KEY, everyone, split(3, 0)) != by_rule(other, everyone, split(3, 0))
    assert by_rule(KEY, everyone, split(3, 0)) != by_rule(KEY, everyone, split(3, 0, seed=2))


def test_a_single_speaker_is_held_out_in_one_fold_of_the_study() -> None:
    one = speakers(1)
    assert sum(len(by_rule(KEY, one, split(5, fold))) for fold in range(5)) == 1


def test_nobody_is_held_out_before_the_release_is_there(simulated: Any) -> None:
    with pytest.raises(RunError, match="before this site released"):
        held_out(simulated.site(), simulated.study)


def test_speakers_that_the_site_names_are_held_out_and_no_others(simulated: Any) -> None:
    settings = simulated.site()
    make_release(settings, simulated.study, simulated.public)
    key = settings.pseudonyms()
    assert held_out(settings, simulated.study) == {key.speaker("1001")}  # 1003 is of another site
    assert held_out(replace(settings, held_out=frozenset()), simulated.study) == frozenset()
    assert len(held_out(replace(settings, held_out=None), simulated.study)) == 1
