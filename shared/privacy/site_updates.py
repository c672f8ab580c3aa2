"""Updates of sites: clipped, with Gaussian noise on their sum, and added up under masks that cancel.

McMahan et al., ICLR 2018, "Learning Differentially Private Recurrent Language Models", with a site for their user and
without sampling: few sites take part, and which of them do in a round is no secret. The distributed form is that of
Kairouz, Liu and Steinke, ICML 2021, "The Distributed Discrete Gaussian Mechanism", with noise that is not discrete.

Bonawitz et al., CCS 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning"; Bell et al., CCS 2020
(SecAgg+), which has each site share its keys with some of the others: here with all of them, because sites are few.
Key agreement, encryption and secret sharing are Flower's, whose SecAgg+ they were made for. Two parts of Flower's 1.41
are not used. Its masks come from NumPy's Mersenne Twister, seeded with the 32 bits that are left when the words of a
256-bit key are combined by exclusive or: they can be found by trying. And its quantizer rounds by NumPy's global
generator and cuts values to a range after noise was added to them.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from moretta.shared.core.array_types import Array, Float64
from moretta.shared.core.terms import PrivacyUnit
from moretta.shared.privacy.gaussian import Gaussian, calibrated_sigma
from moretta.shared.privacy.mechanism import Curve, Mechanism, Relation, check_positive, mechanism
from moretta.shared.study.schema import Study

Words = npt.NDArray[np.uint32]
MAX_SITES = 1024
"""So many updates add up without running over."""
_SIGMAS = 40.0
"""No Gaussian noise is ever larger."""
_TOP = 2.0**30
_MARGIN = 1e-12
"""Relative, off the norm: what adding up in double precision may have missed."""


@mechanism("site-gaussian")
@dataclass(frozen=True, kw_only=True)
class SiteGaussian(Mechanism):
    """`rounds` releases of a sum to which each site adds a vector of norm 1 at most, with Gaussian noise.

    How many sites are in the sum is revealed with it. So the mean guarantees as much as the sum where the neighbour
    is a site whose update is nothing, and that a site took part is no secret. A mean whose count moves with its
    neighbour has twice the sensitivity.
    """

    relation: ClassVar[Relation] = "add-or-remove"
    invalidated_by: ClassVar[tuple[str, ...]] = (
        "an update is not clipped as a whole, or sites weigh by their number of clips and the noise does not",
        "weights without noise, such as a standardization by the sites' clips, are released with the model",
        "distributed: fewer sites respond than the noise was shared out for, or more of them pool what they drew",
        "distributed: whoever adds up sees the updates one by one, so that each has its own share of noise alone",
        "a training loss or a choice of hyper-parameters on the same sites is revealed without noise",
        "the noise is seeded, or a round is made again with other noise and both are released",
    )
    grows: ClassVar[str] = "group"
    unit: PrivacyUnit = "site"
    noise_multiplier: float
    """Standard deviation of the noise on the sum, in clipping norms."""
    rounds: int
    group: int = 1

    def __post_init__(self) -> None:
        check_positive("site-level noise", noise_multiplier=self.noise_multiplier, rounds=self.rounds, group=self.group)

    @property
    def as_gaussian(self) -> Gaussian:
        """One Gaussian mechanism that is equivalent to all rounds: its sensitivity is sqrt(`rounds`) times as large."""
        return Gaussian(sigma=self.noise_multiplier, distance=self.group * math.sqrt(self.rounds), unit=self.unit)

    def renyi(self) -> Curve:
        """The Renyi curve of `as_gaussian`."""
        return self.as_gaussian.renyi()

    def epsilon(self, delta: float) -> float | None:
        """Exact; None at delta 0."""
        return self.as_gaussian.epsilon(delta)

    def for_group(self, size: int, unit: PrivacyUnit = "site") -> Self:
        """`size` sites add to the same sums, all in the same direction at worst."""
        return super().for_group(size, unit)


def mean_sensitivity(weights: Sequence[float], clipping_norm: float) -> float:
    """The distance by which one site, whose update becomes nothing, moves the weighted mean of clipped updates.

    The site of the largest weight decides: by numbers of clips it is not `clipping_norm` over the number of sites.

    >>> mean_sensitivity([1, 1, 1, 1], 1.0), mean_sensitivity([10, 10, 10, 70], 1.0)
    (0.25, 0.7)
    """
    return clipping_norm * max(weights) / math.fsum(weights)


@dataclass(frozen=True, slots=True)
class SitePlan:
    """The noise of one study's aggregation."""

    noise_multiplier: float
    clipping_norm: float
    min_sites: int
    curious_sites: int
    """0 where the server adds the noise: no site knows of it."""
    rounds: int
    """Rounds of all models together."""

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise on the sum of the updates."""
        return self.noise_multiplier * self.clipping_norm

    @property
    def share(self) -> float:
        """Standard deviation of the noise that each site adds, so that enough is left of it without those of the
        curious: variances add up."""
        return self.sigma / math.sqrt(self.min_sites - self.curious_sites)

    def loss(self, rounds: int) -> SiteGaussian:
        """Loss of one site by so many rounds in which it took part."""
        return SiteGaussian(noise_multiplier=self.noise_multiplier, rounds=rounds)

    def loss_of_share(self, rounds: int) -> SiteGaussian:
        """Loss towards an observer of the site's single update, under the site's own share of the noise."""
        return SiteGaussian(noise_multiplier=self.share / self.clipping_norm, rounds=rounds)


def plan_site_level(study: Study) -> SitePlan | None:
    """Calibrate the noise to the study's target over all rounds of all its models; None if it has none."""
    wanted = study.aggregation
    if wanted.dp == "none":
        return None
    rounds = study.train.rounds * len(study.models)
    noise = calibrated_sigma(epsilon=wanted.epsilon, delta=wanted.delta, sensitivity=math.sqrt(rounds))
    curious = wanted.curious_sites if wanted.dp == "distributed" else 0
    return SitePlan(noise, wanted.clipping_norm, wanted.min_sites, curious, rounds)


