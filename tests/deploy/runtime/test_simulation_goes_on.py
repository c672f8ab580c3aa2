"""A simulation that was interrupted goes on by the same command, and ends as one that was not."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from moretta.deploy.runtime import simulation
from moretta.deploy.runtime.planning import plan_simulation
from moretta.deploy.runtime.run_folder import Outcome, conclude, prepare_folder, reopen
from moretta.deploy.runtime.simulation import SimulationProcess
from moretta.server.stages.lifecycle import OUTCOME_FILE, write_outcome
from moretta.server.stages.state import STATE_FILE
from moretta.shared.core.atomic import locked
from moretta.shared.core.errors import ExitCode, Interrupted, RunError, StudyError
from moretta.shared.data.reader import read_corpus
from moretta.shared.study.run_plan import PLAN_FILE, SimulationPlan
from moretta.shared.study.schema import parse_study

STUDY = {
    "sites": 2,
    "voice": {"options": {"codebook_size": 16}},
    "face": {"enabled": False},
    "train": {"rounds": 3},
    "split": {"folds": 2},
    "audit": {"attackers": ["voice-logistic"], "bootstrap": 0, "inference": False, "utility": False},
}


def _planned(corpus: Path, **changes: Any) -> SimulationPlan:
    return plan_simulation(read_corpus(corpus), parse_study(STUDY).with_changes(**changes), "moretta simulate")


def _run(plan: SimulationPlan, folder: Path, *, stop_at: str = "") -> tuple[Outcome, list[str]]:
    lines: list[str] = []

    def notify(line: str) -> None:
        lines.append(line)
        if stop_at and line.startswith(stop_at):
            raise Interrupted("ended by a test")

    prepare_folder(folder, begun=PLAN_FILE)
    with SimulationProcess() as process:
        return process.run(plan, folder, notify), lines


def test_a_block_that_is_left_at_once_ends_its_process_before_its_mark_can_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(simulation, "end_marked", lambda _mark: 0)  # as where the environment is still being set up
    with SimulationProcess() as process:
        child = process._process
        rescue = threading.Timer(20.0, child.kill)  # without the mend the test fails, and does not hang
        rescue.start()
    rescue.cancel()
    assert child.returncode == -signal.SIGTERM


@pytest.mark.e2e
def test_it_goes_on_after_its_last_round_and_has_the_same_figures(tiny_corpus: Path, tmp_path: Path) -> None:
    plan, folder = _planned(tiny_corpus), tmp_path / "run"
    whole, _ = _run(plan, tmp_path / "whole")
    with pytest.raises(Interrupted):
        _run(plan, folder, stop_at="train voice: 1/3")
    for late in (STATE_FILE, OUTCOME_FILE):  # a loaded machine shows the line after the sites' part, or after the end
        (folder / late).unlink(missing_ok=True)
    outcome, lines = _run(plan, folder)
    assert (outcome.code, whole.code) == (ExitCode.OK, ExitCode.OK)
    assert not [line for line in lines if line.startswith(("release", "train voice: 1/3"))]
    reports = [json.loads((path / "report.json").read_text("utf-8")) for path in (tmp_path / "whole", folder)]
    for part in ("emotion", "audit", "privacy", "headline", "corpus"):
        assert reports[0][part] == reports[1][part]
    assert any(
        "the server's part was interrupted and went on after" in warning for warning in reports[1]["run"]["warnings"]
    )
    assert _run_without_process(plan, folder) == outcome, "nothing is left to do"
    with pytest.raises(StudyError, match="not an empty folder: it has a run of another study"):
        _run_without_process(_planned(tiny_corpus, seed=2), folder)


def test_two_commands_do_not_work_on_one_run(tiny_corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "server").mkdir(parents=True)
    with locked(folder / "server" / ".simulation"), pytest.raises(RunError, match="another process is at work"):
        _run_without_process(_planned(tiny_corpus), folder)


def _run_without_process(plan: SimulationPlan, folder: Path) -> Outcome:
    return SimulationProcess().run(plan, folder, lambda _: None)


def test_a_run_that_failed_names_the_errors_of_its_sites_and_is_tried_again(tmp_path: Path) -> None:
    for site, error in (("site-00", "CorpusError: no clip left"), ("site-01", "ValueError: other")):
        (tmp_path / "sites" / site).mkdir(parents=True)
        text = f"2026-01-01 run=1 release failed\nTraceback (most recent call last):\n  File x\nmoretta.{error}\n\n"
        (tmp_path / "sites" / site / "site.log").write_text(text, encoding="utf-8")
    write_outcome(tmp_path, code=ExitCode.RUN_FAILED, stage="in 'release'", cause="1 of 2 sites: site-00: CorpusError")
    why = simulation._causes_at_sites(tmp_path)
    assert why == ["site-00: moretta.CorpusError: no clip left"]
    assert conclude(tmp_path, seconds=1, peak=1, why=why).cause == f"1 of 2 sites: site-00: CorpusError; {why[0]}"
    assert reopen(tmp_path) and not (tmp_path / "outcome.json").exists()
    write_outcome(tmp_path, code=ExitCode.GATE)
    assert not simulation._causes_at_sites(tmp_path) and not reopen(tmp_path)
