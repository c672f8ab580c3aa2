"""Public people whom a network is not trained on, and by whom it is measured: a third of each sex."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from moretta.shared.core.errors import StudyError
from moretta.shared.data.tables import DEMOGRAPHICS_FILE
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.models.replacement_autoencoder import SEXES

FEWEST = 3
"""People of each sex: two are trained on, and one is held out."""


def held_out_people(rows: PublicRows, *, seed: int) -> npt.NDArray[np.bool_]:
    """Which rows are of people who are held out. Of speakers whose sex is not known, none is.

    Args:
        rows: of all public people.
        seed: of the choice of people.

    Raises:
        StudyError: fewer than three people of each sex whose sex is known.
    """
    people = {sex: np.unique(rows.person[rows.sex == sex]) for sex in SEXES}
    counts = {sex: len(found) for sex, found in people.items()}
    if min(counts.values()) < FEWEST:
        raise _too_few(rows, counts)
    drawn, held = np.random.default_rng([seed, 0x5E8]), []
    for found in people.values():
        held += [*drawn.permutation(found)[: len(found) // 3]]
    return np.isin(rows.person, held)


def _too_few(rows: PublicRows, counts: Mapping[str, int]) -> StudyError:
    """Whose sex is known, and where it would be read."""
    people = len(np.unique(rows.person))
    known = " and ".join(f"{count} {sex}" for sex, count in counts.items())
    return StudyError(
        f"public speech of {people} people, of whom {known} by the table of speakers",
        expected=f"at least {FEWEST} of each sex: two are trained on, and one is held out",
        fix=f"put {DEMOGRAPHICS_FILE}, with the columns ActorID, Age and Sex, into the folder `public_speech`, and "
        "clips of more people if it has too few; or leave `public_speech` out to use synthetic speech",
    )
