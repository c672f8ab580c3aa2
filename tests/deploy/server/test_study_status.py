from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from moretta.deploy.cli.main import run as moretta
from moretta.deploy.server.live_view import metrics_text, serve_live
from moretta.deploy.server.study_status import changes, study_status
from moretta.server.grid.site_grid import Traffic
from moretta.server.stages.lifecycle import announce_attempt, only_attempt, write_outcome
from moretta.server.stages.run import PROGRESS_FILE, Run, RunContext, SiteFacts, SiteSpending
from moretta.server.stages.state import RESUME_FILE, save_state
from moretta.shared.audit.report.report_schema import RoundRow
from moretta.shared.core.errors import ExitCode, HomeError
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
    run.training.spent["clinic-a"] = SiteSpending(rounds=3, epsilon={1: 2.0, 3: 2.75})
    run.training.rounds += [RoundRow(stage="train voice", round=n, sites=1, seconds=30.0) for n in (1, 2, 3)]
    run.context.progress.traffic["clinic-a"] = Traffic(12.0, 3000, 400)
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
        "round 3 of 10, about 3 min 30 s left",
        "submitted 2 times",
        "  clinic-a: 40 clips, 3 rounds, epsilon 2.75 of 8",
        "  clinic-b: 0 clips, 0 rounds; missed rounds 1-2 of train voice",
    ]


def test_a_line_that_is_half_written_hides_no_study(run: Run) -> None:
    run.context.notify(stage="release", state="started")
    with (run.context.folder / PROGRESS_FILE).open("a", encoding="utf-8") as file:
        file.write('{"stage": "train voi')
        file.flush()
        assert study_status(run.context.folder).stage == "release"
    run.context.notify(stage="audit", state="started")  # of a server that was killed, and went on behind it
    run.context.notify(stage="report", state="started")
    assert study_status(run.context.folder).stage == "report"


def test_metrics_are_what_prometheus_reads_and_have_each_site_s_figures(run: Run) -> None:
    run.training.spent["clinic-a"] = SiteSpending(rounds=3, epsilon={1: 2.0, 3: 2.75})
    run.context.progress.traffic["clinic-a"] = Traffic(12.0, 3000, 400)
    run.context.progress.last_round["voice"] = 3
    save_state(run, RESUME_FILE)
    families = {family.name: family for family in text_string_to_metric_families(metrics_text(run.context.folder))}
    by_site = {sample.labels["site"]: sample.value for sample in families["moretta_site_received_bytes"].samples}
    assert by_site == {"clinic-a": 400, "clinic-b": 0}
    assert [(s.labels, s.value) for s in families["moretta_site_epsilon"].samples] == [({"site": "clinic-a"}, 2.75)]
    assert families["moretta_study_round"].samples[0].value == 3
    assert families["moretta_study_state"].samples[0].labels == {"state": "stopped"}


def test_watching_shows_each_change_once_and_ends_with_the_study(run: Run) -> None:
    def sleep(_: float) -> None:
        looks.append(1)
        if len(looks) == 2:
            run.context.progress.last_round["voice"] = 1
            save_state(run, RESUME_FILE)
        if len(looks) == 4:
            write_outcome(run.context.folder, code=ExitCode.OK)

    looks: list[int] = []
    with only_attempt(run.context.folder, 1):
        found = [(status.state, status.round) for status in changes(run.context.folder, seconds=2.0, sleep=sleep)]
    assert found == [("at work", None), ("at work", 1), ("finished", 1)]
    assert len(looks) == 4


@pytest.fixture
def served(run: Run) -> Iterator[str]:
    run.context.warn("clinic-b <script>alert(1)</script>")
    save_state(run, RESUME_FILE)
    command = [sys.executable, "-m", "moretta.deploy.cli.main", "study", "status", str(run.context.folder)]
    with subprocess.Popen([*command, "--listen", "0"], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            yield next(word.rstrip(",") for word in process.stderr.readline().split() if word.startswith("http"))
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(10) in {0, 130, -signal.SIGINT}


def test_page_and_metrics_are_for_this_machine_alone_and_show_hostile_text_as_text(run: Run, served: str) -> None:
    assert served.startswith("http://127.0.0.1:")
    with httpx.Client(base_url=served, trust_env=False) as client:
        page = client.get("/")
        assert page.status_code == 200
        assert "clinic-b &lt;script&gt;" in page.text
        assert page.headers["cache-control"] == "no-store"
        assert client.get("/status.json").json()["sites"][0]["name"] == "clinic-a"
        assert "moretta_study_rounds 10.0" in client.get("/metrics").text
        assert client.get("/", headers={"host": "rebound.example"}).status_code == 400
        assert client.get("/%2e%2e/plan.json").status_code == 404
    with pytest.raises(HomeError, match="cannot be opened"):
        serve_live(run.context.folder, int(served.rstrip("/").rpartition(":")[2]), on_address=print)


def test_a_study_that_failed_states_its_cause_to_a_script(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write_outcome(
        run.context.folder, code=ExitCode.RUN_FAILED, stage="in the stage 'release'", cause="all sites failed"
    )
    assert moretta(["study", "status", str(run.context.folder), "--json"]) == ExitCode.OK
    reported = json.loads(capsys.readouterr().out)
    assert (reported["state"], reported["exit_code"], reported["cause"]) == ("failed", 7, "all sites failed")


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    assert moretta(["study", "status", str(tmp_path)]) == ExitCode.STUDY
