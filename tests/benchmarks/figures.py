"""Figures of a benchmark: ratios taken side by side in one run, with their spread, target and history.

A benchmark is a script, run as `python -m tests.benchmarks.bench_NAME`. It measures its rows with `paired` or builds a
`Figure` itself, and hands each to `record`, which prints a line and, under `make bench`, adds it to the run's results.
Nothing here asserts a time: machines differ.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

RESULTS_VARIABLE = "MORETTA_BENCH_RESULTS"
"""The file that `make bench` reads; without it a benchmark only prints."""
QUICK_VARIABLE = "MORETTA_BENCH_QUICK"
REPEATS = 5


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    `value` is the median of `repeats` measurements, `low` and `high` are the smallest and the largest. A ratio of
    `better = "higher"` is times faster than `against`; one of `better = "lower"` is times the cost of `against`.
    """

    name: str
    what: str
    against: str
    value: float
    low: float
    high: float
    repeats: int
    target: float
    better: Literal["higher", "lower"]
    unit: str = "x"
    detail: dict[str, float] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        """Whether the target is reached."""
        return self.value >= self.target if self.better == "higher" else self.value <= self.target

    def worse_than(self, earlier: float) -> float:
        """The share by which this is worse than an earlier value of the same row: 0.2 is a fifth worse."""
        if earlier <= 0 or self.value <= 0:
            return 0.0
        return 1 - (self.value / earlier if self.better == "higher" else earlier / self.value)


def quick() -> bool:
    """Whether this run is `make bench-quick`: smaller inputs and fewer repeats."""
    return os.environ.get(QUICK_VARIABLE) == "1"


def repeats() -> int:
    """How often to measure each side."""
    return 3 if quick() else REPEATS


def timed(work: Callable[[], object]) -> float:
    """Seconds of wall time of one call, with the garbage of before collected."""
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired(
    name: str,
    what: str,
    against: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    target: float,
    better: Literal["higher", "lower"],
    times: int | None = None,
    detail: dict[str, float] | None = None,
) -> Figure:
    """Time both sides in turn, after one call of each to warm up, and record the ratio of each pair.

    With `better = "higher"` the ratio is their seconds by ours (times faster), with "lower" ours by theirs (times the
    cost). Both sides of a pair run within seconds of each other, so a busy machine slows both.
    """
    ours(), theirs()
    pairs = [(timed(ours), timed(theirs)) for _ in range(times or repeats())]
    ratios = [b / a if better == "higher" else a / b for a, b in pairs]
    seconds = {"ours_s": statistics.median(a for a, _ in pairs), "theirs_s": statistics.median(b for _, b in pairs)}
    return record(
        from_values(name, what, against, ratios, target=target, better=better, detail=seconds | (detail or {}))
    )


def from_values(
    name: str,
    what: str,
    against: str,
    values: Sequence[float],
    *,
    target: float,
    better: Literal["higher", "lower"],
    unit: str = "x",
    detail: dict[str, float] | None = None,
) -> Figure:
    """A row of repeated measurements."""
    middle = statistics.median(values)
    return Figure(
        name, what, against, middle, min(values), max(values), len(values), target, better, unit, dict(detail or {})
    )


def record(figure: Figure) -> Figure:
    """Print one row, and hand it to `make bench`."""
    details = ", ".join(f"{key} {value:.4g}" for key, value in figure.detail.items())
    print(f"{line(figure)}{f'  ({details})' if details else ''}", flush=True)
    if results := os.environ.get(RESULTS_VARIABLE):
        with Path(results).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(figure)) + "\n")
    return figure


def line(figure: Figure) -> str:
    """A row as text."""
    sign = ">=" if figure.better == "higher" else "<="
    spread = f"{figure.low:.3g} to {figure.high:.3g}, {figure.repeats} runs"
    verdict = "reached" if figure.reached else "MISSED"
    return (
        f"{figure.what} | {figure.against} | {figure.value:.3g} {figure.unit} ({spread}) | "
        f"{sign} {figure.target:g} {figure.unit} | {verdict}"
    )
