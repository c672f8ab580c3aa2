"""Results of a sweep, as a table for the pages: `python tests/benchmarks/curve_table.py OUT/sweep.json`."""

from __future__ import annotations

import argparse
from pathlib import Path

from moretta.shared.audit.report import wording
from moretta.shared.audit.report.sweep_rows import SweepReport, SweepRow, cell_text, epsilon_text

HEAD = """| curve | | emotion UAR, federated model | ... best evaluator of releases | strongest top-1 | EER \
| release: nominal | per clip | per speaker | model: nominal | per clip | per speaker |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


def line(row: SweepRow) -> str:
    """One row; fractions, intervals behind them."""
    why = row.failed or row.note
    cells = [
        row.curve,
        f"{cell_text(row)}{f' ({why})' if why else ''}",
        _figure(row.uar, row.uar_low, row.uar_high),
        _figure(row.evaluator_uar, row.evaluator_low, row.evaluator_high, row.evaluator),
        _figure(row.top1, row.top1_low, row.top1_high, row.top1_by),
        _figure(row.eer, row.eer_low, row.eer_high, row.eer_by),
        *epsilon_text(row, "release"),
        *epsilon_text(row, "model"),
    ]
    return "| " + " | ".join(cells) + " |"


def _figure(value: float | None, low: float | None, high: float | None, by: str = "") -> str:
    if value is None:
        return "–"
    interval = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    return f"{value:.2f}{interval} {by.replace(' (semi-informed)', '')}".strip()


def main() -> None:
    """Read, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path)
    report = SweepReport.model_validate_json(parser.parse_args().sweep.read_bytes())
    print(HEAD)
    for row in report.rows:
        print(line(row))
    print(f"\n{wording.format_seconds(report.seconds)}; {report.work}")


if __name__ == "__main__":
    main()
