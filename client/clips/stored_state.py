"""What is kept of a study is used only while the corpus is as it was: checked before and after every response.

A clip that is gone or changed ends the use of a release and of all that was trained on it: it is removed, and the run
that had it gets nothing more of this site. Another run gets a release that is made anew.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from moretta.client.accounting.budget import REMOVED_KIND
from moretta.client.accounting.ledger import Ledger
from moretta.client.clips.provenance import PROVENANCE_FILE, ChangedError, Provenance, UnclearError, find_changes
from moretta.client.clips.sent_log import Sent
from moretta.client.settings import SiteSettings
from moretta.client.training.data import forget_features
from moretta.shared.release.release_format import STATEMENT_FILE
from moretta.shared.study.schema import Study

_SECRET_SESSIONS = ("voice.json", "face.json", "fusion.json")
_UNRECORDED = "there is no record of what it was made of"


def check_stored(settings: SiteSettings, study: Study, *, run: int, making: bool = False, whole: bool = False) -> None:
    """Refuse to go on with what was made of other clips than the corpus holds now, and remove it.

    Args:
        settings: of the site, as they are now.
        study: which.
        run: Flower's number of the run that asks.
        making: a release is asked for, or a part in a code: where this run has had none before, it can be made anew.
        whole: read every clip again. So does the first request of a run for anything that is made.

    Raises:
        ChangedError: this run cannot go on.
        UnclearError: nothing is removed, and nothing is answered until the steward has looked at the corpus.
        CorpusError: the corpus cannot be used.
    """
    if settings.policy is None:  # a folder of one run, of whoever holds the clips
        return
    sent = Sent.of(settings, study.digest())
    if run in sent.runs_before_removal():
        raise ChangedError(f"run {run} was answered from clips that have changed since", fix="start the study again")
    runs = sent.runs_now()
    why = _why_unusable(settings, study, whole=whole or (making and run not in runs))
    if why:
        remove_stored(settings, study.digest(), why)
        if run in runs or not making:
            raise ChangedError(f"what was made for the study {study.digest()[:16]} is used no more: {why}")
    elif sent.waits_for_release and not making:
        raise ChangedError(
            f"what was made for the study {study.digest()[:16]} was removed", fix="start the study again"
        )


def remove_stored(settings: SiteSettings, study: str, why: str) -> None:
    """Remove a study's release, its updates and everything made of them; say so in the records, which stay.

    Killed on the way, it is done again at the next look.

    Args:
        settings: of the site.
        study: its digest.
        why: for the site's own records.
    """
    logging.getLogger("moretta").warning("%s: the release for the study %s is removed: %s", settings.name, study, why)
    Sent.of(settings, study).note_removal(why)
    folder = settings.releases / study[:16]
    (folder / STATEMENT_FILE).unlink(missing_ok=True)  # from here on it cannot be opened
    for each in (folder, settings.updates / study[:16]):
        shutil.rmtree(each, ignore_errors=True)
    for name in _SECRET_SESSIONS:  # but not which rounds were unmasked
        (settings.home / "secure" / study[:16] / name).unlink(missing_ok=True)
    forget_features()
    Ledger(settings.ledger).spend(REMOVED_KIND, study=study, why=why)


def stored_provenances(settings: SiteSettings, study: str) -> dict[Path, Provenance | None]:
    """What is kept for a study, by folder: its release, and its part in a code; None where nothing says of what."""
    release, updates = settings.releases / study[:16], settings.updates / study[:16]
    found: dict[Path, Provenance | None] = {}
    if (release / STATEMENT_FILE).exists():
        found[release] = Provenance.load(release)
    if (updates / PROVENANCE_FILE).exists():
        found[updates] = Provenance.load(updates)
    return found


def _why_unusable(settings: SiteSettings, study: Study, *, whole: bool) -> str:
    """Why what is kept must not be used; empty if it may, or if nothing is."""
    for folder, provenance in stored_provenances(settings, study.digest()).items():
        if provenance is None:
            return _UNRECORDED
        changes = find_changes(provenance, settings, whole=whole)
        if changes.unclear:
            raise UnclearError(
                changes.unclear,
                expected="the clips that were released",
                fix="put back what is missing. If a person has withdrawn: moretta site withdraw SPEAKER. To make "
                f"the release anew from what is there: moretta site withdraw --study {study.digest()[:16]}",
            )
        if changes:
            return changes.as_text()
        if changes.now is not None and changes.now != provenance:
            changes.now.save(folder)
        if changes.added and whole:
            logging.getLogger("moretta").warning(
                "%s: %d clips came after the release for the study %s was made: they are no part of it",
                settings.name,
                len(changes.added),
                study.digest()[:16],
            )
    return ""
