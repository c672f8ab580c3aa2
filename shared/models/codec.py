"""A trained autoencoder in two halves: pictures to codes, and codes, changed in between, to pictures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from moretta.shared.errors import RunError
from moretta.shared.models.autoencoder import Autoencoder
from moretta.shared.models.reconstruct import BATCH, Precision, fastest_precision, frozen

Codes = npt.NDArray[np.float32]
"""[N, latent]."""


class Codec:
    """Both halves, frozen.

    Args:
        model: trained; it is copied.
        precision: of the arithmetic; the fastest of this machine if not given.
    """

    def __init__(self, model: Autoencoder, precision: Precision | None = None) -> None:
        self.spec = model.spec
        self.precision: Precision = precision or fastest_precision()
        network, self._dtype = frozen(model, self.precision)
        *layers, self._activation = network.decoder
        self._encoder, self._logits = network.encoder, torch.nn.Sequential(*layers)

    @torch.inference_mode()
    def encode(self, pictures: npt.NDArray[np.uint8]) -> Codes:
        """uint8 [N, side, side, 3] -> float32 [N, latent]. A picture's code does not depend on its company."""
        parts = []
        for start in range(0, len(pictures), BATCH):
            part = pictures[start : start + BATCH]
            filled = np.zeros((BATCH, *part.shape[1:]), np.float32)
            filled[: len(part)] = part.astype(np.float32) / np.float32(255)
            maps = torch.from_numpy(filled).to(self._dtype).permute(0, 3, 1, 2)
            parts.append(self._encoder(maps).float().numpy()[: len(part)])
        return np.concatenate(parts)

    @torch.inference_mode()
    def decode(self, codes: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
        """[N, latent] -> uint8 [N, side, side, 3].

        Raises:
            RunError: the network gave something that is not finite.
        """
        parts = []
        for start in range(0, len(codes), BATCH):
            part = codes[start : start + BATCH]
            filled = np.zeros((BATCH, self.spec.latent), np.float32)
            filled[: len(part)] = part
            values = self._activation(self._logits(torch.from_numpy(filled).to(self._dtype)).float())
            if not bool(torch.isfinite(values).all()):
                raise RunError("the autoencoder gave values that are not finite", fix="train it again")
            whole = (values * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
            parts.append(np.ascontiguousarray(whole.numpy()[: len(part)], dtype=np.uint8))
        return np.concatenate(parts)
