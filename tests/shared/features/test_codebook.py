import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.shared.features.voice_forms import FrameSample, fit_codebook, nearest


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 13), st.integers(0, 2**31))
def test_nearest_is_the_nearest(frames, words, width, seed):
    generator = np.random.default_rng(seed)
    x, codebook = generator.normal(size=(frames, width)), generator.normal(size=(words, width)).astype(np.float32)
    tokens = nearest(x, codebook)
    distances = np.linalg.norm(x[:, None] - codebook[None], axis=2)
    chosen = distances[np.arange(frames), tokens]
    np.testing.assert_allclose(chosen, distances.min(axis=1), atol=1e-4)
    assert tokens.dtype == np.int32


def test_many_frames_are_searched_like_few():
    generator = np.random.default_rng(1)
    frames, codebook = generator.normal(size=(20_000, 3)), generator.normal(size=(7, 3)).astype(np.float32)
    parts = [nearest(frames[i : i + 1], codebook)[0] for i in range(8_180, 8_200)]
    np.testing.assert_array_equal(nearest(frames, codebook)[8_180:8_200], parts)


def test_codebook_finds_clusters_and_repeats_by_seed():
    generator = np.random.default_rng(2)
    centres = np.array([[-5, 0], [5, 0], [0, 8]])
    frames = centres[generator.integers(3, size=3000)] + 0.1 * generator.normal(size=(3000, 2))
    codebook = fit_codebook(frames, 3, seed=1)
    np.testing.assert_allclose(codebook[codebook[:, 0].argsort()], centres[[0, 2, 1]], atol=0.2)
    np.testing.assert_array_equal(codebook, fit_codebook(frames, 3, seed=1))


def test_fewer_frames_than_codewords_give_fewer_codewords():
    assert fit_codebook(np.random.default_rng(3).normal(size=(5, 4)), 64, seed=1).shape == (5, 4)


def test_sample_is_bounded_uniform_and_repeatable():
    def sample() -> np.ndarray:
        kept = FrameSample(500, 1, seed=4)
        for start in range(0, 10_000, 100):
            kept.add(np.arange(start, start + 100, dtype=np.float32)[:, None])
        return kept.frames()

    frames = sample()
    assert frames.shape == (500, 1)
    assert len(np.unique(frames)) == 500
    assert abs(frames.mean() - 5000) < 4 * 2887 / np.sqrt(500)
    np.testing.assert_array_equal(frames, sample())


def test_small_stream_is_kept_whole():
    kept = FrameSample(500, 2, seed=5)
    kept.add(np.ones((3, 2), np.float32))
    assert kept.frames().shape == (3, 2)
