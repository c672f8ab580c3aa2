"""Stage attacks at sites: real sites run attackers on their own originals, which the server never has.

Each site's counts of scores are in a file of their own, so that they go when a person withdraws there.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from functools import partial
from typing import Any

from flwr.app import RecordDict

from moretta.server.grid.site_grid import SiteGrid, noting_failure_of
from moretta.server.stages.run import SITE_SCORES, Approval, Releases, RunContext
from moretta.shared.audit.result import Result
from moretta.shared.audit.site_attacks import SCENARIOS, SiteScores, rows_of, sendable
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import ReleaseError
from moretta.shared.features.voice_forms import is_code
from moretta.shared.messages import wire
from moretta.shared.messages.calls import Attacked
from moretta.shared.release import Release

STAGE = "attacks at sites"


def attack_at_sites(context: RunContext, grid: SiteGrid, releases: Releases, approval: Approval) -> None:
    """Request each attacker of `at_sites` from every site with a release that it can read.

    A site that refuses or fails is named in a warning, and loses nothing else.
    """
    folder, study = context.folder / SITE_SCORES, context.study
    shutil.rmtree(folder, ignore_errors=True)
    kept: dict[str, dict[str, Any]] = defaultdict(dict)
    for attacker in study.audit.at_sites:
        failures: dict[str, str] = {}
        sites = [site for site, release in releases.kept.items() if _can_be_read(release, attacker)]
        if not sites:
            context.warn(f"no site was asked to run {attacker}: it cannot read what was released")
            continue
        content = RecordDict({wire.CONFIG: wire.study_config(study, attacker=attacker, approval=approval.digest)})
        deadline = study.deadline_seconds("release")
        for response in grid.request(wire.ATTACK, partial(_same, content), sites=sites, deadline_seconds=deadline):
            with noting_failure_of(response.site, failures):
                found = response.of(Attacked)
                _check(found, releases.kept[response.site])
                kept[response.site][attacker] = found.model_dump(mode="json", exclude={"site"})
        for site, why in sorted(failures.items()):
            context.warn(f"{site} did not run the attacker {attacker} on its originals: {why}")
    for site, attackers in kept.items():
        write_atomic(folder / f"{site}.json", json.dumps(attackers) + "\n")


def site_rows(context: RunContext, releases: Releases) -> list[Result]:
    """Figures of the attackers that ran at sites, over all sites that still have a release here."""
    by_attacker: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for site in sorted(releases.kept):
        path = context.folder / SITE_SCORES / f"{site}.json"
        if path.exists():
            for attacker, found in json.loads(path.read_text(encoding="utf-8")).items():
                by_attacker[attacker][site] = found
    rows: list[Result] = []
    for attacker, sites in by_attacker.items():
        scores = {site: {s: SiteScores(*map(tuple, found[s])) for s in SCENARIOS} for site, found in sites.items()}
        rows += rows_of(attacker, scores, speakers=sum(found["speakers"] for found in sites.values()))
        context.warn(f"{attacker} ran at {', '.join(sites)}, on their originals: its figures are what these sites say")
    return rows


def _same(content: RecordDict, _: str) -> RecordDict:
    return content


def _can_be_read(release: Release, attacker: str) -> bool:
    statement = release.anonymizer(sendable(attacker).modality)
    return statement is not None and not is_code(statement.form)


def _check(found: Attacked, release: Release) -> None:
    """Check that no more people are scored than were released, and that both scenarios have the same comparisons."""
    if not 2 <= found.speakers <= release.statement.speakers:
        raise ReleaseError(f"scores of {found.speakers} people", expected=f"2 to {release.statement.speakers}")
    sizes = [tuple(map(sum, each)) for each in (found.unprotected, found.ignorant)]
    if sizes[0] != sizes[1] or not all(0 < size <= wire.MAX_TRIALS for size in sizes[0]):
        expected = f"the same 1 to {wire.MAX_TRIALS} of each kind in both scenarios"
        raise ReleaseError(f"{sizes} comparisons", expected=expected)
