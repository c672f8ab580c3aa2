"""Words of a clip and their places, by pocketsphinx, which is given the sentences that a corpus has: a closed grammar.

The texts of CREMA-D's and of RAVDESS's sentences are known by their codes; a study states those of any other corpus.

The recogniser (Huggins-Daines et al., ICASSP 2006) and its model of American English stand inside the wheel of the
extra `[asr]`; nothing is fetched. A closed grammar finds one of its sentences in any speech. So a free sequence of
phones is recognised beside it: where that fits much better, something else was said.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any, NamedTuple, Self

import numpy as np

from moretta.shared.core.array_types import Float32
from moretta.shared.core.errors import StudyError
from moretta.shared.data.corpora import cremad, ravdess
from moretta.shared.features.mfcc import HOP_SAMPLES

_QUIET_FRAMES, _QUIET_LEVEL = 30, 3e-4
"""Of faint noise before and after a clip: where one ends with its last word, no search comes to the end of a sentence.
With it 2 of 120 clips of the actors below have no sentence, without it 7."""
WORST_FIT = -1.15
LARGEST_LACK = 0.47
LONGEST_WORD_FRAMES = 70.0
"""The three were chosen on 1017 to 1032 of CREMA-D: see docs/systems/public-voice.md for what they let pass."""
_LOUD = 0.03  # of the peak: where a last word that the search did not reach ends
_LARGEST = 32_767
_SENTENCES, _PHONES = "sentences", "phones"
Texts = Mapping[str, str]
"""Text of a sentence, by its code."""


def known_texts(codes: Collection[str], stated: Texts | None = None) -> Texts:
    """Texts of sentences: as stated, else of the corpus that has all these codes; empty where none has."""
    if stated:
        return stated
    return next((texts for texts in (cremad.SENTENCES, ravdess.SENTENCES) if set(codes) <= texts.keys()), {})


class Spoken(NamedTuple):
    """One sentence that was recognised, and where."""

    sentence: str
    """Code of the sentence."""
    words: tuple[tuple[int, int], ...]
    """First frame of each word, and the one after its last, of 10 ms."""


class SentenceRecognizer:
    """Which sentence a clip says.

    Args:
        texts: the sentences that there are; default CREMA-D's.

    Raises:
        StudyError: a word that the recogniser's dictionary lacks.
    """

    texts: dict[str, tuple[str, ...]]
    """Words of each sentence, by its code."""

    def __init__(self, texts: Texts = cremad.SENTENCES) -> None:
        from pocketsphinx import Decoder, get_model_path

        model, dictionary = get_model_path("en-us/en-us"), get_model_path("en-us/cmudict-en-us.dict")
        self._decoder: Any = Decoder(hmm=model, dict=dictionary, lm=None, loglevel="FATAL")
        self.texts = {code: tuple(re.findall(r"[a-z']+", text.lower())) for code, text in texts.items()}
        words = dict.fromkeys(word for text in self.texts.values() for word in text)
        if unknown := [word for word in words if self._decoder.lookup_word(word) is None]:
            expected = "words of American English, as its dictionary has them"
            raise StudyError(f"words that the recogniser does not know: {', '.join(unknown[:5])}", expected=expected)
        said = " | ".join(dict.fromkeys(" ".join(text) for text in self.texts.values()))
        self._decoder.add_jsgf_string(_SENTENCES, f"#JSGF V1.0;\ngrammar sentences;\npublic <said> = {said} ;\n")
        self._decoder.add_allphone_file(_PHONES)
        quiet = np.random.default_rng(0).normal(0, _QUIET_LEVEL, (2, _QUIET_FRAMES * HOP_SAMPLES))
        self._before, self._after = quiet.astype(np.float32)

    @classmethod
    def missing(cls, sentences: Collection[str] = (), stated: Texts | None = None) -> str | None:
        """The reason why clips of these sentences cannot be recognised here; None if they can."""
        if unknown := sorted(set(sentences) - known_texts(sentences, stated).keys()):
            return f"the words of these sentences are not known: {', '.join(unknown[:5]) or 'none is named'}"
        if importlib.util.find_spec("pocketsphinx") is None:
            return "pocketsphinx is not installed: pip install 'moretta[asr]'"
        return None

    @classmethod
    def load(cls, texts: Texts = cremad.SENTENCES) -> Self:
        """One for a process and for these sentences: reading the model takes half a second."""
        return cls._loaded(tuple(texts.items()))

    @classmethod
    @cache
    def _loaded(cls, texts: tuple[tuple[str, str], ...]) -> Self:
        return cls(dict(texts))

    def words_of(self, code: str) -> tuple[str, ...]:
        """The words of a sentence."""
        return self.texts[code]

    def recognize(self, samples: Float32) -> tuple[str, ...]:
        """The words that are recognised in [samples], 16 kHz, in [-1, 1]; empty where none are."""
        found = self._decode(_SENTENCES, samples)
        return () if found is None else tuple(found.hypstr.split())

    def spoken(self, samples: Float32) -> Spoken | None:
        """The sentence of [samples] and the places of its words; None where no sentence fits what is said.

        Some other sentences pass, as the one that fits them best.
        """
        framed = np.concatenate([self._before, samples, self._after])
        found = self._decode(_SENTENCES, framed)
        code = None if found is None else self._begun_by(tuple(found.hypstr.split()))
        if code is None:
            return None
        fit = float(np.log(found.score))
        parts = [part for part in self._decoder.seg() if part.word[0] not in "<[("]
        ends = [(int(part.start_frame), int(part.end_frame) + 1) for part in parts]
        if len(ends) == len(self.texts[code]) - 1:
            loud = np.flatnonzero(np.abs(framed) > _LOUD * np.abs(framed).max())
            ends.append((ends[-1][1], int(loud[-1]) // HOP_SAMPLES + 1))
        last = 1 + len(samples) // HOP_SAMPLES
        words = tuple((max(0, a - _QUIET_FRAMES), min(last, b - _QUIET_FRAMES)) for a, b in ends)
        if len(words) != len(self.texts[code]) or fit < WORST_FIT or any(end <= start for start, end in words):
            return None
        if sum(end - start for start, end in words) > LONGEST_WORD_FRAMES * len(words):
            return None
        free = self._decode(_PHONES, framed)
        lack = float(np.log(free.score)) - fit if free is not None else 0.0
        return Spoken(code, words) if lack <= LARGEST_LACK else None

    def _begun_by(self, text: tuple[str, ...]) -> str | None:
        """The sentence of these words, or the only one that they begin and to which one word is missing."""
        return next((code for code, own in self.texts.items() if own[: max(len(text), len(own) - 1)] == text), None)

    def _decode(self, search: str, samples: Float32) -> Any:
        sound = np.clip(np.rint(np.asarray(samples, np.float64) * _LARGEST), -_LARGEST, _LARGEST).astype(np.int16)
        self._decoder.activate_search(search)
        self._decoder.start_stream()  # forgets the noise of earlier clips: they would change what is recognised here
        self._decoder.start_utt()
        self._decoder.process_raw(sound.tobytes(), full_utt=True)
        self._decoder.end_utt()
        return self._decoder.hyp()
