"""The clip in a voice of the other sex, and, where wanted, slower or faster: CycleGAN and time-scale modification.

Prajapati et al., Computer Speech and Language 2022. The network is that of `moretta.shared.models.voice_cycle`, over
the WORLD vocoder. The paper takes the sex of a speaker from a table. An anonymizer sees no table here, so the pool is
the one whose pitch is nearer to that of all clips of the person at the site.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from moretta.client.anonymizers.voice_baselines import UnboundedVoice, usable
from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.core.reproducibility import derive
from moretta.shared.features.mfcc import SAMPLE_RATE, check_samples
from moretta.shared.features.public_speech import MfccOptions, PublicVoice, public_speakers
from moretta.shared.features.world_voice import WorldVoice, missing_world, pitch_of
from moretta.shared.models.train_voice_cycle import CycleTask, pools_of, train_cycle
from moretta.shared.models.voice_cycle import VoiceCycle
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import Arrays, Notify, Speaker, anonymizer
from moretta.shared.release.release_format import MAX_CLIP_SECONDS, MAX_SAMPLES
from moretta.shared.study.public_arrays import PUBLIC_SEED, Rules
from moretta.shared.study.schema import Study

SEED = derive(PUBLIC_SEED, "cyclegan voice")
_WHY = (
    "no noise is added: the voice is moved to the other sex by a network and a fixed map of pitch, which an attacker "
    "who trains on releases can learn to see through; see the audit"
)


class CycleOptions(MfccOptions):
    """Options that a study may set."""

    steps: int = Field(default=1_500, ge=10, le=500_000)
    """Steps of training on public speech, one clip of each sex a step."""
    width: int = Field(default=32, ge=4, le=128)
    """Channels of the first layer of each network; the papers have 128."""
    duration_factor: Annotated[float, Field(ge=0.5, le=2)] = 1.0
    """How long a release is, of the clip, at the same pitch; 1 leaves out time-scale modification."""

    def task(self) -> CycleTask:
        """The options as a task of the training."""
        return CycleTask(width=self.width, steps=self.steps)


@anonymizer("cyclegan-voice", modality="voice", version="1")
class CycleVoice(UnboundedVoice[CycleOptions]):
    """Sound -> pitch, mel-cepstra, aperiodicity -> the first two as of the other sex -> sound, stretched."""

    Options = CycleOptions
    forms = ("waveform",)
    is_reproducible = False  # thousands of steps of training come out differently on another machine
    needs_network = True  # the vocoder, of an extra
    public_options = frozenset({"coefficients", "public_speech", "steps", "width"})
    mechanism = "voice of the other sex by CycleGAN"
    why = _WHY
    strengths = ("duration_factor",)
    uses_noise = False

    def __init__(self, options: CycleOptions, cycle: VoiceCycle) -> None:
        super().__init__(options, "waveform")
        self._cycle = cycle
        self._pools: dict[Speaker, int] = {}

    @classmethod
    def missing(cls, study: Study) -> str | None:  # noqa: ARG003
        """The vocoder, and the command that installs it."""
        return missing_world()

    @classmethod
    def prepare_public(cls, study: Study, notify: Notify) -> Arrays:
        """Both networks and the statistics of both pools. A network that does not do as it should is notified. Raises
        StudyError: the vocoder is not installed, or too few clips of one sex: see `pools_of`."""
        _check_installed()
        options = cls.options_of(study)
        notify("taking apart public speech of both sexes")
        clips = pools_of(public_speakers(options.public_speech, SEED), seed=SEED)
        notify(f"training the networks between {len(clips[0])} female and {len(clips[1])} male clips")
        made = train_cycle(clips, options.task(), seed=SEED, notify=notify)
        for fault in made.figures.faults():
            notify(f"cyclegan-voice: {fault}")
        return {**made.arrays, **options.public_voice().to_arrays()}

    @classmethod
    def public_rules(cls, study: Study) -> Rules:
        """See `Anonymizer.public_rules`."""
        options = cls.options_of(study)
        return {**VoiceCycle.rules(options.width), **PublicVoice.rules(options.coefficients, optional=True)}

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> CycleVoice:
        """Build from the study and its networks. Errors: see `public_arrays.named`."""
        options = cls.options_of(study)
        return cls(options, VoiceCycle.from_arrays(public, width=options.width))

    def fit(self, clips: Iterable[tuple[Speaker, Array]], noise: NoiseSource) -> None:  # noqa: ARG002
        """Find each person's pool by the mean over clips of their median pitch. Raises StudyError: the vocoder is not
        installed at this site."""
        _check_installed()
        heights: dict[Speaker, list[float]] = {}
        for speaker, clip in usable(clips):
            if (height := _height(pitch_of(clip))) is not None:
                heights.setdefault(speaker, []).append(height)
        self._pools = {who: self._cycle.pools.nearest(float(np.mean(found))) for who, found in heights.items()}

    def release_clip(self, clip: Array, noise: NoiseSource, speaker: Speaker) -> Array:  # noqa: ARG002
        """float32 [duration_factor x samples]. A clip of somebody without a voiced clip goes by its own pitch. Raises
        ClipError: reason `too-long`: no release may be as long as this one would become."""
        sound, factor = check_samples(clip), self._options.duration_factor
        if (wanted := round(factor * len(sound))) > MAX_SAMPLES:
            found = f"a release of {wanted / SAMPLE_RATE:.0f} s"
            fix = "cut the clip, or lower duration_factor"
            raise ClipError("too-long", found, expected=f"at most {MAX_CLIP_SECONDS:.0f} s", fix=fix)
        voice = WorldVoice.of(sound)
        pool = self._pools.get(speaker)
        if pool is None:
            height = _height(voice.hertz)
            pool = 0 if height is None else self._cycle.pools.nearest(height)
        made = self._cycle.converted(voice, pool)
        made = made if factor == 1 else made.stretched(factor)
        return made.sound()[:wanted]

    @classmethod
    def is_fitted(cls, study: Study) -> bool:  # noqa: ARG003
        """Always: the pool of a clip comes from the person's other clips."""
        return True

    def parameters(self) -> dict[str, Any]:
        """How the networks were made, and what was measured on public clips."""
        options = self._options.model_dump(mode="json", exclude={"public_speech"})
        return {**options, "distortion_db": self._cycle.figures.stated()}


def _height(hertz: Array) -> float | None:
    """Log of the median pitch of voiced frames; None without one."""
    voiced = hertz[hertz > 0]
    return float(np.log(np.median(voiced))) if len(voiced) else None


def _check_installed() -> None:
    if (why := missing_world()) is not None:
        raise StudyError(f"the anonymizer cyclegan-voice cannot run here: {why}")
