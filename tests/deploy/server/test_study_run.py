"""The watcher of a study, over a Control API whose replies the test sets."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moretta.deploy.runtime.control import ControlError, RunStatus
from moretta.deploy.runtime.run_folder import reopen
from moretta.deploy.server import study_run as module
from moretta.deploy.server.study_run import FRUITLESS_ATTEMPTS, StudyRun
from moretta.server.stages.lifecycle import newest_attempt, write_outcome
from moretta.server.stages.state import RESUME_FILE
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import ExitCode, Interrupted
from moretta.shared.study.run_plan import DeploymentPlan, EnrolledSite
from moretta.shared.study.schema import parse_study

RUNNING = RunStatus("running", "", "")
DIED = RunStatus("finished", "failed", "Task failed with unknown error.")


class Fake:
    """A SuperLink. `lives[n]` is what becomes of the n-th run: statuses one after the other, then what it does last."""

    def __init__(self, *lives: tuple[list[RunStatus], Callable[[], None] | None]) -> None:
        self.lives = list(lives)
        self.submitted: list[dict[str, Any]] = []
        self.stopped: list[int] = []
        self.away = 0

    def __call__(self) -> Any:
        if self.away > 0:
            self.away -= 1
            raise ControlError("Flower's SuperLink does not answer")
        return self

    def submit(self, config: dict[str, Any]) -> int:
        self.submitted.append(config)
        return len(self.submitted)

    def status(self, run_id: int) -> RunStatus:
        statuses, last = self.lives[min(run_id, len(self.lives)) - 1]
        if len(statuses) > 1:
            return statuses.pop(0)
        if last is not None:
            last()
        return statuses[0]

    def stop(self, run_id: int) -> None:
        self.stopped.append(run_id)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STATUS_SECONDS", 0.0)
    monkeypatch.setattr(module, "_SETTLE_SECONDS", 0.1)
    monkeypatch.setattr("moretta.deploy.runtime.run_folder._WATCH_SECONDS", 0.01)


@pytest.fixture
def started(tmp_path: Path) -> Callable[..., StudyRun]:
    def make(fake: Fake, **stages: Any) -> StudyRun:
        plan = DeploymentPlan(
            corpus_name="c",
            synthetic=False,
            study=parse_study({"stages": stages}),
            command="moretta study run",
            sites=(EnrolledSite(name="clinic-a", node=1),),
            server_home=tmp_path,
        )
        return StudyRun(plan, tmp_path, notify=reported.append, control=fake)

    reported: list[str] = []
    make.reported = reported  # type: ignore[attr-defined]
    return make


def ends(folder: Path, code: ExitCode = ExitCode.OK) -> Callable[[], None]:
    return lambda: write_outcome(folder, code=code)


def progresses(folder: Path, text: str) -> Callable[[], None]:
    return lambda: write_atomic(folder / RESUME_FILE, text)


def test_a_run_that_ends_is_submitted_once_and_its_outcome_is_reported(started: Any, tmp_path: Path) -> None:
    fake = Fake(([RUNNING, RUNNING], ends(tmp_path)))
    outcome = started(fake).run()
    assert outcome.code == ExitCode.OK
    assert fake.submitted == [{"run-dir": str(tmp_path), "central-stages": "later", "attempt": 1}]
    assert json.loads((tmp_path / "outcome.json").read_text())["seconds"] >= 0


def test_a_run_that_dies_is_submitted_again_and_older_attempts_are_superseded(started: Any, tmp_path: Path) -> None:
    fake = Fake(([RUNNING, DIED], None), ([RUNNING], ends(tmp_path)))
    assert started(fake).run().code == ExitCode.OK
    assert [config["attempt"] for config in fake.submitted] == [1, 2]
    assert newest_attempt(tmp_path) == 2
    assert any("failed: Task failed with unknown error." in text for text in started.reported)


def test_a_run_that_the_superlink_has_forgotten_is_submitted_again(started: Any, tmp_path: Path) -> None:
    forgotten = RunStatus("finished", "failed", "Flower's SuperLink does not know the run any more")
    fake = Fake(([forgotten], None), ([RUNNING], ends(tmp_path)))
    assert started(fake).run().code == ExitCode.OK
    assert len(fake.submitted) == 2


def test_attempts_that_come_no_further_end_the_study_with_the_cause(started: Any, tmp_path: Path) -> None:
    fake = Fake(([DIED], None))
    outcome = started(fake).run()
    assert outcome.code == ExitCode.RUN_FAILED
    assert f"{FRUITLESS_ATTEMPTS} attempts in a row came no further" in outcome.cause
    assert "Task failed with unknown error." in outcome.cause
    assert len(fake.submitted) == FRUITLESS_ATTEMPTS


def test_attempts_that_come_further_do_not_count_against_it(started: Any, tmp_path: Path) -> None:
    lives = [([RUNNING, DIED], progresses(tmp_path, str(n))) for n in range(3 * FRUITLESS_ATTEMPTS)]
    fake = Fake(*lives, ([RUNNING], ends(tmp_path)))
    assert started(fake).run().code == ExitCode.OK
    assert len(fake.submitted) == 3 * FRUITLESS_ATTEMPTS + 1


def test_a_server_that_is_away_for_a_while_is_waited_for(started: Any, tmp_path: Path) -> None:
    fake = Fake(([RUNNING], ends(tmp_path)))
    fake.away = 2
    assert started(fake).run().code == ExitCode.OK
    assert sum("The server is not there" in text for text in started.reported) == 1
    assert len(fake.submitted) == 1


def test_a_server_that_stays_away_ends_the_study_with_the_cause(started: Any) -> None:
    fake = Fake(([RUNNING], None))
    fake.away = 10_000
    outcome = started(fake, wait_seconds=0.3).run()
    assert outcome.code == ExitCode.RUN_FAILED
    assert outcome.cause == "no server for 0 s: Flower's SuperLink does not answer"


def test_a_run_that_no_process_takes_up_is_stopped_and_submitted_again(
    started: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(module, "_LAUNCH_SECONDS", 0.2)
    fake = Fake(([RunStatus("pending", "", "")], None), ([RUNNING], ends(tmp_path)))
    assert started(fake).run().code == ExitCode.OK
    assert fake.stopped == [1]
    assert any("no process took up the run" in text for text in started.reported)


def test_a_run_whose_process_died_is_submitted_again_before_flower_notices(
    started: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(module, "_DEAD_SECONDS", 0.2)
    at_work = [(4711,)] * 3
    monkeypatch.setattr(module, "_pids", lambda folder: at_work.pop() if at_work else ())
    fake = Fake(([RUNNING], None), ([RUNNING], ends(tmp_path)))
    assert started(fake).run().code == ExitCode.OK
    assert fake.stopped == [1]
    assert any("its process died" in text for text in started.reported)


def test_a_failure_that_the_run_itself_concluded_is_no_crash(started: Any, tmp_path: Path) -> None:
    fake = Fake(([RUNNING, DIED], ends(tmp_path, ExitCode.RUN_FAILED)))
    assert started(fake).run().code == ExitCode.RUN_FAILED
    assert len(fake.submitted) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_the_run_at_the_server_and_prints_how_to_continue(
    started: Any, tmp_path: Path, number: signal.Signals
) -> None:
    fake = Fake(([RUNNING], None))
    threading.Timer(0.3, os.kill, (os.getpid(), number)).start()
    with pytest.raises(Interrupted, match="--resume"):
        started(fake).run()
    assert fake.stopped == [1]
    assert newest_attempt(tmp_path) == 2  # what is left of the first one ends itself
    assert not (tmp_path / "outcome.json").exists()


def test_a_run_that_failed_can_go_on_and_one_that_ended_well_has_nothing_left_to_do(tmp_path: Path) -> None:
    assert reopen(tmp_path)
    write_outcome(tmp_path, code=ExitCode.RUN_FAILED, cause="x")
    assert reopen(tmp_path)
    assert not (tmp_path / "outcome.json").exists()
    for code in (ExitCode.OK, ExitCode.GATE):
        write_outcome(tmp_path, code=code)
        assert not reopen(tmp_path)
        assert (tmp_path / "outcome.json").exists()
