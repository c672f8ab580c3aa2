from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

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


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{f"{'/'.join(KEY)}/{name}": array for name, array in arrays.items()})
    return buffer.getvalue()


def _marked(content: bytes, local: int, central: int, value: int) -> bytes:
    """The archive with one byte of the heads of its members set."""
    changed = bytearray(content)
    for signature, place in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        start = 0
        while (start := content.find(signature, start)) >= 0:
            changed[start + place] = value
            start += 4
    return bytes(changed)


def _garbled() -> bytes:
    content = bytearray(_npz(scores=np.random.default_rng(0).random(5000, np.float32)))
    content[400:420] = b"\xff" * 20
    return bytes(content)


def _promising(count: int) -> bytes:
    head, buffer = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (count,)})
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{'/'.join(KEY)}/scores.npy", head.getvalue())
    return buffer.getvalue()


def _array_alone() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


IDS = {"enrolled": np.array([0, 1], np.int32), "tried": np.array([0, 0], np.int32)}
GOOD = _npz(scores=np.random.default_rng(0).random(2, np.float32), **IDS)


@pytest.mark.parametrize(
    "content",
    [
        _npz(scores=np.array(["a", "b"]), **IDS),
        _npz(scores=np.array([1.0, np.nan]), **IDS),
        _npz(scores=np.zeros(3, np.float32), **IDS),
        _npz(scores=np.zeros((2, 1), np.float32), **IDS),
        _npz(scores=np.zeros(2, np.float32)),
        _marked(GOOD, 8, 10, 99),
        _marked(GOOD, 6, 8, 1),
        _garbled(),
        _promising(10**13),
        _array_alone(),
    ],
    ids=["text", "nan", "lengths", "table", "parts", "compression", "encrypted", "deflate", "head", "npy"],
)
def test_hostile_scores_are_one_error_with_its_fix(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SCORES_FILE).write_bytes(GOOD)
    assert load_scores(tmp_path).keys() == {KEY}
    (tmp_path / SCORES_FILE).write_bytes(content)
    with pytest.raises(ReleaseError, match=r"scores\.npz .*; expected scores as .*; to fix it: remove the"):
        load_scores(tmp_path)


def test_nothing_is_unpacked_beyond_the_bound_or_of_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, unpacked = tmp_path / SCORES_FILE, list[str]()
    read = zipfile.ZipFile.read
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda file, name: unpacked.append(name) or read(file, name))
    parts = ("scores", "enrolled", "tried")
    np.savez_compressed(path, **{"voice/x": np.zeros(10**6), "voice/speakers": np.array(["p"])})
    assert load_scores(tmp_path) == {} and not unpacked
    path.write_bytes(GOOD)
    load_scores(tmp_path)
    assert unpacked == [f"{'/'.join(KEY)}/{part}.npy" for part in parts]
    unpacked.clear()
    path.write_bytes(_npz(scores=np.zeros(10**6, np.float32), **IDS))
    monkeypatch.setattr("moretta.shared.audit.score_files._MAX_BYTES", 10**6)
    assert path.stat().st_size < 10**5
    with pytest.raises(ReleaseError, match="unpacks to 4000"):
        load_scores(tmp_path)
    assert not unpacked


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
