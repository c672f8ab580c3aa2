import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata
from sklearn.metrics import top_k_accuracy_score

from moretta.shared.audit.metrics.identification import Ranking, hits, mean_rank, median_rank, pool, ranks, top1, top5
from moretta.shared.audit.metrics.scores import Metric, metrics_of
from moretta.shared.audit.metrics.verification import eer


def noisy(speakers: int, clips: int, signal: float, seed: int = 0) -> Ranking:
    speaker = np.repeat(np.arange(speakers), clips)
    noise = np.random.default_rng(seed).normal(size=(len(speaker), speakers))
    return Ranking(noise + signal * np.eye(speakers)[speaker], np.arange(speakers), speaker)


@given(arrays(np.int64, (7, 6), elements=st.integers(0, 3)), st.permutations(range(6)))
def test_ranks_are_the_mean_ranks_among_ties(scores: np.ndarray, gallery: list[int]) -> None:
    ranking = Ranking(scores, np.array(gallery), np.arange(7) % 6)
    expected = [rankdata(-row)[gallery.index(i % 6)] for i, row in enumerate(scores)]
    assert ranks(ranking).tolist() == expected


def test_top_k_is_scikit_learns_where_nothing_ties() -> None:
    ranking = noisy(12, 20, 1.0)
    for k in (1, 2, 5):
        expected = top_k_accuracy_score(ranking.speaker, ranking.scores, k=k)
        assert hits(ranking, k).mean() == pytest.approx(expected)


@pytest.mark.parametrize("m", metrics_of("ranking"), ids=lambda m: m.name)
@given(speakers=st.integers(6, 20))
def test_a_constant_score_gives_exactly_chance(m: Metric, speakers: int) -> None:
    ranking = Ranking(np.zeros((speakers * 2, speakers)), np.arange(speakers), np.arange(speakers * 2) % speakers)
    assert m.function(ranking) == pytest.approx(m.chance_among(speakers))


def test_a_perfect_attacker_ranks_everybody_first() -> None:
    ranking = noisy(8, 3, 1e3)
    assert (top1(ranking), top5(ranking), mean_rank(ranking), median_rank(ranking)) == (1, 1, 1, 1)


def test_top5_of_five_speakers_says_nothing_and_is_not_given() -> None:
    assert top5(noisy(5, 3, 1.0)) is None


def test_pooling_takes_each_clip_once_at_length_one_and_whole_disjoint_sets_beyond() -> None:
    ranking = noisy(3, 6, 1.0)
    single, all_clips = pool(ranking, 1), pool(ranking, 6)
    assert single is not None and all_clips is not None
    assert np.array_equal(np.sort(single.scores, axis=0), np.sort(ranking.scores, axis=0))
    assert all_clips.scores == pytest.approx(ranking.scores.reshape(3, 6, 3).mean(axis=1))


def test_pooling_leaves_out_speakers_with_too_few_clips() -> None:
    ranking = noisy(4, 10, 1.0).rows(np.arange(35))
    three, ten = pool(ranking, 3), pool(ranking, 10)
    assert three is not None and ten is not None
    assert set(three.speaker) == {0, 1, 2, 3}
    assert set(ten.speaker) == {0, 1, 2}
    assert pool(ranking, 11) is None


def figures(ranking: Ranking, length: int) -> tuple[float, float]:
    """Top-1 and EER of pooled clips."""
    pooled = pool(ranking, length)
    assert pooled is not None
    trials = pooled.trials()
    assert trials is not None
    return top1(pooled), eer(trials)


def test_linkage_grows_with_the_number_of_pooled_clips() -> None:
    top, errors = zip(*(figures(noisy(12, 60, 0.7), length) for length in (1, 3, 10, 30)), strict=True)
    assert list(top) == sorted(top) and top[0] < 0.4 and top[-1] > 0.95
    assert list(errors) == sorted(errors, reverse=True)


def test_pooling_noise_stays_at_chance() -> None:
    found, error = figures(noisy(10, 60, 0.0, seed=5), 3)
    assert found == pytest.approx(0.1, abs=0.05)
    assert error == pytest.approx(0.5, abs=0.05)


def test_pools_are_the_same_for_the_same_seed() -> None:
    one, two = (pool(noisy(6, 12, 0.5), 3, seed=3) for _ in range(2))
    assert one is not None and two is not None and np.array_equal(one.scores, two.scores)
