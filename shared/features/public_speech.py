"""Public speech, synthetic or of a folder, and what is known of voices in general: statistics of MFCC and a codebook.

The coordinator makes all of it, and sends it to every site. No site's clip takes part, so it costs no privacy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import Field

from moretta.shared.core.array_types import Array, Float32
from moretta.shared.core.errors import ClipError, CorpusError, StudyError
from moretta.shared.core.labels import EMOTIONS, in_order
from moretta.shared.core.reproducibility import derive
from moretta.shared.features.mfcc import COEFFICIENTS, Audio, Frames, check_samples, mfcc_batch
from moretta.shared.features.voice_forms import fit_codebook
from moretta.shared.study.options import Options
from moretta.shared.study.public_arrays import LEAST_SPREAD, PUBLIC_SEED, Rule, Rules, named
from moretta.shared.study.sections import StudyPath

Vector = Float32

SYNTHETIC_VOICES = 16
MAX_PUBLIC_FILES = 500
MIN_STD = 1e-3
"""Smallest deviation, which keeps standardized values finite where public speech does not vary."""
LARGEST_MFCC = 250.0
"""No MFCC of sound that `check_samples` lets pass is larger: root 40 times the largest logarithm of a band's energy."""
QUIETEST_DB = -36.0
"""The lowest level of synthetic speech. Levels of corpora differ by about as much (CREMA-D and RAVDESS by 20 dB), and
bounds made from one level would cut the others off."""
CODEBOOK = "voice/codebook"
_MEAN, _STD = "voice/mean", "voice/std"
SPEAKERS = 24
CLIPS_PER_SPEAKER = 24
MAX_FILES = 3_000
MIN_SPEAKERS = 3
_LEVELS_DB = (-30.0, -6.0)
_INTENSITIES = (0.4, 1.2)


class PublicSpeechOptions(Options):
    """Options of anonymizers that are trained on public speech."""

    public_speech: StudyPath | None = None
    """A folder of wav files that anybody may have; None means synthetic speech."""


class MfccOptions(PublicSpeechOptions):
    """Options of anonymizers that release MFCC, or sound from which emotion models compute MFCC."""

    coefficients: int = Field(default=COEFFICIENTS, ge=2, le=40)
    """Number of MFCC of a frame."""

    def public_voice(self, codebook_size: int | None = None) -> PublicVoice:
        """Statistics of the public speech, and a codebook where its size is given."""
        seed = derive(PUBLIC_SEED, "public voice")
        return make_public_voice(self.coefficients, codebook_size, seed, self.public_speech)


@dataclass(frozen=True, slots=True, eq=False)
class PublicVoice:
    """Statistics of MFCC of public speech, and maybe a codebook [k, coefficients], in standardized units."""

    mean: Vector
    std: Vector
    codebook: Frames | None = None

    def standardise(self, frames: Array) -> Frames:
        """[frames, coefficients] in public standard deviations from the public mean."""
        return np.asarray((frames - self.mean) / self.std, np.float32)

    def restore(self, standardised: Array) -> Frames:
        """The inverse of `standardise`."""
        return np.asarray(standardised * self.std + self.mean, np.float32)

    def to_arrays(self) -> dict[str, Array]:
        """The arrays by name, as the coordinator sends them."""
        return {_MEAN: self.mean, _STD: self.std} | ({} if self.codebook is None else {CODEBOOK: self.codebook})

    @classmethod
    def rules(
        cls, coefficients: int | str = "coefficients", size: int | str | None = None, *, optional: bool = False
    ) -> Rules:
        """Rules for the arrays, by name: shape and bounds. Without a size there is no codebook."""
        rules = {
            _MEAN: Rule((coefficients,), LARGEST_MFCC, optional=optional),
            _STD: Rule((coefficients,), LARGEST_MFCC, LEAST_SPREAD, optional=optional),
        }
        return rules if size is None else {**rules, CODEBOOK: Rule((size, coefficients), LARGEST_MFCC / LEAST_SPREAD)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], *, codebook: bool = False) -> Self:
        """Check and take what the coordinator sent. Errors: see `public_arrays.named`."""
        return cls(*named(arrays, cls.rules(size="codewords" if codebook else None)).values())


def make_public_voice(
    coefficients: int = COEFFICIENTS,
    codebook_size: int | None = 64,
    seed: int = 1,
    public_speech: Path | None = None,
    *,
    voices: int = SYNTHETIC_VOICES,
) -> PublicVoice:
    """Statistics of public speech, and a codebook where its size is given.

    Args:
        seed: of the synthetic voices, the choice of files and the codebook. Not secret.
        public_speech: a folder of wav files, searched with its subfolders; None for synthetic speech.

    Raises:
        StudyError: the folder has no usable speech, or fewer than `codebook_size` frames of it.
    """
    clips = synthetic_speech(voices, seed) if public_speech is None else folder_speech(public_speech, seed)
    frames = np.concatenate([np.empty((0, coefficients), np.float32), *mfcc_batch(list(clips), coefficients)])
    if codebook_size is not None and len(frames) < codebook_size:
        found = f"{len(frames)} frames of public speech"
        raise StudyError(found, expected=f"at least {codebook_size}, one for each codeword")
    mean = frames.mean(axis=0, dtype=np.float64).astype(np.float32)
    std = np.maximum(frames.std(axis=0, dtype=np.float64), MIN_STD).astype(np.float32)
    if codebook_size is None:
        return PublicVoice(mean, std)
    return PublicVoice(mean, std, fit_codebook((frames - mean) / std, codebook_size, seed=seed))


