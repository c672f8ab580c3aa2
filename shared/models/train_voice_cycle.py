"""Training of both generators of `voice_cycle` against two discriminators, on public clips of both sexes.

Losses and schedule as CycleGAN-VC (Kaneko and Kameoka, arXiv 1711.11293, section 3): least squares against the
discriminators, 10 times the cycle, 5 times the identity; crops of 128 frames, one of each pool a step; Adam at 2e-4 and
1e-4. Public code is known to decay the rate of the generators twice and that of the discriminators never, so each
optimizer has its own schedule here: constant, then linear to zero over the second half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from moretta.shared.core.array_types import Float64
from moretta.shared.core.errors import StudyError
from moretta.shared.core.workers import seeded
from moretta.shared.features.public_speech import Recording
from moretta.shared.features.world_voice import WorldVoice, mel_cepstra
from moretta.shared.models.optimizers import Descent
from moretta.shared.models.replacement_autoencoder import SEXES
from moretta.shared.models.voice_cycle import COEFFICIENTS, CycleFigures, Generator, Pools, VoiceCycle, distortion

CROP = 128
CLIPS = 300
"""Most clips of each pool."""
FEWEST = 20
_TESTED = 10
"""One clip in so many is not trained on, and measured."""
_CYCLE, _IDENTITY = 10.0, 5.0
_GENERATOR_RATE, _DISCRIMINATOR_RATE = 2e-4, 1e-4
_FEWEST_VOICED = 10


class PoolClip(NamedTuple):
    """Cepstra and melody of one clip of a pool."""

    cepstra: Float64
    """[frames, 24], `CROP` frames at least."""
    melody: Float64
    """[voiced frames], log of hertz."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleTask:
    """How wide the networks are, and how long they are trained."""

    width: int = 32
    steps: int = 1_500