def clipped_change(
    sent: Mapping[str, Array], update: Mapping[str, Array], *, trained: Collection[str], norm: float
) -> dict[str, Float64]:
    """The change by an update, float64, with an L2 norm of all its arrays together of `norm` at most.

    An update with a value that is not finite changes nothing: scaled it would stay so, and noise would not hide it.
    To refuse it would reveal as much. Arrays of the update that are not trained are ignored.
    """
    change = {name: update[name].astype(np.float64) - sent[name].astype(np.float64) for name in sorted(trained)}
    size = float(np.sqrt(sum(float(np.square(array).sum()) for array in change.values())))
    if not np.isfinite(size):
        return {name: np.zeros(array.shape) for name, array in change.items()}
    scale = 1.0 if size <= norm * (1 - _MARGIN) else norm * (1 - _MARGIN) / size
    return {name: array * scale for name, array in change.items()}


def changed(sent: Mapping[str, Array], change: Mapping[str, npt.NDArray[np.floating[Any]]]) -> dict[str, Array]:
    """The global weights with a change, in the types that they had; what it does not name stays as it was."""
    return {
        name: (array.astype(np.float64) + change[name]).astype(array.dtype) if name in change else array
        for name, array in sent.items()
    }


def threshold(participants: int, min_sites: int) -> int:
    """The number of sites that must work together to take a mask off: more than half, and a round's minimum at least.

    More than half, so that a server cannot have some of them take a mask off as if its site were there, and the others
    as if it were not. Everybody works it out alike: a server that may choose it chooses 1.

    >>> [threshold(n, 3) for n in (3, 4, 5, 6, 7)]
    [3, 3, 3, 4, 4]
    """
    return max(min_sites, participants // 2 + 1)


def quantum(study: Study) -> float:
    """The value of one unit of the whole numbers: the same in all rounds and for all sites.

    An update of norm C has no value beyond C, its share of the noise none beyond 40 standard deviations.
    """
    plan = plan_site_level(study)
    share = 0.0 if plan is None else plan.share
    return (study.aggregation.clipping_norm + _SIGMAS * share) * MAX_SITES / _TOP


def quantised(change: Mapping[str, Float64], study: Study) -> dict[str, npt.NDArray[np.int32]]:
    """A clipped change, with its share of the noise, in whole numbers: rounded once, and never cut again.

    The noise is added before it is rounded, and a sum of rounded numbers is not the rounded sum. This costs no privacy:
    noise many quanta wide, rounded by itself at each site, is distributed like the sum of the noise with B-splines
    around every quantum, which is a random choice made from that sum; the difference is below exp(-pi^2 s^2) for noise
    of s quanta, by Poisson's summation formula.
    """
    step = quantum(study)
    return {name: np.rint(array / step).astype(np.int32) for name, array in change.items()}


def mean_of_sum(total: Words, shapes: Mapping[str, tuple[int, ...]], *, sites: int, study: Study) -> dict[str, Float64]:
    """The mean change from the sum of what sites packed, once its masks are off. `total`: uint32 [values], modulo 2^32,
    of `sites` sites."""
    values = total.view(np.int32).astype(np.float64) * (quantum(study) / sites)
    ends = np.cumsum([int(np.prod(shapes[name])) for name in sorted(shapes)])
    parts = np.split(values, ends[:-1])
    return {name: part.reshape(shapes[name]) for name, part in zip(sorted(shapes), parts, strict=True)}


def packed(arrays: Mapping[str, npt.NDArray[np.int32]]) -> Words:
    """All arrays in one, uint32 [values], in order of their names."""
    return np.concatenate([arrays[name].ravel().view(np.uint32) for name in sorted(arrays)])


def mask(key: bytes, size: int) -> Words:
    """uint32 [size]: the ChaCha20 key stream. A key is used for one mask, once."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(4 * size))
    return np.frombuffer(stream, dtype="<u4").astype(np.uint32)


def shared_mask(own: bytes, theirs: bytes, size: int) -> Words:
    """The mask that two sites have in common, from the one's private key and the other's public key, both PEM."""
    return mask(base64.urlsafe_b64decode(agreed_key(own, theirs)), size)


def agreed_key(own: bytes, theirs: bytes) -> bytes:
    """32 bytes, base64: elliptic-curve Diffie-Hellman on P-384, by Flower."""
    from moretta.shared.core.flower_private import bytes_to_private_key, bytes_to_public_key, generate_shared_key

    return generate_shared_key(bytes_to_private_key(own), bytes_to_public_key(theirs))


def signed(words: Words, site: str, other: str) -> Words:
    """The pairwise mask as `site` adds it: of two sites the later one adds, and the earlier one takes away."""
    return words if site > other else np.negative(words)
