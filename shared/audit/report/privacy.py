"""Rows of the privacy table about whole sites."""

from __future__ import annotations

from moretta.shared.audit.report.report_schema import PrivacyRow
from moretta.shared.privacy.site_level import plan_site_level
from moretta.shared.study.schema import Study

MECHANISM = "site-level noise"
_WHO = {
    "central": "whoever has the models; the server sees every update without noise",
    "distributed": "whoever has the models, and every site that takes part",
}


def site_level_rows(study: Study, site: str, rounds: int) -> list[PrivacyRow]:
    """What the aggregated models tell of a site, by the rounds in which its update was aggregated.

    Args:
        study: says which noise.
        site: its name.
        rounds: of all models together; the others' rounds cost it nothing.
    """
    plan, wanted = plan_site_level(study), study.aggregation
    if plan is None or rounds == 0:
        return []
    who = _WHO[wanted.dp] + (", and the server, which sees the sum alone" if wanted.secure else "")
    rows = [
        PrivacyRow(
            site=site,
            mechanism=f"{MECHANISM} ({wanted.dp})",
            unit="site",
            epsilon=plan.loss(rounds).epsilon(wanted.delta),
            delta=wanted.delta,
            nominal=wanted.epsilon,
            note=f"for {who}; {rounds} rounds of all models together",
        )
    ]
    if wanted.dp == "distributed" and not wanted.secure:
        rows.append(
            PrivacyRow(
                site=site,
                mechanism=f"{MECHANISM} (its own share)",
                unit="site",
                epsilon=plan.loss_of_share(rounds).epsilon(wanted.delta),
                delta=wanted.delta,
                note="for the server, which sees each update by itself",
            )
        )
    return rows
