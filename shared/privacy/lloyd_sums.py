"""One iteration of DP Lloyd: what one speaker adds, the noise on the sum, and how far the words move for it.

A frame counts as 1 for its nearest word, and as the way from the word to it, cut to a public radius. Frames of a clip
are averaged, and clips of a speaker, so that nobody counts for more by talking more; then a speaker's whole
contribution is cut to norm 1. All words together are one vector: that is what the noise is calibrated to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from moretta.shared.features.codebook import nearest
from moretta.shared.privacy.noise import NoiseSource, on_grid

Words = npt.NDArray[np.float32]
"""[k, d]"""
Sums = npt.NDArray[np.float64]
"""[k, 1 + d]: counts, and ways."""

_COUNT, _WAY = 0.5, math.sqrt(0.75)
"""Weights of a count and of the ways beside it: their squares add up to 1, so a single frame has norm 1 at most."""
_PRIOR_WAY = 0.5
"""How far words are expected to move, in radii: what is not clear above the noise is drawn towards no move."""
_CLEAR = 2.0
"""Standard deviations of the noise that a count must reach, or its word stays: one in 44 words that nobody used would
move a little."""


def contribution_norm(words: int) -> float:
    """What a speaker's contribution is cut to before it is scaled to 1. Frames that lie spread over k words average to
    a norm of about 1 / root k: cut at twice that, few speakers lose anything and the noise is smaller by that much."""
    return min(1.0, 2 / math.sqrt(words))


def public_radius(words: Words) -> float:
    """What ways are cut to: the median distance of public words to their nearest neighbours."""
    apart = np.linalg.norm(words[:, None] - words[None], axis=2).astype(np.float64)
    np.fill_diagonal(apart, np.inf)
    return max(float(np.median(apart.min(axis=1))), 1e-6)


def clip_sums(points: npt.NDArray[np.float32], words: Words, radius: float) -> Sums:
    """[k, 1 + d] of one clip, its points [n, d] averaged: norm 1 at most."""
    tokens = nearest(points, words)
    ways = (points - words[tokens]).astype(np.float64) / radius
    ways /= np.maximum(np.linalg.norm(ways, axis=1, keepdims=True), 1.0)
    sums = np.zeros((len(words), 1 + words.shape[1]))
    np.add.at(sums, tokens, np.concatenate([np.full((len(ways), 1), _COUNT), _WAY * ways], axis=1))
    return sums / len(points)


def speaker_sums(clips: npt.NDArray[np.float64]) -> Sums:
    """[clips, k, 1 + d] -> what the speaker adds, [k, 1 + d] of norm 1 at most."""
    mean = clips.mean(axis=0) / contribution_norm(clips.shape[1])
    return np.asarray(mean / max(1.0, float(np.linalg.norm(mean))))


def noisy_sums(speakers: Iterable[Sums], noise_multiplier: float, noise: NoiseSource) -> npt.NDArray[np.float32]:
    """The sum over speakers, with Gaussian noise of `noise_multiplier` on every value. There must be a speaker."""
    total = np.sum(list(speakers), axis=0)
    return on_grid(total + noise.private_normal(noise_multiplier, total.shape), noise_multiplier)


def moved_words(words: Words, sums: Sums, *, noise_std: float, radius: float) -> Words:
    """The words after one iteration: each by its mean way, as far as that is clear above the noise.

    Args:
        words: [k, d] before.
        sums: [k, 1 + d] of all sites together.
        noise_std: of the noise on each value of `sums`.
        radius: that ways were cut to.
    """
    scale = contribution_norm(len(words))
    counts = np.where(sums[:, :1] > _CLEAR * noise_std, sums[:, :1] * scale / _COUNT, 0.0)  # [k, 1]
    ways = sums[:, 1:] * scale / _WAY  # [k, d]
    doubt = (noise_std * scale / _WAY) ** 2 * words.shape[1] / _PRIOR_WAY**2
    means = counts * ways / np.maximum(np.square(counts) + doubt, 1e-12)  # the most likely ones, by Bayes
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1.0)
    return np.asarray(words + radius * means, np.float32)
