"""Facial emotion by a network that no study has trained: face-api's expression network.

Its training set is not documented, so it says whether emotion is still there for an outsider, not how well a model can
do.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from moretta.shared.audit.pretrained.encoder import Availability, Clips, weights_path
from moretta.shared.audit.pretrained.face_encoders import FaceFinder, cut_square, spread, whole_frame
from moretta.shared.core.array_types import Float32, UInt8
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


@dataclass
class ExpressionEvaluator:
    """Reads the six emotions off faces."""

    net: ExpressionNet
    finder: FaceFinder
    unaligned: int = 0
    """Clips so far in which no face was found: read from the middle of their frames."""

    name: ClassVar[str] = "face-api-expression"
    version: ClassVar[str] = "1"
    weights: ClassVar[tuple[str, ...]] = ("face-api-expression", "face-api-expression-layout", "yunet")

    @classmethod
    def availability(cls) -> Availability:
        """Whether the weights are here, unchanged."""
        if all(cached(name) is not None for name in cls.weights):
            return Availability(True)
        return Availability(False, f"no weights of {cls.name}: run `{fetch_command(cls.name)}`")

    @classmethod
    def load(cls) -> Self:
        """Read the weights from the cache.

        Raises:
            AttackersError: they are not there, or not a network of this form.
        """
        from moretta.shared.audit.pretrained.nets import ExpressionNet

        tensors = read_tfjs(weights_path("face-api-expression-layout"), weights_path("face-api-expression"))
        net = ExpressionNet()
        fill(net, tensors)
        return cls(net.eval(), FaceFinder(weights_path("yunet")))

    def probabilities(self, clips: Clips) -> Float32:
        """float32 [clips, 6] in the order of `EMOTIONS`, rows sum to 1: the mean over up to five frames.

        Args:
            clips: [frames, H, W, 3] each, uint8 RGB.

        Raises:
            ClipError: a clip without frames, or no pictures.
        """
        if not len(clips):
            return np.zeros((0, len(EMOTIONS)), np.float32)
        return np.stack([self._read(spread(clip, _FRAMES)) for clip in clips])

    def _read(self, frames: list[UInt8]) -> Float32:
        import torch

        from moretta.shared.audit.pretrained.nets import EXPRESSION_SIDE, EXPRESSIONS

        found = [face for face in map(self.finder.find, frames) if face is not None]
        crops = [cut_square(face.bgr, *face.square, EXPRESSION_SIDE) for face in found]
        if not crops:
            self.unaligned += 1
            crops = [whole_frame(frame, EXPRESSION_SIDE) for frame in frames]
        rgb = np.stack(crops)[..., ::-1].astype(np.float32)  # [frames, 112, 112, 3]
        columns = [EXPRESSIONS.index(word) for emotion in EMOTIONS for word, named in NAMES.items() if named == emotion]
        with torch.inference_mode():
            logits = self.net(torch.from_numpy(rgb.transpose(0, 3, 1, 2).copy()))[:, columns]
            mean: Float32 = torch.softmax(logits, dim=1).mean(dim=0).numpy()
        return mean


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
    first = (block, conv) == ("dense0", "conv0")
    ending = {
        "filters": "conv.weight",
        "depthwise_filter": "depthwise.conv.weight",
        "pointwise_filter": "pointwise.weight",
        "bias": "conv.bias" if first else "pointwise.bias",
    }.get(part, part)
    return f"blocks.{block.removeprefix('dense')}.{conv}.{ending}"


def _torch_axes(name: str, value: Float32) -> Float32:
    """TensorFlow keeps kernels as [H, W, in, out], depthwise ones as [H, W, channels, 1], dense ones as [in, out]."""
    if name.endswith("depthwise_filter"):
        value = value.transpose(2, 3, 0, 1)
    elif value.ndim == 4:
        value = value.transpose(3, 2, 0, 1)
    elif value.ndim == 2:
        value = value.T
    return np.ascontiguousarray(value)


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
    data = weights.read_bytes()
    tensors: dict[str, Float32] = {}
    start = 0
    for weight in (weight for group in groups for weight in group.weights):
        count = int(np.prod(weight.shape))
        dtype = np.dtype(np.float32 if weight.quantization is None else np.uint8)
        end = start + count * dtype.itemsize
        if end > len(data):
            raise AttackersError(f"{weights.name} ends before {weight.name}", expected=f"{end} bytes at least")
        values = np.frombuffer(data[start:end], dtype).astype(np.float32).reshape(weight.shape)
        if weight.quantization is not None:
            values = values * np.float32(weight.quantization.scale) + np.float32(weight.quantization.min)
        tensors[weight.name] = values
        start = end
    if start != len(data):
        raise AttackersError(f"{weights.name} has {len(data)} bytes", expected=f"{start}, as {layout.name} says")
    return tensors
