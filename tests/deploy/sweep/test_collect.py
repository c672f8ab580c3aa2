"""From finished work to rows: folds pooled, seeds averaged, intervals over speakers, fronts marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moretta.deploy.sweep.grid import GridFile, make_grid
from moretta.deploy.sweep.jobs import Job, SweepPlan, plan_sweep
from moretta.deploy.sweep.sweep_results import CellAudit, Released, ResultFolder, Spent, Trained, collect
from moretta.shared.audit.metrics import confusion
from moretta.shared.audit.report.report_schema import PrivacyRow
from moretta.shared.audit.result import Result
from moretta.shared.core.reproducibility import derive


def plan_of(corpus: Path, **grid: Any) -> SweepPlan:
    base = {"sites": 2, "face": {"enabled": False}, "split": {"folds": 2}}
    return plan_sweep(make_grid(GridFile(base=base, **grid)), [corpus], "c")


def tables(job: Job, right: float) -> dict[str, list[list[int]]]:
    """A confusion table of each held-out speaker: `right` of 10 clips of each class on the diagonal, by speaker."""
    keys = job.plan.pseudonym_keys()
    found = {}
    for number in job.plan.test_speakers:
        hits = min(10, max(0, round(10 * right) + int(number) % 3 - 1))
        table = np.diag([hits] * 6)
        table[:, 0] += [10 - hits] * 6
        found[keys[number].speaker(number)] = table.tolist()
    return found


def trained(job: Job, right: float, *, clip: float | None = 1.0) -> Trained:
    keys = job.plan.pseudonym_keys()
    return Trained(
        emotion={},
        counts={"voice": tables(job, right)},
        numbers={keys[n].speaker(n): n for n in job.plan.test_speakers},
        privacy=(),
        releases=Spent(clip=100.0 + 20 * (clip or 0), speaker=None),
        models=Spent(clip=clip, speaker=9.0),
    )


def attack(metric: str, value: float, *, invalid: bool = False, attacker: str = "voice-svm") -> Result:
    return Result(
        modality="voice", attacker=attacker, kind="adaptive", scenario="semi-informed", metric=metric, value=value,
        low=value - 0.1, high=value + 0.1, chance=0.25, speakers=4, clips=24, invalid=invalid,
    )  # fmt: skip


def utility(evaluator: str, uar: float, trained_on: Any = "released") -> Result:
    scenario = "semi-informed" if trained_on == "released" else "ignorant"
    return Result(
        attack="utility", target="emotion", modality="voice", attacker=evaluator, kind="trained", scenario=scenario,
        metric="uar", value=uar, low=uar, high=uar, chance=1 / 6, speakers=4, clips=48,
    )  # fmt: skip


def fill(plan: SweepPlan, shelf: ResultFolder, right: Any = lambda job: 0.5, top1: Any = lambda job: 0.6) -> None:
    claim = PrivacyRow(site="s", mechanism="voice release: x", unit="value", epsilon=6.0, nominal=0.8)
    whole = PrivacyRow(site="s", mechanism="voice release: x", unit="clip", epsilon=600.0, nominal=80.0)
    for job in plan.jobs:
        if job.kind == "release":
            shelf.keep(job, Released(privacy=(whole, claim)))
        elif job.kind == "audit":
            rows = (attack("top1", top1(job)), attack("top1", 0.1, attacker="weak"), attack("top1", 0.9, invalid=True))
            emotion = (utility("a", 0.3), utility("b", 0.4), utility("c", 0.9, "original"))
            shelf.keep(job, CellAudit(rows=(*rows, attack("eer", 0.2)), utility=emotion))
        else:
            shelf.keep(job, trained(job, right(job)))


def test_folds_are_pooled_and_the_interval_is_over_speakers(tiny_corpus: Path, tmp_path: Path) -> None:
    plan, shelf = plan_of(tiny_corpus, folds="all"), ResultFolder(tmp_path)
    fill(plan, shelf, right=lambda job: 0.3 if job.plan.study.split.test_fold else 0.7)
    (row,) = collect(plan, shelf, {})
    by_speaker: dict[str, list[list[int]]] = {}
    for job in plan.cells[0].training:
        by_speaker |= tables(job, 0.3 if job.plan.study.split.test_fold else 0.7)
    counts = np.array([by_speaker[name] for name in sorted(by_speaker)])
    assert row.uar == pytest.approx(float(confusion.uar(counts.sum(axis=0))))
    assert (row.uar_low, row.uar_high) == confusion.bootstrap(
        counts, confusion.uar, seed=derive(1, "emotion intervals")
    )
    assert (row.folds, row.test_speakers, row.test_clips) == (2, 4, 240)


def test_seeds_are_averaged_and_speakers_are_drawn_once_for_all_of_them(tiny_corpus: Path, tmp_path: Path) -> None:
    plan, shelf = plan_of(tiny_corpus, folds="all", seeds=(1, 2)), ResultFolder(tmp_path)
    fill(plan, shelf, right=lambda job: 0.2 * job.plan.study.seed, top1=lambda job: 0.3 * job.plan.study.seed)
    (row,) = collect(plan, shelf, {})
    (one,) = collect(plan_of(tiny_corpus, folds="all"), shelf, {})
    (two,) = collect(plan_of(tiny_corpus, folds="all", seeds=(2,)), shelf, {})
    assert row.seeds == (1, 2)
    assert row.uar == pytest.approx((one.uar or 0) / 2 + (two.uar or 0) / 2)
    assert row.top1 == pytest.approx(0.45)
    assert (row.top1_low, row.top1_high) == pytest.approx((0.2, 0.7))  # around both
    assert row.test_speakers == 4
    assert (row.uar_low or 0) < (row.uar or 0) < (row.uar_high or 0)


def test_the_strongest_valid_attacker_and_the_best_evaluator_of_releases_stand_in_the_row(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    plan, shelf = plan_of(tiny_corpus), ResultFolder(tmp_path)
    fill(plan, shelf)
    (row,) = collect(plan, shelf, {})
    assert (row.top1, row.top1_by) == (0.6, "voice-svm (semi-informed)")  # 0.9 is invalid
    assert (row.evaluator, row.evaluator_uar) == ("b", 0.4)  # 0.9 was read by one that was trained on originals


def test_nominal_and_composed_budgets_stand_beside_each_other(tiny_corpus: Path, tmp_path: Path) -> None:
    plan, shelf = plan_of(tiny_corpus, folds="all"), ResultFolder(tmp_path)
    fill(plan, shelf)
    shelf.keep(plan.cells[0].training[1], trained(plan.cells[0].training[1], 0.5, clip=3.0))
    (row,) = collect(plan, shelf, {})
    assert (row.release_nominal, row.release_nominal_unit) == (0.8, "value")
    assert (row.release_clip, row.release_speaker) == (160.0, None)  # the worst fold
    assert (row.model_nominal, row.model_nominal_unit) == (8.0, "clip")
    assert (row.model_clip, row.model_speaker) == (3.0, 9.0)  # the worst fold


def test_without_dp_sgd_there_is_no_nominal_budget(tiny_corpus: Path, tmp_path: Path) -> None:
    plan, shelf = plan_of(tiny_corpus, axes={"privacy.epsilon": ["inf"]}), ResultFolder(tmp_path)
    fill(plan, shelf)
    (row,) = collect(plan, shelf, {})
    assert (row.model_nominal, row.model_nominal_unit, row.settings) == (None, "", {"privacy.epsilon": "inf"})


def test_a_failed_job_fails_the_cells_that_need_it_and_no_other(tiny_corpus: Path, tmp_path: Path) -> None:
    plan, shelf = plan_of(tiny_corpus, axes={"privacy.epsilon": [1, 2]}), ResultFolder(tmp_path)
    fill(plan, shelf)
    failed = plan.cells[0].training[0]
    (tmp_path / "done" / f"train-{failed.key}.json").unlink()
    rows = collect(plan, shelf, {failed.key: "the disk is full"})
    assert [row.failed for row in rows] == ["the disk is full", ""]
    assert (rows[0].uar, rows[0].folds, rows[0].model_clip, rows[0].best_top1) == (None, 0, None, False)
    assert rows[0].top1 == 0.6  # the known figure is reported
    assert rows[1].best_top1


def test_where_nobody_can_be_attacked_the_row_says_why_and_keeps_its_emotion(tiny_corpus: Path, tmp_path: Path) -> None:
    plan, shelf = plan_of(tiny_corpus), ResultFolder(tmp_path)
    fill(plan, shelf)
    assert plan.cells[0].audit is not None
    shelf.keep(plan.cells[0].audit, CellAudit(rows=(), utility=(), not_run={"voice": "one clip each"}))
    (row,) = collect(plan, shelf, {})
    assert (row.note, row.failed, row.top1, row.best_top1) == ("one clip each", "", None, False)
    assert row.uar is not None


def test_of_equal_claims_that_for_the_largest_unit_is_meant(tiny_corpus: Path, tmp_path: Path) -> None:
    plan, shelf = plan_of(tiny_corpus), ResultFolder(tmp_path)
    fill(plan, shelf)
    claims = tuple(
        PrivacyRow(site="s", mechanism="voice release: x", unit=unit, epsilon=4.0, nominal=4.0)
        for unit in ("clip", "speaker")
    )
    shelf.keep(plan.cells[0].release, Released(privacy=claims))
    (row,) = collect(plan, shelf, {})
    assert (row.release_nominal, row.release_nominal_unit) == (4.0, "speaker")


def test_an_audit_that_is_switched_off_leaves_its_columns_empty(tiny_corpus: Path, tmp_path: Path) -> None:
    plan, shelf = plan_of(tiny_corpus, set={"audit.enabled": False}), ResultFolder(tmp_path)
    fill(plan, shelf)
    (row,) = collect(plan, shelf, {})
    assert (row.top1, row.eer, row.evaluator, row.best_top1) == (None, None, "", False)
    assert row.uar is not None


def test_fronts_are_of_cells_that_may_be_compared(tiny_corpus: Path, tmp_path: Path) -> None:
    plan, shelf = plan_of(tiny_corpus, axes={"privacy.epsilon": [1, 2]}), ResultFolder(tmp_path)
    fill(plan, shelf, right=lambda job: 0.3 if job.plan.study.privacy.epsilon == 1 else 0.6)
    rows = collect(plan, shelf, {})
    assert [row.best_top1 for row in rows] == [False, True]  # as hidden, and less is recognised
