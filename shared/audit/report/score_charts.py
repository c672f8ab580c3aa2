"""Charts of an audit's scores: DET curves of the strongest attackers, and scores of one person and of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FixedLocator, NullLocator
from scipy.special import ndtri

from moretta.shared.audit.metrics.scores import Trials
from moretta.shared.audit.report import plotting as p
from moretta.shared.audit.report import wording
from moretta.shared.audit.report.charts import DASHED, WIDTH
from moretta.shared.audit.report.plotting import Chart, styled
from moretta.shared.audit.report.summary import strongest
from moretta.shared.audit.result import Result
from moretta.shared.core.array_types import Float64
from moretta.shared.core.printable import printable

if TYPE_CHECKING:
    from moretta.shared.audit.score_files import Key

_RATES = (0.01, 0.05, 0.2, 0.5, 0.8, 0.95)
_ENDS = 0.004, 0.996
_POINTS = 60
_BINS = 30


def strongest_by_scenario(results: Sequence[Result], scores: Mapping[Key, Trials], modality: str) -> dict[str, Result]:
    """Valid attacker with the lowest EER for each scenario, if its scores are there; not the constant anchor."""
    usable = [r for r in results if r.modality == modality and r.is_whole and r.metric == "eer"]
    found = {}
    for scenario in sorted({r.scenario for r in usable} - {"constant"}, key=wording.scenario_order):
        mine = [r for r in usable if r.scenario == scenario and (modality, scenario, r.attacker) in scores]
        if (best := strongest(mine, "eer")) is not None:
            found[scenario] = best
    return found


@styled()
def det_curves(best: Mapping[str, Result], scores: Mapping[Key, Trials], *, title: str) -> Chart | None:
    """Misses against false matches, one line a scenario, on normal deviates (Martin et al., Eurospeech 1997).

    The higher a line, the less is known of identity; guessing is the dashed line.
    """
    if not best:
        return None
    chart = Chart(title, WIDTH, 380)
    axes = chart.figure.subplots()
    ends = ndtri(_ENDS)
    axes.plot(ends, ends[::-1], label="guessing", **DASHED)
    for index, (scenario, r) in enumerate(best.items()):
        false, missed = (ndtri(np.clip(rate, *_ENDS)) for rate in det(scores[r.modality, scenario, r.attacker]))
        (line,) = axes.plot(
            false, missed, color=p.TONES[index], linewidth=1.8, label=printable(f"{scenario}: {r.attacker}")
        )
        chart.tip(line, f"{scenario}, {r.attacker}: EER {wording.percent(r.value)}")
    axes.set(xlim=ends, ylim=ends, xlabel="false matches", ylabel="misses", title="DET curves")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(ndtri(_RATES).tolist()))
        axis.set_minor_locator(NullLocator())
        axis.set_ticklabels([f"{100 * rate:.0f} %" for rate in _RATES])
    chart.figure.legend(loc="outside lower left")
    return chart


def det(trials: Trials) -> tuple[Float64, Float64]:
    """Rates of false matches and of misses at some thresholds, from the strictest to the laxest."""
    mated, nonmated = np.sort(trials.mated_scores), np.sort(trials.nonmated_scores)
    every = np.unique(trials.scores)[::-1]
    thresholds = every[np.unique(np.linspace(0, len(every) - 1, _POINTS).round().astype(int))]
    false = 1 - np.searchsorted(nonmated, thresholds) / len(nonmated)
    missed = np.searchsorted(mated, thresholds) / len(mated)
    return np.append(0.0, false), np.append(1.0, missed)


@styled()
def histogram(r: Result, trials: Trials, *, title: str) -> Chart:
    """The scores of one attacker: comparisons of one person with themselves, and of two people."""
    chart = Chart(title, WIDTH, 240)
    axes = chart.figure.subplots()
    low, high = np.percentile(trials.scores, [0.5, 99.5])
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    kinds = (("two people", trials.nonmated_scores, p.TONES[0]), ("the same person", trials.mated_scores, p.TONES[1]))
    for label, values, tone in kinds:
        shares = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(values)
        patch = axes.stairs(shares, edges, fill=True, alpha=0.35, color=tone, label=label)
        axes.stairs(shares, edges, color=tone, linewidth=1.4)
        chart.tip(patch, f"{label}: {len(values):,} comparisons, median score {np.median(values):.2f}")
    axes.set(xlabel=f"score of {printable(r.attacker)}, {printable(r.scenario)}", title="Scores")
    axes.set_ylabel("share")
    chart.figure.legend(loc="outside lower left", ncols=2)
    return chart
