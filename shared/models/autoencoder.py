"""The face autoencoder: the design's, parameter for parameter, the same at other sizes; how it is run, kept and sent.

Nothing is ever unpickled.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from moretta.shared.core.array_types import Array, Float32, UInt8
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import ReleaseError, StudyError
from moretta.shared.study.public_arrays import Rule, Rules

_STRIDE = 16
"""Two convolutions of stride 2, each followed by pooling by 2, shrink the picture this much."""
_MIN_SIDE = 32
_MAX_SIDE = 512
_MAX_LATENT = 65_536
_WIDE = 128
_NARROW = 64
LEAK = 0.2
"""Slope of the leaky ReLU below zero."""

Preset = Literal["exact", "small"]


@dataclass(frozen=True, slots=True)
class AutoencoderSpec:
    """The size of an autoencoder. The default is the design's exact one."""

    side: int = 128
    """Height and width of the pictures, in pixels; a multiple of 16."""
    latent: int = 4096

    def __post_init__(self) -> None:
        if self.side % _STRIDE or not _MIN_SIDE <= self.side <= _MAX_SIDE:
            raise StudyError(
                f"an autoencoder for pictures of side {self.side}",
                expected=f"a multiple of {_STRIDE} from {_MIN_SIDE} to {_MAX_SIDE}",
            )
        if not 0 < self.latent <= _MAX_LATENT:
            raise StudyError(f"a latent size of {self.latent}", expected=f"1 to {_MAX_LATENT}")

    @classmethod
    def preset(cls, name: Preset) -> Self:
        """`exact` is the design's; `small` is for demonstrations: 64 x 64 pixels, latent size 300."""
        return cls() if name == "exact" else cls(side=64, latent=300)

    @property
    def grid(self) -> int:
        """Side of the feature map between the convolutions and the dense layers."""
        return self.side // _STRIDE

    @property
    def flat(self) -> int:
        """Values in that feature map."""
        return self.grid * self.grid * _NARROW


def _activated(channels: int) -> list[nn.Module]:
    return [nn.LeakyReLU(LEAK), nn.BatchNorm2d(channels)]


class Encoder(nn.Sequential):
    """[N, 3, side, side] in [0, 1] -> [N, latent]."""

    def __init__(self, spec: AutoencoderSpec) -> None:
        super().__init__(
            nn.Conv2d(3, _WIDE, 5, stride=2, padding=2),
            nn.MaxPool2d(2),
            *_activated(_WIDE),
            nn.Conv2d(_WIDE, _NARROW, 3, stride=2, padding=1),
            nn.MaxPool2d(2),
            *_activated(_NARROW),
            nn.Flatten(),
            nn.Linear(spec.flat, spec.latent),
        )


