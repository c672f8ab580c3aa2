"""Scores of sites' attacks on their originals: bounded, marked as the sites' word, gone when a person withdraws."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict
from staging import do, warnings_of

from moretta.server.stages.run import SITE_SCORES, Approval, Run, RunContext
from moretta.server.stages.run_withdrawal import forget_person
from moretta.server.stages.site_attacks import STAGE, site_rows
from moretta.server.study import SITE_STAGES
from moretta.shared.audit.result import strongest_of_each
from moretta.shared.audit.site_attacks import counted
from moretta.shared.messages import wire
from moretta.shared.study.run_plan import DeploymentPlan, EnrolledSite
from moretta.shared.study.schema import Study, parse_study

STUDY = parse_study({"face": {"enabled": False}, "audit": {"at_sites": ["campplus", "ge2e"]}})


def spread(middle: float, count: int = 60) -> list[int]:
    rng = np.random.default_rng(round(100 * middle))
    return list(counted(np.clip(rng.normal(middle, 0.05, count), -1, 1)))


def response(people: int = 8, *, leak: float = 0.3) -> dict[str, Any]:
    return {
        "speakers": people,
        "unprotected": [spread(0.8), spread(0.1, 90)],
        "ignorant": [spread(0.1 + leak), spread(0.1, 90)],
    }


def run_with(
    tmp_path: Path, fake_site_grid: Any, respond: Any, *, study: Study = STUDY, form: str = "mfcc"
) -> tuple[Run, list[dict[str, Any]]]:
    seen: list[dict[str, Any]] = []

    def reply(node: int, message: Any) -> RecordDict:
        assert message.metadata.message_type == wire.ATTACK
        seen.append({"node": node, "attacker": wire.from_config(message.content, "attacker")})
        assert set(message.content) == {wire.CONFIG}  # no array: what attacks was approved before
        return RecordDict({wire.CONFIG: wire.json_config(site=f"site-{node}", **respond(node))})

    grid = fake_site_grid(reply, nodes=3)
    grid.nodes = {n: f"site-{n}" for n in (1, 2, 3)}
    sites = tuple(EnrolledSite(name=name, node=node) for node, name in grid.nodes.items())
    plan = DeploymentPlan(corpus_name="c", synthetic=False, study=study, command="c", sites=sites, server_home=tmp_path)
    run = Run(RunContext(tmp_path, plan), site_grid=grid, approval=Approval("0" * 64))
    statement = SimpleNamespace(speakers=10)
    for name in grid.nodes.values():
        kept: Any = SimpleNamespace(anonymizer=lambda _: SimpleNamespace(form=form), statement=statement)
        run.releases.kept[name] = kept
    return run, seen


def test_figures_of_all_sites_stand_in_the_report_as_the_sites_word(tmp_path: Path, fake_site_grid: Any) -> None:
    run, seen = run_with(tmp_path, fake_site_grid, lambda node: response(leak=0.02 * node))
    do(run, STAGE)
    assert len(seen) == 6 and not warnings_of(run)
    rows = site_rows(run.context, run.releases)
    assert {(r.attacker, r.scenario, r.speakers) for r in rows} == {(a, "ignorant", 24) for a in ("campplus", "ge2e")}
    eer = next(r for r in rows if r.metric == "eer")
    assert 0.1 < (eer.value or 0) < 0.5 and not eer.invalid
    for words in ("nobody else can check", "450 comparisons", "site-1 ", "site-3 "):
        assert words in eer.note
    assert [r.metric for r in strongest_of_each(rows)].count("eer") == 1  # it counts, as any other attacker does
    assert sum("what these sites say" in text for text in warnings_of(run)) == 2


def test_a_site_that_refuses_or_lies_costs_the_others_nothing(tmp_path: Path, fake_site_grid: Any) -> None:
    def respond(node: int) -> dict[str, Any]:
        if node == 1:
            return {"failure": "refused by the rule allow_attacks of the site's policy", "code": 6}
        return response(people=11 if node == 2 else 8)  # one more than it released

    run, _ = run_with(tmp_path, fake_site_grid, respond)
    do(run, STAGE)
    rows = site_rows(run.context, run.releases)
    assert {r.speakers for r in rows} == {8}
    texts = " ".join(warnings_of(run))
    assert "site-1 did not run the attacker campplus" in texts and "allow_attacks" in texts
    assert "scores of 11 people" in texts
    assert not run.context.progress.missed.get("site-1")  # it takes part in all else


@pytest.mark.parametrize(
    "spoil",
    [
        {"ignorant": [spread(0.3, 61), spread(0.1, 90)]},
        {"ignorant": [[0] * 101, spread(0.1, 90)]},
        {"ignorant": [[3] * 101, [3] * 101], "unprotected": [[3] * 101, [3] * 101]},
        {"ignorant": [[1] * 100, [1] * 100]},
        {"ignorant": [[-1] * 101, [1] * 101]},
        {"speakers": 1},
        {"speakers": -1},
        {"clips": ["1001_IEO_ANG_XX"]},
    ],
)
def test_scores_that_cannot_be_are_left_out(tmp_path: Path, fake_site_grid: Any, spoil: dict[str, Any]) -> None:
    run, _ = run_with(tmp_path, fake_site_grid, lambda node: response() | (spoil if node == 2 else {}))
    do(run, STAGE)
    assert {path.name for path in (tmp_path / SITE_SCORES).iterdir()} == {"site-1.json", "site-3.json"}
    assert "site-2 did not run the attacker campplus" in " ".join(warnings_of(run))
    assert site_rows(run.context, run.releases)[0].speakers == 16


def test_codes_are_not_asked_about(tmp_path: Path, fake_site_grid: Any) -> None:
    run, seen = run_with(tmp_path, fake_site_grid, lambda _: response(), form="code")
    do(run, STAGE)
    assert not seen and not site_rows(run.context, run.releases)
    assert "no site was asked to run campplus" in warnings_of(run)[0]


def test_no_request_is_sent_unless_the_study_has_attackers(tmp_path: Path, fake_site_grid: Any) -> None:
    wanted = next(stage.wanted for stage in SITE_STAGES if stage.name == STAGE)
    for audit, expected in (
        ({}, False),
        ({"at_sites": ["ge2e"]}, True),
        ({"at_sites": ["ge2e"], "enabled": False}, False),
    ):
        study = parse_study({"face": {"enabled": False}, "audit": audit})
        assert wanted(run_with(tmp_path, fake_site_grid, response, study=study)[0]) is expected


def test_scores_of_a_site_go_when_a_person_withdraws_there(
    tmp_path: Path, fake_site_grid: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = run_with(tmp_path, fake_site_grid, lambda _: response())
    do(run, STAGE)
    person = SimpleNamespace(clip="c", speaker="0" * 16)
    release = SimpleNamespace(clips=[person])
    monkeypatch.setattr("moretta.server.stages.run_withdrawal.open_release", lambda _: release)
    monkeypatch.setattr("moretta.server.stages.run_withdrawal._shrink", lambda *_: None)
    forget_person(tmp_path, "site-2", "0" * 16)
    assert {path.name for path in (tmp_path / SITE_SCORES).iterdir()} == {"site-1.json", "site-3.json"}
