"""People whose released values lie so far from all others' that they would blind the attackers.

Attackers scale what they read by all people together. A site that multiplies the values of one person by a large number
moves these scales, and everybody else comes to look alike. Such people are left out, and the audit says how many: what
they would have hidden cannot count as private, and neither can they. Where they are many, nobody can say who is usual:
then no figure counts.
"""

from __future__ import annotations

import numpy as np

from moretta.shared.core.array_types import Array, Bool, Float64, Int64

LARGEST_RATIO = 4.0
"""Largest ratio of a person's typical distance from the middle to that of people in general, in one value."""
LARGEST_CLIP_RATIO = 16.0
"""Largest ratio of a single clip: Laplace noise exceeds it once in 60,000 values, Cauchy noise once in 25."""
LARGEST_SHARE = 0.4
"""Of the values that may be farther out: some are zero for most people, and people who are easy to tell apart lie far
from the middle in some. Attackers scale each value by itself, so the others still show everybody else."""
USUAL, NEAR = 0.7, 0.25
"""Quantile of people's distances that serves as the measure: fewer than three tenths of the people cannot move it; and
the quantile that shows whether there is a measure at all."""
CROWD_RATIO, CROWD_SHARE = 16.0, 0.5
"""Ratio of two distances, and share of values with it, beyond which people are of two kinds."""
MOST_LEFT_OUT = 0.25
"""Largest share of people that is left out. With more no figure counts: invented people could exclude usual ones."""
FEWEST_PEOPLE = 4
"""Fewest people among whom outlying ones can be found."""


def outlying(values: Array, labels: Int64) -> Bool:
    """Which people lie far outside: typically, or with a single clip. All of them, where people are of two kinds.

    A person's typical distance in a value is the median over the person's clips, from the middle of all people, so that
    the number of clips does not matter.

    Args:
        values: [clips, d] statistics of released clips; what is not finite lies outside.
        labels: int64 [clips], from 0, of each clip's person.

    Returns:
        bool [people].
    """
    people = int(labels.max(initial=-1)) + 1
    if people < FEWEST_PEOPLE:
        return np.zeros(people, bool)
    known = np.nan_to_num(np.asarray(values, np.float64), nan=np.inf, posinf=np.inf, neginf=np.inf)
    own = [known[labels == person] for person in range(people)]
    middle = _quantile(np.array([_quantile(rows, 0.5) for rows in own]), 0.5)
    with np.errstate(invalid="ignore", over="ignore"):
        far = [np.nan_to_num(np.abs(rows - middle), nan=np.inf, posinf=np.inf) for rows in own]
        typical = np.array([_quantile(rows, 0.5) for rows in far])
        usual, near = _quantile(typical, USUAL), _quantile(typical, NEAR)
        # Values of few steps have people at no distance at all: there their own spread is the measure
        spread = _quantile(np.array([_quantile(np.abs(rows - _quantile(rows, 0.5)), 0.5) for rows in own]), USUAL)
        near = np.where(near > 0, near, spread)
        if ((near > 0) & (usual > CROWD_RATIO * near)).mean() > CROWD_SHARE:
            return np.ones(people, bool)
        usual = np.where(usual > 0, usual, np.finfo(np.float64).max)  # where most people are alike nobody is hidden
        beyond = (typical > LARGEST_RATIO * usual).mean(axis=1) > LARGEST_SHARE
        single = [((rows > LARGEST_CLIP_RATIO * usual).mean(axis=1) > LARGEST_SHARE).any() for rows in far]
    return np.asarray(beyond | np.array(single))


def _quantile(rows: Float64, place: float) -> Float64:
    """Quantile over the first axis: an existing value, and no mean of two, since one of these may be infinite."""
    return np.asarray(np.quantile(rows, place, axis=0, method="lower"), np.float64)
