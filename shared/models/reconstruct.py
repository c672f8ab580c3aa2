"""Runs a trained autoencoder over many pictures, quickly and always in the same way."""

from __future__ import annotations

import copy
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moretta.shared.models.autoencoder import Autoencoder

BATCH = 8
"""Pictures at once. It is fixed, and the last batch is filled up, so that a picture's result does not depend on its
company; on two cores 8 and 16 were the fastest."""

Precision = Literal["bfloat16", "float32"]


def fastest_precision() -> Precision:
    """`bfloat16` where the CPU computes with it (3 times as fast), `float32` where it would be emulated."""
    native = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    requested = (getattr(torch.cpu, name, None) for name in native)
    return "bfloat16" if any(ask is not None and ask() for ask in requested) else "float32"


def frozen(model: Autoencoder, precision: Precision) -> tuple[Autoencoder, torch.dtype]:
    """A copy that is only computed with, and the type that it computes in."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    network = copy.deepcopy(model).eval().requires_grad_(False)
    # Channels last, as the CPU's convolutions want them: otherwise every layer reorders its input.
    return network.to(dtype).to(memory_format=torch.channels_last), dtype


class Reconstructor:
    """A frozen autoencoder.

    Args:
        model: trained; it is copied.
        precision: of the arithmetic; the fastest of this machine if not given.
    """

    def __init__(self, model: Autoencoder, precision: Precision | None = None) -> None:
        self.spec = model.spec
        self.precision: Precision = precision or fastest_precision()
        network, dtype = frozen(model, self.precision)
        *layers, self._activation = network.decoder
        self._logits = torch.nn.Sequential(network.encoder, *layers)
        self._dtype = dtype

    def __call__(self, pictures: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """Reconstruct corrupted pictures.

        Args:
            pictures: float32 [N, side, side, 3], about [0, 1].

        Returns:
            uint8 [N, side, side, 3]; grey where the network gave no number, so that no clip is left out for it.
        """
        out = np.empty(pictures.shape, np.uint8)
        for start in range(0, len(pictures), BATCH):
            part = pictures[start : start + BATCH]
            out[start : start + BATCH] = self._batch(part)[: len(part)]
        return out

    @torch.inference_mode()
    def _batch(self, part: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        filled = np.zeros((BATCH, *part.shape[1:]), np.float32)
        filled[: len(part)] = part
        maps: Tensor = torch.from_numpy(filled).to(self._dtype).permute(0, 3, 1, 2)  # channels last already
        logits = self._logits(maps).float()  # [B, 3, side, side]; 8 bits are too few after a sigmoid
        values = torch.nan_to_num(self._activation(logits), nan=0.5)
        whole = (values * 255).round().to(torch.uint8).permute(0, 2, 3, 1)  # [B, side, side, 3]
        return np.ascontiguousarray(whole.numpy(), dtype=np.uint8)
