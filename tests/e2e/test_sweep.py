"""Whole sweeps through the installed command: nothing is done twice, nothing stale is used, nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
from commands import command_lines, moretta_here

from moretta.deploy.sweep.jobs import Job
from moretta.shared.core.errors import ExitCode
from tests.conftest import write_tone_corpus

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

GRID = """
name = "tones"
[base]
sites = 2
voice = { codebook_size = 16 }
face = { enabled = false }
train = { rounds = 1 }
split = { folds = 2 }
audit = { attackers = ["voice-logistic"], bootstrap = 10, inference = false, utility = false }
"""
AXES = '[axes]\nprivacy.epsilon = [2, "inf"]\n'
"""A release, an audit and two trainings, one of them without noise."""
COMMAND = [sys.executable, "-m", "moretta.deploy.cli.main", "sweep"]


@dataclass(frozen=True)
class Place:
    """A folder with a corpus, a grid and what a sweep of them left."""

    root: Path
    found: dict[str, Any]
    """Report of the sweep in `out`."""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A whole sweep, which nothing changes afterwards."""
    root = tmp_path_factory.mktemp("swept")
    write_tone_corpus(root / "tones")
    (root / "grid.toml").write_text(GRID + AXES, encoding="utf-8")
    return Place(root, finish(root, jobs=2))


