"""Measurements of clips, each taken once: a clip is looked at to fit, to teach, and to be released."""

from __future__ import annotations

import numpy as np

from moretta.client.anonymizers.anonymizer_registry import Array
from moretta.client.anonymizers.speaker_references import Rows, clip_digest
from moretta.shared.features.mfcc import check_samples
from moretta.shared.features.speaker_code import measured_clip


class MeasuredClips:
    """Remembers what was measured by what was heard, as long as it lives. Nothing of it may leave the site."""

    def __init__(self) -> None:
        self._known: dict[bytes, Rows] = {}

    def __call__(self, clip: Array) -> Rows:
        """float32 [1, n] of one clip.

        Raises:
            ClipError: the clip cannot be used.
        """
        samples = np.ascontiguousarray(check_samples(clip))
        digest = clip_digest(samples)
        if digest not in self._known:
            self._known[digest] = measured_clip(samples, in_windows=False)
        return self._known[digest]
