"""Public speech of known people in known emotions: synthetic voices, or recordings that anybody may have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.features.mfcc import Audio, check_samples

VOICES = 24
CLIPS_PER_VOICE = 24
MAX_FILES = 3_000
MIN_SPEAKERS = 3
_LEVELS_DB = (-30.0, -6.0)
_INTENSITIES = (0.4, 1.2)


@dataclass(frozen=True, eq=False)
class Recording:
    """One clip of a public person."""

    samples: Audio
    person: str
    emotion: int
    """Class index, in the order of `EMOTIONS`."""


def synthetic_speakers(seed: int, *, voices: int = VOICES, clips: int = CLIPS_PER_VOICE) -> Iterator[Recording]:
    """Seeded voices in all emotions, more and less strongly, each recorded at a level of its own."""
    from moretta.shared.core.labels import EMOTIONS
    from moretta.shared.data.corpora.cremad import SENTENCES
    from moretta.shared.models.speech import make_voice, synthesize

    generator = np.random.default_rng([seed, 0x9E0])
    sentences = sorted(SENTENCES)
    for number in range(voices):
        voice = make_voice(int(generator.integers(2**31)))
        gain = np.float32(10 ** (generator.uniform(*_LEVELS_DB) / 20))
        for clip in range(clips):
            label = clip % len(EMOTIONS)
            sentence = sentences[int(generator.integers(len(sentences)))]
            strength = float(generator.uniform(*_INTENSITIES))
            said = synthesize(voice, EMOTIONS[label], sentence, intensity=strength, seed=int(generator.integers(2**31)))
            yield Recording(gain * said, str(number), label)


def recorded_speakers(folder: Path, seed: int) -> Iterator[Recording]:
    """All usable clips of people chosen by seed, up to about `MAX_FILES`.

    Raises:
        StudyError: fewer than `MIN_SPEAKERS` people are named as CREMA-D names its clips.
    """
    from moretta.shared.core.labels import EMOTIONS, in_order
    from moretta.shared.data.corpora.cremad import ClipName

    named: dict[str, list[tuple[Path, int]]] = {}
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".wav" and path.is_file())
    for path in paths:
        try:
            name = ClipName.parse(path.stem)
        except ClipError:
            continue
        named.setdefault(name.speaker, []).append((path, EMOTIONS.index(name.emotion)))
    if len(named) < MIN_SPEAKERS:
        raise StudyError(
            f"{len(named)} people in the names of {len(paths)} wav files in {folder}",
            expected=f"clips of at least {MIN_SPEAKERS}, named as CREMA-D names them: who speaks, and in which emotion",
            fix="rename them, or leave `public_speech` out to use synthetic speech",
        )
    speakers = in_order(named)
    left = MAX_FILES
    for index in np.random.default_rng([seed, 0x9E1]).permutation(len(speakers)):
        clips = named[speakers[index]]
        if left > 0:
            yield from _readable(clips, speakers[index])
        left -= len(clips)


def _readable(clips: list[tuple[Path, int]], person: str) -> Iterator[Recording]:
    from moretta.shared.data.media import read_audio

    for path, emotion in clips:
        try:
            yield Recording(check_samples(read_audio(path)), person, emotion)
        except ClipError:
            continue
