"""The study file's `[aggregation]`: what the aggregated models and the server may learn of one site."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from moretta.shared.study.sections import Computable, Delta, Epsilon, Section

AVERAGING = ("FedAvg", "FedAvgM", "FedProx", "FedAdagrad", "FedAdam", "FedYogi")
"""Flower's strategies that need nothing but the mean of the updates."""


class AggregationSection(Section):
    """`[aggregation]`: what may be told of one site, by noise on the sum of the updates, and by telling no summand."""

    dp: Literal["none", "central", "distributed"] = "none"
    """Who adds the noise: the server, which sees every update, or the sites, each a share of it."""
    epsilon: Epsilon = 8.0
    """Target over all rounds and models, for one site; the noise is calibrated to it."""
    delta: Delta = 1e-3
    clipping_norm: Computable = 1.0
    """L2 norm that a site's update is cut to."""
    min_sites: int = Field(default=3, ge=2)
    """A round with fewer sites' updates is refused, and the run with it."""
    curious_sites: int = Field(default=1, ge=0)
    """`distributed`: how many sites may pool what they know of the noise, and still not lift the guarantee."""

    secure: bool = False
    """Secure aggregation: the server learns the sum of the updates and no single one."""

    @property
    def bounds_sites(self) -> bool:
        """Whether updates are clipped and all sites weigh the same."""
        return self.dp != "none" or self.secure

    @model_validator(mode="after")
    def _secure_can_be_had(self) -> Self:
        if self.secure and self.dp == "central":
            raise ValueError(
                "secure aggregation hides from the server the updates that it would have to clip; choose dp = "
                '"distributed", where the sites clip and add the noise'
            )
        if self.secure and self.min_sites < 3:
            raise ValueError(
                f"secure aggregation with min_sites = {self.min_sites}: of a sum of two updates either site knows the "
                "other's; let it be at least 3"
            )
        return self

    @model_validator(mode="after")
    def _somebody_is_honest(self) -> Self:
        if self.dp == "distributed" and self.curious_sites > self.min_sites - 2:
            raise ValueError(
                f"{self.curious_sites} curious sites of {self.min_sites}: at least two must be left whose shares of "
                "the noise nobody else knows; raise min_sites or lower curious_sites"
            )
        return self
