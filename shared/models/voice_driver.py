"""How a voice sounds, read linearly from a speaker embedding: what lets an embedding drive a vocoder.

A synthesizer that speaks in the voice of any embedding is not at hand. Synthetic voices have known pitch, formants and
bandwidths, so a ridge from the embedding to these three is fitted on them. Of two embeddings the map gives the ratio of
each, and the vocoder changes a clip by it. Everything else about a voice stays: a poor synthesizer, stated as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from moretta.shared.core.array_types import Array, Float32
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.features.world_voice import WorldVoice
from moretta.shared.models.network_arrays import LARGEST_WEIGHT
from moretta.shared.models.speech.parallel import Utterance, drawn_voices
from moretta.shared.models.speech.synthesize import synthesize
from moretta.shared.models.speech.voice import Voice
from moretta.shared.pretrained.encoder import PretrainedEncoder
from moretta.shared.study.public_arrays import Rule, Rules, named

VOICES = 200
_TESTED = 4
"""One voice in so many is held out to measure the map."""
_SHRINKAGE = np.logspace(-3, 2, 11)
"""Strengths of the ridge, from which one is chosen by leaving one voice out."""
WEIGHTS, SHARES = "voice/driver/weights", "voice/driver/explained"
_WIDEST = {"pitch": 2.0, "formants": 1.33, "bandwidth": 2.0}
"""Largest change of each, either way: beyond it speech breaks up."""
SOUND = tuple(_WIDEST)


class Change(NamedTuple):
    """Ratios of the new voice to the old one."""

    pitch: float
    formants: float
    bandwidth: float

    def applied(self, voice: WorldVoice) -> WorldVoice:
        """The clip in the new voice; melody, rhythm and words stay."""
        return voice.with_pitch(self.pitch).warped(self.formants).with_bandwidths(self.bandwidth)


@dataclass(frozen=True, slots=True, eq=False)
class VoiceDriver:
    """The fitted map."""

    weights: Float32
    """[d, 3], of log pitch, log formant factor and log bandwidth factor."""
    explained: Float32
    """[3], share of each one's variance that the map explains in synthetic voices that it was not fitted on."""

    @classmethod
    def rules(cls, width: int) -> Rules:
        """Rules for the arrays, by name: shape and bounds, for embeddings of `width` values."""
        shape = Rule((width, len(SOUND)), LARGEST_WEIGHT)
        return {WEIGHTS: shape, SHARES: Rule((len(SOUND),), LARGEST_WEIGHT)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], *, width: int) -> Self:
        """Check and take what the coordinator sent. Errors: see `public_arrays.named`."""
        return cls(*named(arrays, cls.rules(width)).values())

    def to_arrays(self) -> dict[str, Array]:
        """The arrays by name, as the coordinator sends them."""
        return {WEIGHTS: self.weights, SHARES: self.explained}

    def stated(self) -> dict[str, float]:
        """Rounded figures by name, for the statement of a release."""
        return {name: round(float(share), 3) for name, share in zip(SOUND, self.explained, strict=True)}

    def change(self, before: Array, after: Array) -> Change:
        """The change from one embedding [d] to another, within limits that no weights can exceed."""
        ratios = np.nan_to_num(np.asarray(after - before, np.float64) @ self.weights)
        limits = np.log(list(_WIDEST.values()))
        return Change(*np.exp(np.clip(ratios, -limits, limits)).tolist())


def train_driver(encoder: PretrainedEncoder, *, seed: int, voices: int = VOICES) -> VoiceDriver:
    """Fit the map on synthetic voices, one clip of each."""
    from sklearn.linear_model import RidgeCV

    generator, drawn = np.random.default_rng([seed, 0xD21]), drawn_voices(voices, seed)
    said = [_said(voice, Utterance.drawn(generator)) for voice in drawn]
    values = encoder.embed_many(said).astype(np.float64)
    sound = np.log([[one.pitch_hz, one.formant_factor, one.bandwidth_factor] for one in drawn])
    tested = np.arange(voices) // 2 % _TESTED == 0  # both sexes, which take turns
    tried = RidgeCV(_SHRINKAGE).fit(values[~tested], sound[~tested])
    missed = np.square(sound[tested] - tried.predict(values[tested])).mean(axis=0)
    explained = 1 - missed / sound[tested].var(axis=0)
    weights = RidgeCV(_SHRINKAGE).fit(values, sound).coef_.T
    return VoiceDriver(np.asarray(weights, np.float32), explained.astype(np.float32))


def _said(voice: Voice, utterance: Utterance) -> Float32:
    emotion = EMOTIONS[utterance.emotion]
    return synthesize(voice, emotion, utterance.sentence, intensity=utterance.intensity, seed=utterance.seed)
