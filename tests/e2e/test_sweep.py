"""Whole sweeps through the installed command: nothing is done twice, nothing stale is used, nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from moretta.shared.core.errors import ExitCode

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

GRID = """
name = "tones"
[base]
sites = 2
voice = { codebook_size = 16 }
face = { enabled = false }
train = { rounds = 1 }
split = { folds = 2 }
audit = { attackers = ["voice-logistic"], bootstrap = 10 }
"""
AXES = "[axes]\nprivacy.epsilon = [2, 8]\n"
"""A release, an audit and two trainings."""
COMMAND = [sys.executable, "-m", "moretta.deploy.cli.main", "sweep"]


@pytest.fixture
def place(tmp_path: Path, tiny_corpus: Path) -> Path:
    (tmp_path / "grid.toml").write_text(GRID + AXES, encoding="utf-8")
    assert tiny_corpus == tmp_path / "tones"
    return tmp_path


def start(place: Path, *more: str, jobs: int = 1) -> subprocess.Popen[str]:
    arguments = ["--corpus", place / "tones", "--grid", place / "grid.toml", "--out", place / "out"]
    environment = {**os.environ, "MORETTA_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments), "--json", "--jobs", str(jobs), *more],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(place: Path, *more: str, code: ExitCode = ExitCode.OK, jobs: int = 1) -> dict[str, Any]:
    process = start(place, *more, jobs=jobs)
    reported, errors = process.communicate()
    assert process.returncode == code, errors
    found: dict[str, Any] = json.loads(reported)
    return found


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    pytest.fail(f"ended without {text!r}")


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    psutil.wait_procs(processes, timeout=10)
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_results_are_used_again_as_long_as_nothing_they_depend_on_has_changed(place: Path) -> None:
    first = finish(place, jobs=2)
    assert (first["done"], first["reused"], first["failures"]) == (4, 0, {})
    assert all(row["uar"] is not None and row["top1"] is not None for row in first["rows"])
    assert [row["model_nominal"] for row in first["rows"]] == [2.0, 8.0]

    again = finish(place)
    assert (again["done"], again["reused"]) == (0, 4)
    assert again["rows"] == first["rows"]

    more = finish(place, "--axis", "privacy.epsilon=2,8,inf")
    assert (more["done"], more["reused"]) == (1, 4)
    assert more["rows"][2]["settings"] == {"privacy.epsilon": "inf"}
    assert more["rows"][2]["model_clip"] == more["rows"][2]["release_clip"]  # it tells as much as the release

    clip = sorted((place / "tones" / "AudioWAV").iterdir())[0]
    clip.write_bytes(clip.read_bytes()[:-2] + b"\x01\x02")
    changed = finish(place)
    assert (changed["done"], changed["reused"]) == (4, 0)


def test_a_sweep_that_was_killed_goes_on_with_what_it_had_and_comes_out_the_same(place: Path) -> None:
    process = start(place)
    wait_for(process, "3/4 ")
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert children
    assert alive(children) == []
    finished = finish(place)
    assert finished["reused"] >= 3
    assert finished["done"] + finished["reused"] == 4
    undisturbed = finish(place, "--out", str(place / "undisturbed"))
    assert undisturbed["reused"] == 0
    assert undisturbed["rows"] == finished["rows"]


def test_an_interrupt_ends_every_process_and_leaves_no_half_of_a_report(place: Path) -> None:
    process = start(place, jobs=2)
    wait_for(process, "1/4 ")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    reported, _ = process.communicate()
    assert process.returncode == ExitCode.INTERRUPTED
    assert json.loads(reported)["exit_code"] == ExitCode.INTERRUPTED
    assert alive(children) == []
    assert not list((place / "out").glob("sweep.*"))
    assert not list((place / "out").glob("curves.*"))


def test_a_cell_that_fails_is_recorded_with_its_reason_and_the_others_are_finished(place: Path) -> None:
    (place / "grid.toml").write_text(
        GRID
        + '[[curve]]\nname = "rate"\nset = { privacy.dp_sgd = false }\naxes = { train.learning_rate = [0.3, 1e6] }\n',
        encoding="utf-8",
    )
    found = finish(place, code=ExitCode.RUN_FAILED)
    good, bad = found["rows"]
    assert good["failed"] == ""
    assert good["uar"] is not None
    assert "usable updates in round 1" in bad["failed"]
    assert bad["uar"] is None
    assert list(found["failures"]) == ["training of rate: train.learning_rate = 1000000.0, fold 1 of 2"]
    assert "usable updates" in (place / "out" / "sweep.csv").read_text(encoding="utf-8")
    assert "usable updates" in (place / "out" / "sweep.html").read_text(encoding="utf-8")
    assert finish(place, code=ExitCode.RUN_FAILED)["done"] == 1  # it is tried again, and nothing else is


def test_a_worker_that_is_killed_costs_one_more_try_and_no_cell(place: Path) -> None:
    process = start(place)
    wait_for(process, "1/4 ")
    workers = [c for c in psutil.Process(process.pid).children() if "popen_loky" in " ".join(c.cmdline())]
    assert workers
    for worker in workers:
        worker.kill()
    reported, errors = process.communicate()
    assert process.returncode == ExitCode.OK, errors
    found = json.loads(reported)
    assert found["failures"] == {}
    assert all(row["uar"] is not None and row["top1"] is not None for row in found["rows"])
    assert finish(place)["reused"] == 4


def test_a_ray_cluster_computes_the_same(place: Path) -> None:
    on_cluster = finish(place, "--cluster", "local", jobs=2)
    assert (on_cluster["done"], on_cluster["failures"]) == (4, {})
    here = finish(place, "--out", str(place / "here"), jobs=2)
    assert here["rows"] == on_cluster["rows"]


def test_two_sweeps_do_not_work_in_one_folder_and_another_folder_is_left_alone(place: Path) -> None:
    process = start(place)
    wait_for(process, "1/4 ")
    second = start(place)
    _, errors = second.communicate()
    assert second.returncode == ExitCode.RUN_FAILED
    assert "another sweep works in" in errors
    process.send_signal(signal.SIGTERM)
    process.communicate()
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("mine", encoding="utf-8")
    refused = finish(place, "--out", str(place / "mine"), code=ExitCode.STUDY)
    assert "neither empty nor the folder of a sweep" in refused["error"]
