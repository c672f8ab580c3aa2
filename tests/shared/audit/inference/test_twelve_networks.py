"""Planted bits: the twelve networks reach the Bayes figure where there is one, and chance where there is none."""

import numpy as np
import pytest

from moretta.shared.audit.inference import classes
from moretta.shared.audit.inference.twelve_networks import CHOSEN, NAMES, infer_by_twelve
from moretta.shared.audit.metrics.intervals import Interval
from moretta.shared.audit.result import Result, strongest, strongest_of_each

ABOUT = Result(
    attack="attribute",
    target="sex",
    modality="voice",
    attacker="",
    scenario="semi-informed",
    metric="balanced_accuracy",
)
World = tuple[np.ndarray, np.ndarray, np.ndarray]


def planted(apart: float, *, speakers: int = 40, each: int = 12, identity: float = 0.0, seed: int = 0) -> World:
    """Features whose first value is one of two normal distributions, so many deviations apart, by a person's class."""
    rng = np.random.default_rng(seed)
    speaker = np.repeat(np.arange(speakers), each)
    label = speaker % 2
    features = rng.normal(size=(len(speaker), 8)) + identity * rng.normal(size=(speakers, 8))[speaker]
    features[:, 0] += apart * (label - 0.5)
    return features, label, speaker


def exclusive_or(*, speakers: int = 24, each: int = 20) -> World:
    """Two values of equal sign for one class and of opposite sign for the other: no linear model sees it."""
    rng = np.random.default_rng(1)
    speaker = np.repeat(np.arange(speakers), each)
    label = speaker % 2
    features = rng.normal(size=(len(speaker), 4))
    sign = rng.choice([-1, 1], len(speaker))
    features[:, 0] += 2 * sign
    features[:, 1] += 2 * sign * np.where(label == 1, 1, -1)
    return features, label, speaker


def figures(world: World, folds: int) -> dict[str, Result]:
    return {r.attacker: r for r in classes.infer_attribute(*world, about=ABOUT, resamples=50, folds=folds)}


def test_all_twelve_are_shown_and_reach_the_bayes_figure_of_a_planted_bit() -> None:
    found = figures(planted(2.0, speakers=24), 2)
    bayes = 0.841  # Phi(1): half of the distance, in standard deviations
    assert set(NAMES) <= found.keys() and len(NAMES) == 12
    for name in (*NAMES, CHOSEN):
        assert found[name].value == pytest.approx(bayes, abs=0.06) and found[name].leaks
    assert (found[f"{CHOSEN}, all clips"].value or 0) > 0.95  # Phi(sqrt(12)) is nearly 1


def test_without_a_planted_bit_the_twelve_stay_at_chance_whatever_identity_there_is() -> None:
    found = figures(planted(0.0, speakers=60, each=4, identity=1.5), 2)
    chosen = found[CHOSEN]
    assert chosen.low is not None and chosen.high is not None and chosen.low < 0.5 < chosen.high
    assert np.mean([found[name].value for name in NAMES]) == pytest.approx(0.5, abs=0.08)


def test_networks_see_what_no_linear_attacker_sees() -> None:
    found = figures(exclusive_or(), 2)
    bayes = 0.955  # p^2 + (1 - p)^2 with p = Phi(2)
    assert found[CHOSEN].value == pytest.approx(bayes, abs=0.06)
    assert (found["logistic regression"].value or 1) < 0.6


def test_the_choice_and_an_answer_do_not_depend_on_who_else_is_asked_about() -> None:
    features, label, speaker = planted(1.5)
    known = speaker < 30
    whole = infer_by_twelve(features[known], label[known], speaker[known], features[~known], seed=3)
    alone = infer_by_twelve(features[known], label[known], speaker[known], 100 * features[~known][:5], seed=3)
    some = infer_by_twelve(features[known], label[known], speaker[known], features[~known][:5], seed=3)
    assert whole.best == alone.best
    assert some.probability == pytest.approx(whole.probability[:5], abs=1e-4)


def test_no_single_network_stands_for_the_family_however_lucky_it_is() -> None:
    chosen = ABOUT.with_value(0.7, Interval(0.6, 0.8), attacker=CHOSEN, chance=0.5)
    lucky = chosen.model_copy(update={"attacker": NAMES[3], "candidate": True, "value": 0.9})
    assert strongest([lucky, chosen]) == chosen and strongest_of_each([lucky, chosen]) == [chosen]
    found = figures(planted(1.0, speakers=12, each=4), 2)
    assert {name for name, result in found.items() if result.candidate} == set(NAMES)


def test_people_too_few_to_choose_by_make_the_family_invalid_and_not_the_others() -> None:
    features, _, speaker = planted(4.0, speakers=12, each=3)
    found = figures((features, (speaker < 2).astype(int), speaker), 2)
    assert found[CHOSEN].invalid and "choose" in found[CHOSEN].reason and not found.keys() & set(NAMES)
    assert not found["logistic regression"].invalid
    with pytest.raises(ValueError, match="two are needed"):
        infer_by_twelve(features, (speaker == 0).astype(int), speaker, features, seed=0)
