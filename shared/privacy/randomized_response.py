"""k-ary randomized response: a token is kept with a probability, or else replaced by any other one.

Kairouz, Oh and Viswanath, NeurIPS 2014, "Extremal Mechanisms for Local Differential Privacy": of all mechanisms with
one token in and one out it keeps the most information where epsilon is large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from moretta.shared.core.terms import PrivacyUnit
from moretta.shared.privacy.mechanism import (
    Curve,
    Mechanism,
    Relation,
    Sensitivity,
    check_positive,
    mechanism,
    renyi_of_table,
)
from moretta.shared.privacy.noise import NoiseSource

Tokens = npt.NDArray[np.int32]
LARGEST_EPSILON = 27.0
"""Of one randomized token; no more is ever spent. Chance comes in steps of 2^-52: a rarer replacement would never
happen, and there would be no finite epsilon."""


def most_informative_choices(token_epsilon: float, most: int) -> int:
    """The number of tokens to choose from for the most information: few are kept more often, many say more.

    >>> [most_informative_choices(epsilon, 64) for epsilon in (1.0, 2.0, 4.0, 8.0)]
    [3, 5, 18, 64]
    """
    return max(range(2, most + 1), key=lambda k: RandomizedResponse(choices=k, token_epsilon=token_epsilon).bits)


@mechanism("randomized-response")
@dataclass(frozen=True, kw_only=True)
class RandomizedResponse(Mechanism):
    """`tokens` tokens of one unit, each one of `choices`, each randomized at `token_epsilon`."""

    relation: ClassVar[Relation] = "replace"
    invalidated_by: ClassVar[tuple[str, ...]] = (
        "the codebook is fitted on the clips themselves",
        "a clip gives more tokens than are counted, or how many it gives depends on what was said",
        "the noise is seeded, or drawn again for the same clip without being counted",
    )
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
    def sensitivity(self) -> Sensitivity:
        """Every token of the unit may become any other."""
        return Sensitivity(float(self.tokens), "choice")

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

    def for_group(self, size: int, unit: PrivacyUnit = "speaker") -> RandomizedResponse:
        """As many more tokens."""
        return replace(self, tokens=self.tokens * size, unit=unit)

    def randomize(self, tokens: npt.NDArray[Any], noise: NoiseSource) -> Tokens:
        """Tokens to be released in place of `tokens`.

        Args:
            tokens: integers in [0, choices), any shape.
            noise: two uniform numbers a token.

        Returns:
            int32, the same shape.

        Raises:
            ValueError: a token is none of the choices.
        """
        if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.choices:
            raise ValueError(f"tokens {int(tokens.min())} to {int(tokens.max())} among {self.choices} choices")
        kept = noise.uniform(tokens.shape) < self.keep
        others = self.choices - 1
        step = 1 + np.minimum(np.floor(noise.uniform(tokens.shape) * others), others - 1).astype(np.int64)
        return np.where(kept, tokens, (tokens + step) % self.choices).astype(np.int32)
