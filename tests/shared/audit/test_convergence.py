from __future__ import annotations

import numpy as np
import pytest

from moretta.shared.audit.attackers.base import NotConvergedError
from moretta.shared.audit.crossval import check_learned

PEOPLE = np.repeat(np.arange(10), 60)
WORDS = np.random.default_rng(1).integers(0, 6, 600)
ONE_WORD = np.eye(6)[WORDS]
"""Of each clip one of six words, which have nothing to do with people."""


def test_who_learned_a_quarter_of_the_way_has_learned() -> None:
    unlike = np.arange(600.0)[:, None]
    right = np.where(np.arange(600) % 2 == 0, PEOPLE, (PEOPLE + 1) % 10)
    check_learned(unlike, PEOPLE, right)
    with pytest.raises(NotConvergedError, match=r"training accuracy 0.10 where chance is 0.10; expected at least 0.3"):
        check_learned(unlike, PEOPLE, np.zeros(600, np.int64))


def test_no_attacker_has_to_distinguish_equal_clips() -> None:
    """Best is to say of each word who used it most, which is hardly better than guessing."""
    most = np.array([np.bincount(PEOPLE[word == WORDS]).argmax() for word in range(6)])
    said = most[WORDS]
    assert (said == PEOPLE).mean() < 0.2
    check_learned(ONE_WORD, PEOPLE, said)


def test_an_attacker_that_has_not_even_learned_that_is_invalid() -> None:
    with pytest.raises(NotConvergedError, match="did not converge"):
        check_learned(ONE_WORD, PEOPLE, np.zeros(600, np.int64))
    check_learned(np.zeros((600, 6)), PEOPLE, np.zeros(600, np.int64))
