"""Jobs in processes of their own: order, failures, deaths, and what is left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from moretta.deploy.sweep.grid import GridFile, make_grid
from moretta.deploy.sweep.jobs import Job, SweepPlan, plan_sweep
from moretta.deploy.sweep.run_sweep import Ended, JobRunner, cluster_runner, job_runner
from moretta.shared.core.errors import RunError


@pytest.fixture
def plan(tiny_corpus: Path) -> SweepPlan:
    base = {"sites": 2, "face": {"enabled": False}, "split": {"folds": 2}}
    return plan_sweep(make_grid(GridFile(base=base, axes={"voice.codebook_size": [16, 32]})), [tiny_corpus], "c")


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[JobRunner]:
    with job_runner(note, tmp_path, 2) as made:
        yield made


def note(job: Job, out: Path) -> None:
    """Write down that a job was done, and with how many threads."""
    (out / f"{job.kind}-{job.key}").write_text(os.environ["OMP_NUM_THREADS"], encoding="utf-8")


def fail_a_release(job: Job, out: Path) -> None:
    if job.kind == "release" and job.label.endswith("16"):
        raise RunError("the disk is full")
    note(job, out)


def die_once(job: Job, out: Path) -> None:
    """The first job ends its process the first time that it is tried."""
    tried = out / "tried"
    if job.label.startswith("release") and job.label.endswith("16") and not tried.exists():
        tried.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    note(job, out)


def die_always(job: Job, out: Path) -> None:
    if job.kind == "audit" and job.label.endswith("16"):
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    note(job, out)


def failures(ended: list[Ended]) -> dict[str, str]:
    return {each.job.label: each.failure for each in ended if each.failure}


def test_releases_come_before_what_needs_them_and_each_process_has_one_thread(
    plan: SweepPlan, runner: JobRunner, tmp_path: Path
) -> None:
    ended = list(runner.run(plan.jobs))
    assert [each.job.kind for each in ended][:2] == ["release", "release"]
    assert sorted(each.job.key for each in ended) == sorted(job.key for job in plan.jobs)
    assert {(tmp_path / f"{job.kind}-{job.key}").read_text(encoding="utf-8") for job in plan.jobs} == {"1"}


def test_what_needs_a_failed_release_fails_with_its_reason_and_nothing_else(plan: SweepPlan, tmp_path: Path) -> None:
    with job_runner(fail_a_release, tmp_path, 1) as runner:
        found = failures(list(runner.run(plan.jobs)))
    assert len(found) == 3  # a release, its audit and its training
    assert [why for label, why in found.items() if label.startswith("release")] == ["the disk is full"]
    assert sum(why == "the release it needs was not made: the disk is full" for why in found.values()) == 2


def test_a_process_that_dies_once_costs_nothing_but_time(plan: SweepPlan, tmp_path: Path) -> None:
    with job_runner(die_once, tmp_path, 2) as runner:
        ended = list(runner.run(plan.jobs))
    assert failures(ended) == {}
    assert len(ended) == len(plan.jobs)


def test_a_job_whose_process_dies_again_fails_and_no_other(plan: SweepPlan, tmp_path: Path) -> None:
    with job_runner(die_always, tmp_path, 2) as runner:
        ended = list(runner.run(plan.jobs))
    (why,) = failures(ended).values()
    assert "its process died twice" in why
    assert "SIGKILL" in why
    assert len(ended) == len(plan.jobs)


def test_whoever_stops_early_leaves_no_process(plan: SweepPlan, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), job_runner(note, tmp_path, 2) as runner:
        for _ in runner.run(plan.jobs):
            raise KeyboardInterrupt
    workers = [child for child in psutil.Process().children() if _is_worker(child)]
    assert psutil.wait_procs(workers, timeout=60)[1] == []


def _is_worker(child: psutil.Process) -> bool:
    """One that has ended meanwhile is none."""
    with suppress(psutil.Error):
        return "popen_loky" in " ".join(child.cmdline())
    return False


def test_an_address_without_a_cluster_is_a_clear_error(tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match=r"no Ray cluster at 127\.0\.0\.1:1"),
        cluster_runner(note, tmp_path, None, "127.0.0.1:1"),
    ):
        pytest.fail("there is none")
