"""Membership by the twelve networks: they learn from shadow models how a member's confidence lies among the others'.

Shokri, Stronati, Song and Shmatikov, "Membership Inference Attacks against Machine Learning Models", IEEE S&P 2017,
train an attack model on the outputs of shadow models; Jaiswal and Provost (AAAI 2020) ask twelve about membership, too.
"""

from __future__ import annotations

import numpy as np

from moretta.shared.audit.inference.twelve_networks import infer_by_twelve
from moretta.shared.core.array_types import Array, Bool, Float64

MAX_ROWS = 4096
"""Pairs of a shadow model and an example that networks are trained on."""


def membership_by_twelve(seen: Float64, shadow: Float64, inside: Bool) -> Float64:
    """Log-odds [n] that an example was trained on, by the network chosen on shadow models.

    A network has three inputs: how far a model's confidence in an example lies above the mean of other models that were
    trained on it; how far above the mean of those that were not; and this latter mean, which shows how hard it is.
    Halves of shadow models are held out to stop networks and to choose one.

    Args:
        seen: [n], confidences of the attacked model.
        shadow: [models, n], those of shadow models.
        inside: bool [models, n], whether an example was in a shadow model's training set.
    """
    models, n = shadow.shape
    chosen = np.sort(np.random.default_rng(0).permutation(models * n)[:MAX_ROWS])
    place = np.stack(np.divmod(chosen, n))
    known = np.stack([_features(shadow[model], shadow, inside, left_out=model) for model in range(models)])
    member = inside[place[0], place[1]].astype(np.int64)
    # Each shadow model is two groups, of members and of others: infer_by_twelve wants one class a group.
    inferred = infer_by_twelve(
        known[place[0], place[1]], member, 2 * place[0] + member, _features(seen, shadow, inside), seed=0
    )
    probability = np.clip(inferred.probability[:, inferred.best, 1], 1e-12, 1 - 1e-12)
    return np.asarray(np.log(probability) - np.log1p(-probability), np.float64)


def _features(confidence: Float64, shadow: Float64, inside: Bool, *, left_out: int | None = None) -> Array:
    """[n, 3]: see above; the model whose confidences they are is left out of the means."""
    use = np.arange(len(shadow)) != left_out
    kept, within = shadow[use], inside[use]
    means = [(kept * side).sum(axis=0) / np.maximum(side.sum(axis=0), 1) for side in (within, ~within)]
    return np.stack([*(confidence - mean for mean in means), means[1]], axis=1)
