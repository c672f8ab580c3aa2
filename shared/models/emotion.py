"""Emotion models: a fixed, public feature step, then a small trainable network that Opacus can take.

The feature step looks at one clip alone and learns nothing, so it costs no budget; what is trained is small, because
the noise of DP-SGD grows with the number of parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from moretta.shared.core.array_types import Array, Float32
from moretta.shared.core.errors import RefusedError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.features.voice_forms import is_code, model_input
from moretta.shared.models.fusion_gate import Gate
from moretta.shared.models.mel_recurrent import coarse_log_mels, recurrent_layers
from moretta.shared.models.sequence_net import sequence_layers
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import FUSION_MODEL, ModelKind, check_model

MIN_STD = 1e-2
"""Keeps inputs finite where clips hardly differ."""
LARGEST_WEIGHT = 1e6
LARGEST_SHARPNESS = 60.0
"""Largest logarithm of an inverse temperature: its exponential stays within float32."""
LARGEST_INPUT = 1e15
"""Largest value of the standardisation: releases with much noise are as large as the noise."""
VOICE_STEPS, FACE_STEPS = 256, 16
_PICTURE_AXES = 4
_LEAST_STD = MIN_STD / 2
_LARGEST = {"sharpness": LARGEST_SHARPNESS, "mean": LARGEST_INPUT, "std": LARGEST_INPUT}


class PublicScale(NamedTuple):
    """Mean and standard deviation [coefficients] of MFCC of public speech."""

    mean: Float32
    std: Float32

    @classmethod
    def of(cls, public: Mapping[str, Array]) -> PublicScale | None:
        """The scale in a study's public arrays; None where they have none."""
        return cls(public["voice/mean"], public["voice/std"]) if "voice/mean" in public else None


@dataclass(frozen=True)
class EmotionModel:
    """One named model: `features` turns a released array into a fixed-size input, `network` separates classes by it.

    The array is a `moretta.shared.features.voice_forms.model_input`; the scale is None for codes.
    """

    modality: ModelKind
    name: str
    features: Callable[[Array, PublicScale | None], Float32]
    network: Callable[[tuple[int, ...], int], nn.Module]
    """Made of the shape of an input and the number of classes."""
    classes: int = len(EMOTIONS)
    of_sound: Callable[[Array], Float32] | None = None
    """Features of a released waveform itself, where the model reads more of it than of its MFCC."""
    alike_in_time: bool = False
    """Whether all steps, the last axis, are standardised alike."""

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        """A new network for inputs of this shape."""
        return self.network(shape, self.classes)

    def input_of(self, form: str, array: Array, codebook: Float32 | None, scale: PublicScale | None) -> Float32:
        """The input for one released array of a form; voice may need the codebook of its tokens, and a scale."""
        if form == "waveform" and self.of_sound is not None:
            return self.of_sound(array)
        return self.features(model_input(form, array, codebook), None if is_code(form) else scale)


def emotion_model(modality: ModelKind, name: str, classes: int = len(EMOTIONS)) -> EmotionModel:
    """Find a model by name, for a number of classes.

    Raises:
        StudyError: unknown; the message lists the known ones.
    """
    check_model(modality, name)
    return replace(_MODELS[modality, name], classes=classes)


def study_model(study: Study, kind: ModelKind) -> EmotionModel:
    """The model that a study trains of this kind, for its classes.

    Raises:
        StudyError: the study names a model that does not exist.
    """
    return emotion_model(kind, study.model_of(kind), len(study.classes))


