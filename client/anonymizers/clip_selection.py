"""Which clips of a speaker share the speaker's budget, and the speaker's own units in which they are told."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from moretta.shared.core.errors import ClipError
from moretta.shared.features.mfcc import Audio
from moretta.shared.features.public_codes import Matrix, SpeakerUnits
from moretta.shared.release.anonymizer import Speaker

PooledClip = tuple[Speaker, Audio, Matrix]
"""Whose it is, a clip's samples, and its pooled vectors."""


class ClipSelection:
    """A few clips of each speaker, chosen by chance; every other is over the budget.

    A clip's turn depends on a secret key, its content and how often that content came before: so a recording that is
    there twice has two turns, and how many clips are chosen depends on their number alone.

    Args:
        limit: clips of a speaker that are released at most.
        key: secret.
    """

    def __init__(self, limit: int, key: bytes) -> None:
        self._limit = limit
        self._key = key
        self._scales: dict[Speaker, SpeakerUnits] = {}
        self._chosen: dict[Speaker, frozenset[bytes]] = {}
        self._seen: Counter[tuple[Speaker, bytes]] = Counter()
        self.left_out = 0
        """Clips that were asked for and not chosen."""

    def learn(self, clips: Iterable[PooledClip]) -> None:
        """Learn every speaker's own units from all clips, and choose."""
        vectors: dict[Speaker, list[Matrix]] = defaultdict(list)
        turns: dict[Speaker, list[bytes]] = defaultdict(list)
        seen: Counter[tuple[Speaker, bytes]] = Counter()
        for speaker, samples, pooled in clips:
            vectors[speaker].append(pooled)
            turns[speaker].append(self._turn(speaker, samples, seen))
        self._scales = {speaker: SpeakerUnits.of(np.concatenate(found)) for speaker, found in vectors.items()}
        self._chosen = {speaker: frozenset(sorted(found)[: self._limit]) for speaker, found in turns.items()}

    def in_speaker_units(self, speaker: Speaker, vectors: npt.NDArray[np.float32]) -> Matrix:
        """A clip's vectors in its speaker's own units.

        Raises:
            ClipError: reason `not-fitted`, for a speaker who was not there when the budget was shared out.
        """
        if speaker not in self._scales:
            raise ClipError("not-fitted", "a speaker who was not there when the budget was shared out")
        return self._scales[speaker].apply(vectors)

    def take(self, speaker: Speaker, samples: Audio) -> None:
        """Let a clip pass, once, if it was chosen.

        Raises:
            ClipError: reason `over-budget`.
        """
        if self._turn(speaker, samples, self._seen) not in self._chosen.get(speaker, frozenset()):
            self.left_out += 1
            raise ClipError("over-budget", "a clip beyond those that its speaker's budget is for")

    def _turn(self, speaker: Speaker, samples: Audio, seen: Counter[tuple[Speaker, bytes]]) -> bytes:
        content = hashlib.sha256(np.ascontiguousarray(samples).tobytes()).digest()
        seen[speaker, content] += 1
        return hmac.new(self._key, content + seen[speaker, content].to_bytes(4, "big"), hashlib.sha256).digest()
