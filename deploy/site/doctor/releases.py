"""Looks at what the site keeps of its studies: whether it is of the clips as they are."""

from __future__ import annotations

from moretta.client.clips.provenance import Provenance, find_changes
from moretta.client.clips.stored_state import stored_provenances
from moretta.client.clips.withdrawal import stored_studies
from moretta.client.settings import SiteSettings
from moretta.deploy.site.doctor.doctor_findings import Findings
from moretta.shared.core.errors import MorettaError

_CHECK = "release"


def look_at_releases(notes: Findings, settings: SiteSettings) -> None:
    """Every clip that was released is read again, and compared with what was released."""
    for short in stored_studies(settings):
        try:
            for provenance in stored_provenances(settings, short).values():
                _look(notes, settings, short, provenance)
        except MorettaError as error:
            notes.warning(
                _CHECK, f"of the study {short} is not used: {error.found}", fix=error.fix or "see docs/site.md"
            )


def _look(notes: Findings, settings: SiteSettings, short: str, provenance: Provenance | None) -> None:
    anew = "start the study again: it is then made anew, and counted anew on the ledger"
    if provenance is None:
        notes.warning(_CHECK, f"of the study {short} is not used: no record says what it was made of", fix=anew)
        return
    changes = find_changes(provenance, settings, whole=True)
    if changes.unclear:
        fix = "put back what is missing; or, if somebody has withdrawn: moretta site withdraw SPEAKER"
        notes.warning(_CHECK, f"of the study {short} is not used: {changes.unclear}", fix=fix)
    elif changes:
        notes.warning(_CHECK, f"of the study {short} is not used any more: {changes.as_text()}", fix=anew)
    else:
        later = f"; {len(changes.added)} clips came later and are no part of it" if changes.added else ""
        notes.ok(_CHECK, f"of the study {short} is of the clips as they are{later}")
