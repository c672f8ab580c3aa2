from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moretta.server.stages.lifecycle import OUTCOME_FILE, concluding
from moretta.shared.core.errors import CorpusError, ExitCode, RunError


def _outcome(folder: Path) -> Any:
    return json.loads((folder / OUTCOME_FILE).read_text(encoding="utf-8"))


def test_a_run_that_ends_well_says_so(tmp_path: Path) -> None:
    with concluding(tmp_path) as ending:
        pass
    assert ending.code == ExitCode.OK
    assert _outcome(tmp_path) == {"status": "completed", "exit_code": 0, "stage": "", "cause": ""}


def test_a_broken_gate_has_its_own_code(tmp_path: Path) -> None:
    with concluding(tmp_path) as ending:
        ending.gate_passed = False
    assert (_outcome(tmp_path)["status"], _outcome(tmp_path)["exit_code"]) == ("gate-broken", int(ExitCode.GATE))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RunError("x"), ExitCode.RUN_FAILED),
        (CorpusError("x"), ExitCode.CORPUS),
        (ZeroDivisionError("x"), ExitCode.INTERNAL),
    ],
)
def test_an_error_becomes_code_stage_and_cause_and_the_log_has_the_traceback(
    tmp_path: Path, error: Exception, code: ExitCode
) -> None:
    error.add_note("in the stage 'release'")
    with concluding(tmp_path) as ending:
        raise error
    found = _outcome(tmp_path)
    assert ending.code == code
    assert (found["status"], found["exit_code"], found["stage"]) == ("failed", int(code), "in the stage 'release'")
    assert found["cause"].endswith("x")
    assert "Traceback" in (tmp_path / "server" / "server.log").read_text(encoding="utf-8")


def test_no_outcome_is_written_while_more_is_to_come(tmp_path: Path) -> None:
    with concluding(tmp_path) as ending:
        ending.finished = False
    assert not (tmp_path / OUTCOME_FILE).exists()


def test_an_error_is_an_outcome_even_if_more_was_to_come(tmp_path: Path) -> None:
    with concluding(tmp_path) as ending:
        ending.finished = False
        raise RunError("all sites failed")
    assert _outcome(tmp_path)["cause"] == "all sites failed"


def test_an_interrupt_is_no_outcome(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), concluding(tmp_path):
        raise KeyboardInterrupt
    assert not (tmp_path / OUTCOME_FILE).exists()
