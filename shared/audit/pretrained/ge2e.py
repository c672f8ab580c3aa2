"""GE2E, the classic speaker encoder, with Resemblyzer's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from moretta.shared.audit.pretrained.encoder import Clips, Embeddings, PretrainedEncoder, load_state, weights_path
from moretta.shared.audit.pretrained.sound import Audio, speech_only, unit_length
from moretta.shared.core.terms import Modality

if TYPE_CHECKING:
    from torch import Tensor

    from moretta.shared.audit.pretrained.nets.ge2e_net import Ge2e

_LOUDNESS_DBFS = -30.0
_WINDOW, _STEP = 160, 77  # frames of 10 ms: 1.6 s windows, 1.3 of them per second
_LEAST_REST = 0.25
_BATCH = 64


class Ge2eEncoder(PretrainedEncoder):
    """The mean over windows of 1.6 s. Short clips are padded with silence, as the network was trained."""

    name: ClassVar[str] = "ge2e"
    modality: ClassVar[Modality] = "voice"
    dimensions: ClassVar[int] = 256
    version: ClassVar[str] = "1"
    weights: ClassVar[tuple[str, ...]] = ("ge2e",)
    threshold: ClassVar[float] = 0.30

    def __init__(self, net: Ge2e) -> None:
        self._net = net.eval()

    @classmethod
    def load(cls) -> Self:
        """Read the weights from the cache."""
        from moretta.shared.audit.pretrained.nets.ge2e_net import Ge2e

        net = Ge2e()
        state = load_state(weights_path("ge2e"))["model_state"]
        own = net.state_dict().keys()
        net.load_state_dict({key: value for key, value in state.items() if key in own})
        return cls(net)

    def embed_many(self, clips: Clips) -> Embeddings:
        """float32 [clips, 256], rows of length 1. Windows of several clips share a batch."""
        pooled: list[Embeddings] = []
        for start in range(0, len(clips), _BATCH):
            pooled.append(self._embed_batch(clips[start : start + _BATCH]))
        return np.concatenate(pooled) if pooled else np.zeros((0, self.dimensions), np.float32)

    def _embed_batch(self, clips: Clips) -> Embeddings:
        import torch

        windows = [_windows(normalize_loudness(speech_only(clip))) for clip in clips]
        with torch.inference_mode():
            embedded = self._net(torch.cat(windows)).numpy()  # [windows of all clips, 256]
        ends = np.cumsum([len(window) for window in windows])
        return unit_length(np.stack([part.mean(axis=0) for part in np.split(embedded, ends[:-1])]))


def normalize_loudness(samples: Audio) -> Audio:
    """Raise a quiet clip to -30 dBFS. Loud ones stay: the network heard them so, and its mel is not logarithmic."""
    level = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    gain = 10 ** (_LOUDNESS_DBFS / 20) / max(level, 1e-6)
    return samples * np.float32(gain) if gain > 1 else samples


def _windows(samples: Audio) -> Tensor:
    """[windows, 160, 40]. A last window is added if the others leave a quarter of one unheard."""
    import torch

    from moretta.shared.audit.pretrained.fbank import slaney_mel

    mel = slaney_mel(samples)
    if len(mel) < _WINDOW:
        return torch.nn.functional.pad(mel, (0, 0, 0, _WINDOW - len(mel)))[None]
    starts = list(range(0, len(mel) - _WINDOW + 1, _STEP))
    if len(mel) - _WINDOW - starts[-1] >= _LEAST_REST * _WINDOW:
        starts.append(len(mel) - _WINDOW)
    return torch.stack([mel[start : start + _WINDOW] for start in starts])
