"""The gate: limits that the study sets. A run that breaks one is marked failed and exits non-zero."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from moretta.shared.audit.report.report_schema import GatePart, Headline, PrivacyRow
from moretta.shared.study.schema import GateSection


def check_gate(
    gate: GateSection,
    headline: Sequence[Headline],
    privacy: Iterable[PrivacyRow],
    *,
    released: Iterable[str],
    unit: Literal["clip", "speaker"] = "clip",
) -> GatePart:
    """Hold the strongest attackers' figures and the spent budgets against the limits.

    A limit that could not be judged, because no attacker was sound, counts as broken: silence is not privacy.

    Args:
        gate: the limits.
        headline: the strongest attackers by modality.
        privacy: all budgets.
        released: the modalities that left the sites, whether or not an attacker looked at them.
        unit: that of the study's DP-SGD.
    """
    broken: list[str] = []
    for modality in headline:
        figures = {f.metric: f.value for f in modality.figures}
        top1, eer = figures.get("top1"), figures.get("eer")
        if gate.max_top1 is not None and (top1 is None or top1 > gate.max_top1):
            broken.append(f"{modality.modality}: strongest top-1 {_shown(top1)}, limit {gate.max_top1:.3f}")
        if gate.min_eer is not None and (eer is None or eer < gate.min_eer):
            broken.append(f"{modality.modality}: strongest EER {_shown(eer)}, limit {gate.min_eer:.3f}")
    if gate.max_top1 is not None or gate.min_eer is not None:
        attacked = {modality.modality for modality in headline}
        broken += [
            f"{m}: released and not attacked, so its limits cannot be judged" for m in released if m not in attacked
        ]
    if gate.max_epsilon is not None:
        spent = [(r.site, r.epsilon) for r in privacy if r.mechanism == "dp-sgd" and r.unit == unit]
        for site in sorted({s for s, _ in spent}):
            epsilon = max(e or 0.0 for s, e in spent if s == site)
            if epsilon > gate.max_epsilon:
                broken.append(f"{site}: DP-SGD spent epsilon {epsilon:.2f} per {unit}, limit {gate.max_epsilon:.2f}")
        if not spent:
            broken.append("nothing was trained with DP-SGD, so max_epsilon cannot be judged")
    return GatePart(passed=not broken, broken=tuple(broken))


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
