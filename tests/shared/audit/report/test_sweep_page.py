"""The files of a sweep: rows agree everywhere, every point is drawn, and nothing is loaded from outside."""

from __future__ import annotations

import csv
import io
import json
import re
import struct
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from moretta.shared.audit.report.sweep_page import (
    draw_curves,
    drawn,
    levels,
    placed_labels,
    render_sweep,
    staircase,
    write_sweep,
)
from moretta.shared.audit.report.sweep_rows import SweepReport, SweepRow, as_csv

SVG = "{http://www.w3.org/2000/svg}"


def row(curve: str = "a", epsilon: Any = 1, **changes: Any) -> SweepRow:
    content: dict[str, Any] = {
        "curve": curve, "corpus": "people", "modality": "voice",
        "settings": {"privacy.epsilon": epsilon}, "seeds": (1,), "folds": 5,
        "uar": 0.4, "uar_low": 0.35, "uar_high": 0.45, "uar_chance": 1 / 6, "test_speakers": 12,
        "test_clips": 528, "evaluator": "voice-logistic", "evaluator_uar": 0.42, "evaluator_low": 0.4,
        "evaluator_high": 0.44,
        "top1": 0.8, "top1_low": 0.7, "top1_high": 0.9, "top1_chance": 1 / 12, "top1_unprotected": 1.0,
        "top1_by": "voice-svm (semi-informed)", "eer": 0.1, "eer_low": 0.05, "eer_high": 0.15, "eer_chance": 0.5,
        "eer_unprotected": 0.0, "eer_by": "voice-svm (semi-informed)", "release_nominal": 0.8,
        "release_nominal_unit": "value", "release_clip": 2704.0, "release_speaker": None, "model_nominal": 1.0,
        "model_nominal_unit": "clip", "model_clip": 0.99, "model_speaker": 12.5, "delta": 1e-3,
    }  # fmt: skip
    return SweepRow(**content | changes)


ROWS = (
    row("DP-SGD <per clip>", 1, uar=0.3, best_eer=True),
    row("DP-SGD <per clip>", "inf", uar=0.5, model_nominal=None, best_top1=True),
    row("dp-clip", 4, uar=0.2, top1=0.3, eer=0.4, best_top1=True),
    row("dp-clip", 8, failed="the disk & all", folds=0, uar=None, top1=None, eer=None),
)
DRAWN = 3


def report(rows: tuple[SweepRow, ...] = ROWS, **changes: Any) -> SweepReport:
    content: dict[str, Any] = {
        "name": "test", "synthetic": False, "rows": rows, "grid": {"axes": {"privacy.epsilon": [1, "inf"]}},
        "command": "moretta sweep", "versions": {"moretta": "0"}, "finished": "2026", "seconds": 1.0,
        "work": {"release": 2, "audit": 2, "train": 15},
    }  # fmt: skip
    return SweepReport(**content | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweep")
    write_sweep(report(), out)
    return out


def test_csv_and_json_have_the_same_values(folder: Path) -> None:
    reported = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))["rows"]
    read = list(csv.DictReader(io.StringIO((folder / "sweep.csv").read_text(encoding="utf-8"))))
    assert len(read) == len(reported) == len(ROWS)
    for line, content in zip(read, reported, strict=True):
        assert line.pop("privacy.epsilon") == str(content.pop("settings")["privacy.epsilon"])
        assert line.pop("seeds") == " ".join(map(str, content.pop("seeds")))
        assert line.keys() == content.keys()
        for key, value in content.items():
            if isinstance(value, bool):
                assert line[key] == str(value).lower(), key
            elif isinstance(value, int | float):
                assert float(line[key]) == value, key
            else:
                assert line[key] == (value or ""), key


def test_a_key_that_only_some_curves_have_is_empty_for_the_others() -> None:
    text = as_csv([row(settings={"voice.preset": "dp-clip"}), row(settings={"privacy.unit": "clip"})])
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [(line["voice.preset"], line["privacy.unit"]) for line in lines] == [("dp-clip", ""), ("", "clip")]


