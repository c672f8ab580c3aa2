"""Words of a clip by pocketsphinx, which is given the sentences that a corpus has: a closed grammar.

A choice among a dozen sentences is far easier than free recognition. A low word error rate says that enough of the
words is left to know which sentence was said, and a high one that it is not. The recogniser (Huggins-Daines et al.,
ICASSP 2006) and its model of American English stand inside the wheel of the extra `[asr]`; nothing is fetched.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, Self

import numpy as np

from moretta.shared.core.array_types import Float32
from moretta.shared.data.corpora.cremad import SENTENCES

_LARGEST = 32_767


class SentenceRecognizer:
    """Which of CREMA-D's sentences a clip says."""

    texts: dict[str, tuple[str, ...]]
    """Words of each sentence, by its code."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder, get_model_path

        model, dictionary = get_model_path("en-us/en-us"), get_model_path("en-us/cmudict-en-us.dict")
        self._decoder: Any = Decoder(hmm=model, dict=dictionary, lm=None, loglevel="FATAL")
        self.texts = {code: tuple(text.lower().rstrip(".").split()) for code, text in SENTENCES.items()}
        said = " | ".join(" ".join(text) for text in self.texts.values())
        self._decoder.add_jsgf_string("sentences", f"#JSGF V1.0;\ngrammar sentences;\npublic <said> = {said} ;\n")
        self._decoder.activate_search("sentences")

    @classmethod
    def missing(cls, sentences: Collection[str]) -> str | None:
        """Why clips of these sentences cannot be recognised here, or None."""
        if unknown := sorted(set(sentences) - SENTENCES.keys()):
            return f"the words of these sentences are not known: {', '.join(unknown[:5]) or 'none is named'}"
        if importlib.util.find_spec("pocketsphinx") is None:
            return "pocketsphinx is not installed: pip install 'moretta[asr]'"
        return None

    @classmethod
    @cache
    def load(cls) -> Self:
        """One for a process: reading the model takes half a second."""
        return cls()

    def words_of(self, code: str) -> tuple[str, ...]:
        """What a sentence says."""
        return self.texts[code]

    def recognize(self, samples: Float32) -> tuple[str, ...]:
        """The words that are recognised in [samples], 16 kHz, in [-1, 1]; empty where none are."""
        sound = np.clip(np.rint(np.asarray(samples, np.float64) * _LARGEST), -_LARGEST, _LARGEST).astype(np.int16)
        self._decoder.start_utt()
        self._decoder.process_raw(sound.tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return () if found is None else tuple(found.hypstr.split())


def word_errors(truth: Sequence[str], recognized: Sequence[str]) -> int:
    """Words that were put in, left out or taken for others: the edit distance."""
    from torchaudio.functional import edit_distance

    return int(edit_distance(list(truth), list(recognized)))


def guessed_errors(truth: Sequence[Sequence[str]]) -> float:
    """Word error rate of who always answers with one of the sentences that occur, at random."""
    texts = sorted({tuple(text) for text in truth})
    apart = {(one, other): word_errors(one, other) for one in texts for other in texts}
    errors = sum(apart[tuple(text), other] for text in truth for other in texts) / len(texts)
    return errors / sum(map(len, truth))
