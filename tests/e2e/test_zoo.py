"""A whole zoo of two systems through the installed command, killed on its way and run again."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from moretta.shared.audit.report.zoo_rows import columns_of
from tests.conftest import write_tone_corpus

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

STUDY = 'sites = 2\n[train]\nrounds = 1\n[audit]\nattackers = ["voice-logistic"]\nbootstrap = 10\n'
COMMAND = [sys.executable, "-m", "moretta.deploy.cli.main", "zoo"]
STATED = ("sex_able", "sex_in_loop", "sex_paper", "sex_fresh_linear", "sex_fresh_forest")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Six people to release, whose sadness the crowd takes for joy, and six others who are public."""
    everybody = write_tone_corpus(tmp_path / "public", speakers=12, seconds=0.4, sentences=("IEO",))
    (tmp_path / "tones" / "AudioWAV").mkdir(parents=True)
    votes = ["FileName,MultiModalVote"]
    for path in sorted((everybody / "AudioWAV").iterdir())[36:]:
        path.rename(tmp_path / "tones" / "AudioWAV" / path.name)
        votes.append(f"{path.stem},{'H' if path.stem[9:12] == 'SAD' else path.stem[9]}")
    (tmp_path / "tones" / "summaryTable.csv").write_text("\n".join(votes) + "\n", encoding="utf-8")
    table = (everybody / "VideoDemographics.csv").read_text(encoding="utf-8")
    (tmp_path / "tones" / "VideoDemographics.csv").write_text(table, encoding="utf-8")
    (tmp_path / "study.toml").write_text(STUDY, encoding="utf-8")
    return tmp_path


def start(place: Path) -> subprocess.Popen[str]:
    options = ["--corpus", "tones", "--public", "public", "--study", "study.toml", "--out", "out", "--json"]
    return subprocess.Popen(
        [*COMMAND, *options, "--systems", "none,replacement-autoencoder", "--jobs", "2"],
        env={**os.environ, "MORETTA_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"},
        cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_two_systems_from_recordings_to_one_table_with_a_kill_between(place: Path) -> None:
    killed = start(place)
    assert killed.stderr is not None
    assert any("1/4 " in line for line in killed.stderr)
    own = [psutil.Process(killed.pid), *psutil.Process(killed.pid).children(recursive=True)]
    for process in own:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(own, timeout=60)
    killed.communicate()
    assert not (place / "out" / "zoo.csv").exists()

    again = start(place)
    reported, errors = again.communicate()
    assert again.returncode == 0, errors
    found: dict[str, Any] = json.loads(reported)
    assert found["reused"] >= 1
    assert found["done"] + found["reused"] == 4
    rows = {(row["system"], row["setting"]): row["figures"] for row in found["rows"]}
    assert list(rows) == [
        ("none", "original recordings"),
        *(("replacement-autoencoder", setting) for setting in ("as published", "strength 0", "strongest")),
    ]
    for figures in rows.values():
        assert list(figures) == columns_of("voice")
        assert {name for name, figure in figures.items() if figure["value"] is None and not figure["why"]} == set()
        for known in ("uar", "uar_vote", "top1_semi", "eer_semi", "top1_3", "membership"):
            assert figures[known]["value"] is not None, figures[known]
        assert figures["times_real_time"]["value"] > 0
        assert figures["uar_vote"]["chance"] == pytest.approx(1 / 5)
    for (system, _), figures in rows.items():
        assert all((figures[name]["value"] is not None) == (system == "replacement-autoencoder") for name in STATED)
    unprotected, published = rows["none", "original recordings"], rows["replacement-autoencoder", "as published"]
    assert unprotected["top1_semi"]["value"] >= published["top1_semi"]["value"]
    assert unprotected["top1_ignorant"]["value"] is not None
    assert "codes were released" in published["top1_ignorant"]["why"]
    with (place / "out" / "zoo.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 4
    assert str(place) not in (place / "out" / "zoo.csv").read_text(encoding="utf-8")
