"""What an attack found, against what nothing would look like."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.metrics.bootstrap import Interval, bootstrap_rows


@dataclass(frozen=True)
class Leak:
    """The success of one attacker.

    `value` and `chance` are shares in [0, 1], None where the attack is invalid; `interval` resamples people;
    `invalid` says
    why the figure must not be read as privacy, None of a valid one.
    """

    target: str
    attacker: str
    value: float | None
    chance: float | None
    interval: Interval | None
    speakers: int
    invalid: str | None = None

    @property
    def leaks(self) -> bool:
        """The whole interval lies above chance.

        Few people make intervals too narrow: of releases without any leak, 12 % of the inferences from 24 people and
        7 % from 60 came out above chance (measured; 2.5 % nominal), so a bare excess from few is no proof.
        """
        return self.interval is not None and self.chance is not None and self.interval.low > self.chance


def strongest(leaks: Iterable[Leak]) -> Leak | None:
    """The valid attack farthest above chance, the headline; None if all are invalid."""
    valid = [(leak.value - leak.chance, leak) for leak in leaks if leak.value is not None and leak.chance is not None]
    return max(valid, key=lambda pair: pair[0])[1] if valid else None


def infer_class(
    *,
    target: str,
    attacker: str,
    right: npt.NDArray[np.bool_],
    label: npt.NDArray[np.int64],
    unit: npt.NDArray[Any],
    resamples: int,
    seed: int,
) -> Leak:
    """Balanced accuracy (mean recall of the classes; chance is 1 over their number) with its bootstrap over units.

    Args:
        target: what was inferred.
        attacker: by what.
        right: bool [n], whether the attacker was right.
        label: int [n], the true class, 0 to the number of classes - 1.
        unit: [n], whom the bootstrap resamples: the speaker, as a rule.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    units, unit_of_row = np.unique(unit, return_inverse=True)
    classes = len(np.unique(label))
    # A resample that lacks a class would flatter a guesser of the other; where units are the classes all lack some.
    needs_all = len(units) > classes

    def balanced(rows: npt.NDArray[np.int64]) -> float | None:
        counts = np.bincount(label[rows], minlength=classes)
        if needs_all and (counts == 0).any():
            return None
        hits = np.bincount(label[rows], right[rows], minlength=classes)
        return float((hits[counts > 0] / counts[counts > 0]).mean())

    interval = bootstrap_rows(balanced, unit_of_row, resamples=resamples, seed=seed)
    return Leak(target, attacker, balanced(np.arange(len(label))), 1 / classes, interval, len(units))
