"""The verdict on a release: acceptance criteria held against what was measured. Pages, JSON and the command line all
show what `check_gate` finds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from moretta.shared.audit.metrics import leaks_when_low
from moretta.shared.audit.metrics.intervals import MIN_RESAMPLES, MIN_SPEAKERS
from moretta.shared.audit.report import wording
from moretta.shared.audit.report.report_schema import Criterion, GatePart, Headline, HeadlineFigure, PrivacyRow, State
from moretta.shared.audit.report.summary import HEADLINE_METRICS
from moretta.shared.study.sections import GateSection

_CHANCE_EER = 0.5
_ROUNDING = 1e-9  # of the sums of a resample: without width, an interval may miss its value by that
NOT_ATTACKED = "it was released and not attacked"
ALL_INVALID = "no figure of single clips counts: each attacker of them is invalid or absent"
NO_ANCHOR = "no attacker was seen to re-identify people in unprotected recordings, so a low figure proves nothing"
NO_INTERVAL = "it has no interval: too few people, or the study wants none"
FEW_SPEAKERS = f"its interval is over fewer than {MIN_SPEAKERS} people"
FEW_RESAMPLES = f"its interval is of fewer than {MIN_RESAMPLES} resamples"
OUTSIDE = "it lies outside its own interval, which therefore does not describe it"
NOT_INFORMED = "no valid attacker was trained on releases (semi-informed): one that knows the anonymizer may do better"
LEFT_OUT = "people whose released values lie far outside those of the others were left out of it"
BELOW_CHANCE = "the attacker is wrong more often than guessing is, which an attacker with reversed decisions would use"


def check_gate(
    gate: GateSection,
    headline: Sequence[Headline],
    privacy: Iterable[PrivacyRow] = (),
    *,
    released: Iterable[str],
    resamples: int,
    unit: Literal["clip", "speaker"] = "clip",
) -> GatePart:
    """Hold the strongest attackers' figures and the budgets spent per `unit` against the criteria.

    A figure that is itself beyond its limit fails. One that keeps it while its interval reaches beyond is inconclusive,
    and so is what is not known: silence is not privacy. A limit that the study sets itself fails if it cannot be
    checked, and `broken` lists it.

    Args:
        gate: limits of the study; default limits stand in for those on re-identification that it does not set.
        headline: of every modality that was attacked.
        released: the modalities that left the sites, attacked or not.
        unit: that the study protects.
    """
    criteria = list(_of_identity(gate, headline, released, resamples))
    if gate.max_epsilon is not None:
        criteria += _of_budget(gate.max_epsilon, [r for r in privacy if r.mechanism == "dp-sgd" and r.unit == unit])
    broken = tuple(sentence(c) for c in criteria if c.set_by_study and c.state == "fails")
    return GatePart(passed=not broken, broken=broken, verdict=worst(criteria), criteria=tuple(criteria))


def worst(criteria: Sequence[Criterion]) -> State:
    """The worst state of all criteria; without any criterion nothing passes."""
    states = {c.state for c in criteria}
    return "fails" if "fails" in states else "passes" if states == {"passes"} else "inconclusive"


def title(gate: GatePart) -> str:
    """The verdict in one line."""
    return f"Verdict: {gate.verdict}"


def meaning(gate: GatePart) -> str:
    """The verdict in one or two sentences, with its limits."""
    if not gate.criteria:
        return "No criterion could be held against anything: nothing was attacked, so nothing is known."
    if gate.verdict == "fails":
        return "At least one figure is beyond its limit: what was released does not hide people well enough."
    if gate.verdict == "inconclusive":
        return "No figure is beyond its limit, and not every one is known well enough. This is no evidence of privacy."
    return (
        "Every figure keeps its limit with its whole interval. This holds for these attackers, these people, and "
        "single clips: figures for several clips of a person stand below."
    )


def lines(gate: GatePart) -> list[str]:
    """The verdict for the command line: in one line, what it means, and each criterion."""
    return [f"{title(gate)}. {meaning(gate)}", *(f"  {c.state}: {sentence(c)}" for c in gate.criteria)]


def limit(c: Criterion) -> str:
    """A criterion's limit, with its direction.

    >>> limit(Criterion(of="voice", metric="top1", limit=0.2, state="fails", set_by_study=True))
    '≤ 20.0 %, set by the study'
    """
    if c.limit is None:  # the default one is a multiple of chance, which is not known
        return "≤ twice guessing"
    shown = wording.epsilon(c.limit) if c.metric == "epsilon" else wording.figure(c.limit, c.metric)
    bound = "≥" if c.metric != "epsilon" and leaks_when_low(c.metric) else "≤"
    return f"{bound} {shown}{', set by the study' if c.set_by_study else ''}"


def sentence(c: Criterion) -> str:
    """One criterion, what was measured, and the limit.

    >>> sentence(Criterion(of="voice", metric="eer", limit=0.35, state="fails", value=0.05, set_by_study=False))
    'voice: strongest EER 5.0 %, wanted ≥ 35.0 %'
    """
    if c.metric == "epsilon":
        what = f"DP-SGD {'has no finite guarantee' if c.value is None else f'spent epsilon {wording.epsilon(c.value)}'}"
    else:
        shown = "unknown" if c.value is None else wording.figure(c.value, c.metric)
        interval = wording.interval(c.low, c.high, c.metric)
        what = f"strongest {wording.metric_label(c.metric).label} {shown} {interval}".strip()
    return f"{c.of}: {what}, wanted {limit(c)}{f'; {c.why}' if c.why else ''}"


def _of_identity(
    gate: GateSection, headline: Sequence[Headline], released: Iterable[str], resamples: int
) -> Iterator[Criterion]:
    own = {"top1": gate.max_top1 is not None, "eer": gate.min_eer is not None}
    attacked = {part.modality: part for part in headline}
    for modality in dict.fromkeys([*attacked, *released]):
        part = attacked.get(modality)
        figures = {} if part is None else {f.metric: f for f in part.figures}
        for metric in HEADLINE_METRICS:
            figure = figures.get(metric)
            limit = gate.eer_limit if metric == "eer" else gate.top1_limit(None if figure is None else figure.chance)
            criterion = Criterion(of=modality, metric=metric, limit=limit, state="passes", set_by_study=own[metric])
            if figure is None or limit is None:
                why = NOT_ATTACKED if part is None else ALL_INVALID
                state: State = "fails" if own[metric] else "inconclusive"
                yield criterion.model_copy(update={"state": state, "why": why})
            else:
                yield _held(criterion, figure, limit, resamples)


def _held(criterion: Criterion, figure: HeadlineFigure, limit: float, resamples: int) -> Criterion:
    low, high = figure.low, figure.high
    if leaks_when_low(figure.metric):
        beyond, reaching = figure.value < limit, low is not None and low < limit
        backwards = low is not None and low > _CHANCE_EER
    else:
        beyond, reaching = figure.value > limit, high is not None and high > limit
        backwards = high is not None and figure.chance is not None and high < figure.chance
    state: State = "fails" if beyond else "inconclusive"
    why = ""
    if not beyond:
        why = (
            "the interval reaches beyond that" if reaching
            else NO_INTERVAL if low is None or high is None
            else FEW_SPEAKERS if figure.speakers < MIN_SPEAKERS
            else FEW_RESAMPLES if resamples < MIN_RESAMPLES
            else OUTSIDE if not low - _ROUNDING <= figure.value <= high + _ROUNDING
            else BELOW_CHANCE if backwards
            else NO_ANCHOR if figure.unprotected is None
            else NOT_INFORMED if not figure.informed
            else LEFT_OUT if figure.left_out
            else ""
        )  # fmt: skip
        state = "inconclusive" if why else "passes"
    return criterion.model_copy(update={"state": state, "value": figure.value, "low": low, "high": high, "why": why})


def _of_budget(limit: float, rows: Sequence[PrivacyRow]) -> Iterator[Criterion]:
    def of(site: str, **changes: object) -> Criterion:
        content = {"of": site, "metric": "epsilon", "limit": limit, "state": "fails", "set_by_study": True} | changes
        return Criterion.model_validate(content)

    for site in sorted({row.site for row in rows}):
        spent = max(math.inf if row.epsilon is None else row.epsilon for row in rows if row.site == site)
        value = None if spent == math.inf else spent
        yield of(site, value=value, state="passes" if spent <= limit else "fails")
    if not rows:
        yield of("training", why="nothing was trained with DP-SGD, so max_epsilon cannot be checked")