class _Gated2d(nn.Module):
    def __init__(self, of: int, to: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(of, 2 * to, kernel, stride, (kernel[0] // 2, kernel[1] // 2))
        self.norm = nn.GroupNorm(2 * to, 2 * to)

    def forward(self, picture: Tensor) -> Tensor:
        return functional.glu(self.norm(self.convolution(picture)), dim=1)


class Discriminator(nn.Module):
    """Mel-cepstra [n, 24, 128] to one value each: about 1 for real ones of its pool."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2 * width, 3, (1, 2), 1)
        self.layers = nn.Sequential(
            _Gated2d(width, 2 * width, (3, 3), (2, 2)),
            _Gated2d(2 * width, 4 * width, (3, 3), (2, 2)),
            _Gated2d(4 * width, 8 * width, (5, 3), (1, 2)),
        )
        self.last = nn.Linear(8 * width, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """[n, places, 1]: one value for each place, all of which count alike.

        Linear, as least squares want it: behind a sigmoid both discriminators won in 600 steps, and generators had no
        gradient left to follow.
        """
        found = self.layers(functional.glu(self.first(frames[:, None]), dim=1))
        made: Tensor = self.last(found.flatten(2).transpose(1, 2))
        return made


def pools_of(recordings: Iterable[Recording], *, seed: int, most: int = CLIPS) -> tuple[list[PoolClip], list[PoolClip]]:
    """Clips of each sex taken apart by the vocoder, chosen by seed; those of unknown sex have no part.

    Raises:
        StudyError: fewer than 20 usable clips of one sex; female voices are not higher than male ones; or the vocoder
            is not installed.
    """
    generator = np.random.default_rng([seed, 0xC7C])
    kept: dict[str, list[Recording]] = {sex: [] for sex in SEXES}
    seen = dict.fromkeys(SEXES, 0)
    for one in recordings:
        if one.sex not in kept:
            continue
        seen[one.sex] += 1  # each clip of a pool is kept with the same probability, and no more are in memory
        place = len(kept[one.sex]) if seen[one.sex] <= most else int(generator.integers(seen[one.sex]))
        if place < most:
            kept[one.sex][place : place + 1] = [one]
    found = {sex: [clip for one in kept[sex] if (clip := _taken_apart(one)) is not None] for sex in SEXES}
    if min(map(len, found.values())) < FEWEST:
        counts = " and ".join(f"{len(clips)} {sex}" for sex, clips in found.items())
        raise StudyError(
            f"public speech with {counts} clips of known sex, with a voice in them and {CROP * 5} ms long",
            expected=f"at least {FEWEST} of each sex",
            fix="put CREMA-D's table of speakers, VideoDemographics.csv, into the folder of public speech, with clips "
            "of both sexes; or leave public_speech out to use synthetic speech",
        )
    heights = {sex: float(np.mean([np.median(clip.melody) for clip in clips])) for sex, clips in found.items()}
    if heights[SEXES[0]] <= heights[SEXES[1]]:
        raise StudyError(
            "public speech in which the pitch of "
            + " and of ".join(f"{s} {np.exp(h):.0f}" for s, h in heights.items()),
            expected="in hertz, a higher one of female speakers: the pool of a clip at a site is found by its pitch",
            fix="look whether the sexes in VideoDemographics.csv are right",
        )
    return found[SEXES[0]], found[SEXES[1]]


def _taken_apart(one: Recording) -> PoolClip | None:
    voice = WorldVoice.of(one.samples)
    melody = np.log(voice.hertz[voice.hertz > 0])
    if len(voice) < CROP or len(melody) < _FEWEST_VOICED:
        return None
    return PoolClip(mel_cepstra(voice.envelope, COEFFICIENTS), melody)


def train_cycle(
    clips: tuple[list[PoolClip], list[PoolClip]],
    task: CycleTask,
    *,
    seed: int,
    notify: Callable[[str], None] = lambda text: None,  # noqa: ARG005
) -> VoiceCycle:
    """Train both generators, and measure them on the tenth of the clips that had no part. `clips`: of the pools in the
    order of `SEXES`."""
    known = tuple([clip for number, clip in enumerate(pool) if number % _TESTED] for pool in clips)
    melodies = [np.concatenate([clip.melody for clip in pool]) for pool in known]
    pools = Pools.of(([c.cepstra for c in known[0]], [c.cepstra for c in known[1]]), (melodies[0], melodies[1]))
    places = [[torch.from_numpy(pools.places(c.cepstra, k).T.copy()) for c in pool] for k, pool in enumerate(known)]
    with seeded(seed):
        trained = _Trained(task)
        generator = np.random.default_rng([seed, 0xC7D])
        for step in range(task.steps):
            losses = trained.step(*(_crop(pool, generator) for pool in places))
            if (step + 1) % max(1, task.steps // 10) == 0:
                notify(f"step {step + 1} of {task.steps}: " + ", ".join(f"{n} {v:.2f}" for n, v in losses.items()))
    tested = tuple([clip.cepstra for clip in pool[::_TESTED]] for pool in clips)
    made = VoiceCycle.of(trained.generators, pools, CycleFigures(*[0.0] * len(CycleFigures._fields)), width=task.width)
    return VoiceCycle.of(trained.generators, pools, measured(made, (tested[0], tested[1])), width=task.width)


class _Trained:
    def __init__(self, task: CycleTask) -> None:
        self.generators = Generator(task.width), Generator(task.width)
        self.discriminators = Discriminator(task.width), Discriminator(task.width)
        self.descents = [
            Descent(chain.from_iterable(network.parameters() for network in networks), task.steps, rate)
            for networks, rate in ((self.generators, _GENERATOR_RATE), (self.discriminators, _DISCRIMINATOR_RATE))
        ]

    def step(self, first: Tensor, second: Tensor) -> dict[str, float]:
        """One crop [1, 24, 128] of each pool: both generators, then both discriminators."""
        away, back = self.generators
        real = first, second
        # Each network gets a crop of the pool it leads from, and one of that it leads to. Rows do not mix.
        as_second, same_second = away(torch.cat([first, second])).split(1)
        as_first, same_first = back(torch.cat([second, first])).split(1)
        cycle = (back(as_second) - first).abs().mean() + (away(as_first) - second).abs().mean()
        identity = (same_first - first).abs().mean() + (same_second - second).abs().mean()
        made = as_first, as_second
        fooled = _squares(self.discriminators[0](made[0]), 1) + _squares(self.discriminators[1](made[1]), 1)
        self.descents[0](fooled + _CYCLE * cycle + _IDENTITY * identity)
        discriminated = torch.zeros(())
        for network, own, other in zip(self.discriminators, real, made, strict=True):
            discriminated = discriminated + (_squares(network(own), 1) + _squares(network(other.detach()), 0)) / 2
        self.descents[1](discriminated)
        values = {"cycle": cycle, "identity": identity, "generators": fooled, "discriminators": discriminated}
        return {name: float(value.detach()) for name, value in values.items()}


def _squares(found: Tensor, wanted: float) -> Tensor:
    return (found - wanted).square().mean()


def _crop(pool: list[Tensor], generator: np.random.Generator) -> Tensor:
    clip = pool[int(generator.integers(len(pool)))]
    start = int(generator.integers(clip.shape[1] - CROP + 1))
    return clip[None, :, start : start + CROP]


def measured(cycle: VoiceCycle, clips: tuple[list[Float64], list[Float64]]) -> CycleFigures:
    """Figures of clips [frames, 24] of each pool, whole."""
    rows = []
    for pool, own in enumerate(clips):
        mine, target = cycle.pools.center[pool], cycle.pools.center[1 - pool]
        for clip in own:
            made = cycle.cepstra(clip, pool)
            before, after = clip.mean(axis=0), made.mean(axis=0)
            is_own = _apart(before, mine) < _apart(before, target)
            rows.append(
                CycleFigures(
                    cycle=distortion(cycle.cepstra(made, 1 - pool), clip),
                    identity=distortion(cycle.same(clip, pool), clip),
                    changed=distortion(made, clip),
                    before=_apart(before, target),
                    after=_apart(after, target),
                    own=float(is_own),
                    moved=float(is_own and _apart(after, target) < _apart(after, mine)),
                )
            )
    mean = CycleFigures(*np.mean(rows, axis=0).tolist())
    return mean._replace(moved=mean.moved / mean.own if mean.own else 0.0)


def _apart(one: Float64, other: Float64) -> float:
    return distortion(one[None], other[None])
