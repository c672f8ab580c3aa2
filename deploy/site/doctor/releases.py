"""Looks at what the site keeps of its studies: whether it is of the clips as they are."""

from __future__ import annotations

from moretta.client.clips.kept import kept_origins
from moretta.client.clips.origin import Origin, find_changes
from moretta.client.clips.withdrawal import kept_studies
from moretta.client.settings import SiteSettings
from moretta.deploy.site.doctor.findings import Findings
from moretta.shared.core.errors import MorettaError

_CHECK = "release"


def look_at_releases(notes: Findings, settings: SiteSettings) -> None:
    """Every clip that was released is read again, and compared with what was released."""
    for short in kept_studies(settings):
        try:
            for origin in kept_origins(settings, short).values():
                _look(notes, settings, short, origin)
        except MorettaError as error:
            notes.warning(
                _CHECK, f"of the study {short} is not used: {error.found}", fix=error.fix or "see docs/site.md"
            )


def _look(notes: Findings, settings: SiteSettings, short: str, origin: Origin | None) -> None:
    anew = "start the study again: it is then made anew, and counted anew on the ledger"
    if origin is None:
        notes.warning(_CHECK, f"of the study {short} is not used: no record says what it was made of", fix=anew)
        return
    changes = find_changes(origin, settings, whole=True)
    if changes.unclear:
        fix = "put back what is missing; or, if somebody has withdrawn: moretta site withdraw SPEAKER"
        notes.warning(_CHECK, f"of the study {short} is not used: {changes.unclear}", fix=fix)
    elif changes:
        notes.warning(_CHECK, f"of the study {short} is not used any more: {changes.in_words()}", fix=anew)
    else:
        later = f"; {len(changes.added)} clips came later and are no part of it" if changes.added else ""
        notes.ok(_CHECK, f"of the study {short} is of the clips as they are{later}")
