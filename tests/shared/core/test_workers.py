from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from moretta.shared.core.workers import in_order, map_files

PARENT = """
import os, time
from moretta.shared.core import workers
from moretta.shared.core.workers import Workers

workers._PRELOADED = ()  # which takes seconds, and is no part of this

def pid(_):
    return os.getpid()

if __name__ == "__main__":
    with Workers(2) as pool:
        print(*{found for _, found in pool.run(pid, [(n,) for n in range(8)])}, flush=True)
        time.sleep(60)
"""


def square(number: int) -> int:
    if number < 0:
        raise ArithmeticError("negative")
    return number * number


def process_and_threads(_: int) -> tuple[int, str]:
    return os.getpid(), os.environ["OMP_NUM_THREADS"]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_each_item_ticks_once(workers: int) -> None:
    ticks: list[None] = []
    assert map_files(square, range(20), workers=workers, progress=lambda: ticks.append(None)) == [
        n * n for n in range(20)
    ]
    assert len(ticks) == 20


def test_workers_are_other_processes_with_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    ran = map_files(process_and_threads, range(4), workers=2)
    assert os.getpid() not in {process for process, _ in ran}
    assert {threads for _, threads in ran} == {"1"} and os.environ["OMP_NUM_THREADS"] == "7"


def draws(number: int) -> tuple[float, float, float, str]:
    import numpy
    import torch

    time.sleep(0.2)  # so that each worker gets one
    own = (random.random(), numpy.random.random(), torch.rand(1).item())  # noqa: NPY002
    return (*own, os.environ.get("NEW", ""))


def test_workers_are_forks_with_random_numbers_and_an_environment_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    map_files(square, range(4), workers=2)  # what they are forks of runs by now
    monkeypatch.setenv("NEW", "set since")
    found = map_files(draws, range(2), workers=2)
    assert len({number for row in found for number in row[:3]}) == 6
    assert {row[3] for row in found} == {"set since"}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_ends_the_map_and_leaves_no_process(workers: int) -> None:
    seen: list[int] = []
    with pytest.raises(ArithmeticError, match="negative"):
        map_files(square, [1, -1, *range(50)], workers=workers, progress=lambda: seen.append(1))
    assert len(seen) < 52 and multiprocessing.active_children() == []


def test_no_items_need_no_worker() -> None:
    assert map_files(square, [], workers=4) == []


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_a_parent_that_was_killed(end: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env={**os.environ})
    assert parent.stdout is not None
    workers = [psutil.Process(int(number)) for number in parent.stdout.readline().split()]
    assert workers
    parent.send_signal(end)
    parent.wait()
    until = time.monotonic() + 60
    while any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_process_ends_with_the_one_that_it_names_as_its_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from moretta.shared.core.workers import end_with_parent\n"
        "this, child = os.getpid(), os.fork()\n"
        "if child == 0:\n"
        "    end_with_parent(this)\n"
        "else:\n"
        "    print(child, flush=True)\n"
        "time.sleep(100)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    time.sleep(1.0)
    assert child.is_running() and child.status() != psutil.STATUS_ZOMBIE
    parent.kill()
    parent.wait()
    psutil.wait_procs([child], timeout=20)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_results_come_in_the_order_of_their_tasks_as_soon_as_they_can() -> None:
    finished = iter([(1, "b"), (0, "a"), (3, "d"), (2, "c")])
    results = in_order(finished)
    assert [next(results), next(results)] == ["a", "b"] and next(finished) == (3, "d")
    assert list(in_order(iter([(2, "c"), (0, "a"), (1, "b")]))) == ["a", "b", "c"]
