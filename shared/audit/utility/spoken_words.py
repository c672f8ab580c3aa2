"""Errors in recognised words, and how many of them guessing makes.

A choice among a dozen sentences is far easier than free recognition. A low word error rate says that enough of the
words is left to know which sentence was said, and a high one that it is not.
"""

from __future__ import annotations

from collections.abc import Sequence


def word_errors(truth: Sequence[str], recognized: Sequence[str]) -> int:
    """Words that were put in, left out or taken for others: the edit distance."""
    from torchaudio.functional import edit_distance

    return int(edit_distance(list(truth), list(recognized)))


def guessed_errors(truth: Sequence[Sequence[str]]) -> float:
    """Word error rate of choosing one of the sentences that occur, at random."""
    texts = sorted({tuple(text) for text in truth})
    apart = {(one, other): word_errors(one, other) for one in texts for other in texts}
    errors = sum(apart[tuple(text), other] for text in truth for other in texts) / len(texts)
    return errors / sum(map(len, truth))