def synthetic_speech(voices: int, seed: int) -> Iterator[Audio]:
    """Seeded voices, each saying one sentence in each emotion, each time at another level."""
    return (said for said, _, _ in labelled_speech(voices, seed))


def labelled_speech(voices: int, seed: int) -> Iterator[tuple[Audio, int, int]]:
    """Synthetic speech with the number of the voice and of the emotion."""
    from moretta.shared.data.corpora.cremad import SENTENCES
    from moretta.shared.models.speech import make_voice, synthesize

    generator = np.random.default_rng([seed, 0x501CE])
    sentences = sorted(SENTENCES)
    for number in range(voices):
        voice = make_voice(int(generator.integers(2**31)))
        for label, emotion in enumerate(EMOTIONS):
            sentence = sentences[int(generator.integers(len(sentences)))]
            gain = 10 ** (generator.uniform(QUIETEST_DB, 0) / 20)
            said = synthesize(voice, emotion, sentence, seed=int(generator.integers(2**31)))
            yield np.asarray(gain * said, np.float32), number, label


def folder_speech(folder: Path, seed: int) -> Iterator[Audio]:
    """Up to `MAX_PUBLIC_FILES` usable wav files, chosen by seed; unusable files are passed over. Raises StudyError:
    there is none."""
    paths = _wav_files(folder)
    order = np.random.default_rng([seed, 0xF01DE]).permutation(len(paths))
    read = (_read(paths[index]) for index in order)
    clips = islice((clip for clip in read if clip is not None), MAX_PUBLIC_FILES)
    if (first := next(clips, None)) is None:
        raise StudyError(
            f"no usable speech among {len(paths)} wav files in {folder}",
            expected="recordings that anybody may have",
            fix="correct `public_speech` in the study, or leave it out to use synthetic speech",
        )
    return chain([first], clips)


Whose = tuple[str, int, str]
"""Person, class index of the emotion, and sex, as in `Recording`."""


@dataclass(frozen=True, eq=False)
class Recording:
    """One clip of a public speaker."""

    samples: Audio
    person: str
    emotion: int
    """Class index, in the order of `EMOTIONS`."""
    sex: str = ""
    """`female` or `male`; empty where no table says it."""

    @property
    def whose(self) -> Whose:
        """All but the sound."""
        return self.person, self.emotion, self.sex


def synthetic_speakers(seed: int, *, voices: int = SPEAKERS, clips: int = CLIPS_PER_SPEAKER) -> Iterator[Recording]:
    """Seeded voices in all emotions, more and less strongly, each recorded at a level of its own."""
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
            yield Recording(gain * said, str(number), label, voice.sex)


def public_speakers(folder: Path | None, seed: int) -> Iterator[Recording]:
    """Those of a folder, or synthetic ones without any. Errors: see `recorded_speakers`."""
    return synthetic_speakers(seed) if folder is None else recorded_speakers(folder, seed)


def public_people(folder: Path) -> dict[str, str]:
    """Sex of each speaker in the names of wav files; empty where CREMA-D's table in the folder does not have it."""
    sexes = _sexes(folder)
    return {speaker: sexes.get(speaker, "") for speaker in in_order(_clips_of(_wav_files(folder)))}


def _clips_of(paths: Sequence[Path]) -> dict[str, list[tuple[Path, int]]]:
    """Clips of each speaker, with the class index of their emotion, by names in CREMA-D's grammar."""
    from moretta.shared.data.corpora.cremad import ClipName

    found: dict[str, list[tuple[Path, int]]] = {}
    for path in paths:
        try:
            name = ClipName.parse(path.stem)
        except ClipError:
            continue
        found.setdefault(name.speaker, []).append((path, EMOTIONS.index(name.emotion)))
    return found


def recorded_speakers(folder: Path, seed: int) -> Iterator[Recording]:
    """All usable clips of speakers chosen by seed, up to about `MAX_FILES`.

    Their sex is known where the folder has CREMA-D's table of speakers, and the table can be read.

    Raises:
        StudyError: fewer than `MIN_SPEAKERS` speakers in file names of CREMA-D's grammar.
    """
    paths = _wav_files(folder)
    clips_of = _clips_of(paths)
    if len(clips_of) < MIN_SPEAKERS:
        raise StudyError(
            f"{len(clips_of)} people in the names of {len(paths)} wav files in {folder}",
            expected=f"clips of at least {MIN_SPEAKERS}, named as CREMA-D names them: who speaks, and in which emotion",
            fix="rename them, or leave `public_speech` out to use synthetic speech",
        )
    speakers, left, sexes = in_order(clips_of), MAX_FILES, _sexes(folder)
    for index in np.random.default_rng([seed, 0x9E1]).permutation(len(speakers)):
        clips = clips_of[speakers[index]]
        for path, emotion in clips if left > 0 else ():
            if (samples := _read(path)) is not None:
                yield Recording(samples, speakers[index], emotion, sexes.get(speakers[index], ""))
        left -= len(clips)


def _sexes(folder: Path) -> dict[str, str]:
    from moretta.shared.data.tables import DEMOGRAPHICS_FILE, read_demographics

    try:
        people, _ = read_demographics(folder / DEMOGRAPHICS_FILE)
    except CorpusError:
        return {}
    return {speaker: person.sex for speaker, person in people.items() if person.sex is not None}


def _wav_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".wav" and path.is_file())


def _read(path: Path) -> Audio | None:
    from moretta.shared.data.media import read_audio

    try:
        return check_samples(read_audio(path))
    except ClipError:
        return None