class UpsampledConvTranspose(nn.ConvTranspose2d):
    """Upsampling by 2 that repeats pixels, then a transposed 3 x 3 convolution: [N, C, h, w] -> [N, D, 2h, 2w].

    Computed without the large picture in between, by sub-pixel convolution (Shi et al., CVPR 2016, section 3). Each of
    the four output pixels of an input pixel is a convolution of its own. Its taps are sums of those that fall on the
    same input pixel.
    """

    phases: Tensor

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs, 3, padding=1)
        # [phase, tap of the small picture, tap of the upsampled picture]
        phases = torch.tensor([[[1, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]])
        self.register_buffer("phases", phases.float(), persistent=False)

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: ARG002 - torch's signature
        """[N, C, h, w] -> [N, D, 2h, 2w]."""
        kernel = self.weight.flip(2, 3)  # a transposed convolution of stride 1 is a convolution with this, [C, D, 3, 3]
        split = torch.einsum("pai,qbj,cdij->dpqcab", self.phases, self.phases, kernel)
        weight = split.reshape(-1, *split.shape[3:])  # [4D, C, 3, 3]
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        return nn.functional.pixel_shuffle(nn.functional.conv2d(maps, weight, bias, padding=1), 2)


class Decoder(nn.Sequential):
    """[N, latent] -> [N, 3, side, side] in [0, 1].

    Upsampling repeats pixels, so it commutes with the leaky ReLU and the normalization. Here it stands after them
    instead of before: the same function at a quarter of the work.
    """

    def __init__(self, spec: AutoencoderSpec) -> None:
        super().__init__(
            nn.Linear(spec.latent, spec.flat),
            nn.Unflatten(1, (_NARROW, spec.grid, spec.grid)),
            nn.ConvTranspose2d(_NARROW, _NARROW, 3, stride=2, padding=1, output_padding=1),
            *_activated(_NARROW),
            nn.Upsample(scale_factor=2),
            nn.ConvTranspose2d(_NARROW, _WIDE, 5, stride=2, padding=2, output_padding=1),
            *_activated(_WIDE),
            UpsampledConvTranspose(_WIDE, 3),
            nn.Sigmoid(),
        )


class Autoencoder(nn.Module):
    """Encoder and decoder. Weights are drawn from torch's generator: seed it first."""

    def __init__(self, spec: AutoencoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = Encoder(spec)
        self.decoder = Decoder(spec)

    def forward(self, pictures: Tensor) -> Tensor:
        """[N, 3, side, side] in [0, 1], possibly corrupted -> the same shape, in [0, 1]."""
        reconstructed: Tensor = self.decoder(self.encoder(pictures))
        return reconstructed


def stored_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Everything that must be kept to rebuild the function, by name."""
    return {name: tensor for name, tensor in module.state_dict().items() if not name.endswith("num_batches_tracked")}


BATCH = 8
"""Pictures at once. It is fixed, and the last batch is filled up, so that a picture's result does not depend on its
company; on two cores 8 and 16 were the fastest."""

Precision = Literal["bfloat16", "float32"]


def fastest_precision(device: torch.device | None = None) -> Precision:
    """`bfloat16` where the device, by default the CPU, computes with it (on CPUs 3 times as fast); `float32` where it
    would be emulated."""
    if device is not None and device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device is not None and device.type != "cpu":
        return "float32"
    native = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    requested = (getattr(torch.cpu, name, None) for name in native)
    return "bfloat16" if any(ask is not None and ask() for ask in requested) else "float32"


class Reconstructor:
    """A frozen autoencoder. `precision`: of the arithmetic; the fastest of this machine if not given."""

    def __init__(self, model: Autoencoder, precision: Precision | None = None) -> None:
        self.spec = model.spec
        self.precision: Precision = precision or fastest_precision()
        self._dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        # Channels last, as the CPU's convolutions want them: otherwise every layer reorders its input.
        network = copy.deepcopy(model).eval().requires_grad_(False).to(self._dtype)
        network = network.to(memory_format=torch.channels_last)
        *layers, self._activation = network.decoder
        self._logits = torch.nn.Sequential(network.encoder, *layers)

    def __call__(self, pictures: Float32) -> UInt8:
        """Corrupted pictures, float32 [N, side, side, 3], about [0, 1] -> reconstructions, uint8.

        They are grey where the network gave no number, so that no clip is left out for it.
        """
        out = np.empty(pictures.shape, np.uint8)
        for start in range(0, len(pictures), BATCH):
            part = pictures[start : start + BATCH]
            out[start : start + BATCH] = self._batch(part)[: len(part)]
        return out

    @torch.inference_mode()
    def _batch(self, part: Float32) -> UInt8:
        filled = np.zeros((BATCH, *part.shape[1:]), np.float32)
        filled[: len(part)] = part
        maps: Tensor = torch.from_numpy(filled).to(self._dtype).permute(0, 3, 1, 2)  # channels last already
        logits = self._logits(maps).float()  # [B, 3, side, side]; 8 bits are too few after a sigmoid
        values = torch.nan_to_num(self._activation(logits), nan=0.5)
        whole = (values * 255).round().to(torch.uint8).permute(0, 2, 3, 1)  # [B, side, side, 3]
        return np.ascontiguousarray(whole.numpy(), dtype=np.uint8)


FORMAT = "moretta-autoencoder-1"
SPEC_ARRAY = "spec"
"""int64 [side, latent], sent along with the weights."""
_MAX_FILE_BYTES = 2 * 2**30
_MAX_HEADER_BYTES = 2**20
_LARGEST_WEIGHT, _LARGEST_STATISTIC = 1e3, 1e8


def save_autoencoder(model: Autoencoder, path: Path) -> None:
    """Write the weights as safetensors with the sizes as metadata. The file appears whole or not at all."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().float().contiguous() for name, tensor in stored_tensors(model).items()}
    metadata = {"format": FORMAT, "side": str(model.spec.side), "latent": str(model.spec.latent)}
    write_atomic(path, save(tensors, metadata=metadata))


def load_autoencoder(path: Path) -> Autoencoder:
    """Read what `save_autoencoder` wrote, ready for inference. Raises StudyError: no such file, or not an autoencoder
    of this format, or other tensors than its sizes ask for."""
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
        metadata = _metadata(data)
        spec = AutoencoderSpec(side=int(metadata["side"]), latent=int(metadata["latent"]))
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
    """Rebuild what `autoencoder_arrays` took apart, ready for inference. Raises ReleaseError: sizes or tensors are
    missing, of another shape or type, or not finite."""
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
    """Rules for the arrays of a network of this size, by name: type, shape and bounds."""
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
