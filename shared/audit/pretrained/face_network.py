"""Base of face-api's networks: their weights, and squares of the faces of a clip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from moretta.shared.audit.pretrained.face_encoders import FaceFinder, FoundFace, crops, cut_square, spread
from moretta.shared.audit.pretrained.tfjs import fill, read_tfjs
from moretta.shared.core.array_types import Array, Float32, Float64, UInt8
from moretta.shared.core.device import computing_device
from moretta.shared.core.labels import EMOTIONS, Emotion
from moretta.shared.pretrained import cached, fetch_command
from moretta.shared.pretrained.encoder import Clips, weights_path

if TYPE_CHECKING:
    import torch
    from torch import nn

_FRAMES = 5
NAMES: dict[str, str] = {
    "angry": Emotion.ANG,
    "disgusted": Emotion.DIS,
    "fearful": Emotion.FEA,
    "happy": Emotion.HAP,
    "neutral": Emotion.NEU,
    "sad": Emotion.SAD,
}
"""The network's names. Its seventh, surprised, is no emotion of the corpus: its share goes to the others."""


class FaceNetwork:
    """A network used as it is. A clip in which no face is found is read from the middle of its frames."""

    name: ClassVar[str]
    """The entry of the manifest; its layout is the one called `NAME-layout`."""

    def __init__(self, net: nn.Module, finder: FaceFinder) -> None:
        self._device = computing_device()
        self._net: Any = net.to(self._device)
        self._finder = finder

    @classmethod
    def bare(cls) -> nn.Module:
        """The network without its weights."""
        raise NotImplementedError

    @classmethod
    def missing(cls) -> str | None:
        """The reason why it cannot run here, with the command that helps; None if its weights are here, unchanged."""
        if all(cached(name) is not None for name in (cls.name, f"{cls.name}-layout", "yunet")):
            return None
        return f"no weights of {cls.name}: run `{fetch_command(cls.name)}`"

    @classmethod
    def load(cls) -> Self:
        """Read the weights from the cache. Raises AttackersError: they are not there, or not a network of this form."""
        net = cls.bare()
        fill(net, read_tfjs(weights_path(f"{cls.name}-layout"), weights_path(cls.name)))
        return cls(net.eval(), FaceFinder(weights_path("yunet")))

    def _pictures(self, clip: Array) -> torch.Tensor:
        """float32 [up to 5, 3, 112, 112], RGB of 0 to 255, of a clip uint8 [frames, H, W, 3]. Raises ClipError: a clip
        without frames, or no pictures."""
        import torch

        from moretta.shared.audit.pretrained.face_api_nets import FACE_SIDE

        def square(face: FoundFace) -> UInt8:
            return cut_square(face.bgr, *face.square, FACE_SIDE)

        found = crops(self._finder, spread(clip, _FRAMES), square, FACE_SIDE)
        rgb = np.stack(found)[..., ::-1].astype(np.float32)  # [frames, 112, 112, 3]
        return torch.from_numpy(rgb.transpose(0, 3, 1, 2).copy()).to(self._device)


class ExpressionEvaluator(FaceNetwork):
    """Reads the six emotions off faces."""

    name = "face-api-expression"

    @classmethod
    def bare(cls) -> nn.Module:
        """The network without its weights."""
        from moretta.shared.audit.pretrained.face_api_nets import ExpressionNet

        return ExpressionNet()

    def probabilities(self, clips: Clips) -> Float32:
        """float32 [clips, 6] in the order of `EMOTIONS`, rows sum to 1: the mean over up to five frames.

        Args:
            clips: [frames, H, W, 3] each, uint8 RGB.

        Raises:
            ClipError: a clip without frames, or no pictures.
        """
        import torch

        from moretta.shared.audit.pretrained.face_api_nets import EXPRESSIONS

        names = {emotion: name for name, emotion in NAMES.items()}
        columns = [EXPRESSIONS.index(names[emotion]) for emotion in EMOTIONS]
        rows = [np.zeros((0, len(EMOTIONS)), np.float32)]
        for clip in clips:
            with torch.inference_mode():
                logits = self._net(self._pictures(clip)).cpu()
                rows.append(torch.softmax(logits[:, columns], dim=1).mean(dim=0).numpy()[None])
        return np.concatenate(rows)


class AgeSexReader(FaceNetwork):
    """Reads age and sex off faces."""

    name = "face-api-age-sex"

    @classmethod
    def bare(cls) -> nn.Module:
        """The network without its weights."""
        from moretta.shared.audit.pretrained.face_api_nets import AgeSexNet

        return AgeSexNet()

    def read(self, clips: Clips) -> tuple[Float64, Float64]:
        """Ages in years [clips], and probabilities [clips, 2] in the order of `SEXES`: means over up to five frames.

        Args:
            clips: [frames, H, W, 3] each, uint8 RGB.

        Raises:
            ClipError: a clip without frames, or no pictures.
        """
        import torch

        ages, sexes = [np.zeros(0)], [np.zeros((0, 2))]
        for clip in clips:
            with torch.inference_mode():
                age, logits = (part.cpu().double() for part in self._net(self._pictures(clip)))
            ages.append(age.mean(0, keepdim=True).numpy())
            sexes.append(torch.softmax(logits, dim=1).mean(0, keepdim=True).numpy())
        return np.concatenate(ages), np.concatenate(sexes)
