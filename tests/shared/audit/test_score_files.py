from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moretta.shared.audit.metrics.scores import METRICS, Trials
from moretta.shared.audit.report.score_charts import det, det_curves, histogram, strongest_by_scenario
from moretta.shared.audit.result import Result
from moretta.shared.audit.score_files import SCORES_FILE, collect_scores, keep_scores, load_scores
from moretta.shared.core.errors import ReleaseError

KEY = ("voice", "semi-informed", "voice-forest")


def trials(apart: float, *, seed: int = 1, count: int = 400) -> Trials:
    rng = np.random.default_rng(seed)
    enrolled, tried = rng.integers(0, 6, count), rng.integers(0, 6, count)
    return Trials(rng.normal(size=count) + apart * (enrolled == tried), enrolled, tried)


def test_scores_are_read_back_as_they_were_and_those_of_other_attackers_left_out(tmp_path: Path) -> None:
    other = ("voice", "ignorant", "left-from-an-earlier-audit")
    keep_scores(tmp_path / "parts" / "a.npz", {KEY: trials(1.0)}, ["p0", "p1"])
    keep_scores(tmp_path / "parts" / "b.npz", {other: trials(0.0)}, ["p0", "p1"])
    collect_scores(tmp_path / "parts", tmp_path / SCORES_FILE, {KEY[2]})
    ((key, found),) = load_scores(tmp_path).items()
    assert key == KEY
    assert found.scores == pytest.approx(trials(1.0).scores, abs=1e-6)
    assert (found.enrol_speaker == trials(1.0).enrol_speaker).all() and (found.mated == trials(1.0).mated).all()


def test_without_scores_there_is_no_file(tmp_path: Path) -> None:
    collect_scores(tmp_path, tmp_path / SCORES_FILE, {"a"})
    assert load_scores(tmp_path) == {}


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04cut", np.array([{}]).dumps()], ids=["empty", "cut", "pickle"])
def test_a_damaged_file_is_a_clear_error_and_nothing_is_unpickled(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SCORES_FILE).write_bytes(content)
    with pytest.raises(ReleaseError, match=r"scores\.npz"):
        load_scores(tmp_path)


def test_the_det_curve_meets_the_diagonal_at_the_eer() -> None:
    made = trials(1.5)
    false, missed = det(made)
    assert (np.diff(false) >= 0).all() and (np.diff(missed) <= 0).all()
    eer = METRICS.get("eer").function(made)
    nearest = np.abs(false - missed).argmin()
    assert (false[nearest] + missed[nearest]) / 2 == pytest.approx(eer, abs=0.03)


def test_curves_are_of_the_strongest_valid_attacker_of_each_scenario() -> None:
    about = {"modality": "voice", "scenario": "semi-informed", "metric": "eer", "chance": 0.5}
    rows = [
        Result(**about, attacker="weak", value=0.4),
        Result(**about, attacker="strong", value=0.2),
        Result(**about, attacker="invalid", value=0.0, invalid=True, reason="x"),
    ]
    scores = {("voice", "semi-informed", row.attacker): trials(1.0) for row in rows}
    best = strongest_by_scenario(rows, scores, "voice")
    assert [r.attacker for r in best.values()] == ["strong"]
    chart = det_curves(best, scores, title="DET")
    assert chart is not None and "strong" in "; ".join(chart.tips.values())
    drawn = histogram(best["semi-informed"], trials(1.0), title="Scores").inline("s")
    assert "the same person" in drawn and "two people" in drawn
