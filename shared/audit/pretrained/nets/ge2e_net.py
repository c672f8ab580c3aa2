"""The LSTM speaker encoder trained with the generalised end-to-end loss.

Source: Wan, Wang, Papir, Lopez Moreno, "Generalized End-to-End Loss for Speaker Verification", ICASSP 2018
(arXiv 1710.10467), section 2; the sizes are those of the checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MEL_BINS = 40
HIDDEN = 256
LAYERS = 3


class Ge2e(nn.Module):
    """Three LSTM layers; the last state of the last one is the utterance."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(MEL_BINS, HIDDEN, LAYERS, batch_first=True)
        self.linear = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, mel: Tensor) -> Tensor:
        """Mel power [B, T, 40] to embeddings [B, 256] of length 1."""
        _, (hidden, _) = self.lstm(mel)
        return nn.functional.normalize(torch.relu(self.linear(hidden[-1])), dim=1)
