from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.shared.privacy.auditing import Trials, gaussian_lower_bound
from moretta.shared.privacy.codebook_budget import codebook_losses, codebook_statements, lloyd_noise
from moretta.shared.privacy.dp_lloyd import DpLloyd
from moretta.shared.privacy.lloyd_sums import (
    clip_sums,
    contribution_norm,
    moved_words,
    noisy_sums,
    public_radius,
    speaker_sums,
)
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.study import parse_study
from moretta.shared.study_voice import VoiceSection

K, D = 6, 3


def words(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(K, D)).astype(np.float32)


def section(**voice: object) -> VoiceSection:
    return parse_study({"voice": {"codebook": "federated", "codebook_size": 16, **voice}}).voice


@given(
    seed=st.integers(0, 10_000),
    clips=st.integers(1, 5),
    frames=st.integers(1, 30),
    size=st.floats(0, 1e6),
    radius=st.floats(1e-3, 1e3),
)
@settings(deadline=None)
def test_no_speaker_adds_more_than_one_whatever_was_said(
    seed: int, clips: int, frames: int, size: float, radius: float
) -> None:
    generator = np.random.default_rng(seed)
    each = [
        clip_sums((size * generator.normal(size=(frames, D))).astype(np.float32), words(), radius) for _ in range(clips)
    ]
    assert max(np.linalg.norm(c) for c in each) <= 1 + 1e-6
    assert np.linalg.norm(speaker_sums(np.stack(each))) <= 1 + 1e-9


def test_a_speaker_who_says_one_thing_all_the_time_reaches_the_bound() -> None:
    same = clip_sums(np.repeat(words()[:1] + 100, 50, axis=0), words(), 1.0)
    assert np.linalg.norm(speaker_sums(same[None])) == pytest.approx(1.0)


@given(seed=st.integers(0, 1_000), clips=st.integers(1, 6))
@settings(deadline=None)
def test_one_clip_moves_its_speaker_no_further_than_its_share(seed: int, clips: int) -> None:
    """Its content becomes nothing, and its place stays: `zero-out`."""
    generator = np.random.default_rng(seed)
    each = np.stack(
        [clip_sums(generator.normal(size=(1 + n, D)).astype(np.float32), words(), 0.5) for n in range(clips)]
    )
    without = each.copy()
    without[0] = 0
    moved = float(np.linalg.norm(speaker_sums(each) - speaker_sums(without)))
    assert moved <= min(2.0, 1 / (clips * contribution_norm(K))) + 1e-9


def test_without_noise_words_move_to_the_means_of_their_frames() -> None:
    """Plain k-means of one clip, straight from its definition, where no way is cut."""
    points = np.random.default_rng(2).normal(size=(500, D)).astype(np.float32)
    nearest = np.linalg.norm(points[:, None] - words()[None], axis=2).argmin(axis=1)
    expected = np.stack([points[nearest == k].mean(axis=0) for k in range(K)])
    mean = clip_sums(points, words(), 50.0) / contribution_norm(K)  # as if nothing had been cut to norm 1
    np.testing.assert_allclose(moved_words(words(), mean, noise_std=0.0, radius=50.0), expected, atol=1e-4)


def test_words_that_nothing_is_heard_of_stay_where_they_are() -> None:
    np.testing.assert_array_equal(moved_words(words(), np.zeros((K, D + 1)), noise_std=0.0, radius=1.0), words())
    drowned = noisy_sums([np.zeros((K, D + 1))], 3.0, SeededNoise(1)).astype(np.float64)
    moved = moved_words(words(), drowned, noise_std=3.0, radius=1.0) - words()
    assert np.linalg.norm(moved, axis=1).mean() < 0.1


@given(seed=st.integers(0, 1_000), noise=st.floats(0, 10), size=st.floats(0, 1e6))
@settings(deadline=None)
def test_no_word_moves_further_than_the_radius_whatever_the_sites_send(seed: int, noise: float, size: float) -> None:
    sums = size * np.random.default_rng(seed).normal(size=(K, D + 1))
    moved = moved_words(words(), sums, noise_std=noise, radius=0.7)
    assert np.isfinite(moved).all()
    assert np.linalg.norm(moved - words(), axis=1).max() <= 0.7 * (1 + 1e-4)


