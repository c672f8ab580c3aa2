from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from moretta.deploy.runtime.processes import ManagedProcess

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
FAIL = [sys.executable, "-S", "-c", "raise SystemExit(3)"]


class Watch:
    """A clock that the test moves, and the messages that were shown."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reported: list[tuple[str, dict[str, object]]] = []

    def monotonic(self) -> float:
        return self.now

    def notify(self, event: str, fields: dict[str, object]) -> None:
        self.reported.append((event, fields))


@pytest.fixture
def monitor() -> Watch:
    return Watch()


@pytest.fixture
def make(tmp_path: Path, monitor: Watch) -> Iterator[Callable[..., ManagedProcess]]:
    made: list[ManagedProcess] = []

    def child(command: list[str] = SLEEP, identity: str = "v1") -> ManagedProcess:
        made.append(
            ManagedProcess(
                "flower",
                command,
                environment=dict(os.environ),
                folder=tmp_path,
                log=tmp_path / "flower.log",
                record=tmp_path / "children.json",
                identity=identity,
                on_event=monitor.notify,
                clock=monitor.monotonic,
            )
        )
        return made[-1]

    yield child
    for each in made:
        each.end(0.5)


def _ended(child: ManagedProcess) -> None:
    end = time.monotonic() + 60
    while child.alive() and time.monotonic() < end:
        time.sleep(0.01)
    assert not child.alive()


def test_a_process_that_ended_is_started_again_after_a_pause_that_grows(
    make: Callable[..., ManagedProcess], monitor: Watch
) -> None:
    child = make(FAIL)
    starts = []
    for _ in range(200):
        if child.keep_alive():
            starts.append(monitor.now)
            _ended(child)
        monitor.now += 0.25
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    looks = 0.25  # an end is noticed at the next look
    assert pauses[:4] == [0.5 + looks, 1.0 + looks, 2.0 + looks, 4.0 + looks]
    assert monitor.reported[1] == ("flower-ended", {"code": 3})


def test_a_process_that_ran_for_long_is_started_again_soon(make: Callable[..., ManagedProcess], monitor: Watch) -> None:
    child = make()
    for _ in range(3):
        assert child.keep_alive()
        monitor.now += 100
        child.kill()
        _ended(child)
        assert not child.keep_alive()
        monitor.now += 0.5


def test_a_process_of_a_killed_server_is_taken_over_and_watched(
    make: Callable[..., ManagedProcess], monitor: Watch
) -> None:
    first = make()
    first.keep_alive()
    heir = make()
    assert heir.take_over()
    assert heir.pid == first.pid
    assert not heir.keep_alive()
    heir.kill()
    first._popen.wait()  # type: ignore[union-attr] - in the place of the init process, whose child it would be
    assert not heir.alive()
    heir.keep_alive()
    monitor.now += 1
    assert heir.keep_alive()
    assert heir.alive()


@pytest.mark.parametrize("change", ["identity", "time", "gone", "damaged"])
def test_no_other_process_is_taken_over(make: Callable[..., ManagedProcess], tmp_path: Path, change: str) -> None:
    first, record = make(), tmp_path / "children.json"
    first.keep_alive()
    match change:
        case "identity":
            assert not make(identity="v2").take_over()
            return
        case "time":  # its pid was given to another process since
            created = str(psutil.Process(first.pid).create_time())
            record.write_text(record.read_text().replace(created, "1.5"))
        case "gone":
            first.end()
        case _:
            record.write_text('{"flower": 1}')
    assert not make().take_over()


def test_an_end_is_an_end_even_of_a_process_that_will_not(make: Callable[..., ManagedProcess]) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    )
    child = make([sys.executable, "-S", "-c", stubborn])
    child.keep_alive()
    process = psutil.Process(child.pid)
    end = time.monotonic() + 60
    while not (child.log.read_bytes()) and time.monotonic() < end:
        time.sleep(0.01)
    child.end(0.2)
    assert not process.is_running()
    assert not child.alive()


def test_its_log_is_for_its_owner_alone(make: Callable[..., ManagedProcess], tmp_path: Path) -> None:
    make(FAIL).keep_alive()
    assert (tmp_path / "flower.log").stat().st_mode & 0o077 == 0
