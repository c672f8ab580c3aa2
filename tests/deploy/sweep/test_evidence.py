"""Figures of an audit that count for a choice, and those that exclude a candidate."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from moretta.deploy.runtime.planning import check_names
from moretta.deploy.sweep.choosing import (
    ALL_INVALID,
    BELOW_CHANCE,
    FEWER_EMOTIONS,
    NOT_EVALUATED,
    SHIPPED,
    Candidate,
    base_of,
    section_of,
    study_text,
    weigh,
)
from moretta.deploy.sweep.grid import load_grid, make_grid
from moretta.deploy.sweep.sweep_results import CellAudit
from moretta.shared.audit.result import Result
from moretta.shared.study.schema import Study, parse_study


def attack(value: float, high: float | None, *, attacker: str = "voice-svm", **more: Any) -> Result:
    content = {"scenario": "semi-informed", "metric": "top1", "chance": 0.25} | more
    return Result(
        modality="voice", attacker=attacker, kind="adaptive", value=value, low=0.0, high=high, speakers=4, clips=24,
        **content,
    )  # fmt: skip


def utility(evaluator: str, uar: float | None, trained_on: Any = "released", chance: float = 1 / 6) -> Result:
    scenario = "semi-informed" if trained_on == "released" else "ignorant"
    return Result(
        attack="utility", target="emotion", modality="voice", attacker=evaluator, kind="trained", scenario=scenario,
        metric="uar", value=uar, low=uar, high=uar, chance=chance, speakers=4, clips=48,
    )  # fmt: skip


def weighed(rows: list[Result], emotion: list[Result], **more: Any) -> Candidate:
    audited = CellAudit(rows=tuple(rows), utility=tuple(emotion), **more)
    return weigh("one", Study(), audited, modality="voice", emotions=6)


def test_the_largest_upper_end_of_any_attacker_counts_even_where_another_has_the_largest_figure() -> None:
    rows = [
        attack(0.4, 0.45),
        attack(0.3, 0.6, attacker="voice-wccn"),
        attack(0.9, 0.95, attacker="weak", invalid=True),
        attack(1.0, 1.0, attacker="open", scenario="unprotected"),
        attack(0.8, 0.9, pooled=10),
        attack(0.9, 0.9, subset="worst"),
        attack(0.31, 0.4, metric="eer"),
    ]
    found = weighed(rows, [utility("a", 0.3), utility("b", 0.4), utility("c", 0.9, "original"), utility("d", None)])
    assert (found.top1, found.top1_upper, found.top1_by) == (0.4, 0.6, "voice-svm (semi-informed)")
    assert (found.top1_pooled, found.pooled, found.eer, found.attackers) == (0.8, 10, 0.31, 2)
    assert (found.uar, found.evaluator, found.excluded) == (0.4, "b", "")


def test_without_an_interval_the_figure_counts() -> None:
    assert weighed([attack(0.4, None)], [utility("a", 0.3)]).top1_upper == 0.4


@pytest.mark.parametrize(
    ("rows", "emotion", "why"),
    [
        ([attack(0.2, 0.3, invalid=True)], [utility("a", 0.5)], ALL_INVALID),
        ([], [utility("a", 0.5)], ALL_INVALID),
        ([attack(0.05, 0.1), attack(0.0, 0.2, attacker="voice-wccn")], [utility("a", 0.5)], BELOW_CHANCE),
        ([attack(0.2, 0.3)], [utility("a", 0.9, "original")], NOT_EVALUATED),
        ([attack(0.2, 0.3)], [utility("a", 0.9, chance=0.5)], FEWER_EMOTIONS),
    ],
)
def test_what_cannot_be_chosen_says_why(rows: list[Result], emotion: list[Result], why: str) -> None:
    assert weighed(rows, emotion).excluded == why


def test_who_could_not_be_attacked_or_failed_cannot_be_chosen() -> None:
    assert weighed([], [], not_run={"voice": "nothing to compare"}).excluded == "nothing to compare"
    assert weigh("one", Study(), None, modality="voice", emotions=6, why="out of memory").excluded == "out of memory"


@pytest.mark.parametrize("modality", ["voice", "face"])
def test_every_candidate_that_is_shipped_is_a_study_and_its_section_gives_the_same_one_again(modality: Any) -> None:
    grid = load_grid(SHIPPED / f"candidates-{modality}.toml")
    cells = make_grid(grid.model_copy(update={"base": base_of(Study(), modality, ())})).cells
    assert len({str(section_of(cell.study, modality)) for cell in cells}) == len(cells) > 3
    for cell in cells:
        check_names(cell.study)
        assert list(cell.study.modalities) == [modality]
        made = Candidate(
            name="x", modality=modality, section=section_of(cell.study, modality), uar=0.5, top1_upper=0.1, attackers=3
        )
        again = parse_study(tomllib.loads(study_text(made)))
        assert again.section(modality) == cell.study.section(modality)
