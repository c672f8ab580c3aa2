"""What a site's other people teach: a model for each speaker that was learnt on none of that speaker's clips.

A model that had learnt on a speaker's own clips would know their emotions by heart, and its words would flatter whoever
measures how well emotion is told.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt

from moretta.client.anonymizers.anonymizer_registry import Speaker
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.features.emotion_labeler import EmotionLabeler

FEWEST_SPEAKERS = 3
"""Of whom two teach the third."""
CEILING = 0.75
"""Nobody's clips of an emotion are told right more often than those of this share of the others."""
_GROUPS = 12
"""Speakers are taught in so many groups at most, which bounds how many models there are."""


class LeaveOneSpeakerOut:
    """Labelled places by speaker, and the words learnt from them.

    Args:
        spread: float32 [n], which the places were made with.
    """

    def __init__(self, spread: npt.NDArray[np.float32]) -> None:
        self._spread = spread
        self._places: dict[Speaker, list[npt.NDArray[np.float64]]] = defaultdict(list)
        self._emotions: dict[Speaker, list[int]] = defaultdict(list)
        self._labelers: dict[Speaker, EmotionLabeler] = {}
        self._stays: dict[tuple[Speaker, int], float] = {}

    def add(self, speaker: Speaker, places: npt.NDArray[np.float64], emotion: int) -> None:
        """One clip: places [1, n] and a class index."""
        self._places[speaker].append(places)
        self._emotions[speaker].append(emotion)

    def learn(self) -> None:
        """Learn each speaker's words on those of the other groups.

        Raises:
            StudyError: too few people, or fewer than two emotions beside somebody's own.
        """
        speakers = sorted(self._places)
        if len(speakers) < FEWEST_SPEAKERS:
            raise StudyError(
                f"emotion words to be learnt from {len(speakers)} people at this site",
                expected=f"at least {FEWEST_SPEAKERS}: nobody teaches the words that their own clips are told in",
                fix='set `labels_from = "public"` in [voice], or bring more people',
            )
        groups = min(_GROUPS, len(speakers))
        for first in range(groups):
            left_out = speakers[first::groups]
            labeler = self._trained([one for one in speakers if one not in left_out])
            self._labelers.update(dict.fromkeys(left_out, labeler))
        self._find_ceilings()

    def labeler_for(self, speaker: Speaker) -> EmotionLabeler:
        """Words that were learnt on none of this speaker's clips.

        Raises:
            ClipError: nothing was learnt for such a speaker.
        """
        if speaker not in self._labelers:
            raise ClipError(
                "not-trained", "a speaker for whom nobody taught words", fix="call `train_on_emotions` first"
            )
        return self._labelers[speaker]

    def stays(self, speaker: Speaker, emotion: int) -> float:
        """With what probability a right word of this speaker and emotion may be released as right.

        How often one's clips of an emotion sound like it tells who one is to whoever pools many words. Whoever is told
        more easily than others is brought down to what is usual; nobody is brought up.
        """
        return self._stays.get((speaker, emotion), 1.0)

    def _find_ceilings(self) -> None:
        rates: dict[int, dict[Speaker, float]] = defaultdict(dict)
        for speaker, places in self._places.items():
            labeler, labels = self._labelers[speaker](np.concatenate(places)), np.array(self._emotions[speaker])
            for emotion in np.unique(labels):
                rates[int(emotion)][speaker] = float(np.mean(labeler[labels == emotion] == emotion))
        for emotion, of_people in rates.items():
            for speaker, rate in of_people.items():
                others = [other for one, other in of_people.items() if one != speaker]
                if others and rate:
                    self._stays[speaker, emotion] = min(1.0, float(np.quantile(others, CEILING)) / rate)

    def _trained(self, speakers: list[Speaker]) -> EmotionLabeler:
        places = np.concatenate([row for one in speakers for row in self._places[one]])
        emotions = np.array([label for one in speakers for label in self._emotions[one]], np.int64)
        return EmotionLabeler.learn(places, emotions, self._spread)
