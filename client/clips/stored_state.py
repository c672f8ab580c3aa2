"""A stored release is used only while the corpus is as it was, which is checked before and after every response.

A clip that is gone or changed ends the use of a release and of all that was trained on it: it is removed, and the run
that had it gets nothing more of this site. Another run gets a release that is made anew.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moretta.client.accounting.budget import REMOVED_KIND
from moretta.client.accounting.ledger import Ledger
from moretta.client.clips.provenance import PROVENANCE_FILE, ChangedError, Provenance, UnclearError, find_changes
from moretta.client.clips.sent_log import Sent, What
from moretta.client.settings import SiteSettings, deployed_site
from moretta.client.training.data import forget_features, held_out
from moretta.shared.release.release_format import STATEMENT_FILE
from moretta.shared.study.schema import Study

_log = logging.getLogger(__name__)

_SECRET_SESSIONS = ("voice.json", "face.json", "fusion.json")


@contextmanager
def on_current_clips(
    settings: SiteSettings,
    study: Study,
    what: What | None,
    *,
    run: int,
    round_number: int = 0,
    making: bool = False,
    at_once: bool = False,
) -> Iterator[None]:
    """The block's response is about clips that are as they were, before and after, and is noted before it leaves.

    A person may withdraw while a model is trained: what was made meanwhile is removed and does not leave.

    Args:
        settings: of the site.
        study: which.
        what: would leave; None where nothing that comes of clips does.
        run: Flower's number of the run that requests it.
        round_number: of training; 0 for what has no rounds.
        making: what is requested can be made anew.
        at_once: nothing is made for the response, so nothing can change meanwhile.
    """
    check_stored(settings, study, run=run, making=making, whole=making and what == "release")
    yield
    if settings.policy is None:
        return
    if what is not None:
        _note(settings, study, what, run, round_number)
    if not at_once:
        check_stored(deployed_site(settings.home), study, run=run)


def check_stored(settings: SiteSettings, study: Study, *, run: int, making: bool = False, whole: bool = False) -> None:
    """Refuse to go on with what was made of other clips than the corpus holds now, and remove it.

    Args:
        settings: of the site, as they are now.
        study: which.
        run: Flower's number of the run that requests something.
        making: a release, or a part in a code, is requested: where this run has had none before, it can be made anew.
        whole: read every clip again, as the first request of a run for anything that is made does.
    """
    if settings.policy is None:  # a folder of one run, of whoever holds the clips
        return
    sent, short = Sent.of(settings, study.digest()), study.digest()[:16]
    before_removal, now = sent.runs()
    if run in before_removal:
        raise ChangedError(f"run {run} got responses from clips that have changed since", fix="start the study again")
    why = _why_unusable(settings, study, whole=whole or (making and run not in now))
    if why:
        remove_stored(settings, study.digest(), why)
        if run in now or not making:
            raise ChangedError(f"what was made for the study {short} is used no more: {why}")
    elif sent.waits_for_release and not making:
        raise ChangedError(f"what was made for the study {short} was removed", fix="start the study again")


def remove_stored(settings: SiteSettings, study: str, why: str) -> None:
    """Remove a study's release, its updates and everything made of them; the records stay, and say so.

    Killed on the way, it is done again at the next check.

    Args:
        settings: of the site.
        study: its digest.
        why: for the site's own records.
    """
    _log.warning("%s: the release for the study %s is removed: %s", settings.name, study, why)
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
    """Records of what is stored for a study, by folder: its release, and its part in a code; None for a missing one."""
    release, updates = settings.releases / study[:16], settings.updates / study[:16]
    marks = {release: STATEMENT_FILE, updates: PROVENANCE_FILE}
    return {folder: Provenance.load(folder) for folder, mark in marks.items() if (folder / mark).exists()}


def _why_unusable(settings: SiteSettings, study: Study, *, whole: bool) -> str:
    """Why what is stored must not be used; empty if it may, or if nothing is stored."""
    for folder, provenance in stored_provenances(settings, study.digest()).items():
        if provenance is None:
            return "there is no record of what it was made of"
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
            _log.warning(
                "%s: %d clips came after the release for the study %s was made: they are no part of it",
                settings.name,
                len(changes.added),
                study.digest()[:16],
            )
    return ""


def _note(settings: SiteSettings, study: Study, what: What, run: int, round_number: int) -> None:
    key, names = settings.pseudonyms(), settings.names(study)
    provenances = stored_provenances(settings, study.digest()).values()
    people = {n: key.speaker(n) for provenance in provenances if provenance is not None for n in provenance.speakers}
    if what in ("voice", "face", "fusion", "counts"):
        tested = held_out(settings, study)
        people = {n: pseudonym for n, pseudonym in people.items() if (pseudonym in tested) == (what == "counts")}
    pseudonyms = {number: names.released(pseudonym) for number, pseudonym in people.items()}
    Sent.of(settings, study.digest()).note(what, study, run=run, speakers=pseudonyms, round_number=round_number)
