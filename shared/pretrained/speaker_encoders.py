"""Speaker encoders: CAM++ of 3D-Speaker and GE2E of Resemblyzer, and the self-supervised HuBERT and wav2vec 2.0."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from moretta.shared.core.array_types import Float32
from moretta.shared.core.device import computing_device
from moretta.shared.core.errors import AttackersError
from moretta.shared.core.terms import Modality
from moretta.shared.data.media import SAMPLE_RATE
from moretta.shared.pretrained.encoder import Clips, PretrainedEncoder, load_state, speech_only, weights_path

if TYPE_CHECKING:
    from torch import Tensor, nn


class _SpeakerEncoder(PretrainedEncoder):
    modality: ClassVar[Modality] = "voice"

    def __init__(self, net: nn.Module) -> None:
        self._device = computing_device()
        self._net: Any = net.eval().to(self._device)


class CamPlusPlusEncoder(_SpeakerEncoder):
    """CAM++, the strongest speaker encoder here: one pass over the whole clip.

    Clips differ in length, so they go one by one: padding would change the result.
    """

    name = "campplus"
    dimensions = 192
    weights = ("campplus",)
    threshold = 0.25

    @classmethod
    def load(cls) -> Self:
        """Read the weights from the cache."""
        from moretta.shared.pretrained.nets import CamPlusPlus

        net = CamPlusPlus()
        net.load_state_dict(load_state(weights_path("campplus")))
        return cls(net)

    def vectors(self, clips: Clips) -> Float32:
        """float32 [clips, 192]."""
        import torch

        with torch.inference_mode():
            inputs = (kaldi_fbank(speech_only(clip))[None].to(self._device) for clip in clips)
            return np.stack([self._net(features)[0].cpu().numpy() for features in inputs])


_LOUDNESS_DBFS = -30.0
_WINDOW, _STEP = 160, 77  # frames of 10 ms: 1.6 s windows, 1.3 of them per second
_LEAST_REST = 0.25
_BATCH = 64


class Ge2eEncoder(_SpeakerEncoder):
    """GE2E, the classic speaker encoder: the mean over windows of 1.6 s.

    Short clips are padded with silence, as the network was trained.
    """

    name = "ge2e"
    dimensions = 256
    weights = ("ge2e",)
    threshold = 0.30

    @classmethod
    def load(cls) -> Self:
        """Read the weights from the cache."""
        from moretta.shared.pretrained.nets import Ge2e

        net = Ge2e()
        state = load_state(weights_path("ge2e"))["model_state"]
        net.load_state_dict({key: state[key] for key in net.state_dict() if key in state})
        return cls(net)

    def vectors(self, clips: Clips) -> Float32:
        """float32 [clips, 256]. Windows of several clips share a batch."""
        import torch

        rows: list[Float32] = []
        for start in range(0, len(clips), _BATCH):
            batch = clips[start : start + _BATCH]
            windows = [_windows(normalize_loudness(speech_only(clip))) for clip in batch]
            with torch.inference_mode():
                embedded = self._net(torch.cat(windows).to(self._device)).cpu().numpy()  # [windows of all clips, 256]
            ends = np.cumsum([len(window) for window in windows])
            rows += [part.mean(axis=0) for part in np.split(embedded, ends[:-1])]
        return np.stack(rows)


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

    Of float32 [samples] at 16 kHz in [-1, 1], at least 25 ms: float32 [T, bins], T = 1 + (samples - 400) // 160.
    """
    import torch
    from torchaudio.compliance import kaldi

    loud = torch.from_numpy(samples)[None] * 32768.0  # Kaldi reads 16-bit integers
    energies: Tensor = kaldi.fbank(loud, num_mel_bins=bins, sample_frequency=SAMPLE_RATE, dither=0.0)
    return energies - energies.mean(dim=0, keepdim=True)


def slaney_mel(samples: Float32, bins: int = 40) -> Tensor:
    """Mel power, not logarithmic: frames of 25 ms every 10 ms, centred, filters of equal area on Slaney's mel scale.

    Of float32 [samples] at 16 kHz: float32 [T, bins], T = 1 + samples // 160. Loudness matters and is not removed.
    """
    import torch

    size, hop = SAMPLE_RATE // 40, SAMPLE_RATE // 100
    options: dict[str, Any] = {"window": torch.hann_window(size), "center": True, "pad_mode": "constant"}
    spectrum = torch.stft(torch.from_numpy(samples), size, hop, return_complex=True, **options)
    return (_slaney_filters(bins, size) @ spectrum.abs().square()).T


