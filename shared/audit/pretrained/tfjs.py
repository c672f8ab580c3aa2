"""Reads weights in the format of TensorFlow.js: a JSON layout, and one file of bytes that may be quantized to 8 bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from moretta.shared.core.errors import AttackersError

Floats = npt.NDArray[np.float32]


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


def read_tfjs(layout: Path, weights: Path) -> dict[str, Floats]:
    """All tensors by name, float32, in TensorFlow's order of axes.

    Raises:
        AttackersError: a layout of another format, or one that does not cover the file of weights exactly.
    """
    try:
        groups = TypeAdapter(tuple[_Group, ...]).validate_python(json.loads(layout.read_text()))
    except (ValidationError, ValueError) as error:
        raise AttackersError(f"{layout.name} is no layout of weights ({error})") from error
    data = weights.read_bytes()
    tensors: dict[str, Floats] = {}
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
