"""A choice through the installed command: the proposal, its proof, exit codes, and nothing done twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from commands import moretta_here

from moretta.shared.core.errors import ExitCode
from moretta.shared.study.schema import load_study

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

CANDIDATES = """
[[curve]]
name = "budget"
set = { voice.anonymizer = "clip-quantizer" }
axes = { voice.options.budget_epsilon = [2] }

[[curve]]
name = "open"
set = { voice.anonymizer = "none", voice.form = "waveform" }
"""


def run(place: Path, *more: str, code: ExitCode, installed: bool = True) -> tuple[str, str]:
    arguments = ["choose", "--corpus", place / "tones", "--candidates", place / "mine.toml", "--out", place / "out"]
    arguments = [*map(str, arguments), "--jobs", "1", *more]
    if not installed:
        found, reported, errors = moretta_here(*arguments, cache=place / "cache")
        assert found == code, errors
        return reported, errors
    done = subprocess.run(
        [sys.executable, "-m", "moretta.deploy.cli.main", *arguments],
        env={**os.environ, "MORETTA_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def choose(place: Path, cap: float, *more: str, code: ExitCode, installed: bool = True) -> dict[str, Any]:
    options = ("--max-top1", str(cap), "--attackers", "voice-logistic", "--json", *more)
    found: dict[str, Any] = json.loads(run(place, *options, code=code, installed=installed)[0])
    assert found.get("exit_code") == code
    return found


@pytest.mark.slow
def test_the_choice_comes_with_its_proof_and_a_section_and_a_cap_that_none_keeps_ends_with_the_gates_code(
    tmp_path: Path, tiny_corpus: Path
) -> None:
    assert tiny_corpus == tmp_path / "tones"
    (tmp_path / "mine.toml").write_text(CANDIDATES, encoding="utf-8")
    out = tmp_path / "out"

    first = choose(tmp_path, 1.0, code=ExitCode.OK)
    assert (first["done"], first["reused"], first["failures"]) == (4, 0, {})
    assert [c["name"] for c in first["candidates"]] == ["budget: voice.options.budget_epsilon = 2", "open"]
    assert [c["excluded"] for c in first["candidates"]] == [""] * 2
    assert first["chosen"]["uar"] == max(c["uar"] for c in first["candidates"])
    proof = json.loads((out / "audit.json").read_text(encoding="utf-8"))
    assert proof["candidate"] == first["chosen"]["name"]
    assert any(row["metric"] == "top1" and row["value"] == first["chosen"]["top1"] for row in proof["audit"])
    assert "voice-logistic" in (out / "audit.html").read_text(encoding="utf-8")
    assert f"Chosen: {first['chosen']['name']}" in (out / "choice.html").read_text(encoding="utf-8")
    section = tomllib.loads((out / "study.toml").read_text(encoding="utf-8"))
    assert section == {"voice": _without_nulls(first["chosen"]["section"])}
    assert load_study(out / "study.toml").voice.anonymizer == first["chosen"]["section"]["anonymizer"]
    assert "Audit a release of other people, too" in (out / "study.toml").read_text(encoding="utf-8")

    lowest = min(c["top1_upper"] for c in first["candidates"])
    cap = (0.25 + lowest) / 2  # what guessing gives among four people is 0.25
    assert 0.25 <= cap < lowest
    none = choose(tmp_path, cap, code=ExitCode.GATE, installed=False)
    assert (none["done"], none["reused"], none["chosen"]) == (0, 4, None)
    assert none["nearest"]["top1_upper"] == lowest
    assert not (out / "study.toml").exists()
    assert json.loads((out / "audit.json").read_text(encoding="utf-8"))["candidate"] == none["nearest"]["name"]
    assert len((out / "choice.csv").read_text(encoding="utf-8").splitlines()) == 3

    reported, _ = run(
        tmp_path, "--max-top1", str(cap), "--attackers", "voice-logistic", code=ExitCode.GATE, installed=False
    )
    assert "No candidate keeps top-1" in reported
    assert "Nearest: “" in reported

    refused = choose(tmp_path, 0.1, code=ExitCode.STUDY, installed=False)
    assert "a cap of 0.1 on top-1 among 4 people" in refused["error"]


def _without_nulls(section: dict[str, Any]) -> dict[str, Any]:
    """As TOML has it."""
    return {k: _without_nulls(v) if isinstance(v, dict) else v for k, v in section.items() if v is not None}


def test_where_every_release_fails_the_reason_is_reported_and_the_command_ends(
    tmp_path: Path, tiny_corpus: Path
) -> None:
    assert tiny_corpus.exists()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "clip.wav").write_bytes(b"no sound")
    (tmp_path / "study.toml").write_text('[voice.options]\npublic_speech = "broken"\n', encoding="utf-8")
    (tmp_path / "mine.toml").write_text(
        '[[curve]]\nname = "tokens"\nset = { voice.form = "tokens" }\n', encoding="utf-8"
    )
    failed = choose(tmp_path, 1.0, "--study", str(tmp_path / "study.toml"), code=ExitCode.RUN_FAILED)
    assert failed["chosen"] is failed["nearest"] is None
    assert "no usable speech" in failed["candidates"][0]["excluded"]
    assert len(failed["failures"]) == 2
    assert not (tmp_path / "out" / "study.toml").exists()
