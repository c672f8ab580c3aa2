"""How an emotion sounds, as changes to a neutral delivery.

The directions follow the review of Juslin & Laukka, "Communication of emotions in vocal expression and music
performance", Psychological Bulletin 129 (2003), Table 7 (anger: fast, loud, bright; sadness: slow, soft, dull; fear:
high, fast, rough). The amounts are ours: this is why accuracy on synthetic speech says nothing about people.
"""

from __future__ import annotations

from dataclasses import dataclass

from moretta.shared.data.clip_names import Emotion


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Factors on a voice's own habits; 1 and 0 change nothing."""

    pitch: float = 1.0
    pitch_range: float = 1.0
    rate: float = 1.0
    loudness: float = 1.0
    jitter: float = 1.0
    breath: float = 1.0
    formants: float = 1.0
    """Lips spread (above 1) or rounded (below 1)."""
    brightness_db: float = 0.0
    declination: float = 0.0
    """Fall of log pitch from the start of a sentence to its end, halved."""
    tremor: float = 0.0
    """Relative depth of a 7 Hz tremble of the pitch."""

    def at(self, intensity: float) -> Delivery:
        """This delivery acted more or less strongly: 0 is neutral, 1 as described."""

        def factor(value: float) -> float:
            return max(0.2, 1 + (value - 1) * intensity)

        return Delivery(
            pitch=factor(self.pitch),
            pitch_range=factor(self.pitch_range),
            rate=factor(self.rate),
            loudness=factor(self.loudness),
            jitter=factor(self.jitter),
            breath=factor(self.breath),
            formants=factor(self.formants),
            brightness_db=self.brightness_db * intensity,
            declination=NEUTRAL_DECLINATION + (self.declination - NEUTRAL_DECLINATION) * intensity,
            tremor=self.tremor * intensity,
        )


NEUTRAL_DECLINATION = 0.12

DELIVERIES = {
    Emotion.NEU: Delivery(declination=NEUTRAL_DECLINATION),
    Emotion.HAP: Delivery(
        pitch=1.35, pitch_range=1.9, rate=1.08, loudness=1.3, breath=0.9, formants=1.04, brightness_db=3
    ),
    Emotion.ANG: Delivery(
        pitch=1.30, pitch_range=1.7, rate=1.10, loudness=2.0, jitter=1.6, breath=0.5, brightness_db=7, declination=0.05
    ),
    Emotion.SAD: Delivery(
        pitch=0.90, pitch_range=0.5, rate=0.78, loudness=0.55, jitter=1.3, breath=2.2, brightness_db=-5,
        declination=0.22,
    ),
    Emotion.FEA: Delivery(
        pitch=1.55, rate=1.22, loudness=0.9, jitter=2.6, breath=1.7, brightness_db=-1, declination=-0.02, tremor=0.025
    ),
    Emotion.DIS: Delivery(
        pitch=0.82, pitch_range=1.2, rate=0.80, loudness=0.9, jitter=2.0, breath=0.7, formants=0.92, brightness_db=-2,
        declination=0.20,
    ),
}  # fmt: skip
