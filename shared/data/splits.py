"""Deals speakers to disjoint folds and sites, seeded, each with its share of either sex where it is known."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from moretta.shared.core.errors import StudyError
from moretta.shared.core.labels import SpeakerId, in_order
from moretta.shared.data.clips import Speaker

Folds = tuple[tuple[SpeakerId, ...], ...]


def make_folds(speakers: Iterable[Speaker], folds: int, seed: int) -> Folds:
    """Deal speakers into disjoint folds for cross-validation.

    Sizes differ by at most one, and so do the numbers of each sex.

    Returns:
        The speakers, sorted within each fold.

    Raises:
        StudyError: fewer than two folds, or fewer speakers than folds.
    """
    everyone = _distinct(speakers)
    if folds < 2:
        raise StudyError(f"folds = {folds}", expected="at least 2: one is held out for testing")
    if len(everyone) < folds:
        raise StudyError(
            f"{folds} folds over {len(everyone)} speakers",
            expected="at least one speaker in each fold",
            fix=f"set folds to at most {len(everyone)}" if len(everyone) > 1 else "use a corpus of several speakers",
        )
    return tuple(tuple(fold) for fold in _deal(everyone, folds, seed))


def assign_sites(speakers: Iterable[Speaker], sites: int, seed: int) -> list[list[SpeakerId]]:
    """Deal speakers over virtual sites, at least one to each.

    Returns:
        The speakers, sorted within each site.

    Raises:
        StudyError: no site, or more sites than speakers.
    """
    everyone = _distinct(speakers)
    if sites < 1:
        raise StudyError(f"sites = {sites}", expected="at least 1")
    if len(everyone) < sites:
        raise StudyError(
            f"{sites} sites over {len(everyone)} speakers",
            expected="at least one speaker at each site",
            fix=f"set sites to at most {len(everyone)}",
        )
    return _deal(everyone, sites, seed)


def _distinct(speakers: Iterable[Speaker]) -> list[Speaker]:
    known = {speaker.id: speaker for speaker in speakers}
    return [known[speaker] for speaker in in_order(known)]


def _deal(speakers: list[Speaker], hands: int, seed: int) -> list[list[SpeakerId]]:
    """Like cards: each sex is shuffled, and dealing goes on where the sex before it stopped."""
    generator = np.random.default_rng(seed)
    deck: list[SpeakerId] = []
    for sex in ("female", "male", None):
        group = [speaker.id for speaker in speakers if speaker.sex == sex]
        deck += [group[index] for index in generator.permutation(len(group))]
    return [in_order(deck[hand::hands]) for hand in range(hands)]
