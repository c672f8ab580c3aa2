from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from pydantic import ValidationError

from moretta.shared.audit.report import verdict
from moretta.shared.audit.report.report_schema import GatePart, Headline, HeadlineFigure, PrivacyRow
from moretta.shared.audit.report.summary import headlines
from moretta.shared.audit.result import Result
from moretta.shared.study.sections import GateSection

check_gate = partial(verdict.check_gate, resamples=200)


def figure(metric: str, value: float, **changes: Any) -> HeadlineFigure:
    chance = 0.1 if metric == "top1" else 0.5
    about: dict[str, Any] = {"attacker": "a", "kind": "adaptive", "scenario": "semi-informed", "speakers": 10}
    ends = {"low": value, "high": value, "chance": chance, "unprotected": 1.0 - chance, "informed": True}
    return HeadlineFigure(**about | ends | {"metric": metric, "value": value} | changes)


def headline(modality: str = "voice", **figures: float) -> Headline:
    parts = tuple(figure(metric, value) for metric, value in figures.items())
    return Headline(modality=modality, figures=parts, attackers=1)


def of(*figures: HeadlineFigure, **limits: float) -> GatePart:
    part = Headline(modality="voice", figures=figures, attackers=1)
    return check_gate(GateSection(**limits), [part], released=("voice",))


def spent(*epsilons: float | None, site: str = "site-00", **changes: Any) -> list[PrivacyRow]:
    row = {"site": site, "mechanism": "dp-sgd", "unit": "clip", **changes}
    return [PrivacyRow(**row, epsilon=epsilon) for epsilon in epsilons]


GOOD = (figure("top1", 0.12, low=0.08, high=0.2), figure("eer", 0.45, low=0.35, high=0.49))


def test_without_any_limit_of_the_study_the_default_criteria_decide() -> None:
    found = check_gate(GateSection(), [headline(top1=1.0, eer=0.0)], spent(1e9), released=("voice",))
    assert found.verdict == "fails" and {c.state for c in found.criteria} == {"fails"}
    assert found.passed and not found.broken  # the exit code is about limits that the study set
    assert [(c.metric, c.limit, c.set_by_study) for c in found.criteria] == [("top1", 0.2, False), ("eer", 0.35, False)]


def test_it_passes_where_whole_intervals_keep_the_limits() -> None:
    assert of(*GOOD).verdict == "passes"


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        (figure("top1", 0.21, low=0.05, high=0.3), "fails"),
        (figure("top1", 0.12, low=0.08, high=0.21), "inconclusive"),
        (figure("top1", 0.12, low=None, high=None), "inconclusive"),
        (figure("top1", 0.12, low=0.08, high=0.2, unprotected=None), "inconclusive"),
        (figure("top1", 0.02, low=0.0, high=0.09), "inconclusive"),  # reversed decisions would do better than guessing
        (figure("eer", 0.34, low=0.2, high=0.45), "fails"),
        (figure("eer", 0.45, low=0.34, high=0.49), "inconclusive"),
        (figure("eer", 0.6, low=0.51, high=0.7), "inconclusive"),
    ],
)
def test_a_wide_interval_is_neither_a_pass_nor_a_failure(changed: HeadlineFigure, verdict: str) -> None:
    kept = [f for f in GOOD if f.metric != changed.metric]
    found = of(changed, *kept)
    assert found.verdict == verdict
    (criterion,) = (c for c in found.criteria if c.metric == changed.metric)
    assert criterion.state == verdict and (criterion.why or verdict == "fails")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"informed": False}, verdict.NOT_INFORMED),
        ({"left_out": 1}, verdict.LEFT_OUT),
        ({"speakers": 5}, verdict.FEW_SPEAKERS),
        ({"low": 0.46}, verdict.OUTSIDE),
        ({"low": 0.45 + 1e-12}, ""),  # a sum of floats that was made in another order
        ({"low": 0.45, "high": 0.45}, ""),
    ],
)
def test_an_interval_that_shows_nothing_and_attackers_that_do_not_know_the_anonymizer_do_not_pass(
    changed: dict[str, Any], why: str
) -> None:
    found = of(GOOD[0], GOOD[1].model_copy(update=changed))
    assert {c.metric: c.why for c in found.criteria} == {"top1": "", "eer": why}
    assert found.verdict == ("inconclusive" if why else "passes")


def test_a_release_that_nobody_attacked_has_limits_in_words() -> None:
    found = check_gate(GateSection(), [], released=("voice",), resamples=1000)
    assert [verdict.sentence(c) for c in found.criteria] == [
        f"voice: strongest Top-1 unknown, wanted ≤ twice guessing; {verdict.NOT_ATTACKED}",
        f"voice: strongest EER unknown, wanted ≥ 35.0 %; {verdict.NOT_ATTACKED}",
    ]


def test_an_interval_of_one_resample_does_not_pass() -> None:
    good = Headline(modality="voice", figures=GOOD, attackers=1)
    found = check_gate(GateSection(), [good], released=("voice",), resamples=1)
    assert [(c.state, c.why) for c in found.criteria] == [("inconclusive", verdict.FEW_RESAMPLES)] * 2


