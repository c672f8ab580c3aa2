"""People whose released values lie so far from all others' that they would blind the attackers.

Attackers scale what they read by all people together. A site that multiplies the values of one person by a large number
moves these scales, and everybody else comes to look alike. Such people are left out, and the audit says how many: what
they would have hidden cannot count as private, and neither can they.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moretta.shared.core.array_types import Array, Bool

LARGEST_RATIO = 4.0
"""Of a person's reach to that of people in general, in one value."""
LARGEST_SHARE = 0.1
"""Of the values in which a person's reach may be larger: some values are zero for most people."""
FEWEST_PEOPLE = 4
"""Among fewer it cannot be said who lies outside."""


def outlying(values: Array, labels: npt.NDArray[np.int64]) -> Bool:
    """Which people lie far outside.

    A person's reach in a value is its largest distance, over the person's clips, from the middle of all people. It is
    compared with the median reach of all people, so that fewer than half of them cannot move what it is compared with.

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
    middle = np.quantile([np.quantile(rows, 0.5, axis=0, method="lower") for rows in own], 0.5, axis=0, method="lower")
    with np.errstate(invalid="ignore", over="ignore"):
        reach = np.nan_to_num([np.abs(rows - middle).max(axis=0) for rows in own], nan=np.inf, posinf=np.inf)
        beyond = reach > LARGEST_RATIO * np.quantile(reach, 0.5, axis=0, method="lower")
    return np.asarray(beyond.mean(axis=1) > LARGEST_SHARE)
