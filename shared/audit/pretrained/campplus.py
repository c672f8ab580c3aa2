"""CAM++, the strongest speaker encoder here, with 3D-Speaker's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from moretta.shared.audit.pretrained.encoder import Clips, Embeddings, PretrainedEncoder, load_state, weights_path
from moretta.shared.audit.pretrained.sound import speech_only, unit_length
from moretta.shared.core.terms import Modality

if TYPE_CHECKING:
    from moretta.shared.audit.pretrained.nets.campplus_net import CamPlusPlus


class CamPlusPlusEncoder(PretrainedEncoder):
    """One pass over the whole clip. Clips differ in length, so they go one by one: padding would change the result."""

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
        from moretta.shared.audit.pretrained.nets.campplus_net import CamPlusPlus

        net = CamPlusPlus()
        net.load_state_dict(load_state(weights_path("campplus")))
        return cls(net)

    def embed_many(self, clips: Clips) -> Embeddings:
        """float32 [clips, 192], rows of length 1."""
        import torch

        from moretta.shared.audit.pretrained.fbank import kaldi_fbank

        embedded = np.zeros((len(clips), self.dimensions), np.float32)
        with torch.inference_mode():
            for index, clip in enumerate(clips):
                embedded[index] = self._net(kaldi_fbank(speech_only(clip))[None])[0].numpy()
        return unit_length(embedded)
