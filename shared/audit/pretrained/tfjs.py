"""Reads weights as TensorFlow.js keeps them, one file of bytes and its layout, and puts them into torch networks."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from moretta.shared.core.array_types import Float32
from moretta.shared.core.errors import AttackersError

if TYPE_CHECKING:
    from torch import nn


def fill(net: nn.Module, tensors: dict[str, Float32]) -> None:
    """Put tensors under TensorFlow's names into `net`; all of them, and nothing is left out. Raises AttackersError: a
    tensor too many, one missing, or one of another shape."""
    import torch

    state = {_torch_name(name, tensors): torch.from_numpy(_torch_axes(name, value)) for name, value in tensors.items()}
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise AttackersError(f"the weights do not fit {type(net).__name__} ({error})") from error


def _torch_name(name: str, names: Collection[str]) -> str:
    """`dense0/conv1/depthwise_filter` becomes `blocks.0.conv1.depthwise.conv.weight`.

    A bias belongs to the plain or the pointwise convolution of its layer, or to its matrix, whichever there is.
    """
    layer, _, part = name.rpartition("/")
    of_bias = "pointwise.bias" if f"{layer}/pointwise_filter" in names else "conv.bias"
    endings = {
        "filters": "conv.weight",
        "depthwise_filter": "depthwise.conv.weight",
        "pointwise_filter": "pointwise.weight",
        "weights": "weight",
        "bias": "bias" if f"{layer}/weights" in names else of_bias,
    }
    path = re.sub(r"^dense(\d+)\b", r"blocks.\1", layer)
    return f"{path}/{endings.get(part, part)}".replace("/", ".")


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
    """All tensors by name, float32, in TensorFlow's order of axes. Raises AttackersError: a layout of another format,
    or one that does not cover the file of weights exactly."""
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
