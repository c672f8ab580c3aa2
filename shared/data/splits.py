"""Who goes where: speaker-disjoint folds and sites, seeded, each with its share of either sex where it is known."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from moretta.shared.core.atomic import atomic_path
from moretta.shared.core.errors import StudyError
from moretta.shared.data.clips import Speaker

Folds = tuple[tuple[int, ...], ...]


def make_folds(speakers: Iterable[Speaker], folds: int, seed: int) -> Folds:
    """Deal speakers into disjoint folds for cross-validation.

    Sizes differ by at most one, and so do the numbers of each sex.

    Returns:
        The speakers' numbers, sorted within each fold.

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


def assign_sites(speakers: Iterable[Speaker], sites: int, seed: int) -> list[list[int]]:
    """Deal speakers over virtual sites, at least one to each.

    Returns:
        The speakers' numbers, sorted within each site.

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


def save_folds(path: Path, folds: Folds, *, seed: int) -> None:
    """Write folds as JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"seed": seed, "folds": folds}) + "\n", encoding="utf-8")


def load_folds(path: Path) -> Folds:
    """Read what `save_folds` wrote.

    Raises:
        StudyError: not such a file, or a speaker stands in two folds.
    """
    try:
        folds = tuple(tuple(fold) for fold in json.loads(path.read_text("utf-8"))["folds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path} holds no folds ({error})", fix="delete it: the folds are made again") from error
    members = [speaker for fold in folds for speaker in fold]
    if not all(type(speaker) is int for speaker in members) or len(set(members)) != len(members):
        raise StudyError(f"the folds in {path} overlap", expected="every speaker's number in one fold only")
    return folds


def _distinct(speakers: Iterable[Speaker]) -> list[Speaker]:
    by_number = {speaker.id: speaker for speaker in speakers}
    return [by_number[number] for number in sorted(by_number)]


def _deal(speakers: list[Speaker], hands: int, seed: int) -> list[list[int]]:
    """Like cards: each sex is shuffled, and dealing goes on where the sex before it stopped."""
    generator = np.random.default_rng(seed)
    deck: list[int] = []
    for sex in ("female", "male", None):
        group = [speaker.id for speaker in speakers if speaker.sex == sex]
        deck += [group[index] for index in generator.permutation(len(group))]
    return [sorted(deck[hand::hands]) for hand in range(hands)]