def test_the_radius_is_how_far_words_are_apart() -> None:
    line = np.array([[0, 0], [1, 0], [3, 0], [6, 0]], np.float32)
    assert public_radius(line) == pytest.approx(1.5)  # of 1, 1, 2, 3
    assert public_radius(np.zeros((4, 2), np.float32)) > 0


def test_the_noise_keeps_a_speakers_budget_over_all_iterations() -> None:
    voice = section(codebook_epsilon=3.0, codebook_iterations=5, budget_delta=1e-4)
    losses = codebook_losses(voice, 8)
    assert losses["speaker"].epsilon(1e-4) == pytest.approx(3.0, rel=1e-5)
    assert losses["speaker"].iterations == 5
    assert lloyd_noise(voice) == losses["speaker"].noise_multiplier
    # a clip of eight moves an eighth of its speaker's mean, 1/8 over the norm of 1/2 that it is cut to
    assert losses["clip"].noise_multiplier == pytest.approx(4 * lloyd_noise(voice))
    assert codebook_losses(voice, 1)["clip"].noise_multiplier == pytest.approx(lloyd_noise(voice) / 2)
    own_units = section(preset="dp-speaker", codebook_iterations=5)
    assert codebook_losses(own_units, 100)["clip"].noise_multiplier == pytest.approx(lloyd_noise(own_units) / 2)


def test_iterations_on_the_ledger_one_by_one_come_to_what_was_planned() -> None:
    from moretta.shared.privacy.composition import composed_epsilon

    voice = section(codebook_epsilon=3.0, codebook_iterations=5)
    one = codebook_losses(voice, 8, iterations=1)["speaker"]
    assert composed_epsilon([one] * 5, delta=voice.budget_delta) == pytest.approx(3.0, rel=1e-4)


def test_statements_tell_of_a_federated_codebook_and_of_no_other() -> None:
    sizes = {"a": [1] * 8, "b": [1] * 12}
    rows = {row.unit: row for row in codebook_statements(section(codebook_epsilon=3.0), sizes)}
    assert rows["speaker"].epsilon == pytest.approx(3.0, rel=1e-5)
    assert rows["speaker"].nominal == 3.0
    assert 0 < (rows["clip"].epsilon or 0) < 3.0
    assert codebook_statements(section(codebook="public"), sizes) == ()


def canaries(noise: float, *, cut: bool = True, trials: int = 4_000) -> Trials:
    """A speaker who says one thing all the time, in one iteration's sums, or nobody in the speaker's place."""
    claim = DpLloyd(noise_multiplier=1.5, iterations=1)
    same = clip_sums(np.repeat(words()[:1] + 100, 50, axis=0), words(), 1.0)
    added = speaker_sums(same[None]) if cut else same / contribution_norm(K) ** 2
    direction = same / np.linalg.norm(same)
    others = speaker_sums(clip_sums(words(3) + 1, words(), 1.0)[None])
    scores = [
        [
            float((noisy_sums(speakers, noise * claim.noise_multiplier, SeededNoise(trial, who)) * direction).sum())
            for trial in range(trials)
        ]
        for who, speakers in (("there", [others, added]), ("away", [others, 0 * added]))
    ]
    base = float((others * direction).sum())
    return Trials(np.array(scores[0]) - base, np.array(scores[1]) - base)


def test_canaries_in_sums_prove_less_than_the_claim_and_convict_what_is_broken() -> None:
    claim = DpLloyd(noise_multiplier=1.5, iterations=1).epsilon(1e-5)
    assert claim is not None

    def proven(trials: Trials, cut: float = 0.5) -> float:
        return gaussian_lower_bound(trials, delta=1e-5, cut=cut, confidence=0.999)

    assert 0.5 * claim < proven(canaries(1.0)) <= claim
    assert proven(canaries(0.5)) > claim
    assert proven(canaries(1.0, cut=False), cut=0.75) > claim