@pytest.mark.parametrize(
    ("changes", "informed"),
    [
        ({}, True),
        ({"scenario": "ignorant"}, False),
        ({"scenario": "lazy-informed", "kind": "pretrained"}, False),
        ({"invalid": True}, False),
        ({"candidate": True}, False),
        ({"metric": "top1"}, False),
    ],
)
def test_only_a_valid_attacker_that_was_trained_on_releases_knows_the_anonymizer(
    changes: dict[str, Any], informed: bool
) -> None:
    weak = Result(modality="voice", attacker="a", scenario="ignorant", metric="eer", value=0.4)
    other = weak.model_copy(update={"attacker": "b", "scenario": "semi-informed", "value": 0.5} | changes)
    (found,) = headlines([weak, other], None)
    assert {f.metric: f.informed for f in found.figures}["eer"] is informed


def test_two_people_do_not_pass_with_certainty_as_their_limit() -> None:
    assert GateSection().top1_limit(0.5) == 0.75
    assert GateSection().top1_limit(None) is None


def test_nothing_passes_without_a_criterion() -> None:
    nothing = check_gate(GateSection(), [], released=())
    assert nothing.verdict == "inconclusive" and "nothing is known" in verdict.meaning(nothing)
    with pytest.raises(ValidationError, match="passes"):
        GatePart(passed=True, verdict="passes")


def test_what_was_not_attacked_or_is_invalid_does_not_pass() -> None:
    invalid = Headline(modality="voice", figures=(), attackers=0)
    good = Headline(modality="voice", figures=GOOD, attackers=1)
    assert check_gate(GateSection(), [invalid], released=("voice",)).verdict == "inconclusive"
    found = check_gate(GateSection(), [good], released=("voice", "face"))
    assert found.verdict == "inconclusive"
    assert {c.of: c.state for c in found.criteria} == {"voice": "passes", "face": "inconclusive"}


@pytest.mark.parametrize(
    ("limits", "passed"),
    [
        ({"max_top1": 0.5}, True),
        ({"max_top1": 0.49}, False),
        ({"min_eer": 0.2}, True),
        ({"min_eer": 0.21}, False),
        ({"max_epsilon": 8.0}, True),
        ({"max_epsilon": 7.9}, False),
        ({"max_top1": 0.5, "min_eer": 0.2, "max_epsilon": 8.0}, True),
        ({"max_top1": 0.5, "min_eer": 0.3, "max_epsilon": 8.0}, False),
    ],
)
def test_a_limit_is_kept_at_its_value_and_broken_beyond_it(limits: dict[str, float], passed: bool) -> None:
    found = check_gate(GateSection(**limits), [headline(top1=0.5, eer=0.2)], spent(3.0, 8.0), released=("voice",))
    assert found.passed is passed


def test_every_broken_limit_is_named_with_its_figure() -> None:
    limits = GateSection(max_top1=0.1, min_eer=0.4, max_epsilon=1.0)
    found = check_gate(
        limits, [headline(top1=0.5, eer=0.2)], spent(2.0) + spent(0.5, site="site-01"), released=("voice",)
    )
    assert found.broken == (
        "voice: strongest Top-1 50.0 % [50.0, 50.0], wanted ≤ 10.0 %, set by the study",
        "voice: strongest EER 20.0 % [20.0, 20.0], wanted ≥ 40.0 %, set by the study",
        "site-00: DP-SGD spent epsilon 2.00, wanted ≤ 1.00, set by the study",
    )


def test_every_modality_must_keep_the_limits() -> None:
    both = [headline("voice", top1=0.1, eer=0.5), headline("face", top1=0.9)]
    assert check_gate(GateSection(max_top1=0.5), both, [], released=("voice", "face")).broken == (
        "face: strongest Top-1 90.0 % [90.0, 90.0], wanted ≤ 50.0 %, set by the study",
    )


@pytest.mark.parametrize("limits", [{"max_top1": 1.0}, {"min_eer": 0.0}])
def test_silence_is_not_privacy(limits: dict[str, float]) -> None:
    gate = GateSection(**limits)
    assert not check_gate(gate, [headline()], [], released=("voice",)).passed  # every attacker was invalid
    assert not check_gate(gate, [], [], released=("voice",)).passed  # no audit was made
    one = check_gate(gate, [headline("voice", top1=0.0, eer=1.0)], [], released=("voice", "face"))
    assert [text.split(":")[0] for text in one.broken] == ["face"]  # no attacker looked at faces


def test_a_budget_that_was_not_spent_by_dp_sgd_cannot_be_checked() -> None:
    other = spent(1.0, mechanism="voice release") + spent(1.0, unit="value")
    assert not check_gate(GateSection(max_epsilon=100.0), [], other, released=("voice",)).passed


def test_the_budget_is_checked_for_the_unit_that_the_study_protects() -> None:
    rows = spent(3.0, unit="speaker") + spent(400.0, unit="clip")
    assert check_gate(GateSection(max_epsilon=8.0), [], rows, released=(), unit="speaker").passed
    broken = check_gate(GateSection(max_epsilon=2.0), [], rows, released=(), unit="speaker").broken
    assert broken == ("site-00: DP-SGD spent epsilon 3.00, wanted ≤ 2.00, set by the study",)


@pytest.mark.parametrize("rows", [spent(None), [*spent(3.0), *spent(None)]])
def test_a_budget_without_a_finite_figure_breaks_the_limit(rows: list[PrivacyRow]) -> None:
    broken = check_gate(GateSection(max_epsilon=1e9), [], rows, released=()).broken
    assert broken == ("site-00: DP-SGD has no finite guarantee, wanted ≤ 1.00e+09, set by the study",)


def test_a_unit_that_is_not_protected_may_have_no_finite_figure() -> None:
    rows = spent(3.0) + spent(None, unit="speaker")
    assert check_gate(GateSection(max_epsilon=8.0), [], rows, released=()).passed
