"""Two reports side by side: how much more or less the strongest attackers do to the same people."""

from __future__ import annotations

import numpy as np

from moretta.shared.audit.metrics import leaks_when_low
from moretta.shared.audit.metrics.intervals import percentile_interval, speaker_counts
from moretta.shared.audit.report import wording
from moretta.shared.audit.report.report_schema import Count, HeadlineFigure, Record, Report
from moretta.shared.audit.report.summary import HEADLINE_METRICS
from moretta.shared.audit.report.tables import PSEUDONYM

RESAMPLES = 2000


class Difference(Record):
    """Change from the first report to the second of one metric, for the strongest attacker of one modality."""

    modality: str
    metric: str
    first: HeadlineFigure | None  # null where every attacker was invalid or absent
    second: HeadlineFigure | None
    people: Count  # who are in both reports, by pseudonym, with a figure of their own
    difference: float | None = None  # mean over these people of the second figure less the first
    low: float | None = None
    high: float | None = None  # ends of its 95 % interval: people are drawn, each with both figures

    @property
    def meaning(self) -> str:
        """Sentence on which of the two leaks more."""
        if self.difference is None:
            return "no two people are in both, so nothing is known of the difference"
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "no difference that these people could show"
        more = (self.low > 0) != leaks_when_low(self.metric)
        return f"the second leaks {'more' if more else 'less'}"


def compare(first: Report, second: Report, *, seed: int = 0) -> list[Difference]:
    """By modality and metric of the headlines. Pseudonyms must be of the same keys, as in simulations of one seed.

    The bootstrap is paired: a person who is drawn counts in both reports, so that what makes one person easy to
    re-identify in both does not widen the interval.
    """
    found = []
    parts = [{part.modality: part for part in report.headline} for report in (first, second)]
    for modality in (name for name in parts[0] if name in parts[1]):
        for metric in HEADLINE_METRICS:
            of = [next((f for f in part[modality].figures if f.metric == metric), None) for part in parts]
            values = [_by_person(r, modality, f) for r, f in zip((first, second), of, strict=True)]
            people = sorted(values[0].keys() & values[1].keys())
            made = Difference(modality=modality, metric=metric, first=of[0], second=of[1], people=len(people))
            found.append(
                made if len(people) < 2 else _measured(made, [[v[one] for one in people] for v in values], seed)
            )
    return found


def _by_person(report: Report, modality: str, figure: HeadlineFigure | None) -> dict[str, float]:
    """The figure of each person, by pseudonym."""
    if figure is None:
        return {}
    same = (modality, figure.attacker, figure.scenario, figure.metric, 1)
    rows = [r for r in report.audit if (r.modality, r.attacker, r.scenario, r.metric, r.pooled) == same]
    return {r.subset: r.value for r in rows if r.value is not None and PSEUDONYM.fullmatch(r.subset)}


def _measured(made: Difference, values: list[list[float]], seed: int) -> Difference:
    apart = np.array(values[1]) - np.array(values[0])
    draws = speaker_counts(len(apart), RESAMPLES, seed) @ apart / len(apart)
    low, high = percentile_interval(draws.tolist(), RESAMPLES) or (None, None)
    return made.model_copy(update={"difference": float(apart.mean()), "low": low, "high": high})


def lines(differences: list[Difference]) -> list[str]:
    """One sentence on each difference, for the command line."""
    found = []
    for d in differences:
        shown = [
            "unknown" if f is None else f"{wording.figure(f.value, d.metric)} ({f.attacker}, {f.scenario})"
            for f in (d.first, d.second)
        ]
        by = "" if d.difference is None else (
            f" Over the same {d.people} people: {100 * d.difference:+.1f} points {wording.interval(d.low, d.high)}."
        )  # fmt: skip
        label = f"{wording.modality_label(d.modality)}, strongest {wording.metric_label(d.metric).label}"
        found.append(f"{label}: {shown[0]}, then {shown[1]}.{by} {d.meaning[0].upper()}{d.meaning[1:]}.")
    return found or ["No modality was attacked in both."]
