"""Everybody's measures come to one scale, and few clips neither break it nor give a person away."""

from __future__ import annotations

import numpy as np
import pytest

from moretta.shared.core.errors import ReleaseError
from moretta.shared.features.speaker_scale import (
    CLIP_VARIANCE,
    LEVELS,
    PUBLIC_CLIPS,
    WIDEST,
    PublicMeasures,
    SpeakerScale,
)
from moretta.shared.privacy.noise import SeededNoise


def people(count: int, clips: int, *, seed: int = 0, frames: int = 12) -> list[list[np.ndarray]]:
    """Everybody has a middle and a spread of their own in three dimensions; the second is skewed."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        middle, spread = rng.normal(0, 1, 3), np.exp(rng.normal(0, 0.5, 3))
        found.append([middle + spread * drawn(rng, frames) for _ in range(clips)])
    return found


def drawn(rng: np.random.Generator, frames: int) -> np.ndarray:
    values = rng.normal(0, 1, 3) + 0.5 * rng.normal(size=(frames, 3))
    values[:, 1] = np.exp(values[:, 1])
    return values


PUBLIC = PublicMeasures.of(people(40, 10, seed=9))


def scaled(clips: list[np.ndarray]) -> np.ndarray:
    scale = SpeakerScale(clips, PUBLIC)
    return np.concatenate([scale(clip) for clip in clips])


def test_everybody_has_the_same_middle_spread_and_shape() -> None:
    for clips in people(6, 30, seed=1):
        normal = scaled(clips)
        assert np.abs(normal.mean(0)).max() < 0.3
        assert np.abs(normal.std(0) - 1).max() < 0.2
        assert np.abs((normal**3).mean(0)).max() < 0.9


def test_a_persons_moments_keep_their_order() -> None:
    (clips,) = people(1, 10, seed=2)
    raw, normal = np.concatenate(clips), scaled(clips)
    for column in range(3):
        order = np.argsort(raw[:, column])
        assert (np.diff(normal[order, column]) >= -1e-9).all()


def test_a_clip_that_comes_later_is_scaled_as_it_would_have_been() -> None:
    (clips,) = people(1, 30, seed=3)
    early, late = SpeakerScale(clips[:-1], PUBLIC), SpeakerScale(clips, PUBLIC)
    assert np.abs(early(clips[-1]) - late(clips[-1])).mean() < 0.2


def middle_left(clips: int) -> float:
    """Mean over people of what is left of a middle 3 spreads away, in clips that a scale of so many was not made of."""
    rng = np.random.default_rng(4)
    found = []
    for _ in range(30):
        scale = SpeakerScale([3 + drawn(rng, 6) for _ in range(clips)], PUBLIC)
        found.append(np.mean([scale(3 + drawn(rng, 6)) for _ in range(10)]))
    return float(np.mean(found))


def test_more_clips_leave_less_of_a_persons_middle() -> None:
    left = [middle_left(clips) for clips in (1, 3, 10, 30)]
    assert left == sorted(left, reverse=True)
    assert left[0] > 0.3, "one clip alone must not be taken for how a person usually looks"
    assert left[-1] < 0.4


def test_two_clips_of_a_person_are_not_each_others_mirror_image() -> None:
    """Ranks among two clips alone would be: whatever one has more of, the other has less of, and that links them."""
    products = []
    for first, second in people(200, 2, seed=5):
        scale = SpeakerScale([first, second], PUBLIC)
        products.append(scale(first).mean(0) * scale(second).mean(0))
    assert np.mean(products) > -0.35


def correlation(*, offset: bool) -> float:
    """Mean product of the means of two clips of one person, who differ, and whose clips vary, as expected."""
    rng, noise, products = np.random.default_rng(8), SeededNoise(1), []

    def calm() -> list[np.ndarray]:
        middle = (CLIP_VARIANCE / PUBLIC_CLIPS) ** 0.5 * rng.normal(size=3)
        frames = (1 - CLIP_VARIANCE) ** 0.5 * rng.normal(size=(4, 12, 3))
        return list(middle + CLIP_VARIANCE**0.5 * rng.normal(size=(4, 1, 3)) + frames)

    public = PublicMeasures.of([calm() for _ in range(100)])
    for _ in range(400):
        clips = calm()
        scale = SpeakerScale(clips, public, noise=noise if offset else None)
        means = np.stack([scale(clip).mean(0) for clip in clips])
        total = means.sum(0)
        products.append((total**2 - (means**2).sum(0)) / (4 * 3))
    return float(np.mean(products))


def test_who_knows_some_clips_of_a_person_does_not_know_where_the_others_lie() -> None:
    assert correlation(offset=False) < -0.03, "clips that were centred together lie opposite each other"
    assert abs(correlation(offset=True)) < 0.025


def test_a_persons_offset_is_drawn_once() -> None:
    (clips,) = people(1, 5, seed=10)
    scale, plain = SpeakerScale(clips, PUBLIC, noise=SeededNoise(1)), SpeakerScale(clips, PUBLIC)
    apart = np.concatenate([scale(clip) - plain(clip) for clip in clips])
    inside = np.concatenate([np.abs(scale(clip)) < WIDEST for clip in clips])
    for column in range(3):
        assert np.ptp(apart[inside[:, column], column]) < 1e-9
    assert (np.abs(apart[0]) > 1e-3).all()


def test_a_long_clip_counts_as_much_as_a_short_one() -> None:
    rng = np.random.default_rng(6)
    short, long = drawn(rng, 10), drawn(rng, 10) + 4
    once, often = (SpeakerScale([short, np.repeat(long, n, axis=0)], PUBLIC) for n in (1, 20))
    np.testing.assert_allclose(once(short), often(short), atol=0.1)


def test_what_never_changes_is_finite_and_in_the_middle() -> None:
    scale = SpeakerScale([np.zeros((5, 3)), np.zeros((5, 3))], PUBLIC)
    normal = scale(np.zeros((5, 3)))
    assert np.isfinite(normal).all() and np.abs(normal).max() <= WIDEST
    assert np.abs(normal).max() < 1.5


def test_public_values_are_the_inverse_for_public_people() -> None:
    clips = people(1, 60, seed=7)[0]
    public = PublicMeasures.of([clips])
    scale = SpeakerScale(clips, public, public_clips=1e-9)
    raw = np.concatenate(clips)
    back = public.values(np.concatenate([scale(clip) for clip in clips]))
    inside = (raw > public.quantiles[2]) & (raw < public.quantiles[-3])
    np.testing.assert_allclose(back[inside], raw[inside], atol=0.15)


def test_arrays_come_back_and_forged_ones_are_refused() -> None:
    arrays = PUBLIC.to_arrays("public.")
    np.testing.assert_allclose(PublicMeasures.from_arrays(arrays, "public.").quantiles, PUBLIC.quantiles, rtol=1e-5)
    for forged in (
        {**arrays, "public.middle": arrays["public.middle"][:1]},
        {**arrays, "public.quantiles": np.full((LEVELS, 3), np.nan, np.float32)},
        {"public.middle": arrays["public.middle"]},
    ):
        with pytest.raises(ReleaseError):
            PublicMeasures.from_arrays(forged, "public.")
