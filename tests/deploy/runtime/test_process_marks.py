from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from moretta.deploy.runtime import processes

SLEEP = "import time; time.sleep(60)"
DAEMON = """
import os, pathlib, sys, time
if os.fork():
    os._exit(0)          # the parent ends at once: nobody's child any more
os.setsid()
if os.fork():
    os._exit(0)
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(60)
"""
STUBBORN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).write_text("ready")
time.sleep(60)
"""
# A parent without a mark, whose child has it no more either: found only as a descendant of a marked process.
UNMARKING = """
import os, pathlib, subprocess, sys, time
clean = {k: v for k, v in os.environ.items() if k != "MORETTA_RUN_MARK"}
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=clean)
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(60)
"""


@pytest.fixture
def mark() -> Iterator[str]:
    made = processes.new_mark()
    yield made
    processes.end_marked(made, patience_seconds=0.0)


def start(mark: str, code: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env={**os.environ, processes.MARK: mark})


def reported(path: Path) -> str:
    while not path.exists() or not path.read_text():
        time.sleep(0.02)
    return path.read_text()


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_daemon_that_nobody_is_the_parent_of_is_found_and_ended(mark: str, tmp_path: Path) -> None:
    start(mark, DAEMON, str(tmp_path / "pid")).wait()
    pid = int(reported(tmp_path / "pid"))
    assert pid in {p.pid for p in processes.marked_processes(mark)}
    assert processes.end_marked(mark) >= 1
    assert not alive(pid)
    assert processes.marked_processes(mark) == []


def test_a_descendant_that_shows_no_mark_is_ended_too(mark: str, tmp_path: Path) -> None:
    start(mark, UNMARKING, str(tmp_path / "pid"))
    pid = int(reported(tmp_path / "pid"))
    assert processes.end_marked(mark) == 2
    assert not alive(pid)


def test_a_process_that_ignores_the_request_is_killed(mark: str, tmp_path: Path) -> None:
    process = start(mark, STUBBORN, str(tmp_path / "ready"))
    reported(tmp_path / "ready")
    processes.end_marked(mark, patience_seconds=0.2)
    assert not alive(process.pid)


def test_processes_of_other_runs_and_this_one_are_left_alone(mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other_mark = processes.new_mark()
    other = start(other_mark, SLEEP)
    mine = start(mark, SLEEP)
    monkeypatch.setenv(processes.MARK, mark)
    try:
        assert {p.pid for p in processes.marked_processes(mark)} == {mine.pid}
        processes.end_marked(mark)
        assert not alive(mine.pid)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_an_interrupt_while_processes_are_ended_leaves_none(mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start(mark, SLEEP)
    wait = psutil.wait_procs

    def interrupted(*arguments: object, **options: object) -> None:
        monkeypatch.setattr(psutil, "wait_procs", wait)
        raise KeyboardInterrupt

    monkeypatch.setattr(psutil, "wait_procs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        processes.end_marked(mark)
    assert not alive(process.pid)


def test_ending_nothing_ends_at_once() -> None:
    assert processes.end_marked(processes.new_mark()) == 0


def test_memory_counts_the_run_and_this_process(mark: str) -> None:
    alone = processes.memory_bytes(mark)
    assert alone > 10**7
    process = start(mark, "import time; x = bytearray(b'1' * 80_000_000); print('ready', flush=True); time.sleep(60)")
    while processes.memory_bytes(mark) < alone + 70_000_000:
        assert process.poll() is None
        time.sleep(0.05)
