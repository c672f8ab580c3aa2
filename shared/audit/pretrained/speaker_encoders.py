"""Speaker encoders with public weights: CAM++ of 3D-Speaker, and GE2E of Resemblyzer."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from moretta.shared.audit.pretrained.encoder import Clips, PretrainedEncoder, load_state, speech_only, weights_path
from moretta.shared.core.array_types import Float32
from moretta.shared.core.terms import Modality
from moretta.shared.data.media import SAMPLE_RATE

if TYPE_CHECKING:
    from torch import Tensor

    from moretta.shared.audit.pretrained.nets import CamPlusPlus, Ge2e


class CamPlusPlusEncoder(PretrainedEncoder):
    """CAM++, the strongest speaker encoder here: one pass over the whole clip.

    Clips differ in length, so they go one by one: padding would change the result.
    """

    name: ClassVar[str] = "campplus"
    modality: ClassVar[Modality] = "voice"
    dimensions: ClassVar[int] = 192
    version: ClassVar[str] = "1"
    weights: ClassVar[tuple[str, ...]] = ("campplus",)
    threshold: ClassVar[float] = 0.25

    def __init__(self, net: CamPlusPlus) -> None:
        self._net = net.eval()

    @classmethod
    def load(cls) -> Self:
        """Read the weights from the cache."""
        from moretta.shared.audit.pretrained.nets import CamPlusPlus

        net = CamPlusPlus()
        net.load_state_dict(load_state(weights_path("campplus")))
        return cls(net)

    def vectors(self, clips: Clips) -> Float32:
        """float32 [clips, 192]."""
        import torch

        embedded = np.zeros((len(clips), self.dimensions), np.float32)
        with torch.inference_mode():
            for index, clip in enumerate(clips):
                embedded[index] = self._net(kaldi_fbank(speech_only(clip))[None])[0].numpy()
        return embedded


_LOUDNESS_DBFS = -30.0
_WINDOW, _STEP = 160, 77  # frames of 10 ms: 1.6 s windows, 1.3 of them per second
_LEAST_REST = 0.25
_BATCH = 64


class Ge2eEncoder(PretrainedEncoder):
    """GE2E, the classic speaker encoder: the mean over windows of 1.6 s.

    Short clips are padded with silence, as the network was trained.
    """

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
        from moretta.shared.audit.pretrained.nets import Ge2e

        net = Ge2e()
        state = load_state(weights_path("ge2e"))["model_state"]
        own = net.state_dict().keys()
        net.load_state_dict({key: value for key, value in state.items() if key in own})
        return cls(net)

    def vectors(self, clips: Clips) -> Float32:
        """float32 [clips, 256]. Windows of several clips share a batch."""
        starts = range(0, len(clips), _BATCH)
        return np.concatenate([self._embed_batch(clips[start : start + _BATCH]) for start in starts])

    def _embed_batch(self, clips: Clips) -> Float32:
        import torch

        windows = [_windows(normalize_loudness(speech_only(clip))) for clip in clips]
        with torch.inference_mode():
            embedded = self._net(torch.cat(windows)).numpy()  # [windows of all clips, 256]
        ends = np.cumsum([len(window) for window in windows])
        return np.stack([part.mean(axis=0) for part in np.split(embedded, ends[:-1])])


def normalize_loudness(samples: Float32) -> Float32:
    """Raise a quiet clip to -30 dBFS. Loud ones stay: the network was trained so, and its mel is not logarithmic."""
    level = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    gain = 10 ** (_LOUDNESS_DBFS / 20) / max(level, 1e-6)
    return samples * np.float32(gain) if gain > 1 else samples


def _windows(samples: Float32) -> Tensor:
    """[windows, 160, 40]. A last window is added if the others leave out a quarter of one."""
    import torch

    mel = slaney_mel(samples)
    if len(mel) < _WINDOW:
        return torch.nn.functional.pad(mel, (0, 0, 0, _WINDOW - len(mel)))[None]
    starts = list(range(0, len(mel) - _WINDOW + 1, _STEP))
    if len(mel) - _WINDOW - starts[-1] >= _LEAST_REST * _WINDOW:
        starts.append(len(mel) - _WINDOW)
    return torch.stack([mel[start : start + _WINDOW] for start in starts])


def kaldi_fbank(samples: Float32, bins: int = 80) -> Tensor:
    """Kaldi's log mel energies with its defaults but for the dither, mean over time removed.

    Args:
        samples: [samples] at 16 kHz in [-1, 1], at least 25 ms.
        bins: mel filters.

    Returns:
        float32 [T, bins], T = 1 + (samples - 400) // 160.
    """
    import torch
    from torchaudio.compliance import kaldi

    loud = torch.from_numpy(samples)[None] * 32768.0  # Kaldi reads 16-bit integers
    energies: Tensor = kaldi.fbank(loud, num_mel_bins=bins, sample_frequency=SAMPLE_RATE, dither=0.0)
    return energies - energies.mean(dim=0, keepdim=True)


def slaney_mel(samples: Float32, bins: int = 40) -> Tensor:
    """Mel power, not logarithmic: frames of 25 ms every 10 ms, centred, filters of equal area on Slaney's mel scale.

    Args:
        samples: [samples] at 16 kHz. Loudness matters: nothing here removes it.
        bins: mel filters.

    Returns:
        float32 [T, bins], T = 1 + samples // 160.
    """
    import torch

    size, hop = SAMPLE_RATE // 40, SAMPLE_RATE // 100
    window = torch.hann_window(size)
    spectrum = torch.stft(
        torch.from_numpy(samples), size, hop, window=window, center=True, pad_mode="constant", return_complex=True
    )
    return (_slaney_filters(bins, size) @ spectrum.abs().square()).T


@lru_cache
def _slaney_filters(bins: int, size: int) -> Tensor:
    """float32 [bins, size / 2 + 1], triangles between neighbouring mel points."""
    from torchaudio.functional import melscale_fbanks

    filters: Tensor = melscale_fbanks(
        size // 2 + 1, 0.0, SAMPLE_RATE / 2, bins, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    ).T.contiguous()
    return filters
