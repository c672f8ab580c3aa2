"""Encoders of whole clips that a study names, from strong to weak: HuBERT, a small one trained here, measurements.

None is trained together with later stages. Sites get the small HuBERT as public arrays; the weights of HuBERT itself
must be on every machine; measurements need nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from moretta.shared.core.array_types import Array, Float32
from moretta.shared.core.errors import StudyError
from moretta.shared.core.reproducibility import derive
from moretta.shared.core.workers import Pace, in_lines
from moretta.shared.features.mfcc import Audio, check_samples
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.public_speech import folder_speech, recorded_speakers
from moretta.shared.features.speaker_code import measured_clip
from moretta.shared.models.mini_hubert import MiniHubert
from moretta.shared.models.train_mini_hubert import MiniHubertTask, train_mini_hubert
from moretta.shared.models.train_transformer import UtteranceEncoder
from moretta.shared.pretrained.cache import trained_arrays
from moretta.shared.pretrained.encoder import public_network
from moretta.shared.pretrained.speaker_encoders import HubertEncoder
from moretta.shared.study.public_arrays import PUBLIC_SEED, Rules

Tier = Literal["hubert", "mini-hubert", "statistics"]
WIDTHS: Mapping[Tier, int] = {
    "hubert": HubertEncoder.dimensions // 2,
    "mini-hubert": MiniHubert.width,
    "statistics": len(MEASUREMENTS),
}
HUBERT_LAYER = 9
"""Layer of twelve: emotion is read best from the upper middle layers (Pepino et al., Interspeech 2021, section 4)."""
SEED = derive(PUBLIC_SEED, "mini-hubert")


class HubertMean:
    """Mean over time of a layer of HuBERT."""

    width = WIDTHS["hubert"]

    @cached_property
    def _network(self) -> HubertEncoder:
        return public_network(HubertEncoder)

    def ready(self) -> None:
        """Read its weights; a StudyError where they are not on this machine."""
        _ = self._network

    def embed(self, clips: Sequence[Array]) -> Float32:
        """float32 [clips, 768]."""
        sound = [check_samples(clip) for clip in clips]
        return self._network.summarise(sound, layer=HUBERT_LAYER)[:, : self.width]


class Measurements:
    """How a clip was said, in 95 numbers: see `moretta.shared.features.prosodic_features`."""

    width = WIDTHS["statistics"]

    def ready(self) -> None:
        """Nothing is needed."""

    def embed(self, clips: Sequence[Array]) -> Float32:
        """float32 [clips, 95]."""
        return np.concatenate([measured_clip(check_samples(clip), in_windows=False) for clip in clips])


def encoder_rules(tier: Tier) -> Rules:
    """Rules for the encoder's public arrays, by name; empty where it has none."""
    return MiniHubert.rules() if tier == "mini-hubert" else {}


def encoder_of(tier: Tier, arrays: Mapping[str, Array]) -> UtteranceEncoder:
    """The encoder, with its public arrays. Errors: see `public_arrays.named`."""
    if tier == "mini-hubert":
        return MiniHubert.from_arrays(arrays)
    return HubertMean() if tier == "hubert" else Measurements()


def mini_hubert_of(
    public_speech: Path | None, more: Path | None, *, steps: int, notify: Callable[[str], None]
) -> MiniHubert:
    """A small HuBERT, trained once for the same speech: it is kept in the user's cache.

    Args:
        public_speech: a folder of clips of several people, under CREMA-D's names; or None.
        more: a folder of wav files of any names; or None.

    Raises:
        StudyError: no folder, or one without usable speech, or of fewer than three people.
    """
    notify("reading the public speech that the encoder is trained on")
    clips: list[Audio] = [] if more is None else list(folder_speech(more, SEED))
    if public_speech is not None:
        clips += [one.samples for one in recorded_speakers(public_speech, SEED)]
    if not clips:
        raise StudyError(
            "a small HuBERT without public speech to train it on",
            expected="a folder of recordings that anybody may have: its units are clusters of real speech",
            fix='name one as `public_speech` or `encoder_speech`, or take `encoder = "statistics"`, which needs none',
        )
    content = hashlib.sha256()
    for clip in clips:
        content.update(clip.data)
    task = MiniHubertTask(steps=steps, seed=SEED)

    def train() -> Mapping[str, Array]:
        pace = Pace(in_lines(notify), f"training a small HuBERT on {len(clips)} clips, once", steps)
        return train_mini_hubert(clips, task, pace.step).encoder.arrays

    arrays = trained_arrays("mini-hubert", f"{steps}-steps", f"{task} {content.hexdigest()}", train)
    return MiniHubert.from_arrays(arrays)
