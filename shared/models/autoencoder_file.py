"""Autoencoders outside of memory: as one safetensors file, and as named arrays in a message. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import ReleaseError, StudyError
from moretta.shared.models.autoencoder import Autoencoder, AutoencoderSpec, stored_tensors
from moretta.shared.study.public_arrays import Rule, Rules

FORMAT = "moretta-autoencoder-1"
SPEC_ARRAY = "spec"
"""int64 [side, latent], sent along with the weights."""
_MAX_FILE_BYTES = 2 * 2**30
_MAX_HEADER_BYTES = 2**20
_LARGEST_WEIGHT, _LARGEST_STATISTIC = 1e3, 1e8

Array = npt.NDArray[Any]


def save_autoencoder(model: Autoencoder, path: Path) -> None:
    """Write the weights and, in the metadata, the sizes. The file appears whole or not at all."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().float().contiguous() for name, tensor in stored_tensors(model).items()}
    metadata = {"format": FORMAT, "side": str(model.spec.side), "latent": str(model.spec.latent)}
    write_atomic(path, save(tensors, metadata=metadata))


def load_autoencoder(path: Path) -> Autoencoder:
    """Read what `save_autoencoder` wrote, ready for inference.

    Raises:
        StudyError: no such file, or not an autoencoder of this format, or other tensors than its sizes ask for.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    expected = f"a file that `moretta train-face` wrote ({FORMAT})"
    try:
        if path.exists() and not path.is_file():  # a device has no end, and a pipe no beginning
            raise StudyError(f"{path}, which is no file", expected=expected, fix="correct `weights` in [face]")
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise StudyError(f"{path} has {path.stat().st_size} bytes", expected=f"at most {_MAX_FILE_BYTES}")
        data = path.read_bytes()
        arrays = load(data)
        spec = _spec_of(_metadata(data))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"the autoencoder {path} cannot be read: {error}",
            expected=expected,
            fix="train it again with `moretta train-face`",
        ) from error
    problem = _problem(spec, arrays)
    if problem:
        raise StudyError(f"the autoencoder {path} has {problem}", expected=expected, fix="train it again")
    return _built(spec, arrays)


def autoencoder_arrays(model: Autoencoder) -> dict[str, Array]:
    """The weights and the sizes as arrays, for a message."""
    arrays: dict[str, Array] = {name: t.detach().float().numpy() for name, t in stored_tensors(model).items()}
    arrays[SPEC_ARRAY] = np.array([model.spec.side, model.spec.latent], np.int64)
    return arrays


def autoencoder_from_arrays(arrays: Mapping[str, Array]) -> Autoencoder:
    """Rebuild what `autoencoder_arrays` took apart, ready for inference.

    Raises:
        ReleaseError: sizes or tensors are missing, of another shape or type, or not finite.
    """
    sizes = arrays.get(SPEC_ARRAY)
    if sizes is None or sizes.dtype != np.int64 or sizes.shape != (2,):
        raise ReleaseError("an autoencoder without its sizes", expected=f"int64 [side, latent] as {SPEC_ARRAY!r}")
    try:
        spec = AutoencoderSpec(side=int(sizes[0]), latent=int(sizes[1]))
    except StudyError as error:
        raise ReleaseError(error.found, expected=error.expected) from error
    weights = {name: array for name, array in arrays.items() if name != SPEC_ARRAY}
    problem = _problem(spec, weights)
    if problem:
        raise ReleaseError(f"an autoencoder with {problem}", expected="what its sizes ask for")
    return _built(spec, weights)


def autoencoder_rules(spec: AutoencoderSpec, prefix: str) -> Rules:
    """What each array of a network of this size may be."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in stored_tensors(Autoencoder(spec)).items()}
    rules = {prefix + SPEC_ARRAY: Rule((2,), 2**16, 1, dtype="int64")}
    for name, shape in shapes.items():
        is_statistic = "running" in name
        least = 0.0 if name.endswith("running_var") else None
        rules[prefix + name] = Rule(shape, _LARGEST_STATISTIC if is_statistic else _LARGEST_WEIGHT, least)
    return rules


def _metadata(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:8], "little")
    if length > min(_MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError(f"a header of {length} bytes")
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    if metadata.get("format") != FORMAT:
        raise ValueError(f"its format is {metadata.get('format')!r}")
    return dict(metadata)


def _spec_of(metadata: dict[str, str]) -> AutoencoderSpec:
    return AutoencoderSpec(side=int(metadata["side"]), latent=int(metadata["latent"]))


def _problem(spec: AutoencoderSpec, arrays: Mapping[str, Array]) -> str:
    rules = {name: rule for name, rule in autoencoder_rules(spec, "").items() if name != SPEC_ARRAY}
    wanted = {name: rule.shape for name, rule in rules.items()}
    if set(arrays) != set(wanted):
        return f"other tensors than the network ({', '.join(sorted(set(arrays) ^ set(wanted))[:4])})"
    for name, array in arrays.items():
        if array.dtype != np.float32 or array.shape != wanted[name]:
            return f"{name} of {array.dtype} {list(array.shape)} instead of float32 {list(wanted[name])}"
        rule = rules[name]
        if not ((array >= rule.lowest) & (array <= rule.largest)).all():  # false for NaN
            return f"{name} with values that cannot be; expected {rule}"
    return ""


def _built(spec: AutoencoderSpec, arrays: Mapping[str, Array]) -> Autoencoder:
    model = Autoencoder(spec)
    model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, strict=False)
    return model.eval()
