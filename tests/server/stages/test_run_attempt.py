from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from moretta.server.stages.lifecycle import SUPERSEDED, announce_attempt, newest_attempt, only_attempt, working_pid
from moretta.shared.core.errors import RunError

WORKER = """
import sys, time
from pathlib import Path
from moretta.server.stages.lifecycle import only_attempt
with only_attempt(Path(sys.argv[1]), int(sys.argv[2])):
    print("at work", flush=True)
    time.sleep(60)
"""


def test_a_run_that_is_submitted_again_ends_the_process_of_the_attempt_before(tmp_path: Path) -> None:
    announce_attempt(tmp_path, 1)
    old = subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), "1"], stdout=subprocess.PIPE, text=True)
    try:
        assert old.stdout is not None
        assert old.stdout.readline() == "at work\n"
        assert working_pid(tmp_path) == old.pid
        with pytest.raises(RunError, match="another process"), only_attempt(tmp_path, 1, wait_seconds=0.2):
            pass
        announce_attempt(tmp_path, 2)
        with only_attempt(tmp_path, 2):
            assert old.wait(timeout=5) == SUPERSEDED
            assert working_pid(tmp_path) == os.getpid()
        assert working_pid(tmp_path) is None
    finally:
        old.kill()
        old.wait()


def test_an_attempt_that_is_the_newest_goes_on(tmp_path: Path) -> None:
    ended = threading.Event()
    announce_attempt(tmp_path, 3)
    with only_attempt(tmp_path, 3, end=ended.set):
        time.sleep(0.6)
    assert not ended.is_set()
    assert newest_attempt(tmp_path) == 3


def test_a_simulation_announces_no_attempt_and_works_alone(tmp_path: Path) -> None:
    assert newest_attempt(tmp_path) == 0
    with only_attempt(tmp_path, 0, end=lambda: pytest.fail("ended")):
        pass
