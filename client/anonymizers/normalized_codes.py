"""Codes of clips relative to the other clips of the same speaker at this site, and noise on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from moretta.client.anonymizers.speaker_references import MeasuredClip, SpeakerReferences, clip_digest
from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import ClipError
from moretta.shared.features.mfcc import Audio
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.speaker_code import CodeReference, SpeakerCode, measured_clip
from moretta.shared.privacy.noise import NoiseSource, on_grid
from moretta.shared.release.anonymizer import Speaker


class NormalizedCodes:
    """Measures clips, and remembers what each speaker's codes are normalized by. `in_windows`: one code for each step,
    or one for the clip."""

    def __init__(self, code: SpeakerCode, *, in_windows: bool) -> None:
        self._code, self._in_windows = code, in_windows
        self.keep_in(None)

    def keep_in(self, path: Path | None) -> None:
        """Where secret weights and shifts are kept; None keeps them in memory alone."""
        self._references = SpeakerReferences(path, len(MEASUREMENTS))
        self._scales: dict[Speaker, CodeReference] = {}

    def learn(self, clips: Iterable[tuple[Speaker, Audio]], noise: NoiseSource) -> None:
        """Take the clips that each speaker's clips are normalized by: these, and no others."""
        measured: dict[Speaker, list[MeasuredClip]] = defaultdict(list)
        for speaker, samples in clips:
            rows = measured_clip(samples, in_windows=self._in_windows)
            measured[speaker].append((clip_digest(samples), rows))
        self._references.learn(measured, noise)
        self._scales.clear()

    def noisy(self, samples: Audio, noise: NoiseSource, speaker: Speaker, *, sigma: float) -> Array:
        """[1, d], or [steps, d] in windows: codes with noise, on a grid that hides the low bits. Raises ClipError:
        reason `unknown-speaker`."""
        codes = self._scale(speaker)(measured_clip(samples, in_windows=self._in_windows))
        return on_grid(codes + noise.private_normal(sigma, codes.shape), sigma) if sigma else np.asarray(codes)

    def _scale(self, speaker: Speaker) -> CodeReference:
        if speaker not in self._scales:
            if speaker not in self._references:
                raise ClipError("unknown-speaker", "a speaker of whom nothing was fitted", fix="call `fit` first")
            self._scales[speaker] = self._references[speaker].scale(self._code)
        return self._scales[speaker]
