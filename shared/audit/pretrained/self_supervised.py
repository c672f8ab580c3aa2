"""HuBERT and wav2vec 2.0 from torchaudio: trained on speech without labels, they know speakers and emotions a little.

torchaudio gets these weights from its own server, at 360 MB or more, without a published hash: so Moretta never
downloads them by itself, and uses what lies in the user's torch folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from moretta.shared.audit.pretrained.encoder import Availability, Clips, PretrainedEncoder, speech_only
from moretta.shared.core.array_types import Float32
from moretta.shared.core.errors import AttackersError
from moretta.shared.core.terms import Modality

if TYPE_CHECKING:
    from torch import nn


class SelfSupervisedEncoder(PretrainedEncoder):
    """Mean and standard deviation over time of one hidden layer. Low layers carry the speaker (Yang et al., SUPERB).

    A subclass names the pipeline; `summarise` is also what a utility evaluator trains a small classifier on.
    """

    modality: ClassVar[Modality] = "voice"
    version: ClassVar[str] = "1"
    weights: ClassVar[tuple[str, ...]] = ()
    threshold: ClassVar[float] = 0.40
    pipeline: ClassVar[str]
    """Name in `torchaudio.pipelines`."""
    file_name: ClassVar[str]
    """Name of its weights in torch's folder."""
    speaker_layer: ClassVar[int] = 4
    """Transformer layer, counted from 1."""

    def __init__(self, net: nn.Module) -> None:
        self._net: Any = net.eval()

    @classmethod
    def checkpoint(cls) -> Path:
        """Where torchaudio keeps the weights, if it has them: found without loading torch."""
        caches = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
        home = Path(os.environ.get("TORCH_HOME", caches / "torch")).expanduser()
        return home / "hub" / "checkpoints" / cls.file_name

    @classmethod
    def availability(cls) -> Availability:
        """Whether torchaudio has its weights."""
        path = cls.checkpoint()
        if path.is_file():
            return Availability(True)
        command = f'python -c "import torchaudio; torchaudio.pipelines.{cls.pipeline}.get_model()"'
        return Availability(False, f"torchaudio's {path.name} is not in torch's cache: run `{command}`")

    @classmethod
    def load(cls) -> Self:
        """Read the weights from torchaudio's folder; nothing is downloaded.

        Raises:
            AttackersError: they are not there, or not this network's.
        """
        present, reason = cls.availability()
        if not present:
            raise AttackersError(f"no weights for {cls.name}", fix=reason)
        import pickle  # only for the name of its error

        try:
            net = cls._bundle().get_model(dl_kwargs={"weights_only": True})
        except (RuntimeError, OSError, pickle.UnpicklingError) as error:
            raise AttackersError(
                f"{cls.checkpoint()} cannot be used ({error})", fix="delete it and get it again"
            ) from error
        return cls(net)

    def vectors(self, clips: Clips) -> Float32:
        """float32 [clips, 2 * width]."""
        return self.summarise(clips, layer=self.speaker_layer)

    def summarise(self, clips: Clips, *, layer: int) -> Float32:
        """Mean and standard deviation over time of a layer: float32 [clips, 2 * width], not normalized.

        Args:
            clips: [samples] each, float32 at 16 kHz.
            layer: counted from 1.
        """
        import torch

        with torch.inference_mode():
            rows = []
            for clip in clips:
                layers = self._net.extract_features(torch.from_numpy(speech_only(clip))[None], num_layers=layer)[0]
                hidden = layers[layer - 1][0]  # [T, width], T = 50 per second
                rows.append(torch.cat([hidden.mean(dim=0), hidden.std(dim=0, correction=0)]).numpy())
        return np.stack(rows)

    @classmethod
    def _bundle(cls) -> Any:
        import torchaudio

        return getattr(torchaudio.pipelines, cls.pipeline)


class HubertEncoder(SelfSupervisedEncoder):
    """Hsu et al., "HuBERT", IEEE/ACM TASLP 2021; 960 h of LibriSpeech."""

    name: ClassVar[str] = "hubert"
    dimensions: ClassVar[int] = 2 * 768
    pipeline: ClassVar[str] = "HUBERT_BASE"
    file_name: ClassVar[str] = "hubert_fairseq_base_ls960.pth"


class Wav2Vec2Encoder(SelfSupervisedEncoder):
    """Baevski et al., "wav2vec 2.0", NeurIPS 2020; 960 h of LibriSpeech."""

    name: ClassVar[str] = "wav2vec2"
    dimensions: ClassVar[int] = 2 * 768
    pipeline: ClassVar[str] = "WAV2VEC2_BASE"
    file_name: ClassVar[str] = "wav2vec2_fairseq_base_ls960.pth"
