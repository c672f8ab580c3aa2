"""Pitch, level and tempo of a clip in a few readable numbers, under Gaussian noise with one budget for the clip.

`clip-statistics` releases values of a code that was fitted to separate emotions. These are measurements that have a
name, so a reader of a release knows what each number says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from moretta.client.anonymizers.planned_losses import PlannedAnonymizer
from moretta.client.anonymizers.voice_baselines import NOTHING
from moretta.shared.core.array_types import Array, Float32
from moretta.shared.core.terms import PrivacyStatement
from moretta.shared.features.mfcc import check_samples
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.public_speech import PublicSpeechOptions
from moretta.shared.features.speaker_code import MIN_SPREAD, measured_clip, measured_public_speech
from moretta.shared.privacy.gaussian import Gaussian, calibrated_sigma
from moretta.shared.privacy.noise import NoiseSource, in_ball, on_grid
from moretta.shared.release.anonymizer import UNITS, Arrays, Losses, Notify, Sizes, Speaker, anonymizer
from moretta.shared.study.public_arrays import Rules, scale_rules, taken
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import Delta, Epsilon

RELEASED = ("pitch mean", "pitch range", "level deviation", "tilt mean", "peaks a second", "speech share")
"""Released numbers, of `prosodic_features.MEASUREMENTS`, in this order."""
RADIUS = 2.0
"""In public standard deviations: all numbers of a clip together are clipped to a ball of this radius."""
CENTER, SPREAD = "voice/prosody/center", "voice/prosody/spread"
_COLUMNS = [MEASUREMENTS.index(name) for name in RELEASED]
_NOTE = (
    "between any two usable clips, whatever was said; not covered: that there are so many usable clips and speakers, "
    "and the labels and sentences of those released"
)


class ProsodyOptions(PublicSpeechOptions):
    """Options that a study may set."""

    clip_epsilon: Epsilon = 8.0
    """Epsilon of all numbers of one clip together."""
    clip_delta: Delta = 1e-5
    """Delta of all numbers of one clip together."""

    def gaussian(self) -> Gaussian:
        """The noise on one clip: any two clips are the diameter of the ball apart at most."""
        reach = 2 * RADIUS
        sigma = calibrated_sigma(epsilon=self.clip_epsilon, delta=self.clip_delta, sensitivity=reach)
        return Gaussian(sigma=sigma, distance=reach)


@anonymizer("prosody-statistics", modality="voice", version="1")
class ProsodyStatistics(PlannedAnonymizer[ProsodyOptions]):
    """Measurements -> public scale -> clipped to a ball -> Gaussian noise.

    Args:
        center: float32 [6], means of public speech.
        spread: float32 [6], its standard deviations.
    """

    Options = ProsodyOptions
    forms = ("code",)
    public_options = frozenset({"public_speech"})
    mechanism = "Gaussian on bounded prosody of a clip"

    def __init__(self, options: ProsodyOptions, center: Float32, spread: Float32) -> None:
        super().__init__(options, "code")
        self.delta, self._gaussian = options.clip_delta, options.gaussian()
        self._center, self._spread = center, spread

    @classmethod
    def prepare_public(cls, study: Study, notify: Notify) -> Arrays:
        """Mean and deviation of each number in public speech."""
        notify("measuring public speech")
        folder = cls.options_of(study).public_speech
        values = measured_public_speech(folder, in_windows=False).values[:, _COLUMNS]
        spread = np.maximum(values.std(axis=0), MIN_SPREAD)
        return {CENTER: values.mean(axis=0).astype(np.float32), SPREAD: spread.astype(np.float32)}

    @classmethod
    def public_rules(cls, study: Study) -> Rules:  # noqa: ARG003
        """See `Anonymizer.public_rules`."""
        return scale_rules(CENTER, SPREAD, len(RELEASED))

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> ProsodyStatistics:
        """Build from the study and the public scale. Errors: see `public_arrays.named`."""
        return cls(cls.options_of(study), *taken(public, cls.public_rules(study)))

    def release_clip(self, clip: Array, noise: NoiseSource, speaker: Speaker) -> Array:  # noqa: ARG002
        """float32 [6], in public deviations from the public mean."""
        rows = measured_clip(check_samples(clip), in_windows=False)[0, _COLUMNS].astype(np.float64)
        inside = in_ball((rows - self._center) / self._spread, RADIUS)
        sigma = self._gaussian.sigma
        return on_grid(inside + noise.private_normal(sigma, inside.shape), sigma)

    def parameters(self) -> dict[str, Any]:
        """Epsilon, delta and names of the released numbers, with the noise that they have."""
        return {
            "clip_epsilon": self._options.clip_epsilon,
            "clip_delta": self._options.clip_delta,
            "numbers": list(RELEASED),
            "radius": RADIUS,
            "sigma": self._gaussian.sigma,
        }

    def privacy(self, sizes: Sizes) -> tuple[PrivacyStatement, ...]:
        """The budget of a clip, and what all released clips of a speaker come to."""
        clips, epsilon = max(map(len, sizes.values()), default=0), self._options.clip_epsilon
        return tuple(self.stated(sizes, u, _NOTE, epsilon * (clips if u == "speaker" else 1)) for u in UNITS)

    @classmethod
    def losses_of(cls, options: ProsodyOptions, sizes: Sizes) -> Losses:
        """One Gaussian for a clip, and one for each released clip of a speaker."""
        if not any(sizes.values()):
            return NOTHING
        loss = options.gaussian()
        return {"clip": (loss,), "speaker": (loss.for_group(max(map(len, sizes.values()))),)}
