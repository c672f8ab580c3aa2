from __future__ import annotations

import json
from pathlib import Path

import pytest

from moretta.deploy.cli.main import run as moretta
from moretta.deploy.server.study_status import study_status
from moretta.server.stages.lifecycle import announce_attempt, only_attempt, write_outcome
from moretta.server.stages.run import Run, RunContext, SiteFacts, SiteSpending
from moretta.server.stages.state import RESUME_FILE, save_state
from moretta.shared.core.errors import ExitCode
from moretta.shared.study.run_plan import DeploymentPlan, EnrolledSite
from moretta.shared.study.schema import Study


@pytest.fixture
def run(tmp_path: Path) -> Run:
    sites = (EnrolledSite(name="clinic-a", node=1), EnrolledSite(name="clinic-b", node=2))
    plan = DeploymentPlan(
        corpus_name="c", synthetic=False, study=Study(), command="c", sites=sites, server_home=tmp_path
    )
    plan.save(tmp_path)
    return Run(RunContext(tmp_path, plan))


def test_a_study_that_has_not_begun_has_its_sites_and_nothing_else(run: Run) -> None:
    found = study_status(run.context.folder)
    assert (found.state, found.stage, found.round, found.exit_code) == ("stopped", "", None, None)
    assert [site.name for site in found.sites] == ["clinic-a", "clinic-b"]


def test_a_study_at_work_states_stage_round_and_what_each_site_missed(run: Run) -> None:
    run.context.progress.done[:] = ["codebook", "release"]
    run.context.progress.last_round["voice"] = 3
    run.releases.facts["clinic-a"] = SiteFacts(clips=40)
    run.training.spent["clinic-a"] = SiteSpending(rounds=3)
    for number in (1, 2):
        run.context.miss("clinic-b", "train voice", "it was lost", round_number=number)
    run.context.notify(stage="train voice", state="started")
    save_state(run, RESUME_FILE)
    announce_attempt(run.context.folder, 2)
    with only_attempt(run.context.folder, 2):
        found = study_status(run.context.folder)
    assert (found.state, found.stage, found.round, found.rounds) == ("at work", "train voice", 3, 10)
    assert found.lines() == [
        "at work",
        "stage train voice",
        "round 3 of 10",
        "submitted 2 times",
        "  clinic-a: 40 clips, 3 rounds",
        "  clinic-b: 0 clips, 0 rounds; missed rounds 1-2 of train voice",
    ]


def test_a_study_that_failed_states_its_cause_to_a_script(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write_outcome(
        run.context.folder, code=ExitCode.RUN_FAILED, stage="in the stage 'release'", cause="all sites failed"
    )
    assert moretta(["study", "status", str(run.context.folder), "--json"]) == ExitCode.OK
    reported = json.loads(capsys.readouterr().out)
    assert (reported["state"], reported["exit_code"], reported["cause"]) == ("failed", 7, "all sites failed")


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    assert moretta(["study", "status", str(tmp_path)]) == ExitCode.STUDY
