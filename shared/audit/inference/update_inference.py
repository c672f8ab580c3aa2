"""Leakage from weight updates: whose data, or whose sex, made this update, layer by layer?"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.inference.attack_result import Leak, infer_class

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Update = Mapping[str, npt.NDArray[Any]]
ALL_LAYERS = "all layers"
DIMENSIONS = 128
CHUNK = 4096
"""Weights projected at a time: memory stays at DIMENSIONS * CHUNK numbers however large a layer is."""


def infer_from_updates(
    updates: Sequence[Update],
    label: npt.NDArray[Any],
    group: npt.NDArray[Any],
    *,
    target: str,
    speakers: npt.NDArray[Any] | None = None,
    dimensions: int = DIMENSIONS,
    resamples: int = 200,
    seed: int = 0,
) -> list[Leak]:
    """Balanced accuracy of inferring a label from each layer's update, and from all layers together, leaving one out.

    Args:
        updates: one mapping of layer name to change of weights each, all of one shape.
        label: [n], what is inferred: the sex of the update's speakers, or the speaker.
        group: [n], what is left out together: the speaker when sex is inferred (else the attacker would recognise the
            speaker), the round when the speaker is.
        target: what is inferred, for the report.
        people: [n], whom the bootstrap resamples; default `group`.
        dimensions: of the random projection of larger layers (Johnson and Lindenstrauss: distances survive).
        resamples: of the bootstrap.
        seed: of projection and bootstrap.

    Returns:
        One `Leak` a layer, its `attacker` being the layer's name.
    """
    classes, y = np.unique(label, return_inverse=True)
    units = np.asarray(group if speakers is None else speakers)
    invalid = _invalid_reason(y, np.asarray(group), len(classes), target)
    projected = {name: project([u[name] for u in updates], name, dimensions, seed) for name in updates[0]}
    projected[ALL_LAYERS] = np.concatenate([_unit(layer) for layer in projected.values()], axis=1)
    if invalid is not None:
        return [Leak(target, name, None, None, None, len(np.unique(units)), invalid) for name in projected]
    return [
        infer_class(
            target=target,
            attacker=name,
            right=_leave_one_out(layer, y, np.asarray(group)) == y,
            label=y,
            unit=units,
            resamples=resamples,
            seed=seed,
        )
        for name, layer in projected.items()
    ]


def project(layers: Sequence[npt.NDArray[Any]], name: str, dimensions: int, seed: int) -> Floats:
    """float64 [n, at most `dimensions`]: a layer's updates, projected by a Gaussian matrix that only the seed decides.

    Layers of fewer weights are kept as they are. The matrix is made chunk by chunk and never held.
    """
    flat = np.stack([np.asarray(layer, dtype=np.float64).ravel() for layer in layers])
    if flat.shape[1] <= dimensions:
        return flat
    # The layer's name seeds its matrix (crc32, not hash(): that changes with every process).
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    result = np.zeros((len(flat), dimensions))
    for start in range(0, flat.shape[1], CHUNK):
        part = flat[:, start : start + CHUNK]
        result += part @ rng.normal(size=(part.shape[1], dimensions))
    return np.asarray(result / np.sqrt(dimensions), dtype=np.float64)


def _leave_one_out(features: Floats, y: Ints, group: npt.NDArray[Any]) -> Ints:
    """int [n], what a logistic regression trained on all other groups says of each update."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    predicted = np.zeros(len(y), dtype=np.int64)
    for left_out in np.unique(group):
        test = group == left_out
        # Balanced weights: whoever is left out makes its class the rarer one, which plain fits would guess against.
        model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000)
        fitted = make_pipeline(StandardScaler(), model).fit(_unit(features[~test]), y[~test])
        predicted[test] = fitted.predict(_unit(features[test]))
    return predicted


def _invalid_reason(y: Ints, group: npt.NDArray[Any], classes: int, target: str) -> str | None:
    if classes < 2:
        return f"all updates have the same {target}: nothing can be inferred"
    groups_of = [len(np.unique(group[y == c])) for c in range(classes)]
    if min(groups_of) < 2:
        return (
            f"a {target} has updates of {min(groups_of)} group only: when it is left out nothing is left to learn from"
        )
    return None


def _unit(vectors: Floats) -> Floats:
    """Directions: the length of an update says how much data a site has, and would drown the rest."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), dtype=np.float64)