class Standardise(nn.Module):
    """[N, ...] -> the same shape: minus a mean, over a deviation, clipped. Both are fixed, and public.

    Without it the parts of the input that all clips share take up most of every clipped gradient.
    """

    LIMIT = 4.0
    """Largest input in standard deviations: no clip's input is far larger than the others'."""
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Elementwise."""
        return ((inputs - self.mean) / self.std).clamp(-self.LIMIT, self.LIMIT)


def initial_weights(
    model: EmotionModel, inputs: Float32, *, seed: int, standardise: bool = True
) -> dict[str, torch.Tensor]:
    """Seeded initial weights, with the standardisation of inputs [N, ...].

    Args:
        model: which.
        inputs: features of clips that were released already: looking at them costs nothing more.
        seed: public, since weights before training say nothing.
        standardise: without it the inputs give nothing but their shape: for models that must reveal nothing of them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = dict(model.build(inputs.shape[1:]).state_dict())
    if not standardise:
        return weights
    axes, shape = (0, -1) if model.alike_in_time else 0, inputs.shape[1:]
    mean, std = (
        np.broadcast_to(each[0], shape) for each in (inputs.mean(axes, keepdims=True), inputs.std(axes, keepdims=True))
    )
    weights["0.mean"] = torch.from_numpy(mean.astype(np.float32))
    weights["0.std"] = torch.from_numpy(np.maximum(std, MIN_STD).astype(np.float32))
    return weights


def trained_names(model: EmotionModel, weights: Mapping[str, Array]) -> frozenset[str]:
    """Names of the weights that training changes: all but the standardisation, which the fusion has none of."""
    shape = weights["0.mean"].shape if "0.mean" in weights else ()
    return frozenset(name for name, _ in model.build(shape).named_parameters())


