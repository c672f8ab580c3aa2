from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from moretta.deploy.runtime import processes
from moretta.deploy.runtime.processes import flower_command as command

SAYS = """
import logging, sys
from unittest.mock import MagicMock
from moretta.deploy.runtime import flower_programs
program = MagicMock()
program.load.return_value = lambda: logging.getLogger("flwr").error("fab %s", sys.argv[1])
flower_programs.metadata = MagicMock()
flower_programs.metadata.distribution.return_value.entry_points.select.return_value = [program]
sys.argv = ["x", "flower-superlink", "a\\x1b[2J\\n2026 all is well"]
flower_programs.main()
"""


@pytest.mark.parametrize(
    "program", [("flower-superlink",), ("flower-superexec", "flwr-clientapp"), ("flower-supernode",)]
)
def test_flower_s_programs_start_through_ours(program: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "flwr.py").write_text("raise SystemExit('imported from the folder that it was started in')")
    done = subprocess.run(command(*program, "--version"), cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Flower version: ")


def test_what_flower_logs_of_a_site_s_words_is_one_printable_line() -> None:
    """Text such as the hash of a bundle that a site requests."""
    done = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert line.endswith(r"fab a\x1b[2J\n2026 all is well")


@pytest.mark.parametrize("name", ["flower-superlink", "flower-superexec"])
def test_what_a_killed_server_left_running_is_found_by_how_it_was_started(name: str) -> None:
    mark = processes.new_mark()
    line = command(name)
    sleeping = [line[0], "-S", "-c", "import time; time.sleep(600)", *line[line.index(name) :]]
    assert sleeping.index(name) == line.index(name)
    process = subprocess.Popen(sleeping, env={**os.environ, processes.MARK: mark})
    try:
        while sleeping != psutil.Process(process.pid).cmdline():
            time.sleep(0.01)
        assert [found.pid for found in processes.running_programs(mark, "flower-superlink", "flower-superexec")] == [
            process.pid
        ]
    finally:
        process.kill()
        process.wait()
