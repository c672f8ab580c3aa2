"""Markdown of the tables of one zoo or of two: `zoo_halves.py ZOO.csv [ZOO.csv]`.

With two, of the two halves of a corpus, a figure is the mean of both, with each behind it. A figure that one of them
lacks is a dash: half a mean would be read as a whole one. With one zoo, each figure has its interval.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

TABLES = {
    "Emotion and identity": {
        "uar": "emotion UAR",
        "uar_vote": "... by votes",
        "top1_ignorant": "top-1, ignorant",
        "top1_lazy": "lazy-informed",
        "top1_semi": "semi-informed",
        "top1_10": "10 clips",
        "eer_semi": "EER, semi-informed",
        "inversion": "EER after inversion",
    },
    "Words": {
        "wer": "word error rate",
        "sentence_right": "sentence right, by its sound",
        "sentence_read": "sentence, by a classifier",
    },
    "Faces": {
        "landmark_error": "landmark error",
        "landmark_movement": "landmark movement",
        "ssim": "SSIM",
        "identity_cosine": "identity cosine",
        "expression_agreement": "same expression",
    },
    "Adversaries": {
        "speaker_able": "speaker: able at 0",
        "speaker_in_loop": "in the loop",
        "sex_able": "sex: able at 0",
        "sex_in_loop": "in the loop",
        "sex_paper": "paper's attacker",
        "sex_fresh_linear": "fresh linear",
        "sex_fresh_forest": "fresh forest",
        "sex": "released people, all attackers",
        "sex_twelve": "twelve networks",
    },
    "Cost": {"membership": "membership", "training_seconds": "training, s", "times_real_time": "x real time"},
}
_WHOLE = {"training_seconds", "times_real_time"}
Row = dict[str, str]


def main(paths: Sequence[str]) -> None:
    """Print every table."""
    read = [{(r["system"], r["setting"]): r for r in csv.DictReader(_lines(path))} for path in paths]
    for title, wanted in TABLES.items():
        columns = {
            n: heading for n, heading in wanted.items() if any(r.get(n) for found in read for r in found.values())
        }
        if not columns:
            continue
        print(f"\n### {title}\n")
        print(f"| system, setting | {' | '.join(columns.values())} |")
        print(f"|---|{'---|' * len(columns)}")
        for key in read[0]:
            rows = [found[key] for found in read if key in found]
            cells = (_cell(rows, name, len(read)) for name in columns)
            print(f"| {key[0]}, {key[1]} | {' | '.join(cells)} |")


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


def _cell(rows: Iterable[Row], name: str, wanted: int) -> str:
    known = [row for row in rows if row.get(name) and (name != "membership" or row["membership_chance"] == "0.5")]
    values = [float(row[name]) for row in known]
    if len(values) < wanted:
        return "-"
    digits = 0 if name in _WHOLE else 2
    shown = [f"{value:.{digits}f}" for value in values]
    mean = f"{sum(values) / len(values):.{digits}f}"
    if wanted > 1:
        return f"{mean} ({', '.join(shown)})"
    ends = [known[0][f"{name}_{end}"] for end in ("low", "high")]
    return f"{mean} [{float(ends[0]):.2f}, {float(ends[1]):.2f}]" if all(ends) else mean


if __name__ == "__main__":
    main(sys.argv[1:])
