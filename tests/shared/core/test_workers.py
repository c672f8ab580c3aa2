import multiprocessing
import os

import pytest

from moretta.shared.core.workers import map_files


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


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_ends_the_map_and_leaves_no_process(workers: int) -> None:
    seen: list[int] = []
    with pytest.raises(ArithmeticError, match="negative"):
        map_files(square, [1, -1, *range(50)], workers=workers, progress=lambda: seen.append(1))
    assert len(seen) < 52 and multiprocessing.active_children() == []


def test_no_items_need_no_worker() -> None:
    assert map_files(square, [], workers=4) == []
