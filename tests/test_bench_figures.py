"""The benchmarks' table: medians of pairs measured side by side, and rows that fell are named."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import fallen
from tests.benchmarks.figures import RESULTS_VARIABLE, Figure, from_values, paired


def row(value: float, better: str = "higher", name: str = "a") -> Figure:
    assert better in ("higher", "lower")
    return from_values(name, "what", "against", [value], target=3.0, better=better)


def test_a_ratio_that_is_more_than_15_percent_worse_is_named_and_others_are_not() -> None:
    earlier = {"a": 4.0, "b": 4.0, "c": 1.0, "d": 1.0}
    rows = [row(3.3), row(3.5, name="b"), row(1.3, "lower", "c"), row(1.1, "lower", "d"), row(9.0, name="new")]
    sentences = fallen(rows, earlier)
    assert [s.startswith("WORSE by") for s in sentences] == [True, True]
    assert "3.3" in sentences[0]
    assert "1.3" in sentences[1]


def test_a_target_is_reached_from_the_side_that_is_better() -> None:
    assert row(3.1).reached
    assert not row(2.9).reached
    assert row(2.9, "lower").reached
    assert not row(3.1, "lower").reached


def test_both_sides_are_measured_in_turn_and_the_ratio_is_the_median_of_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    ticks = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    monkeypatch.setenv(RESULTS_VARIABLE, str(tmp_path / "results.jsonl"))

    def theirs() -> None:
        calls.append("theirs")
        next(ticks), next(ticks)  # two more seconds

    found = paired("p", "what", "against", lambda: calls.append("ours"), theirs, target=2.0, better="higher", times=3)
    assert calls == ["ours", "theirs"] * 4
    assert found.value == found.low == found.high == 3.0
    assert json.loads((tmp_path / "results.jsonl").read_text(encoding="utf-8"))["value"] == 3.0
