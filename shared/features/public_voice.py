"""What may be known about voices in general: public MFCC statistics and a public codebook.

Made by the coordinator from synthetic speech, or from speech that anybody may have, and sent to every site. No site's
clip is looked at, so it costs no privacy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.features.codebook import fit_codebook
from moretta.shared.features.mfcc import COEFFICIENTS, Audio, Frames, mfcc_batch
from moretta.shared.features.public_arrays import LEAST_SPREAD, Rule, Rules, taken

Vector = npt.NDArray[np.float32]

SYNTHETIC_VOICES = 16
MAX_PUBLIC_FILES = 500
MIN_STD = 1e-3
"""Keeps standardised values finite where public speech does not vary."""
LARGEST_MFCC = 250.0
"""No MFCC of sound that `check_samples` lets pass is larger: root 40 times the largest logarithm of a band's energy."""
QUIETEST_DB = -36.0
"""Synthetic speech is heard at levels down to this: the levels that corpora are recorded at differ by about as much
(CREMA-D and RAVDESS by 20 dB), and bounds made from one level would cut the others off."""

CODEBOOK = "voice/codebook"
_MEAN, _STD = "voice/mean", "voice/std"


@dataclass(frozen=True, slots=True, eq=False)
class PublicVoice:
    """Statistics of MFCC of public speech, and a codebook fitted on it."""

    mean: Vector
    """[coefficients]"""
    std: Vector
    """[coefficients], all positive."""
    codebook: Frames
    """[k, coefficients], in standardised units."""

    def standardise(self, frames: npt.NDArray[Any]) -> Frames:
        """[frames, coefficients] in public standard deviations from the public mean."""
        return np.asarray((frames - self.mean) / self.std, np.float32)

    def restore(self, standardised: npt.NDArray[Any]) -> Frames:
        """The inverse of `standardise`."""
        return np.asarray(standardised * self.std + self.mean, np.float32)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """As the coordinator sends it."""
        return {_MEAN: self.mean, _STD: self.std, CODEBOOK: self.codebook}

    @classmethod
    def rules(
        cls, coefficients: int | str = "coefficients", size: int | str = "codewords", *, optional: bool = False
    ) -> Rules:
        """What each array may be."""
        return {
            _MEAN: Rule((coefficients,), LARGEST_MFCC, optional=optional),
            _STD: Rule((coefficients,), LARGEST_MFCC, LEAST_SPREAD, optional=optional),
            CODEBOOK: Rule((size, coefficients), LARGEST_MFCC / LEAST_SPREAD, optional=optional),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Check and take what the coordinator sent.

        Raises:
            StudyError: an array is missing, of another shape, or holds values that cannot be.
        """
        return cls(*taken(arrays, cls.rules()))


def make_public_voice(
    coefficients: int = COEFFICIENTS,
    codebook_size: int = 64,
    seed: int = 1,
    public_speech: Path | None = None,
    *,
    voices: int = SYNTHETIC_VOICES,
) -> PublicVoice:
    """Statistics and codebook of public speech.

    Args:
        coefficients: MFCC in a frame.
        codebook_size: number of codewords.
        seed: of the synthetic voices, the choice of files and the codebook. Not secret.
        public_speech: a folder of wav files, searched with its subfolders; None for synthetic speech.
        voices: number of synthetic voices; each says one sentence in each emotion.

    Raises:
        StudyError: the folder has no usable speech, or less than `codebook_size` frames of it.
    """
    clips = synthetic_speech(voices, seed) if public_speech is None else folder_speech(public_speech, seed)
    frames = np.concatenate([np.empty((0, coefficients), np.float32), *mfcc_batch(list(clips), coefficients)])
    if len(frames) < codebook_size:
        raise StudyError(
            f"{len(frames)} frames of public speech", expected=f"at least {codebook_size}, one for each codeword"
        )
    mean = frames.mean(axis=0, dtype=np.float64).astype(np.float32)
    std = np.maximum(frames.std(axis=0, dtype=np.float64), MIN_STD).astype(np.float32)
    return PublicVoice(mean, std, fit_codebook((frames - mean) / std, codebook_size, seed=seed))


def synthetic_speech(voices: int, seed: int) -> Iterator[Audio]:
    """Seeded voices, each saying one sentence in each emotion, each time at another level."""
    return (said for said, _, _ in labelled_speech(voices, seed))


def labelled_speech(voices: int, seed: int) -> Iterator[tuple[Audio, int, int]]:
    """The same, with the number of the voice and of the emotion."""
    from moretta.shared.core.labels import EMOTIONS
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
    """Up to `MAX_PUBLIC_FILES` usable wav files, chosen by seed; those that cannot be used are passed over.

    Raises:
        StudyError: there is none.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".wav" and path.is_file())
    order = np.random.default_rng([seed, 0xF01DE]).permutation(len(paths))
    clips = islice(_readable(paths[index] for index in order), MAX_PUBLIC_FILES)
    first = next(clips, None)
    if first is None:
        raise StudyError(
            f"no usable speech among {len(paths)} wav files in {folder}",
            expected="recordings that anybody may have",
            fix="correct `public_speech` in the study, or leave it out to use synthetic speech",
        )
    yield first
    yield from clips


def _readable(paths: Iterator[Path]) -> Iterator[Audio]:
    from moretta.shared.data.media import read_audio
    from moretta.shared.features.mfcc import check_samples

    for path in paths:
        try:
            yield check_samples(read_audio(path))
        except ClipError:
            continue
