"""Public people: a third of each sex is held out, and what fresh readers find in what becomes of their clips.

Of the others one clip in four is set aside: there an adversary in the loop is tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Self, get_args

import numpy as np

from moretta.shared.core.array_types import Array, Bool, Int64
from moretta.shared.core.errors import StudyError
from moretta.shared.data.tables import DEMOGRAPHICS_FILE
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.models.adversaries import AdversaryFigures, Labelled, fresh_readers, linear_reader
from moretta.shared.models.replacement_autoencoder import SEXES

FEWEST = 3
"""People of each sex: two are trained on, and one is held out."""
FEWEST_CLIPS = 4
"""Fewest clips of a person: one in four is set aside, and half of a held-out person's train the fresh reader."""
Attribute = Literal["speaker", "sex"]
ATTRIBUTES: tuple[Attribute, ...] = get_args(Attribute)
Labels = Int64
Values = Array


class People(NamedTuple):
    """Clips of some people."""

    values: Values
    """[n, ...] of each clip."""
    person: Labels
    """Number of each clip's person among these people, from 0 on."""
    sex: Labels
    """Index in `SEXES`."""
    emotion: Labels
    """Class index."""

    @classmethod
    def of(cls, rows: PublicRows, mine: Bool) -> Self:
        """The clips of some rows."""
        _, person = np.unique(rows.person[mine], return_inverse=True)
        sex = (rows.sex[mine] == SEXES[1]).astype(np.int64)
        return cls(rows.values[mine], person.astype(np.int64), sex, rows.emotion[mine])

    def some(self, mine: Bool) -> Self:
        """Some clips of them."""
        return type(self)(*(part[mine] for part in self))

    def order(self) -> Labels:
        """[n], how many clips of the same person come before each."""
        return np.array([int((self.person[:row] == one).sum()) for row, one in enumerate(self.person)], np.int64)

    def attribute(self, name: Attribute) -> Labels:
        """[n], from 0 on."""
        return self.person if name == "speaker" else self.sex


class Split(NamedTuple):
    """Public people."""

    known: People
    """Clips that are trained on."""
    unseen: People
    """Other clips of the same people."""
    others: People
    """Clips of people who are held out."""

    @classmethod
    def of(cls, rows: PublicRows, *, seed: int) -> Self:
        """Hold out a third of the people of each sex; those of unknown sex or with fewer than four clips have no part.
        Raises StudyError: fewer than three people of each sex are left."""
        rows = rows._replace(sex=np.where(_have_enough(rows), rows.sex, ""))
        is_held_out = held_out_people(rows, seed=seed)
        trained = People.of(rows, np.isin(rows.sex, SEXES) & ~is_held_out)
        is_unseen = trained.order() % FEWEST_CLIPS == 1
        return cls(trained.some(~is_unseen), trained.some(is_unseen), People.of(rows, is_held_out))


def read_afresh(
    split: Split,
    attribute: Attribute,
    original: tuple[Values, Values],
    output: tuple[Values, Values],
    *,
    in_loop: float,
    able: float,
    loss: float,
    variation: float,
    seed: int,
) -> AdversaryFigures:
    """Figures of an adversary, with what readers that are trained afresh find of people who are held out.

    Readers of sex are trained on the known people; readers of speakers on every other clip of those who are held out,
    and they are tested on the rest.

    Args:
        original: [n, d] of known clips, and of those of held-out people.
        output: the same of what became of them.
    """
    odd = split.others.order() % 2 == 1
    label = split.others.attribute(attribute)

    def rows(values: tuple[Values, Values]) -> tuple[Labelled, Labelled]:
        if attribute == "speaker":
            return Labelled(values[1][odd], label[odd]), Labelled(values[1][~odd], label[~odd])
        return Labelled(values[0], split.known.sex), Labelled(values[1], label)

    linear, forest = fresh_readers(*rows(output), seed=seed)
    model, _ = rows(original)
    return AdversaryFigures(
        classes=int(split.known.attribute(attribute).max()) + 1,
        in_loop=in_loop,
        able=able,
        loss=loss,
        of_originals=linear_reader(model, rows(output)[1]),
        fresh_linear=linear,
        fresh_forest=forest,
        variation=variation,
    )


def held_out_people(rows: PublicRows, *, seed: int) -> Bool:
    """Which rows are of people who are held out. Of speakers whose sex is not known, none is. Raises StudyError: fewer
    than three people of each sex whose sex is known."""
    people = {sex: np.unique(rows.person[rows.sex == sex]) for sex in SEXES}
    counts = {sex: len(found) for sex, found in people.items()}
    if min(counts.values()) < FEWEST:
        raise _too_few(rows, counts)
    drawn, held = np.random.default_rng([seed, 0x5E8]), []
    for found in people.values():
        held += [*drawn.permutation(found)[: len(found) // 3]]
    return np.isin(rows.person, held)


def _too_few(rows: PublicRows, counts: Mapping[str, int]) -> StudyError:
    """Error that states how many people of each sex are known, and which table would state it."""
    people = len(np.unique(rows.person))
    known = " and ".join(f"{count} {sex}" for sex, count in counts.items())
    return StudyError(
        f"public speech of {people} people, of whom {known} by the table of speakers",
        expected=f"at least {FEWEST} of each sex: two are trained on, and one is held out",
        fix=f"put {DEMOGRAPHICS_FILE}, with the columns ActorID, Age and Sex, into the folder `public_speech`, and "
        "clips of more people if it has too few; or leave `public_speech` out to use synthetic speech",
    )


def people_without_part(rows: PublicRows) -> int:
    """How many people cannot be used: their sex is not known, or they have fewer than `FEWEST_CLIPS` clips."""
    return len(np.unique(rows.person[~(np.isin(rows.sex, SEXES) & _have_enough(rows))]))


def _have_enough(rows: PublicRows) -> Bool:
    names, counts = np.unique(rows.person, return_counts=True)
    return np.isin(rows.person, names[counts >= FEWEST_CLIPS])