@pytest.fixture
def done(swept: Place, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(swept.root, tmp_path / "place")


@pytest.fixture
def place(done: Path) -> Path:
    """The same without any result."""
    shutil.rmtree(done / "out")
    return done


def options(place: Path, *more: str, jobs: int = 1) -> list[str]:
    arguments = ["--corpus", place / "tones", "--grid", place / "grid.toml", "--out", place / "out"]
    return [*map(str, arguments), "--json", "--jobs", str(jobs), *more]


def start(place: Path, *more: str, jobs: int = 1) -> subprocess.Popen[str]:
    environment = {**os.environ, "MORETTA_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, *options(place, *more, jobs=jobs)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(place: Path, *more: str, code: ExitCode = ExitCode.OK, jobs: int = 1) -> dict[str, Any]:
    process = start(place, *more, jobs=jobs)
    reported, errors = process.communicate()
    assert process.returncode == code, errors
    found: dict[str, Any] = json.loads(reported)
    return found


def here(place: Path, *more: str, code: ExitCode = ExitCode.OK) -> dict[str, Any]:
    """The same where there is nothing to do, within this process."""
    ended, reported, errors = moretta_here("sweep", *options(place, *more), cache=place / "cache")
    assert ended == code, errors
    found: dict[str, Any] = json.loads(reported)
    return found


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    pytest.fail(f"ended without {text!r}")


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    psutil.wait_procs(processes, timeout=60)
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    lines = command_lines(psutil.Process(process.pid).children(recursive=True))
    return [worker for worker, line in lines.items() if "popen_loky" in " ".join(line)]


def would_do(place: Path, *more: str) -> tuple[list[str], int]:
    """The kinds of jobs that a sweep would do, none of which is done, and how many results it uses again."""
    asked: list[str] = []

    def fail(todo: list[Job], *_: object, **__: object) -> dict[str, str]:
        asked.extend(job.kind for job in todo)
        return {job.key: "not done" for job in todo}

    with mock.patch("moretta.deploy.sweep.run_sweep._do", fail):
        found = here(place, *more, code=ExitCode.RUN_FAILED)
    assert found["done"] == len(asked)
    return sorted(asked), found["reused"]


def test_results_are_used_again_as_long_as_nothing_they_depend_on_has_changed(swept: Place, done: Path) -> None:
    first = swept.found
    assert (first["done"], first["reused"], first["failures"]) == (4, 0, {})
    assert all(row["uar"] is not None and row["top1"] is not None for row in first["rows"])
    assert [row["settings"] for row in first["rows"]] == [{"privacy.epsilon": 2}, {"privacy.epsilon": "inf"}]
    assert first["rows"][0]["model_nominal"] == 2.0
    assert first["rows"][0]["model_clip"] != first["rows"][0]["release_clip"]
    assert first["rows"][1]["model_clip"] == first["rows"][1]["release_clip"]  # it reveals as much as the release

    again = here(done)
    assert (again["done"], again["reused"]) == (0, 4)
    assert again["rows"] == first["rows"]

    assert would_do(done, "--axis", "privacy.epsilon=2,8,inf") == (["train"], 4)

    clip = sorted((done / "tones" / "AudioWAV").iterdir())[0]
    clip.write_bytes(clip.read_bytes()[:-2] + b"\x01\x02")
    assert would_do(done, "--axis", "privacy.epsilon=2") == (["audit", "release", "train"], 0)


@pytest.mark.slow
def test_a_sweep_that_was_interrupted_or_killed_goes_on_with_what_it_had_and_a_killed_worker_costs_no_cell(
    swept: Place, place: Path
) -> None:
    process = start(place, jobs=2)
    wait_for(process, "0/4 ")
    ended, _, errors = moretta_here("sweep", *options(place), cache=place / "cache")
    assert ended == ExitCode.RUN_FAILED
    assert "another sweep works in" in errors
    wait_for(process, "1/4 ")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    reported, _ = process.communicate()
    assert process.returncode == ExitCode.INTERRUPTED
    assert json.loads(reported)["exit_code"] == ExitCode.INTERRUPTED
    assert alive(children) == []
    assert not list((place / "out").glob("sweep.*"))
    assert not list((place / "out").glob("curves.*"))

    process = start(place)
    wait_for(process, "1/")
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(workers_of(process)) == 2  # one of them had no job yet
    process.kill()
    process.wait()
    assert alive(children) == []
    process.communicate()

    process = start(place)
    wait_for(process, "1/")
    workers = workers_of(process)
    assert workers
    for worker in workers:
        worker.kill()
    reported, errors = process.communicate()
    assert process.returncode == ExitCode.OK, errors
    found = json.loads(reported)
    assert found["reused"] >= 2
    assert (found["done"] + found["reused"], found["failures"]) == (4, {})
    assert found["rows"] == swept.found["rows"]  # as if nothing had been interrupted or killed
    assert here(place)["reused"] == 4


def test_a_folder_of_something_else_is_left_alone(done: Path) -> None:
    (done / "mine").mkdir()
    (done / "mine" / "thesis.txt").write_text("mine", encoding="utf-8")
    refused = here(done, "--out", str(done / "mine"), code=ExitCode.STUDY)
    assert "neither empty nor the folder of a sweep" in refused["error"]


def test_a_cell_that_fails_is_recorded_with_its_reason_and_the_others_are_finished(done: Path) -> None:
    (done / "grid.toml").write_text(
        GRID
        + '[[curve]]\nname = "rate"\nset = { privacy.dp_sgd = false }\naxes = { train.learning_rate = [0.2, 1e6] }\n',
        encoding="utf-8",
    )
    found = finish(done, code=ExitCode.RUN_FAILED)
    assert found["reused"] == 2  # the release and its audit
    good, bad = found["rows"]
    assert good["failed"] == ""
    assert good["uar"] is not None
    assert "usable updates in round 1" in bad["failed"]
    assert bad["uar"] is None
    assert list(found["failures"]) == ["training of rate: train.learning_rate = 1000000.0, fold 1 of 2"]
    assert "usable updates" in (done / "out" / "sweep.csv").read_text(encoding="utf-8")
    assert "usable updates" in (done / "out" / "sweep.html").read_text(encoding="utf-8")
    assert would_do(done) == (["train"], 3)  # it is tried again, and nothing else is


@pytest.mark.slow
def test_a_ray_cluster_computes_the_same(swept: Place, place: Path) -> None:
    on_cluster = finish(place, "--cluster", "local", jobs=2)
    assert (on_cluster["done"], on_cluster["failures"]) == (4, {})
    assert on_cluster["rows"] == swept.found["rows"]
