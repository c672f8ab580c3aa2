"""Secure aggregation, as far as both sides must agree on it: whole numbers under masks that cancel in their sum.

Bonawitz et al., CCS 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning"; Bell et al., CCS 2020
(SecAgg+), which has each site share its keys with some of the others: here with all of them, because sites are few.
Key agreement, encryption and secret sharing are Flower's, whose SecAgg+ they were made for.

Two parts of Flower's 1.41 are not used. Its masks come from NumPy's Mersenne Twister, seeded with the 32 bits that are
left when the words of a 256-bit key are combined by exclusive or: they can be found by trying. And its quantizer rounds
by NumPy's global generator and cuts values to a range after noise was added to them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.privacy.site_level import plan_site_level
from moretta.shared.study.schema import Study

MAX_SITES = 1024
"""So many updates add up without running over."""
_SIGMAS = 40.0
"""No Gaussian noise is ever larger."""
_TOP = 2.0**30
Words = npt.NDArray[np.uint32]


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


def quantised(change: Mapping[str, npt.NDArray[np.float64]], study: Study) -> dict[str, npt.NDArray[np.int32]]:
    """A clipped change, with its share of the noise, in whole numbers: rounded once, and never cut again.

    The noise is added before it is rounded, and a sum of rounded numbers is not the rounded sum. That costs nothing:
    noise many quanta wide, rounded by itself at each site, is distributed like the sum of the noise with B-splines
    around every quantum, which is a random choice made from that sum; the difference is below exp(-pi^2 s^2) for noise
    of s quanta, by Poisson's summation formula.
    """
    step = quantum(study)
    return {name: np.rint(array / step).astype(np.int32) for name, array in change.items()}


def mean_of_sum(
    total: Words, shapes: Mapping[str, tuple[int, ...]], *, sites: int, study: Study
) -> dict[str, npt.NDArray[np.float64]]:
    """The mean change from the sum of what sites packed, once its masks are off.

    Args:
        total: uint32 [values], modulo 2^32.
        shapes: of the arrays, by name.
        sites: how many there are in the sum.
        study: says what a quantum is.
    """
    values = total.view(np.int32).astype(np.float64) * (quantum(study) / sites)
    mean, place = {}, 0
    for name in sorted(shapes):
        size = int(np.prod(shapes[name]))
        mean[name] = values[place : place + size].reshape(shapes[name])
        place += size
    return mean


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


def texts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes, or tuples of them, as text that JSON can hold."""
    return {k: v.hex() if isinstance(v, bytes) else [part.hex() for part in v] for k, v in values.items()}
