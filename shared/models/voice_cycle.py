"""CycleGAN between the voices of two sexes: mel-cepstra through a network, pitch by a straight line between the pools.

Prajapati et al., "Voice privacy using CycleGAN and time-scale modification", Computer Speech and Language 2022. The
networks are those of CycleGAN-VC (Kaneko and Kameoka, arXiv 1711.11293, section 3), narrower: a gated generator of one
dimension, a gated discriminator of two. Aperiodicity stays as it is. Aim of both: the other pool, and not one person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from moretta.shared.core.array_types import Array, Float32, Float64
from moretta.shared.core.workers import one_thread
from moretta.shared.features.world_voice import (
    HIGHEST_HERTZ,
    LOWEST_HERTZ,
    WorldVoice,
    envelope_of,
    mel_cepstra,
)
from moretta.shared.models.network_arrays import array_rules, arrays_of, network_of
from moretta.shared.models.replacement_autoencoder import SEXES
from moretta.shared.study.public_arrays import Rule, Rules, named

COEFFICIENTS = 24
"""Coefficients of the mel-cepstrum of a frame, its level included, as published."""
_BLOCKS, _LEAST_FRAMES, _STRIDE = 6, 16, 4
_MOST_DEVIATIONS = 5.0
"""Output of the networks is cut there, in deviations of the pool."""
_LEAST_SPREAD, _LARGEST_CEPSTRUM = 0.01, 100.0
PREFIX = "voice/cycle/"
CENTER, SPREAD, PITCH, PITCH_SPREAD, FIGURES = (
    PREFIX + name for name in ("center", "spread", "pitch", "pitch-spread", "figures")
)
_NETWORKS = tuple(f"{PREFIX}from-{sex}." for sex in SEXES)
DECIBELS = 10 / np.log(10)
_GUESS = 0.5
MOST_CYCLE, MOST_IDENTITY, LEAST_MOVED = 4.0, 3.0, 0.9


class _Gated(nn.Module):
    """Convolution, doubled in time where wanted, normalization of each channel over time, gate."""

    def __init__(self, of: int, to: int, kernel: int, *, stride: int = 1, widened: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(of, 2 * to * widened, kernel, stride, kernel // 2)
        self.norm = nn.GroupNorm(2 * to, 2 * to)
        self.widened = widened

    def forward(self, frames: Tensor) -> Tensor:
        found = self.convolution(frames)
        if self.widened > 1:  # channels to time: pixel shuffle in one dimension
            n, channels, time = found.shape
            found = found.view(n, channels // self.widened, self.widened, time).transpose(2, 3)
            found = found.reshape(n, channels // self.widened, self.widened * time)
        return functional.glu(self.norm(found), dim=1)


class _Residual(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.gated, self.last, self.norm = (
            _Gated(size, size, 3),
            nn.Conv1d(size, size, 3, 1, 1),
            nn.GroupNorm(size, size),
        )

    def forward(self, frames: Tensor) -> Tensor:
        added: Tensor = self.norm(self.last(self.gated(frames)))
        return frames + added


class Generator(nn.Module):
    """Mel-cepstra [n, 24, frames] of one pool to the other; frames are a multiple of 4, 16 at least."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(COEFFICIENTS, 2 * width, 15, 1, 7)
        inner = [_Gated(width, 2 * width, 5, stride=2), _Gated(2 * width, 4 * width, 5, stride=2)]
        outer = [_Gated(4 * width, 4 * width, 5, widened=2), _Gated(4 * width, 2 * width, 5, widened=2)]
        self.layers = nn.Sequential(*inner, *(_Residual(4 * width) for _ in range(_BLOCKS)), *outer)
        self.last = nn.Conv1d(2 * width, COEFFICIENTS, 15, 1, 7)

    def forward(self, frames: Tensor) -> Tensor:
        """Changed frames, in the same shape."""
        made: Tensor = self.last(self.layers(functional.glu(self.first(frames), dim=1)))
        return made


