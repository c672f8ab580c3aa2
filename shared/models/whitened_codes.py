"""Codes in training as they are released: every person's own mean and covariance taken away.

The same as `moretta.shared.features.speaker_whitening` with equal weights, but gradients pass through it: whatever a
network makes of a voice, the layer that learns emotions sees what would leave the site.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from moretta.shared.features.speaker_code import CODE_LIMIT
from moretta.shared.features.speaker_whitening import PRIOR_CLIPS_PER_VALUE


class _InverseRoot(torch.autograd.Function):
    """S^(-1/2) with a gradient that equal eigenvalues cannot break.

    The derivative of a matrix function in the basis of its eigenvectors is a product with divided differences (Higham,
    Functions of Matrices, 2008, theorem 3.11); those of 1/sqrt(x) are -1 / (sqrt(a) sqrt(b) (sqrt(a) + sqrt(b))).
    """

    @staticmethod
    def forward(ctx: Any, symmetric: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(symmetric)
        ctx.save_for_backward(values.sqrt(), vectors)
        root: Tensor = vectors / values.sqrt().unsqueeze(-2) @ vectors.mT
        return root

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        roots, vectors = ctx.saved_tensors
        first, second = roots.unsqueeze(-1), roots.unsqueeze(-2)
        (gradient,) = gradients
        inside = vectors.mT @ ((gradient + gradient.mT) / 2) @ vectors
        back: Tensor = vectors @ (-inside / (first * second * (first + second))) @ vectors.mT
        return back


def inverse_root(symmetric: Tensor) -> Tensor:
    """The symmetric inverse root of positive definite matrices [..., d, d]."""
    root: Tensor = _InverseRoot.apply(symmetric)
    return root


def whitened_codes(codes: Tensor, clips: Sequence[int]) -> Tensor:
    """Codes relative to each person's own, within +- `CODE_LIMIT`.

    Args:
        codes: [n, d], a person's clips beside one another.
        clips: of each person; they add up to n.

    Returns:
        [n, d], in the same order.
    """
    unit = torch.eye(codes.shape[1], dtype=codes.dtype)
    centred = [own - own.mean(dim=0) for own in torch.split(codes, list(clips))]
    covariances = torch.stack([own.mT @ own / len(own) for own in centred])  # [people, d, d]
    count = torch.tensor(clips, dtype=codes.dtype)[:, None, None]
    prior = PRIOR_CLIPS_PER_VALUE * codes.shape[1]
    roots = inverse_root((count * covariances + prior * unit) / (count + prior))
    whitened = [own @ root for own, root in zip(centred, roots, strict=True)]
    return torch.cat(whitened).clamp(-CODE_LIMIT, CODE_LIMIT)
