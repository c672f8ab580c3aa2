"""Noise on the values and tokens of single clips: Laplace noise and k-ary randomized response.

Laplace noise of scale b on one value that moves by at most s costs epsilon s / b (Dwork and Roth 2014, theorem 3.6). On
a vector the losses of its values add up, and exactly so: two vectors that differ by s in every value reach the sum.

Kairouz, Oh and Viswanath, NeurIPS 2014, "Extremal Mechanisms for Local Differential Privacy": of all mechanisms with
one token in and one out, randomized response keeps the most information where epsilon is large.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from moretta.shared.core.array_types import Array
from moretta.shared.core.terms import PrivacyStatement, PrivacyUnit
from moretta.shared.privacy.mechanism import (
    ORDERS,
    Curve,
    Mechanism,
    Sensitivity,
    Unbounded,
    check_positive,
    mechanism,
    renyi_of_table,
    rounded_up,
)
from moretta.shared.privacy.noise import NoiseSource

LARGEST_EPSILON = 27.0
"""Of one randomized token; no more is ever spent. Chance comes in steps of 2^-52: a rarer replacement would never
happen, and there would be no finite epsilon."""


@mechanism("laplace")
@dataclass(frozen=True, kw_only=True)
class LaplaceVector(Mechanism):
    """Independent Laplace noise on each of `values` numbers, each costing `value_epsilon`."""

    invalidated_by: ClassVar[tuple[str, ...]] = (
        "a value is not clipped to its bound before the noise is added",
        "the bound, or what values are standardised by, is taken from the clips themselves",
        "the noise is seeded, or drawn again for the same clip without being counted",
        "how many values there are is itself a secret: it is released as it is",
    )
    grows: ClassVar[str] = "values"
    value_epsilon: float
    values: int

    def __post_init__(self) -> None:
        check_positive("laplace", value_epsilon=self.value_epsilon, values=self.values)

    @property
    def sensitivity(self) -> Sensitivity:
        """Sensitivity in scales of the noise."""
        return Sensitivity(self.pure_epsilon, "L1")

    @property
    def pure_epsilon(self) -> float:
        """The sum over the values."""
        return self.value_epsilon * self.values

    def renyi(self) -> Curve:
        """`values` times that of one value (Mironov, CSF 2017, proposition 6)."""
        orders, shift = np.asarray(ORDERS), self.value_epsilon
        up = np.log(orders / (2 * orders - 1)) + (orders - 1) * shift
        down = np.log((orders - 1) / (2 * orders - 1)) - orders * shift
        curve: Curve = rounded_up(np.logaddexp(up, down) / (orders - 1))
        return np.minimum(self.values * curve, self.pure_epsilon)


@dataclass(frozen=True, kw_only=True)
class LaplaceValues:
    """Independent Laplace noise on each value of a clip's MFCC.

    The guarantee is local: it holds between any two clips of the same number of frames (clip), or any two people with
    the same numbers of clips and frames (speaker). Those numbers are released as they are and not covered.
    """

    epsilon: float
    """Nominal epsilon per value."""
    sensitivity: float
    """Nominal sensitivity per value."""
    bound: float | None
    """Values are clipped to +- this before noise is added, without a look at the data. None: they are not clipped, one
    value can move without limit, and nothing finite is guaranteed."""
    uses: int = 1
    """Times that noise is drawn anew on the same values, as when a codebook is fitted on them too."""

    @property
    def scale(self) -> float:
        """Scale of the noise, in the units of the values: variance is twice its square."""
        return self.sensitivity / self.epsilon

    def loss(self, values: int, unit: PrivacyUnit) -> Mechanism | None:
        """The mechanism over `values` values together; None if there are none."""
        if self.bound is None:
            return Unbounded(unit=unit, why="the values have no bound")
        if not values:
            return None
        return LaplaceVector(value_epsilon=2 * self.bound / self.scale, values=self.uses * values, unit=unit)

    def guaranteed(self, values: int) -> float | None:
        """Epsilon of `values` values together, None if there is no finite one.

        >>> LaplaceValues(epsilon=0.8, sensitivity=0.5, bound=3.0).guaranteed(1)
        9.6
        """
        loss = self.loss(values, "value")
        return 0.0 if loss is None else loss.pure_epsilon

    def nominal(self, values: int) -> float:
        """Epsilon of `values` values together if the nominal sensitivity were right."""
        return self.uses * values * self.epsilon

    def statements(
        self, sizes: Mapping[str, Sequence[int]], coefficients: int, *, mechanism: str, note: str
    ) -> tuple[PrivacyStatement, ...]:
        """One statement a unit, from value to speaker."""
        per_unit = values_per_unit(sizes, coefficients).items()
        figures = [(unit, self.guaranteed(values), self.nominal(values)) for unit, values in per_unit]
        return tuple(
            PrivacyStatement(mechanism=mechanism, unit=unit, epsilon=epsilon, nominal=nominal, note=note)
            for unit, epsilon, nominal in figures
        )


def values_per_unit(sizes: Mapping[str, Sequence[int]], coefficients: int) -> dict[PrivacyUnit, int]:
    """The most values that one value, frame, clip or speaker contributes.

    Args:
        sizes: for each speaker, the number of frames of each of its clips.
        coefficients: values in a frame.
    """
    return {
        "value": 1,
        "frame": coefficients,
        "clip": coefficients * max((max(clips, default=0) for clips in sizes.values()), default=0),
        "speaker": coefficients * max((sum(clips) for clips in sizes.values()), default=0),
    }


@mechanism("randomized-response")
@dataclass(frozen=True, kw_only=True)
class RandomizedResponse(Mechanism):
    """`tokens` tokens of one unit, each one of `choices`: kept with a probability, or else replaced by any other."""

    invalidated_by: ClassVar[tuple[str, ...]] = (
        "the codebook is fitted on the clips themselves",
        "a clip gives more tokens than are counted, or how many it gives depends on what was said",
        "the noise is seeded, or drawn again for the same clip without being counted",
    )
    grows: ClassVar[str] = "tokens"
    norm: ClassVar[Literal["L1", "L2", "choice"]] = "choice"
    choices: int
    token_epsilon: float
    tokens: int = 1

    def __post_init__(self) -> None:
        check_positive("randomized response", token_epsilon=self.token_epsilon, tokens=self.tokens)
        if self.choices < 2:
            raise ValueError(f"randomized response among {self.choices} choices: there must be at least 2")

    @property
    def keep(self) -> float:
        """Probability that a token is released as it is.

        >>> round(RandomizedResponse(choices=4, token_epsilon=2.0).keep, 4)
        0.7112
        """
        return 1 / (1 + (self.choices - 1) * math.exp(-min(self.token_epsilon, LARGEST_EPSILON)))

    @property
    def bits(self) -> float:
        """Shannon's information of a randomized token about its token, if all tokens come equally often."""
        keep, lie = self.keep, 1 - self.keep
        lost = -keep * math.log2(keep) + (lie * math.log2((self.choices - 1) / lie) if lie > 0 else 0.0)
        return math.log2(self.choices) - lost

    @property
    def pure_epsilon(self) -> float:
        """The sum over the tokens."""
        return self.tokens * self.token_epsilon

    def renyi(self) -> Curve:
        """`tokens` times that of one token, whose outcomes are few enough to be summed over."""
        # Outcomes: the one token, the other, and the rest of them together, which both give with equal probability
        keep, other = self.keep, (1 - self.keep) / (self.choices - 1)
        rest = [(self.choices - 2) * other] if self.choices > 2 else []
        curve = renyi_of_table(np.array([keep, other, *rest]), np.array([other, keep, *rest]))
        return np.minimum(self.tokens * curve, self.pure_epsilon)

    def randomize(self, tokens: Array, noise: NoiseSource) -> npt.NDArray[np.int32]:
        """Tokens, int32, to be released in place of `tokens`.

        Args:
            tokens: integers in [0, choices), any shape; another one raises ValueError.
            noise: two uniform numbers a token.
        """
        if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.choices:
            raise ValueError(f"tokens {int(tokens.min())} to {int(tokens.max())} among {self.choices} choices")
        kept = noise.uniform(tokens.shape) < self.keep
        others = self.choices - 1
        step = 1 + np.minimum(np.floor(noise.uniform(tokens.shape) * others), others - 1).astype(np.int64)
        return np.where(kept, tokens, (tokens + step) % self.choices).astype(np.int32)


def most_informative_choices(token_epsilon: float, most: int) -> int:
    """The number of tokens to choose from for the most information: few are kept more often, many say more.

    >>> [most_informative_choices(epsilon, 64) for epsilon in (1.0, 2.0, 4.0, 8.0)]
    [3, 5, 18, 64]
    """
    return max(range(2, most + 1), key=lambda k: RandomizedResponse(choices=k, token_epsilon=token_epsilon).bits)