class CycleFigures(NamedTuple):
    """Figures on public clips that were not trained on: means of both directions, distances in dB."""

    cycle: float
    """Mel-cepstral distortion between a clip and itself after both networks."""
    identity: float
    """Distortion between a clip of a network's target pool and the network's output for it."""
    changed: float
    """Distortion between a clip and its changed form."""
    before: float
    """Distortion between the mean of a clip and that of the other pool."""
    after: float
    """This distortion for the changed form of a clip."""
    own: float
    """Share of clips that are nearer to their own pool's mean than to the other's."""
    moved: float
    """Share of these that is nearer to the other pool's mean afterwards; 0 if there is none."""

    def faults(self) -> list[str]:
        """Faults of the networks, in words; empty if there are none."""
        found = []
        if self.cycle > MOST_CYCLE:
            found.append(f"a clip comes back {self.cycle:.1f} dB off, expected at most {MOST_CYCLE:.0f}")
        if self.identity > MOST_IDENTITY:
            found.append(f"the own pool changes by {self.identity:.1f} dB, expected at most {MOST_IDENTITY:.0f}")
        if self.own <= _GUESS:
            found.append(f"{self.own:.2f} of clips sound more like their own sex than like the other")
        if self.moved < LEAST_MOVED:
            found.append(f"{self.moved:.2f} of clips come nearer to the other sex, expected at least {LEAST_MOVED}")
        return found

    def stated(self) -> dict[str, float]:
        """Rounded figures by name, for the statement of a release."""
        return {name: round(value, 3) for name, value in self._asdict().items()}


@dataclass(frozen=True, eq=False)
class VoiceCycle:
    """Both trained generators and the statistics of both pools, as plain arrays."""

    arrays: Mapping[str, Array]
    width: int

    @classmethod
    def rules(cls, width: int) -> Rules:
        """Rules for the arrays, by name: type, shape and bounds."""
        pools = len(SEXES)
        networks = [array_rules(partial(Generator, width), prefix) for prefix in _NETWORKS]
        return {
            CENTER: Rule((pools, COEFFICIENTS), _LARGEST_CEPSTRUM),
            SPREAD: Rule((pools, COEFFICIENTS), _LARGEST_CEPSTRUM, _LEAST_SPREAD),
            PITCH: Rule((pools,), float(np.log(HIGHEST_HERTZ)), float(np.log(LOWEST_HERTZ))),
            PITCH_SPREAD: Rule((pools,), 2.0, _LEAST_SPREAD),
            FIGURES: Rule((len(CycleFigures._fields),), 1e6),
            **{name: rule for rules in networks for name, rule in rules.items()},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], *, width: int) -> Self:
        """Check and take what the coordinator sent. Errors: see `public_arrays.named`."""
        return cls(named(arrays, cls.rules(width)), width)

    @classmethod
    def of(cls, networks: tuple[Generator, Generator], pools: Pools, figures: CycleFigures, *, width: int) -> Self:
        """The arrays of trained networks, the first of which leads away from the first of `SEXES`."""
        parts = [arrays_of(network, prefix) for network, prefix in zip(networks, _NETWORKS, strict=True)]
        measured = {**pools.to_arrays(), FIGURES: np.array(figures, np.float32)}
        return cls({**measured, **parts[0], **parts[1]}, width)

    @property
    def figures(self) -> CycleFigures:
        """Figures on public clips."""
        return CycleFigures(*self.arrays[FIGURES].tolist())

    @cached_property
    def pools(self) -> Pools:
        """Statistics of both pools."""
        return Pools(*(np.asarray(self.arrays[n], np.float64) for n in (CENTER, SPREAD, PITCH, PITCH_SPREAD)))

    @cached_property
    def _generators(self) -> tuple[Generator, ...]:
        return tuple(network_of(partial(Generator, self.width), self.arrays, name).eval() for name in _NETWORKS)

    def converted(self, voice: WorldVoice, pool: int) -> WorldVoice:
        """A clip of this pool as one of the other; its aperiodicity, rhythm and words stay.

        Mel-cepstra and pitch are finite and bounded whatever the weights are.
        """
        cepstra = self.cepstra(mel_cepstra(voice.envelope, COEFFICIENTS), pool)
        return replace(voice, hertz=self.pools.pitch_to_other(voice.hertz, pool), envelope=envelope_of(cepstra))

    def cepstra(self, frames: Float64, pool: int) -> Float64:
        """Mel-cepstra [frames, 24] of that pool to the other."""
        return self._through(frames, pool, pool, 1 - pool)

    def same(self, frames: Float64, pool: int) -> Float64:
        """Through the network that leads to that pool, in which they are already: what identity is trained for."""
        return self._through(frames, 1 - pool, pool, pool)

    def _through(self, frames: Float64, network: int, of: int, to: int) -> Float64:
        with one_thread(), torch.no_grad():
            places = torch.from_numpy(self.pools.places(frames, of))
            return self.pools.restored(np.asarray(generated(self._generators[network], places)), to)


