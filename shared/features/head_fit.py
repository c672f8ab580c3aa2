"""Fits a head to landmarks of known accuracy: one identity for all frames of a clip, a pose and an expression for each.

Wood et al., "3D face reconstruction with dense landmarks", ECCV 2022: landmarks count by their standard deviations,
identity and expression have priors, and expression changes slowly. Solved by Gauss-Newton; frames are coupled with
their neighbours alone, so that a clip costs as much as its frames one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.core.errors import ClipError
from moretta.shared.models.head_model import POSE, HeadModel

Values = npt.NDArray[np.floating[Any]]
STEPS = 12
INDEPENDENT = 0.25
"""Share of the points whose errors count as independent: neighbours are wrong together."""
INDEPENDENT_FRAMES = 6.0
"""How many frames of a clip say something new about its identity, at most."""
STEADINESS = 0.5
"""Standard deviation of how much a channel changes from frame to frame, in spreads of the channel."""
_ENOUGH = 1e-6
"""A step that gains a smaller share of the energy is the last."""
_LEAST_DAMPING, _MOST_DAMPING = 1e-6, 1e6


@dataclass(frozen=True)
class FittedHead:
    """Parameters of a head over a clip.

    Attributes:
        identity: in standard deviations of the model's components, [components].
        channels: values of the expression channels, [frames, channels].
        pose: see `POSE`, [frames, 6].
    """

    identity: Values
    channels: Values
    pose: Values


def fit_head(
    model: HeadModel, places: Values, sigma: Values, *, steps: int = STEPS, steadiness: float = STEADINESS
) -> FittedHead:
    """The most likely head.

    Args:
        places: of the points in pixels (right, down), [frames, points, 2].
        sigma: standard deviation of each in pixels, [frames, points].
        steps: of Gauss-Newton, at most.
        steadiness: see `STEADINESS`; infinite for pictures that do not follow each other.

    Raises:
        ClipError: reason `bad-points`: no frame; shapes that do not belong to the model; values that are not finite;
            sigma of 0 or less.
    """
    _check(model, places, sigma)
    problem = _Problem(model, places, sigma, steadiness)
    fitted = FittedHead(
        np.zeros(len(model.identity)), np.tile(model.usual, (len(places), 1)), _first_poses(model, places, sigma)
    )
    energy, damping = problem.energy(fitted), _LEAST_DAMPING
    for _ in range(steps):
        equations = problem.equations(fitted)
        while damping < _MOST_DAMPING:
            tried = problem.solved(equations, fitted, damping)
            found = problem.energy(tried)
            if np.isfinite(found) and found <= energy:
                break
            damping = max(damping * 10, 1e-3)
        else:
            break
        damping = max(damping / 10, _LEAST_DAMPING)
        fitted, energy, gained = tried, found, energy - found
        if gained < _ENOUGH * energy:
            break
    return fitted


def reading(model: HeadModel, accuracy: float) -> Values:
    """How an error of the points of the mean head, seen from the front, becomes an error of its fitted channels.

    The linear part of the fit: [channels, points, 2], for points in decimetres (right, down) that are known to
    `accuracy` decimetres.
    """
    first, channels = len(model.identity), len(model.channels)
    seen = model.seen(np.zeros(first), np.zeros((1, channels)), np.zeros((1, POSE)))
    slopes = seen.slopes[0].reshape(2 * len(model), -1) / accuracy
    inverse = np.concatenate([np.ones(first), _inverse_spread(model), np.full(POSE, _LEAST_DAMPING)])
    solved = np.linalg.solve(slopes.T @ slopes + np.diag(inverse), slopes.T / accuracy)
    return np.asarray(solved[first : first + channels].reshape(channels, len(model), 2))


@dataclass(frozen=True)
class _Equations:
    """Slopes times slopes, [frames, unknowns, unknowns], and slopes times misses, [frames, unknowns]."""

    square: Values
    right: Values


class _Problem:
    """The energy of one clip: points by their accuracy, priors of identity and channels, and steadiness."""

    def __init__(self, model: HeadModel, places: Values, sigma: Values, steadiness: float) -> None:
        self._model, self._places = model, places
        self._roots = np.sqrt(INDEPENDENT) / sigma.astype(np.float64)[:, :, None]
        self._inverse = _inverse_spread(model)
        self._steadiness = self._inverse / steadiness**2
        self._of_identity = max(1.0, len(places) / INDEPENDENT_FRAMES)

    def energy(self, head: FittedHead) -> float:
        """Twice the negative log likelihood, without its constant."""
        misses = self._roots * (self._places - self._model.places(head.identity, head.channels, head.pose))
        unusual = (head.channels - self._model.usual) ** 2 @ self._inverse
        changes = np.diff(head.channels, axis=0) ** 2 @ self._steadiness
        priors = self._of_identity * head.identity @ head.identity + unusual.sum() + changes.sum()
        return float((misses**2).sum() + priors)

    def equations(self, head: FittedHead) -> _Equations:
        """Equations of the points, without priors."""
        seen = self._model.seen(head.identity, head.channels, head.pose)
        frames = len(seen.places)
        slopes = (self._roots[..., None] * seen.slopes).reshape(frames, 2 * len(self._model), -1)
        misses = (self._roots * (self._places - seen.places)).reshape(frames, -1, 1)
        turned = slopes.transpose(0, 2, 1)
        return _Equations(turned @ slopes, (turned @ misses)[:, :, 0])

    def solved(self, equations: _Equations, head: FittedHead, damping: float) -> FittedHead:
        """The head after one step.

        Frames are eliminated first: their matrix is a band, for each is coupled with its neighbours alone.
        """
        from scipy.linalg import solveh_banded

        first, channels = len(head.identity), head.channels.shape[1]
        blocks, down = self._of_frames(equations, head, damping)
        frames, own = down.shape
        band = np.zeros((own + 1, frames * own))  # of the upper triangle: element (i, j) is at [own + i - j, j]
        for column in range(own):
            band[own - column : own + 1, column::own] = blocks[:, : column + 1, column].T
        for channel in range(channels):
            band[0, own + channel :: own] = -self._steadiness[channel]
        cross = equations.square[:, first:, :first].reshape(frames * own, first)
        found = solveh_banded(band, np.column_stack([cross, down.reshape(-1)]), check_finite=False)
        square = equations.square[:, :first, :first].sum(0) + self._of_identity * np.eye(first)
        square[np.diag_indices(first)] *= 1 + damping
        right = equations.right[:, :first].sum(0) - self._of_identity * head.identity
        change = np.linalg.solve(square - cross.T @ found[:, :-1], right - cross.T @ found[:, -1])
        each = (found[:, -1] - found[:, :-1] @ change).reshape(frames, own)
        return FittedHead(head.identity + change, head.channels + each[:, :channels], head.pose + each[:, channels:])

    def _of_frames(self, equations: _Equations, head: FittedHead, damping: float) -> tuple[Values, Values]:
        """Normal equations of each frame for its own channels and pose, [frames, own, own] and [frames, own]."""
        first, channels = len(head.identity), head.channels.shape[1]
        blocks, down = equations.square[:, first:, first:].copy(), equations.right[:, first:].copy()
        changes = np.diff(head.channels, axis=0) * self._steadiness
        neighbours = np.zeros(len(blocks))
        neighbours[1:] += 1
        neighbours[:-1] += 1
        diagonal = np.arange(channels)
        blocks[:, diagonal, diagonal] += self._inverse + neighbours[:, None] * self._steadiness
        down[:, :channels] += self._inverse * (self._model.usual - head.channels)
        down[:-1, :channels] += changes
        down[1:, :channels] -= changes
        every = np.arange(blocks.shape[1])
        blocks[:, every, every] *= 1 + damping
        return blocks, down


def _inverse_spread(model: HeadModel) -> Values:
    return 1 / np.maximum(model.spread, 1e-3) ** 2


def _check(model: HeadModel, places: Values, sigma: Values) -> None:
    if places.ndim != 3 or not len(places) or places.shape[1:] != (len(model), 2) or sigma.shape != places.shape[:2]:
        found = f"points of {list(places.shape)} with sigma of {list(sigma.shape)}"
        raise ClipError("bad-points", found, expected=f"[frames, {len(model)}, 2] and [frames, {len(model)}]")
    if not (np.isfinite(places).all() and np.isfinite(sigma).all() and (sigma > 0).all()):
        raise ClipError("bad-points", "points that are not finite", expected="numbers, and sigma above 0")


def _first_poses(model: HeadModel, places: Values, sigma: Values) -> Values:
    """Turn in the picture's plane, scale and shift of the mean head, by weighted least squares, [frames, 6]."""
    still = np.zeros(len(model.identity)), np.zeros((1, len(model.channels)))
    flat = model.places(*still, np.zeros((1, POSE)))[0]
    poses = np.zeros((len(places), POSE))
    for pose, target, own in zip(poses, places, sigma, strict=True):
        weight = (own.min() / own) ** 2
        weight = weight / weight.sum()
        a, b = flat - weight @ flat, target - weight @ target
        along = weight @ (a * b).sum(1)
        across = weight @ (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
        size = np.hypot(along, across) / (weight @ (a**2).sum(1))
        pose[2:4] = -np.arctan2(across, along), np.log(max(size, 1e-6))
        pose[4:] = weight @ (target - model.places(*still, pose[None])[0])
    return poses
