"""Answers only about clips that are at the site now, and a note of every one that leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from moretta.client.clips.sent_log import Sent, What
from moretta.client.clips.stored_state import check_stored, stored_provenances
from moretta.client.settings import SiteSettings, deployed_site
from moretta.client.training.data import held_out
from moretta.shared.study.schema import Study


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
    """Everything that is answered within is of clips that are as they were, before and after.

    A person may withdraw while a model is trained: what was made meanwhile is removed and does not leave.

    Args:
        settings: of the site.
        study: which.
        what: would leave; None where nothing that comes of clips does.
        run: Flower's number of the run that asks.
        round_number: of training; 0 for what has no rounds.
        making: it is asked for what can be made anew.
        at_once: nothing is made for the answer, so nothing can change meanwhile.

    Raises:
        ChangedError: they are not.
        CorpusError: the corpus cannot be used.
    """
    check_stored(settings, study, run=run, making=making, whole=making and what == "release")
    yield
    if settings.policy is None:
        return
    if what is not None:
        _note(settings, study, what, run, round_number)
    if not at_once:
        check_stored(deployed_site(settings.home), study, run=run)


def _note(settings: SiteSettings, study: Study, what: What, run: int, round_number: int) -> None:
    key, names = settings.pseudonyms(), settings.names(study)
    provenances = stored_provenances(settings, study.digest()).values()
    people = {n: key.speaker(n) for provenance in provenances if provenance is not None for n in provenance.speakers}
    if what in ("voice", "face", "fusion", "counts"):
        tested = held_out(settings, study)
        people = {n: pseudonym for n, pseudonym in people.items() if (pseudonym in tested) == (what == "counts")}
    pseudonyms = {number: names.released(pseudonym) for number, pseudonym in people.items()}
    Sent.of(settings, study.digest()).note(what, study, run=run, speakers=pseudonyms, round_number=round_number)