@lru_cache
def _slaney_filters(bins: int, size: int) -> Tensor:
    """float32 [bins, size / 2 + 1], triangles between neighbouring mel points."""
    from torchaudio.functional import melscale_fbanks

    limits = (0.0, SAMPLE_RATE / 2)
    filters: Tensor = melscale_fbanks(size // 2 + 1, *limits, bins, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    return filters.T.contiguous()


class SelfSupervisedEncoder(_SpeakerEncoder):
    """Mean and standard deviation over time of one hidden layer. Low layers carry the speaker (Yang et al., SUPERB).

    Trained on speech without labels, these networks encode speakers and emotions a little; `summarise` is also what a
    utility evaluator trains a small classifier on. torchaudio gets the weights from its own server, at 360 MB or more,
    without a published hash: so Moretta never downloads them, and uses those in the user's torch folder.
    """

    dimensions = 2 * 768
    threshold = 0.40
    pipeline: ClassVar[str]
    """Name in `torchaudio.pipelines`."""
    file_name: ClassVar[str]
    """Name of its weights in torch's folder."""
    speaker_layer: ClassVar[int] = 4
    """Transformer layer, counted from 1."""

    @classmethod
    def checkpoint(cls) -> Path:
        """Where torchaudio keeps the weights, if it has them: found without loading torch."""
        caches = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
        home = Path(os.environ.get("TORCH_HOME", caches / "torch")).expanduser()
        return home / "hub" / "checkpoints" / cls.file_name

    @classmethod
    def missing(cls) -> str | None:
        """The reason why it cannot run here, with the command that helps; None if torchaudio has its weights."""
        if cls.checkpoint().is_file():
            return None
        command = f'python -c "import torchaudio; torchaudio.pipelines.{cls.pipeline}.get_model()"'
        return f"torchaudio's {cls.file_name} is not in torch's cache: run `{command}`"

    @classmethod
    def load(cls) -> Self:
        """Read the weights from torchaudio's folder; nothing is downloaded. Raises AttackersError: they are not there,
        or not this network's."""
        if (reason := cls.missing()) is not None:
            raise AttackersError(f"no weights for {cls.name}", fix=reason)
        import pickle  # only for the name of its error

        try:
            net = cls._bundle().get_model(dl_kwargs={"weights_only": True})
        except (RuntimeError, OSError, pickle.UnpicklingError) as error:
            found = f"{cls.checkpoint()} cannot be used ({error})"
            raise AttackersError(found, fix="delete it and get it again") from error
        return cls(net)

    def vectors(self, clips: Clips) -> Float32:
        """float32 [clips, 2 * width]."""
        return self.summarise(clips, layer=self.speaker_layer)

    def summarise(self, clips: Clips, *, layer: int) -> Float32:
        """Mean and standard deviation over time of a layer, counted from 1: [clips, 2 * width], not normalized."""
        import torch

        rows = []
        with torch.inference_mode():
            for clip in clips:
                sound = torch.from_numpy(speech_only(clip))[None].to(self._device)
                layers = self._net.extract_features(sound, num_layers=layer)[0]
                hidden = layers[layer - 1][0]  # [T, width], T = 50 per second
                rows.append(torch.cat([hidden.mean(dim=0), hidden.std(dim=0, correction=0)]).cpu().numpy())
        return np.stack(rows)

    @classmethod
    def _bundle(cls) -> Any:
        import torchaudio

        return getattr(torchaudio.pipelines, cls.pipeline)


class HubertEncoder(SelfSupervisedEncoder):
    """Hsu et al., "HuBERT", IEEE/ACM TASLP 2021; 960 h of LibriSpeech."""

    name = "hubert"
    pipeline = "HUBERT_BASE"
    file_name = "hubert_fairseq_base_ls960.pth"


class Wav2Vec2Encoder(SelfSupervisedEncoder):
    """Baevski et al., "wav2vec 2.0", NeurIPS 2020; 960 h of LibriSpeech."""

    name = "wav2vec2"
    pipeline = "WAV2VEC2_BASE"
    file_name = "wav2vec2_fairseq_base_ls960.pth"


SPEAKER_ENCODERS = (CamPlusPlusEncoder, Ge2eEncoder, HubertEncoder, Wav2Vec2Encoder)