@lru_cache(maxsize=64)  # each round checks them twice
def _arrays_of(model: EmotionModel, shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name of each array of a model for inputs of this shape, with its type and shape."""
    with torch.device("meta"):
        built = model.build(shape).state_dict()
    return {name: ("float32", tuple(tensor.shape)) for name, tensor in built.items()}


def checked_weights(
    model: EmotionModel, weights: Mapping[str, Array], shape: tuple[int, ...] | None = None
) -> dict[str, torch.Tensor]:
    """The global weights that a site is to train or test, as tensors, checked before any clip is looked at.

    Bounded weights and bounded inputs keep every product within float32. If a later step still overflows, this
    is handled unit by unit where gradients are clipped.

    Args:
        model: which.
        weights: what the coordinator sent.
        shape: of one clip's input, where it is known; None takes it from the standardisation.

    Raises:
        RefusedError: other names, types or shapes, or values that cannot be. It depends on the weights alone.
    """
    what = f"weights of the {model.modality} model {model.name!r}"
    inputs = weights["0.mean"].shape if shape is None and "0.mean" in weights else shape or ()
    try:
        wanted = _arrays_of(model, inputs)
    except Exception as error:  # torch raises many kinds for shapes that no network has
        raise RefusedError(
            f"{what} for inputs of {list(inputs)}", expected="those of the model that the study names"
        ) from error
    found = {name: (str(array.dtype), array.shape) for name, array in weights.items()}
    if found != wanted:
        odd = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise RefusedError(
            f"{what} with other arrays: {', '.join(odd)[:200]}",
            expected="those of the model that the study names, float32",
        )
    for name, array in weights.items():
        largest = _LARGEST.get(name.rpartition(".")[2], LARGEST_WEIGHT)
        least = _LEAST_STD if name == "0.std" else -largest
        if not (array >= least).all() or not (array <= largest).all():  # false for NaN
            raise RefusedError(
                f"{what}: {name} has values that cannot be",
                expected=f"finite values from {least:g} to {largest:g}",
            )
    return {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}


def _standardised(mfcc: Array, scale: PublicScale | None) -> Float32:
    if scale is None:
        return np.asarray(mfcc, np.float32)
    return np.asarray(np.clip((mfcc - scale.mean) / scale.std, -5, 5), np.float32)


def voice_statistics(mfcc: Array, scale: PublicScale | None) -> Float32:
    """[frames, n] MFCC -> float32 [6 n]: mean, deviation, 10 % and 90 % quantiles, mean and spread of change.

    A code [d] has no distribution: it is taken as it is.
    """
    if mfcc.ndim == 1:
        return np.asarray(mfcc, np.float32)
    x = _standardised(mfcc, scale)
    delta = np.abs(np.diff(x, axis=0)) if len(x) > 1 else np.zeros_like(x)
    low, high = np.quantile(x, [0.1, 0.9], axis=0)
    parts = [x.mean(0), x.std(0), low, high, delta.mean(0), delta.std(0)]
    return np.concatenate(parts).astype(np.float32)


def voice_window(mfcc: Array, scale: PublicScale | None) -> Float32:
    """[frames, n] MFCC -> float32 [n, 256]: the middle 2.56 s, zero-padded; a code [d] is one frame."""
    x = np.atleast_2d(_standardised(mfcc, scale)).T
    start = max(0, x.shape[1] - 256) // 2
    part = x[:, start : start + 256]
    return np.ascontiguousarray(np.pad(part, ((0, 0), (0, 256 - part.shape[1]))))


def voice_sequence(mfcc: Array, scale: PublicScale | None) -> Float32:
    """[frames, n] MFCC -> float32 [n, 256]: the middle 2.56 s; a short clip stands in its own mean.

    A code [d] is the same at every step, a code sequence is taken as frames are: nothing of either is lost but length.
    """
    return _in_mean(np.atleast_2d(_standardised(mfcc, scale)).T, VOICE_STEPS)


def _in_mean(sequence: Float32, steps: int) -> Float32:
    """[n, any] -> [n, steps]: the middle, or all of it in the middle of its mean."""
    size = sequence.shape[1]
    start = max(0, size - steps) // 2
    made = np.repeat(sequence.mean(axis=1, keepdims=True), steps, axis=1)
    first = max(0, steps - size) // 2
    made[:, first : first + min(size, steps)] = sequence[:, start : start + steps]
    return np.ascontiguousarray(made, np.float32)


def _grey(frames: Array, side: int) -> Float32:
    """uint8 [frames, h, w, 3], or grey [frames, h, w], -> float32 [frames, side, side] in [0, 1]."""
    import cv2

    grey = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) if f.ndim == _PICTURE_AXES - 1 else f for f in frames]
    small = [cv2.resize(f, (side, side), interpolation=cv2.INTER_AREA) for f in grey]
    return np.stack(small).astype(np.float32) / np.float32(255)


def face_gradients(frames: Array, _scale: PublicScale | None) -> Float32:
    """uint8 [frames, h, w, 3] -> float32 [576]: histograms of oriented gradients, averaged over the clip.

    After Dalal & Triggs, CVPR 2005: 48x48 grey, 6x6 cells, 8 orientations, each cell normalized by its 3x3
    neighbourhood; the mean over frames and half the spread (motion) are kept: 6 x 6 x 8 x 2 = 576 values.
    Codes are taken as those of a voice.
    """
    if frames.ndim < _PICTURE_AXES:
        return voice_statistics(frames, None)
    stack = _oriented_histograms(frames)
    return np.concatenate([stack.mean(0), stack.std(0) / 2]).astype(np.float32)


def face_sequence(frames: Array, _scale: PublicScale | None) -> Float32:
    """uint8 [frames, h, w, 3], or grey [frames, h, w], -> float32 [288, 16]: the histograms of `face_gradients`, frame
    by frame, at 16 places spread evenly over the clip. Codes are taken as those of a voice.
    """
    if frames.ndim < _PICTURE_AXES - 1:
        return voice_sequence(frames, None)
    chosen = np.linspace(0, len(frames) - 1, FACE_STEPS).round().astype(int)
    needed, places = np.unique(chosen, return_inverse=True)
    return np.ascontiguousarray(_oriented_histograms(frames[needed])[places].T, np.float32)


def _oriented_histograms(frames: Array) -> Float32:
    """[frames, 288]: histograms of oriented gradients of each frame."""
    cells, bins = 6, 8
    histograms = []
    for grey in _grey(frames, 48):
        dy, dx = np.gradient(grey)
        size = np.hypot(dx, dy)
        angle = np.mod(np.arctan2(dy, dx), np.pi) / np.pi * bins
        low = np.floor(angle).astype(int) % bins
        share = angle - np.floor(angle)
        maps = np.zeros((bins, *grey.shape), np.float32)
        rows, columns = np.indices(grey.shape)
        np.add.at(maps, (low, rows, columns), size * (1 - share))
        np.add.at(maps, ((low + 1) % bins, rows, columns), size * share)
        pooled = maps.reshape(bins, cells, 8, cells, 8).sum((2, 4))
        padded = np.pad((pooled**2).sum(0), 1, mode="edge")
        around = sum(padded[i : i + cells, j : j + cells] for i in range(3) for j in range(3))
        histograms.append((pooled / np.sqrt(around / 9 + 1e-3)).ravel())
    return np.stack(histograms)


def face_picture(frames: Array, _scale: PublicScale | None) -> Float32:
    """uint8 [frames, h, w, 3] -> float32 [3, 48, 48]: grey pictures at 25, 50 and 75 % of the clip.

    Codes are taken as those of a voice.
    """
    if frames.ndim < _PICTURE_AXES:
        return voice_window(frames, None)
    picks = [round(share * (len(frames) - 1)) for share in (0.25, 0.5, 0.75)]
    return _grey(frames[picks], 48) - np.float32(0.5)


def _linear(shape: tuple[int, ...], classes: int) -> nn.Module:
    layer = nn.Linear(int(np.prod(shape)), classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(Standardise(shape), nn.Flatten(), layer)


def _layered(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(
        Standardise(shape),
        nn.Flatten(),
        nn.Linear(int(np.prod(shape)), 32),
        nn.Tanh(),  # bounded, so that noise does not run away (Papernot et al., AAAI 2021)
        nn.Linear(32, classes),
    )


def _cnn(shape: tuple[int, ...], classes: int, *, widths: tuple[int, int], second: int) -> nn.Module:
    """Two convolutions of stride 2, over 5 and over `second` values, pooled to 4 along each axis."""
    convolution, pool = ((nn.Conv1d, nn.AdaptiveAvgPool1d), (nn.Conv2d, nn.AdaptiveAvgPool2d))[len(shape) - 2]
    return nn.Sequential(
        Standardise(shape),
        convolution(shape[0], widths[0], 5, stride=2),
        nn.GroupNorm(4, widths[0]),
        nn.ReLU(),
        convolution(widths[0], widths[1], second, stride=2),
        nn.GroupNorm(4, widths[1]),
        nn.ReLU(),
        pool(4),
        nn.Flatten(),
        nn.Linear(widths[1] * 4 ** (len(shape) - 1), classes),
    )


def _sequence(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(Standardise(shape), *sequence_layers(shape[0], shape[1], classes))


def recurrent_network(shape: tuple[int, ...], classes: int, *, pooled: bool = False) -> nn.Module:
    """The network of `crnn`; the evaluator of the same name has its `pooled` form."""
    return nn.Sequential(Standardise(shape), *recurrent_layers(shape[0], classes, pooled=pooled))


_ALL = (
    EmotionModel("voice", "statistics", voice_statistics, _linear),
    EmotionModel("voice", "layered", voice_statistics, _layered),
    EmotionModel("voice", "cnn", voice_window, partial(_cnn, widths=(32, 32), second=5)),
    EmotionModel("voice", "crnn", voice_sequence, recurrent_network, of_sound=coarse_log_mels, alike_in_time=True),
    EmotionModel("face", "gradients", face_gradients, _linear),
    EmotionModel("face", "cnn", face_picture, partial(_cnn, widths=(16, 32), second=3)),
    EmotionModel("face", "sequence", face_sequence, _sequence),
    EmotionModel("fusion", FUSION_MODEL, lambda row, _: np.asarray(row, np.float32), lambda _, classes: Gate(classes)),
)
_MODELS = {(model.modality, model.name): model for model in _ALL}
