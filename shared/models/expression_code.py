"""The directions of an autoencoder's code in which a face moves, learnt from drawn people who move.

A code of a person is mostly who it is. Subtracting each person's mean code leaves pose, light and expression; a ridge
regression on what drawn people were told to do finds the few directions of expression among them. The same movement
lies elsewhere in the code of another person, so a second regression says where the public person's code has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from moretta.shared.errors import ReleaseError
from moretta.shared.features.person_scale import Measures, PublicMeasures

DIMENSIONS = 10
"""Directions that are kept."""
STRENGTH = 0.03
"""Of the ridge regression, in parts of the codes' mean variance."""

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class ExpressionCode:
    """How codes become measures, and measures a public face's code.

    Attributes:
        into: float [latent, dimensions]; `code @ into` measures a frame, up to an offset of the person's own.
        home: the public person's mean code, [latent].
        out: float [dimensions, latent]: how the public person's code changes with the measures.
        public: distribution of public people's measures.
    """

    into: Floats
    home: Floats
    out: Floats
    public: PublicMeasures

    def measures(self, codes: Floats) -> Measures:
        """[frames, latent] -> [frames, dimensions]."""
        return np.asarray(codes @ self.into, np.float64)

    def worn(self, measures: Measures) -> Floats:
        """Measures around the public middle [frames, dimensions] -> the public person's codes [frames, latent]."""
        return np.asarray(self.home + (measures - self.public.middle) @ self.out, np.float32)

    def to_arrays(self, prefix: str) -> dict[str, npt.NDArray[np.float32]]:
        """As named arrays, for a message."""
        own = {name: np.asarray(getattr(self, name), np.float32) for name in ("into", "home", "out")}
        return {**{prefix + name: array for name, array in own.items()}, **self.public.to_arrays(prefix + "public.")}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], prefix: str, *, latent: int) -> Self:
        """What `to_arrays` made, for codes of this size.

        Raises:
            ReleaseError: arrays are missing, of another shape, or not finite.
        """
        into, home, out = (arrays.get(prefix + name) for name in ("into", "home", "out"))
        public = PublicMeasures.from_arrays(arrays, prefix + "public.")
        dimensions = len(public.middle)
        wanted = {"into": (latent, dimensions), "home": (latent,), "out": (dimensions, latent)}
        for (name, shape), array in zip(wanted.items(), (into, home, out), strict=True):
            if array is None or array.shape != shape or not np.isfinite(array).all():
                raise ReleaseError(f"an expression code without a usable {name!r}", expected=f"finite {list(shape)}")
        assert into is not None and home is not None and out is not None
        return cls(into, home, out, public)


def learn_expression_code(
    codes: Sequence[Floats], movements: Sequence[Floats], home: Floats, *, dimensions: int = DIMENSIONS
) -> ExpressionCode:
    """Learn from drawn people.

    Args:
        codes: of each person's pictures, [n_i, latent].
        movements: what the face did in each, [n_i, channels].
        home: codes of the public person's pictures, in any movement, [m, latent].
        dimensions: to keep.
    """
    apart, moved = (np.concatenate([part - part.mean(0) for part in parts]) for parts in (codes, movements))
    moved = moved / np.maximum(moved.std(0), 1e-6)
    guess = _ridge(apart, moved)
    # The best few directions for all channels together: reduced-rank regression (Izenman, 1975).
    _, _, right = np.linalg.svd(apart @ guess, full_matrices=False)
    into = guess @ right[:dimensions].T
    into = into / np.maximum((apart @ into).std(0), 1e-9)
    public = PublicMeasures.of([[own @ into] for own in codes])
    measured, centre = home @ into, home.mean(0)
    out = _ridge(measured - measured.mean(0), home - centre)
    return ExpressionCode(into, centre, out, public)


def _ridge(x: Floats, y: Floats) -> Floats:
    power = x.T @ x / len(x)
    shrunk = power + STRENGTH * np.trace(power) / len(power) * np.eye(len(power))
    return np.asarray(np.linalg.solve(shrunk, x.T @ y / len(x)))
