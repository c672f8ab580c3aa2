"""Which of a site's speakers are held out of training, so that the models are tested on people they never met."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from moretta.client.accounting.account import COHORT
from moretta.client.accounting.ledger import Ledger
from moretta.client.settings import SiteSettings
from moretta.shared.core.errors import RunError
from moretta.shared.core.pseudonym import PseudonymKey
from moretta.shared.data.clips import Clip
from moretta.shared.privacy.code_budget import is_federated
from moretta.shared.release import open_release
from moretta.shared.release.release_format import STATEMENT_FILE
from moretta.shared.study.schema import Study

MadeAt = tuple[int, int]
CODE_KIND = "code"
"""Ledger entries of those who teach a federated code."""


def held_out(settings: SiteSettings, study: Study, folder: Path | None = None) -> frozenset[str]:
    """The site's own pseudonyms of its released speakers who are held out of training.

    Args:
        settings: of the site.
        study: which.
        folder: of the release, where it is not in the site's own place for this study.

    Raises:
        RunError: nothing was released yet.
    """
    folder = folder or settings.releases / study.digest()[:16]
    if not (folder / STATEMENT_FILE).exists():
        raise RunError("training was asked for before this site released", fix="run the release stage first")
    released = tuple(sorted(_speakers(folder, made_at(folder))))
    return of_released(settings, study, frozenset(settings.names(study).as_own(released, Ledger(settings.ledger))))


def of_released(settings: SiteSettings, study: Study, released: frozenset[str]) -> frozenset[str]:
    """The same for speakers, by the site's own pseudonyms, of a release that is not finished yet.

    Who has taught the study's code is not held out: where a speaker had no usable clip, the rule chooses anew.
    """
    key = settings.pseudonyms()
    if settings.held_out is not None:
        return released & {key.speaker(number) for number in settings.held_out}
    return by_rule(key, released, study) - _trained_speakers_of(settings, study)


def of_corpus(settings: SiteSettings, study: Study, clips: Sequence[Clip]) -> frozenset[str]:
    """The same before anything is released, as if all clips will be."""
    key = settings.pseudonyms()
    return of_released(settings, study, frozenset(key.speaker(clip.speaker) for clip in clips))


def _trained_speakers_of(settings: SiteSettings, study: Study) -> frozenset[str]:
    if not is_federated(study.voice):
        return frozenset()
    ledger = settings.site_budget().ledger
    trained_speakers = {entry["cohort"] for entry in ledger.entries(CODE_KIND, study=study.digest())}
    cohorts = [entry for entry in ledger.entries(COHORT) if entry["cohort"] in trained_speakers]
    return frozenset(speaker for entry in cohorts for speaker, _ in entry["speakers"])


def by_rule(key: PseudonymKey, speakers: frozenset[str], study: Study) -> frozenset[str]:
    """Choose by a keyed order: the same for one site and study, and told by nothing outside the site.

    The order depends on the study's seed and not on its test fold, so that over all test folds each speaker is held
    out once. With fewer speakers than folds there are as many folds as speakers; a single one is held out in one of
    the study's folds.
    """
    folds, chosen = study.split.folds, study.split.test_fold
    ranked = sorted(speakers, key=lambda speaker: key.rank(f"fold {study.seed} {speaker}"))
    if len(ranked) == 1:
        return speakers if key.rank(f"fold {study.seed}") % folds == chosen else frozenset()
    folds = max(1, min(folds, len(ranked)))
    return frozenset(ranked[chosen % folds :: folds])


def made_at(folder: Path) -> MadeAt:
    """Tells a release from one that was made later in its place."""
    found = (folder / STATEMENT_FILE).stat()
    return found.st_mtime_ns, found.st_ino


@lru_cache(maxsize=64)
def _speakers(folder: Path, made: MadeAt) -> frozenset[str]:
    del made
    return frozenset(clip.speaker for clip in open_release(folder).clips)