@dataclass(frozen=True, slots=True, eq=False)
class Pools:
    """Statistics of both pools, in the order of `SEXES`."""

    center: Float64
    """[2, 24], means of mel-cepstra."""
    spread: Float64
    """[2, 24], their deviations, positive."""
    pitch: Float64
    """[2], means of the logarithm of pitch in hertz, over voiced frames."""
    pitch_spread: Float64
    """[2], its deviations, positive."""

    @classmethod
    def of(cls, cepstra: tuple[list[Float64], list[Float64]], melodies: tuple[Float64, Float64]) -> Self:
        """Statistics of clips [frames, 24] and of log pitch [voiced frames] of each pool."""
        stacked = [np.concatenate(clips) for clips in cepstra]
        spreads = [np.maximum(rows.std(axis=0), 2 * _LEAST_SPREAD) for rows in stacked]
        tones = [max(float(melody.std()), 2 * _LEAST_SPREAD) for melody in melodies]
        center, pitch = [rows.mean(axis=0) for rows in stacked], [float(melody.mean()) for melody in melodies]
        return cls(np.array(center), np.array(spreads), np.array(pitch), np.array(tones))

    def to_arrays(self) -> dict[str, Array]:
        """The arrays by name, as the coordinator sends them."""
        parts = self.center, self.spread, self.pitch, self.pitch_spread
        return {
            n: part.astype(np.float32) for n, part in zip((CENTER, SPREAD, PITCH, PITCH_SPREAD), parts, strict=True)
        }

    def places(self, cepstra: Float64, pool: int) -> Float32:
        """[frames, 24] in deviations of that pool, cut."""
        found = (cepstra - self.center[pool]) / self.spread[pool]
        return np.asarray(np.clip(np.nan_to_num(found), -_MOST_DEVIATIONS, _MOST_DEVIATIONS), np.float32)

    def restored(self, places: Array, pool: int) -> Float64:
        """The inverse of `places`."""
        inside = np.clip(np.nan_to_num(places.astype(np.float64)), -_MOST_DEVIATIONS, _MOST_DEVIATIONS)
        return np.asarray(inside * self.spread[pool] + self.center[pool])

    def nearest(self, log_pitch: float) -> int:
        """The pool whose mean pitch is nearer: a clip's sex as far as its pitch says it."""
        return int(np.argmin(np.abs(self.pitch - log_pitch)))

    def pitch_to_other(self, hertz: Float64, pool: int) -> Float64:
        """Pitch [frames] of that pool to the other, in logarithms by both means and deviations; 0 stays 0.

        The log-Gaussian transformation of voice conversion (Liu, Zhang and Yan, ICME 2007), between pools.
        """
        voiced = hertz > 0
        ratio = self.pitch_spread[1 - pool] / self.pitch_spread[pool]
        logs = self.pitch[1 - pool] + ratio * (np.log(np.where(voiced, hertz, 1.0)) - self.pitch[pool])
        return np.where(voiced, np.exp(np.clip(logs, np.log(LOWEST_HERTZ), np.log(HIGHEST_HERTZ))), 0.0)


def generated(network: nn.Module, places: Tensor) -> Tensor:
    """[frames, 24] through a generator, padded by its last frame to a length that it takes."""
    frames = len(places)
    wanted = max(_LEAST_FRAMES, -(-frames // _STRIDE) * _STRIDE)
    padded = functional.pad(places.T[None], (0, wanted - frames), mode="replicate")
    made: Tensor = network(padded)[0, :, :frames].T
    return made


def distortion(one: Float64, other: Float64) -> float:
    """Mel-cepstral distortion between frames [n, 24] that belong together, in dB, without the level.

    Root mean square of the difference of log power over the mel axis, as 10 log10 (Kubichek, PACRIM 1993).
    """
    return float(DECIBELS * np.sqrt(np.square(one[:, 1:] - other[:, 1:]).sum(axis=1)).mean())
