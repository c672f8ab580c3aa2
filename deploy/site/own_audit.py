"""`moretta site audit`: a site attacks its own release with the whole audit, alone, before or after it has left.

A release that has left is attacked as it left. Otherwise one is made in a folder of its own, as a review makes it:
nothing is sent, and nothing goes on the ledger. That folder is removed afterwards. Page and figures stay in `audits/`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any

from moretta.client.clips.originals import released_key
from moretta.client.clips.provenance import Provenance, find_changes
from moretta.client.clips.site_clips import site_corpus
from moretta.client.settings import SiteSettings
from moretta.client.site_home import REVIEW_PREFIX
from moretta.deploy.runtime.audit_sets import Audited, Sets, audit_sets
from moretta.deploy.runtime.run_folder import Notify, passing_folder, prepare_output
from moretta.deploy.site.review import Arrays, Review, make_review
from moretta.deploy.site.review_choice import sets_of
from moretta.shared.audit.result import strongest
from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.labels import SpeakerId
from moretta.shared.data.reader import read_marker
from moretta.shared.release import open_release
from moretta.shared.release.release_format import STATEMENT_FILE
from moretta.shared.study.schema import Study

_VARIABLE = "TMPDIR"


@dataclass(frozen=True, slots=True)
class Person:
    """A person of this site, and how often the strongest attacker of a modality recognizes one of their clips."""

    speaker: SpeakerId
    modality: str
    attacker: str
    scenario: str
    top1: float


@dataclass(frozen=True, slots=True)
class OwnAudit:
    """Results of the attacks on a site's own release."""

    found: Audited
    folder: Path
    """Folder of the page and the figures."""
    has_left: bool
    """Whether it is the release that was made for the server."""
    clips: int
    speakers: int
    people: tuple[Person, ...]
    """People of the site, the most often recognized first. Their names never leave."""


def audit_own(
    settings: SiteSettings,
    study: Study,
    *,
    arrays: Arrays | None,
    step: Callable[[int, int], None],
    notify: Notify,
    **how: Any,
) -> OwnAudit:
    """Attack what the site has released for a study, or would release.

    Only clips that the steward has approved are in it, and before an approval all that the site may read.

    Args:
        arrays: the public ones that were offered; None makes them here.
        step: called with the number of clips anonymized and of all.
        how: see `audit_sets`.

    Raises:
        PolicyError: the study would be refused.
        CorpusError: the clips cannot be read.
    """
    final = settings.audits_of(study)
    with _scratch(settings.home) as scratch:
        made = _as_it_left(settings, study)
        has_left = made is not None
        if made is None:
            review = scratch / "review"
            made = make_review(
                settings, study, review, arrays=arrays, own_names=True, approved=True, step=step, notify=notify
            )
        sets: Sets = {original.modality: (original, released) for original, released in sets_of(made)}
        if not sets:
            raise ReleaseError("no clip that can be released", expected="clips with voice or face")
        statement = made.release.statement
        synthetic = read_marker(settings.corpus)[1]
        name = f"{study.name}, {'as it left this site' if has_left else 'as this site would release it'}"
        out = scratch / "audit"
        prepare_output(out)
        released = made.release.modalities
        how["sentences"] = study.audit.sentences
        found = audit_sets(sets, out, released=released, name=name, synthetic=synthetic, **how)
        people = tuple(_people(found, made))
        shutil.rmtree(final, ignore_errors=True)
        final.parent.mkdir(mode=0o700, exist_ok=True)
        out.chmod(0o700)
        out.rename(final)
    return OwnAudit(found, final, has_left, statement.clips, statement.speakers, people)


@contextmanager
def _scratch(home: Path) -> Iterator[Path]:
    """A folder inside the site's for all that is made here, temporary files of attackers included.

    It is gone afterwards. `moretta site doctor` names one that a kill has left.
    """
    get_temp_dir()  # of multiprocessing: it outlives this, and its sockets need a short path
    before, named = tempfile.tempdir, os.environ.get(_VARIABLE)
    with passing_folder(REVIEW_PREFIX, home) as folder:
        try:
            tempfile.tempdir = os.environ[_VARIABLE] = str(folder)  # the variable is for processes of a pool
            yield folder
        finally:
            tempfile.tempdir = before
            os.environ.pop(_VARIABLE)
            os.environ.update({} if named is None else {_VARIABLE: named})


def _as_it_left(settings: SiteSettings, study: Study) -> Review | None:
    """The release that the site has made for the server; None where there is none, or its clips have changed since."""
    folder = settings.release_of(study)
    provenance = Provenance.load(folder)
    if provenance is None or not (folder / STATEMENT_FILE).exists():
        return None
    changes = find_changes(provenance, settings, whole=True)
    if changes or changes.unclear:
        return None  # the server gets it no more: another run gets one that is made anew
    release, (corpus, clips) = open_release(folder), site_corpus(settings, study)
    names, policy = settings.names(study), settings.policy
    assert policy is not None
    originals = {names.released(names.key.clip(clip.name)): clip for clip in clips}
    return Review(study, policy, release, frozenset(), {}, originals, corpus, settings)


def _people(found: Audited, made: Review) -> Iterator[Person]:
    """How often each person is recognized by the strongest attacker of a modality."""
    key = released_key(made.settings, made.study, made.release)
    speakers = {key.speaker(clip.speaker): clip.speaker for clip in made.originals.values()}
    rows = [row for row in found.rows if row.metric == "top1" and row.pooled == 1 and not row.is_anchor]
    people: list[Person] = []
    for modality in made.release.modalities:
        best = strongest(row for row in rows if row.modality == modality and row.is_whole)
        if best is None:
            continue
        for row in rows:
            same = (row.modality, row.attacker, row.scenario) == (modality, best.attacker, best.scenario)
            if same and row.subset in speakers and row.value is not None:
                people.append(Person(speakers[row.subset], modality, row.attacker, row.scenario, row.value))
    yield from sorted(people, key=lambda person: -person.top1)
