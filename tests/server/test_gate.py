from __future__ import annotations

from typing import Any

import pytest

from moretta.server.stages.report import check_gate
from moretta.shared.audit.report.report_schema import Headline, HeadlineFigure, PrivacyRow
from moretta.shared.study.sections import GateSection


def headline(modality: str = "voice", **figures: float) -> Headline:
    parts = tuple(
        HeadlineFigure(
            attacker="a", kind="adaptive", scenario="semi-informed", metric=metric, value=value,
            low=None, high=None, chance=0.1, unprotected=1.0, speakers=10,
        )
        for metric, value in figures.items()
    )  # fmt: skip
    return Headline(modality=modality, figures=parts, attackers=1)


def spent(*epsilons: float | None, site: str = "site-00", **changes: Any) -> list[PrivacyRow]:
    row = {"site": site, "mechanism": "dp-sgd", "unit": "clip", **changes}
    return [PrivacyRow(**row, epsilon=epsilon) for epsilon in epsilons]


def test_no_limit_is_never_broken() -> None:
    assert check_gate(GateSection(), [headline(top1=1.0, eer=0.0)], spent(1e9), released=("voice",)).passed


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
        "voice: strongest top-1 0.500, limit 0.100",
        "voice: strongest EER 0.200, limit 0.400",
        "site-00: DP-SGD spent epsilon 2.00 per clip, limit 1.00",
    )


def test_every_modality_must_keep_the_limits() -> None:
    both = [headline("voice", top1=0.1), headline("face", top1=0.9)]
    assert check_gate(GateSection(max_top1=0.5), both, [], released=("voice", "face")).broken == (
        "face: strongest top-1 0.900, limit 0.500",
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
    assert broken == ("site-00: DP-SGD spent epsilon 3.00 per speaker, limit 2.00",)


@pytest.mark.parametrize("rows", [spent(None), [*spent(3.0), *spent(None)]])
def test_a_budget_without_a_finite_figure_breaks_the_limit(rows: list[PrivacyRow]) -> None:
    broken = check_gate(GateSection(max_epsilon=1e9), [], rows, released=()).broken
    assert broken == ("site-00: DP-SGD spent epsilon without a finite figure per clip, limit 1000000000.00",)


def test_a_unit_that_is_not_protected_may_have_no_finite_figure() -> None:
    rows = spent(3.0) + spent(None, unit="speaker")
    assert check_gate(GateSection(max_epsilon=8.0), [], rows, released=()).passed
