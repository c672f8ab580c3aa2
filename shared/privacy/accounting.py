"""What DP-SGD has spent, by Opacus' RDP accountant (Mironov et al. 2019, "RDP of the sampled Gaussian mechanism")."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

_ORDERS = [1 + x / 10.0 for x in range(1, 100)] + list(range(12, 64))
"""Renyi orders, those of Opacus' own accountant."""


@dataclass(frozen=True, slots=True)
class GaussianSteps:
    """`steps` releases of a sampled Gaussian mechanism. Unit: the clip, add/remove-one, Poisson sampling at `rate`.

    Void if batches are not Poisson sampled, gradients are not clipped per clip, or batch statistics mix clips.
    """

    noise_multiplier: float
    rate: float
    steps: int


def epsilon_spent(history: Iterable[GaussianSteps], *, delta: float) -> float:
    """Epsilon of all steps together at `delta`; 0.0 for none.

    >>> epsilon_spent([], delta=1e-3)
    0.0
    """
    from opacus.accountants.analysis.rdp import get_privacy_spent

    total = np.zeros(len(_ORDERS))
    for part in history:
        total += part.steps * _rdp_of_one_step(part.noise_multiplier, part.rate)
    if not total.any():
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the best order may be the largest when very little was spent: still a bound
        epsilon, _ = get_privacy_spent(orders=_ORDERS, rdp=total, delta=delta)
    return float(epsilon)


@lru_cache(maxsize=256)  # a round adds steps of a kind that was seen before: RDP is linear in their number
def _rdp_of_one_step(noise_multiplier: float, rate: float) -> npt.NDArray[np.float64]:
    from opacus.accountants.analysis.rdp import compute_rdp

    return np.asarray(compute_rdp(q=rate, noise_multiplier=noise_multiplier, steps=1, orders=_ORDERS), np.float64)


@lru_cache(maxsize=256)
def calibrated_noise(*, epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The noise multiplier with which `steps` steps at sampling `rate` spend `epsilon` at `delta`."""
    from opacus.accountants.utils import get_noise_multiplier

    return float(
        get_noise_multiplier(
            target_epsilon=epsilon, target_delta=delta, sample_rate=rate, steps=steps, accountant="rdp"
        )
    )