def test_the_picture_is_a_png(folder: Path) -> None:
    data = (folder / "curves.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data[-8:-4] == b"IEND"
    width, height = struct.unpack(">II", data[16:24])
    assert width > height > 300


def test_the_drawing_is_svg_with_every_point_and_every_curve(folder: Path) -> None:
    root = ET.parse(folder / "curves.svg").getroot()  # noqa: S314 - our own file
    points = [g.get("id", "") for g in root.iter(f"{SVG}g") if g.get("id", "").startswith("point ")]
    assert sorted(points) == sorted(
        f"point {metric} | {curve} | {label}"
        for metric in ("top1", "eer")
        for curve, label in (("DP-SGD <per clip>", "ε 1"), ("DP-SGD <per clip>", "ε ∞"), ("dp-clip", "ε 4"))
    )
    settings_text = [text.text for text in root.iter(f"{SVG}text")]
    assert "DP-SGD <per clip>" in settings_text


def test_the_same_rows_give_the_same_drawing(folder: Path, tmp_path: Path) -> None:
    write_sweep(report(), tmp_path)
    assert (tmp_path / "curves.svg").read_bytes() == (folder / "curves.svg").read_bytes()


def test_the_page_loads_nothing_and_escapes_what_it_is_given(folder: Path) -> None:
    page = (folder / "sweep.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", page)
    assert "url(" not in page
    assert " style=" not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert "<per clip>" not in page
    assert "DP-SGD &lt;per clip&gt;" in page
    assert "the disk &amp; all" in page


def test_the_page_has_nominal_and_composed_budgets_beside_each_other() -> None:
    page = render_sweep(report())
    for figure in ("0.8 per value", "2,704", "none", "1.00 per clip", "0.99", "12.50"):
        assert figure in page


def test_synthetic_people_are_announced_before_anything_else() -> None:
    assert "SYNTHETIC INPUT" not in render_sweep(report())
    page = render_sweep(report(synthetic=True))
    assert page.index("SYNTHETIC INPUT") < page.index("<h1>")


def test_inline_curves_have_a_mark_for_every_point_and_fill_only_the_front() -> None:
    root = ET.fromstring(draw_curves(ROWS, title="t").inline("c"))  # noqa: S314 - drawn here
    marks = [group for group in root.iter("g") if group.find("title") is not None]
    assert len(marks) == 2 * DRAWN
    hollow = [mark for mark in marks if any(use.get("fill") == "var(--paper)" for use in mark.iter("use"))]
    assert len(hollow) == 3
    assert "emotion UAR 30.0 %" in "".join(mark.findtext("title") or "" for mark in marks)


def test_without_a_figure_there_is_nothing_to_draw_and_the_page_says_so(tmp_path: Path) -> None:
    empty = (row(failed="x", uar=None, top1=None, eer=None),)
    assert draw_curves(empty, title="t").tips == {}
    write_sweep(report(empty), tmp_path)
    assert "nothing to draw" in (tmp_path / "sweep.html").read_text(encoding="utf-8")


def test_an_attack_that_is_invalid_is_drawn_in_no_panel_of_its_metric() -> None:
    assert drawn((row(eer=None),), "eer") == []
    assert len(drawn((row(eer=None),), "top1")) == 1


def test_steps_of_the_front_go_up_to_the_right() -> None:
    assert staircase(ROWS, "top1") == [(0.2, 0.3), (0.5, 0.8)]


def test_labels_that_would_meet_are_left_to_the_hover_text() -> None:
    assert [above for _, above in placed_labels(ROWS, "top1")] == [True] * DRAWN
    crowd = [row(epsilon=number) for number in range(4)]
    assert len(placed_labels(crowd, "top1")) == 2


def test_of_unprotected_recordings_the_strongest_attack_is_drawn_and_no_other() -> None:
    rows = (row(top1_unprotected=0.4, eer_unprotected=0.3), row(), row(top1_unprotected=None))
    assert levels(rows, "top1") == [(1.0, "unprotected"), (0.083, "chance 8.3 %")]
    assert levels(rows, "eer")[0] == (0.0, "unprotected")
