"""A closed-set attacker of clips that are known to be of one person: how they differ, without what they share."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from moretta.shared.audit.attackers.base import PoolIdentifier, attacker_row
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.views import Vectors, face_picture, voice_statistics
from moretta.shared.core.array_types import Array, Float32, Float64, Int64

_COMPONENTS, _LEAST_SHARE = 64, 1e-6
"""Principal components. A variance under this share of the first's, or a deviation under this share of the greatest
value, is only rounding."""
_EMOTION_PRIOR, _OWN_PRIOR, _SPREAD_PRIOR = 2.0, 6.0, 200.0
"""Clips that pull an emotion's mean towards that of all, a person's way of showing it towards everybody's, and how a
person's clips spread towards how all spread. Chosen on CREMA-D's actors 1001 to 1016, as is the shrinkage."""
_SHRINKAGE = 0.1
"""Share of a sphere in the common covariance."""


class VariationIdentifier(PoolIdentifier):
    """A Gaussian model of each person's clips around a middle that nobody knows.

    A clip is the middle of its pool, plus the person's own way of showing the clip's emotion, plus noise with the
    person's own covariance. Integrated over all middles, the likelihood is that of the clips without their mean. So
    whatever is the same in all clips of a pool helps nobody and hurts nobody: a likeness that normalization removed, a
    secret shift, a microphone. The mean is taken once each emotion's, and each candidate's way of showing it, are
    gone. Otherwise it would depend on which emotions a pool has.
    """

    features: ClassVar[Vectors]

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Learn emotions, and how each person varies, from enrolment clips without the mean of their person."""
        del seed  # nothing is drawn
        self.speakers = clips.speakers
        people, emotions, classes = clips.labels, clips.emotions, len(clips.classes)
        vectors = type(self).features(clips).astype(np.float64)
        centred = vectors - _means(vectors, people, len(self.speakers))[people]
        deviation = centred.std(axis=0)
        # A value that is the same in all these clips is not known to be small in others: it is left out.
        flat = deviation <= _LEAST_SHARE * np.abs(vectors).max(axis=0)
        self._scale = np.where(flat, np.inf, deviation)
        scaled = centred / self._scale
        self._components = _principal(scaled)
        x = scaled @ self._components
        self._emotions = _means(x, emotions, classes, prior=_EMOTION_PRIOR)
        x -= self._emotions[emotions]
        cells = _means(x, people * classes + emotions, len(self.speakers) * classes, prior=_OWN_PRIOR)
        self._own = cells.reshape(len(self.speakers), classes, -1)
        rest = x - self._own[people, emotions]
        common = rest.T @ rest / len(rest)
        variance = np.trace(common) / max(1, len(common))
        common = (1 - _SHRINKAGE) * common + (_SHRINKAGE * variance + 1e-9) * np.eye(len(common))
        self._roots = [_root(rest[people == person], common) for person in range(len(self.speakers))]

    def pool_scores(self, clips: ClipSet, pools: Int64) -> Float32:
        """Mean log-likelihoods of a clip, [pools, speakers]: as a sum, many clips of one pool would outweigh pools."""
        emotions, length = clips.emotions, pools.shape[1]
        vectors = type(self).features(clips).astype(np.float64)
        x = (vectors / self._scale) @ self._components - self._emotions[emotions]
        found = np.empty((len(pools), len(self.speakers)), np.float32)
        for person, (own, root) in enumerate(zip(self._own, self._roots, strict=True)):
            rest = ((x - own[emotions]) @ root)[pools]  # [pools, length, k]
            apart = rest - rest.mean(axis=1, keepdims=True)
            volume = (length - 1) * np.log(np.diag(root)).sum()  # minus half the log-determinant, once a dimension
            found[:, person] = (volume - np.square(apart).sum(axis=(1, 2)) / 2) / length
        return found


def _principal(x: Float64) -> Float64:
    """Principal components of centred rows x [n, d], float64 [d, k]: up to 64, as far as there is any variance.

    By eigenvectors of the smaller product: the singular value decomposition of rows that add up to nothing, person by
    person, was seen not to converge.
    """
    few = len(x) < x.shape[1]
    values, vectors = np.linalg.eigh(x @ x.T if few else x.T @ x)
    varies = values > _LEAST_SHARE * max(float(values[-1]), 0.0)
    varies[:-_COMPONENTS] = False
    return np.asarray(x.T @ vectors[:, varies] / np.sqrt(values[varies]) if few else vectors[:, varies])


def _means(x: Float64, groups: Int64, count: int, *, prior: float = 0.0) -> Float64:
    """float64 [count, d]: of the rows x [n, d] of each group [n], pulled towards 0 by as many rows as `prior`."""
    sums = np.zeros((count, x.shape[1]))
    np.add.at(sums, groups, x)
    return np.asarray(sums / np.maximum(np.bincount(groups, minlength=count) + prior, 1e-9)[:, None])


def _root(rest: Array, common: Float64) -> Float64:
    """float64 [k, k], triangular: whitens what is left of a person's clips [n, k]; `common` [k, k] is everybody's."""
    covariance = (rest.T @ rest + _SPREAD_PRIOR * common) / (len(rest) + _SPREAD_PRIOR)
    return np.asarray(np.linalg.inv(np.linalg.cholesky(covariance)).T)


attacker_row("voice-variation", VariationIdentifier, modality="voice", features=staticmethod(voice_statistics))
attacker_row("face-variation", VariationIdentifier, modality="face", features=staticmethod(face_picture))
