"""Facial emotion by a network that no study has trained: face-api's expression network.

Its training set is not documented, so it shows whether emotion is still there for an outsider, not how well a model
can do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from moretta.shared.audit.pretrained.encoder import Clips, weights_path
from moretta.shared.audit.pretrained.face_encoders import FaceFinder, FoundFace, crops, cut_square, spread
from moretta.shared.core.array_types import Float32, UInt8
from moretta.shared.core.device import computing_device
from moretta.shared.core.errors import AttackersError
from moretta.shared.core.labels import EMOTIONS, Emotion
from moretta.shared.pretrained import cached, fetch_command

if TYPE_CHECKING:
    from moretta.shared.audit.pretrained.nets import ExpressionNet


NAMES: dict[str, str] = {
    "angry": Emotion.ANG,
    "disgusted": Emotion.DIS,
    "fearful": Emotion.FEA,
    "happy": Emotion.HAP,
    "neutral": Emotion.NEU,
    "sad": Emotion.SAD,
}
"""The network's names. Its seventh, surprised, is no emotion of the corpus: its share goes to the others."""
_FRAMES = 5


class ExpressionEvaluator:
    """Reads the six emotions off faces. A clip in which no face is found is read from the middle of its frames."""

    name: ClassVar[str] = "face-api-expression"
    weights: ClassVar[tuple[str, ...]] = ("face-api-expression", "face-api-expression-layout", "yunet")

    def __init__(self, net: ExpressionNet, finder: FaceFinder) -> None:
        self._device = computing_device()
        self._net, self._finder = net.to(self._device), finder

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot run here, and the command that would help; None if the weights are here, unchanged."""
        if all(cached(name) is not None for name in cls.weights):
            return None
        return f"no weights of {cls.name}: run `{fetch_command(cls.name)}`"

    @classmethod
    def load(cls) -> Self:
        """Read the weights from the cache.

        Raises:
            AttackersError: they are not there, or not a network of this form.
        """
        from moretta.shared.audit.pretrained.nets import ExpressionNet

        net = ExpressionNet()
        fill(net, read_tfjs(weights_path("face-api-expression-layout"), weights_path("face-api-expression")))
        return cls(net.eval(), FaceFinder(weights_path("yunet")))

    def probabilities(self, clips: Clips) -> Float32:
        """float32 [clips, 6] in the order of `EMOTIONS`, rows sum to 1: the mean over up to five frames.

        Args:
            clips: [frames, H, W, 3] each, uint8 RGB.

        Raises:
            ClipError: a clip without frames, or no pictures.
        """
        import torch

        from moretta.shared.audit.pretrained.nets import EXPRESSION_SIDE, EXPRESSIONS

        def square(face: FoundFace) -> UInt8:
            return cut_square(face.bgr, *face.square, EXPRESSION_SIDE)

        names = {emotion: name for name, emotion in NAMES.items()}
        columns = [EXPRESSIONS.index(names[emotion]) for emotion in EMOTIONS]
        rows = [np.zeros((0, len(EMOTIONS)), np.float32)]
        for clip in clips:
            found = crops(self._finder, spread(clip, _FRAMES), square, EXPRESSION_SIDE)
            rgb = np.stack(found)[..., ::-1].astype(np.float32)  # [frames, 112, 112, 3]
            with torch.inference_mode():
                logits = self._net(torch.from_numpy(rgb.transpose(0, 3, 1, 2).copy()).to(self._device)).cpu()
                rows.append(torch.softmax(logits[:, columns], dim=1).mean(dim=0).numpy()[None])
        return np.concatenate(rows)


def fill(net: ExpressionNet, tensors: dict[str, Float32]) -> None:
    """Put tensors under TensorFlow's names into `net`; all of them, and nothing is left out.

    Raises:
        AttackersError: a tensor too many, one missing, or one of another shape.
    """
    import torch

    state = {_torch_name(name): torch.from_numpy(_torch_axes(name, value)) for name, value in tensors.items()}
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise AttackersError(f"the weights do not fit the expression network ({error})") from error


def _torch_name(name: str) -> str:
    """`dense0/conv1/depthwise_filter` becomes `blocks.0.conv1.depthwise.conv.weight`."""
    if name.startswith("fc/"):
        return {"fc/weights": "fc.weight", "fc/bias": "fc.bias"}.get(name, name)
    block, conv, part = name.split("/")
    endings = {
        "filters": "conv.weight",
        "depthwise_filter": "depthwise.conv.weight",
        "pointwise_filter": "pointwise.weight",
        "bias": "conv.bias" if (block, conv) == ("dense0", "conv0") else "pointwise.bias",
    }
    return f"blocks.{block.removeprefix('dense')}.{conv}.{endings.get(part, part)}"


def _torch_axes(name: str, value: Float32) -> Float32:
    """TensorFlow keeps kernels as [H, W, in, out], depthwise ones as [H, W, channels, 1], dense ones as [in, out]."""
    axes = (2, 3, 0, 1) if name.endswith("depthwise_filter") else {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim)
    return np.ascontiguousarray(value if axes is None else value.transpose(axes))


class _Quantization(BaseModel):
    dtype: str = Field(pattern="^uint8$")
    scale: float
    min: float


class _Weight(BaseModel):
    name: str
    shape: tuple[int, ...]
    dtype: str = Field(pattern="^float32$")
    quantization: _Quantization | None = None


class _Group(BaseModel):
    weights: tuple[_Weight, ...]


def read_tfjs(layout: Path, weights: Path) -> dict[str, Float32]:
    """All tensors by name, float32, in TensorFlow's order of axes.

    Raises:
        AttackersError: a layout of another format, or one that does not cover the file of weights exactly.
    """
    try:
        groups = TypeAdapter(tuple[_Group, ...]).validate_python(json.loads(layout.read_text()))
    except (ValidationError, ValueError) as error:
        raise AttackersError(f"{layout.name} is no layout of weights ({error})") from error
    data, start = weights.read_bytes(), 0
    tensors: dict[str, Float32] = {}
    for weight in (weight for group in groups for weight in group.weights):
        dtype = np.dtype(np.float32 if weight.quantization is None else np.uint8)
        end = start + int(np.prod(weight.shape)) * dtype.itemsize
        if end > len(data):
            raise AttackersError(f"{weights.name} ends before {weight.name}", expected=f"{end} bytes at least")
        values = np.frombuffer(data[start:end], dtype).astype(np.float32).reshape(weight.shape)
        if weight.quantization is not None:
            values = values * np.float32(weight.quantization.scale) + np.float32(weight.quantization.min)
        tensors[weight.name], start = values, end
    if start != len(data):
        raise AttackersError(f"{weights.name} has {len(data)} bytes", expected=f"{start}, as {layout.name} says")
    return tensors
