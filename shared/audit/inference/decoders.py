"""Decoders from released to original features, trained by the attacker on people whose originals it has."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np

from moretta.shared.core.array_types import Array


class InversionDecoder(Protocol):
    """Anything that can be fitted on pairs and then decodes. Arrays have clips or frames on the first axis."""

    def fit(self, released: Array, original: Array) -> Self:
        """Learn from pairs; returns itself."""
        ...

    def decode(self, released: Array) -> Array:
        """Estimates of the originals, of their shape."""
        ...


class VectorDecoder:
    """A scikit-learn regressor from vectors [n, d] to vectors [n, e]."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def fit(self, released: Array, original: Array) -> Self:
        """Learn; one that stops at its last epoch is still measured by what it reconstructs."""
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._model.fit(released, original)
        return self

    def decode(self, released: Array) -> Array:
        """[n, e]."""
        return np.asarray(self._model.predict(released))


def ridge_decoder(seed: int) -> VectorDecoder:
    """Linear map, regularised by leave-one-out over a grid; what survives it is linear leakage."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    del seed  # a closed form has nothing to seed
    return VectorDecoder(make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13))))


def mlp_decoder(seed: int, *, epochs: int = 30) -> VectorDecoder:
    """Two hidden layers of 128 on standardised pairs."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    mlp = MLPRegressor(hidden_layer_sizes=(128, 128), alpha=1e-2, max_iter=epochs, random_state=seed, tol=1e-5)
    return VectorDecoder(TransformedTargetRegressor(make_pipeline(StandardScaler(), mlp), transformer=StandardScaler()))


class ConvDecoder:
    """A small residual convolutional network from picture to picture (the de-anonymizer of Fantomas, made small).

    Pictures are float32 [n, height, width, channels] in [0, 1], of one size on both sides, height and width even.
    """

    def __init__(self, seed: int = 0, steps: int = 400, width: int = 24, batch: int = 16) -> None:
        self.seed, self.steps, self.width, self.batch = seed, steps, width, batch

    def fit(self, released: Array, original: Array) -> Self:
        """Mean squared error with Adam; no global random state is touched."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self._net = self._network(released.shape[-1])
            optimizer = torch.optim.Adam(self._net.parameters(), lr=2e-3)
            x, y = _pictures(released), _pictures(original)
            for _ in range(self.steps):
                rows = torch.randint(len(x), (self.batch,))
                loss = torch.nn.functional.mse_loss(self._net(x[rows]) + x[rows], y[rows])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
        return self

    def decode(self, released: Array) -> Array:
        """float32 [n, height, width, channels] in [0, 1]."""
        import torch

        with torch.no_grad():
            parts = [self._net(part) + part for part in torch.split(_pictures(released), 64)]
        return np.asarray(torch.cat(parts).clamp(0, 1).permute(0, 2, 3, 1).numpy())

    def _network(self, channels: int) -> Any:
        from torch import nn

        w = self.width
        # Half resolution gives a wide view at little cost; the skip around the whole network keeps the detail.
        return nn.Sequential(
            nn.Conv2d(channels, w, 4, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(w, 2 * w, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(2 * w, 2 * w, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(2 * w, 4 * channels, 3, padding=1),
            nn.PixelShuffle(2),
        )


DECODERS: Mapping[str, Callable[[int], InversionDecoder]] = {
    "ridge": ridge_decoder,
    "mlp": mlp_decoder,
    "conv": ConvDecoder,
}


def with_context(sequences: Sequence[Array], frames: int) -> Array:
    """Frames with their neighbours, for decoding sequences frame by frame.

    Args:
        sequences: arrays [frames_i, d].
        frames: neighbours on each side; edges are repeated.

    Returns:
        [sum of frames_i, (2 * frames + 1) * d], in order.
    """
    padded = [np.pad(s, ((frames, frames), (0, 0)), mode="edge") for s in sequences]
    windows = [
        np.concatenate([p[i : i + len(s)] for i in range(2 * frames + 1)], axis=1)
        for p, s in zip(padded, sequences, strict=True)
    ]
    return np.concatenate(windows)


def _pictures(array: Array) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).permute(0, 3, 1, 2).contiguous()
