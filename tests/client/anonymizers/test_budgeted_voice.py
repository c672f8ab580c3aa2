"""A budget for a whole clip or speaker: exact likelihoods, what is released, what is stated."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from moretta.client.anonymizers.clip_budget import RADIUS, ClipBudgetOptions, ClipQuantizer, ClipStatistics
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.privacy.noise import SeededNoise, SystemNoise
from moretta.shared.release.release_format import check_array

sys.path.insert(0, str(Path(__file__).parent))
from budgeted import ANONYMIZERS, PRESETS, clip, clips, made, public_of, study_of


class Grid(SeededNoise):
    """Every pair of uniform numbers of a grid, once: answers then come with their exact probabilities."""

    def __init__(self, kept: int, steps: int) -> None:
        super().__init__(0)
        self._axes = [(np.arange(n) + 0.5) / n for n in (kept, steps)]
        self._drawn = 0

    def uniform(self, shape: Any) -> Any:
        pairs = np.stack(np.meshgrid(*self._axes, indexing="ij")).reshape(2, -1)
        self._drawn += 1
        return pairs[(self._drawn - 1) % 2].reshape(shape)


class Silence(SeededNoise):
    def private_normal(self, scale: float, shape: Any) -> Any:
        return np.zeros(shape)


def distribution(quantizer: ClipQuantizer, codes: np.ndarray) -> np.ndarray:
    """[words], how likely each answer to one code is, by going through all that the noise may be."""
    kept, others = 4_000, quantizer._response.choices - 1
    randomized = quantizer.randomize(np.repeat(codes, kept * others, axis=0), Grid(kept, others))
    return np.bincount(randomized, minlength=others + 1) / len(randomized)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("segments", [1, 2])
def test_no_release_of_a_clip_is_likelier_than_its_budget_allows_and_some_are_as_likely(
    epsilon: float, segments: int
) -> None:
    quantizer = made(preset="dp-clip", form="code-tokens", budget_epsilon=epsilon, segments=segments)
    assert isinstance(quantizer, ClipQuantizer)
    worst = 0.0
    for one, other in itertools.combinations(clips(6), 2):
        rows = [[distribution(quantizer, part[None]) for part in quantizer.codes_of(c, "x")] for c in (one, other)]
        wholes = [[math.prod(p) for p in itertools.product(*parts)] for parts in rows]  # every release there can be
        assert math.isclose(sum(wholes[0]), 1.0)
        worst = max(worst, *(abs(math.log(a / b)) for a, b in zip(*wholes, strict=True)))
    assert worst == pytest.approx(epsilon, rel=0.01)


def test_no_release_of_a_speaker_is_likelier_than_its_budget_allows() -> None:
    """Two people, all of whose clips differ, and with them their own units."""
    quantizer = made(preset="dp-speaker", form="code-tokens", budget_epsilon=2.0, released_clips=3)
    assert isinstance(quantizer, ClipQuantizer)
    people = {"a": clips(12)[:3], "b": clips(12)[3:6], "c": clips(12)[6:9]}
    quantizer.fit([(who, c) for who, said in people.items() for c in said], SeededNoise(1))
    found = {}
    for who, said in people.items():
        each = [distribution(quantizer, quantizer.codes_of(c, who)) for c in said]
        found[who] = [math.prod(p) for p in itertools.product(*each)]
    ratios = [
        abs(math.log(x / y))
        for a, b in itertools.combinations(found, 2)
        for x, y in zip(found[a], found[b], strict=True)
    ]
    assert max(ratios) <= 2.0 * 1.01
    assert max(ratios) > 1.2  # at least two of three tokens differ: the budget is not kept by saying nothing


@pytest.mark.parametrize(("preset", "clips_each"), [("dp-clip", 1), ("dp-speaker", 4)])
@given(epsilon=st.floats(0.5, 10.0), log_delta=st.floats(-8.0, -2.0))
@settings(max_examples=25, deadline=None)
def test_gaussian_noise_keeps_the_budget_by_numerical_integration_and_is_no_larger_than_it_must(
    preset: str, clips_each: int, epsilon: float, log_delta: float
) -> None:
    delta = 10**log_delta
    limit = {"released_clips": clips_each} if preset == "dp-speaker" else {}
    options = ClipBudgetOptions(preset=preset, budget_epsilon=epsilon, budget_delta=delta, **limit)
    reach = 2 * RADIUS * math.sqrt(clips_each) / ClipStatistics.loss_of_clip(options).sigma

    def excess(x: float, at: float) -> float:
        return max(norm.pdf(x, reach) - math.exp(at) * norm.pdf(x), 0.0)

    def hockey_stick(at: float) -> float:
        crossing = at / reach + reach / 2
        return float(quad(excess, crossing, max(crossing, reach) + 12, args=(at,), epsabs=1e-14, limit=200)[0])

    assert hockey_stick(epsilon) <= delta * (1 + 1e-4)
    assert hockey_stick(0.98 * epsilon) > delta


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=10, max_size=10))
@settings(deadline=None)
def test_statistics_lie_in_their_ball_before_the_noise_whatever_was_said(values: list[float]) -> None:
    anonymizer = made(preset="dp-clip", anonymizer="clip-statistics", segments=2)
    bounded = anonymizer.randomize(np.array(values, np.float32).reshape(2, 5), Silence(1))
    assert bounded.shape == (4,)
    assert np.linalg.norm(bounded) <= RADIUS * (1 + 1e-3)


def test_gaussian_noise_has_the_spread_that_was_calibrated() -> None:
    anonymizer = made(preset="dp-clip", anonymizer="clip-statistics")
    code = anonymizer.codes_of(clip(1), "x")
    drawn = np.stack([anonymizer.randomize(code, SeededNoise(1, n)) for n in range(2_000)])
    sigma = anonymizer.loss_of_clip(ClipBudgetOptions()).sigma
    np.testing.assert_allclose(drawn.std(axis=0), sigma, rtol=0.06)
    assert np.linalg.norm(drawn.mean(axis=0)) == pytest.approx(RADIUS, abs=0.1)


@given(samples=st.integers(1_600, 20_000), name=st.sampled_from(ANONYMIZERS), segments=st.sampled_from([1, 3]))
@settings(max_examples=20, deadline=None)
def test_nothing_of_a_releases_shape_reveals_how_long_a_clip_is(samples: int, name: str, segments: int) -> None:
    anonymizer = made(preset="dp-clip", anonymizer=name, segments=segments)
    [short, long] = anonymizer.release([clip(1, samples), clip(2, 30_000)], [SystemNoise()] * 2, ["x", "y"])
    assert isinstance(short, np.ndarray)
    assert isinstance(long, np.ndarray)
    assert (short.shape, short.dtype, anonymizer.frames(short)) == (long.shape, long.dtype, segments)
    check_array("voice", "code", short)


@pytest.mark.parametrize("preset", PRESETS)
def test_released_codes_are_the_codewords_of_the_released_tokens(preset: str) -> None:
    both = []
    for form in ("code-tokens", "code"):
        quantizer = made(preset=preset, form=form, segments=2)
        whose = ["a", "a", "b", "b"]
        quantizer.fit(zip(whose, clips(4), strict=True), SeededNoise(3))
        both.append((quantizer, quantizer.release(clips(4), [SeededNoise(1, n) for n in range(4)], whose)))
    (with_tokens, tokens), (with_codes, codes) = both
    assert with_tokens.codebook is not None
    assert with_codes.codebook is None
    for t, c in zip(tokens, codes, strict=True):
        check_array("voice", "code-tokens", t, codebook_size=len(with_tokens.codebook))
        np.testing.assert_array_equal(with_tokens.codebook[t].ravel(), c)


@pytest.mark.parametrize("name", ANONYMIZERS)
@pytest.mark.parametrize("preset", PRESETS)
def test_clips_that_cannot_be_used_are_returned_as_errors_and_the_others_released(name: str, preset: str) -> None:
    class Broken(SeededNoise):
        def uniform(self, shape: Any) -> Any:
            raise OSError("no entropy")

        def private_normal(self, scale: float, shape: Any) -> Any:
            raise OSError("no entropy")

    said = [clip(1), np.zeros(10, np.float32), np.full(8_000, np.nan, np.float32), clip(2), clip(3)]
    whose = ["a"] * 5
    anonymizer = made(preset=preset, anonymizer=name)
    anonymizer.fit(zip(whose, said, strict=True), SeededNoise(1))
    out = anonymizer.release(said, [*(SeededNoise(n) for n in range(3)), Broken(1), SeededNoise(4)], whose)
    assert [getattr(o, "reason", type(o).__name__) for o in out] == [
        "ndarray", "too-short", "not-finite", "OSError", "ndarray",
    ]  # fmt: skip


@pytest.mark.parametrize("limit", [1, 3])
def test_so_many_clips_of_a_speaker_are_released_as_the_budget_is_for_and_no_more(limit: int) -> None:
    quantizer = made(preset="dp-speaker", released_clips=limit)
    said = {"a": clips(8), "b": clips(8)[:2], "c": (clip(50),) * 8}  # c recorded the same thing eight times
    pairs = [(who, c) for who, each in said.items() for c in each]
    quantizer.fit(pairs, SeededNoise(1))
    whose, what = zip(*pairs, strict=True)
    out = quantizer.release(what, [SeededNoise(n) for n in range(len(pairs))], whose)
    released = [who for who, o in zip(whose, out, strict=True) if isinstance(o, np.ndarray)]
    assert [released.count(who) for who in said] == [limit, min(2, limit), limit]
    left_out = [o for o in out if isinstance(o, ClipError)]
    assert {o.reason for o in left_out} == {"over-budget"}
    assert quantizer.statement({}, "seeded").counts == {"clips_over_budget": len(left_out)}
    [again] = quantizer.release(clips(8)[:1], [SeededNoise(1)], ["b"])
    assert isinstance(again, ClipError)  # what was released once is not released again


def test_which_clips_are_released_is_chance_and_no_matter_of_order() -> None:
    def chosen(seed: int, order: list[int]) -> set[int]:
        quantizer = made(preset="dp-speaker", released_clips=2)
        quantizer.fit([("a", clips(8)[n]) for n in order], SeededNoise(seed))
        out = quantizer.release(clips(8), [SeededNoise(n) for n in range(8)], ["a"] * 8)
        return {n for n, o in enumerate(out) if isinstance(o, np.ndarray)}

    assert chosen(1, list(range(8))) == chosen(1, list(range(8))[::-1])
    assert len({frozenset(chosen(seed, list(range(8)))) for seed in range(12)}) > 6


@pytest.mark.parametrize("name", ANONYMIZERS)
def test_a_speaker_whose_budget_was_never_shared_out_releases_nothing(name: str) -> None:
    anonymizer = made(preset="dp-speaker", anonymizer=name)
    [out] = anonymizer.release([clip(1)], [SeededNoise(1)], ["a"])
    assert isinstance(out, ClipError)
    anonymizer.fit([("a", clip(1))], SeededNoise(1))
    [stranger] = anonymizer.release([clip(1)], [SeededNoise(1)], ["b"])
    assert isinstance(stranger, ClipError)
    assert out.reason == stranger.reason == "not-fitted"


def figures(sizes: dict[str, list[int]], **voice: Any) -> dict[str, tuple[float | None, float, float | None]]:
    statement = made(**voice).statement(sizes, "system")
    return {row.unit: (row.epsilon, row.delta, row.nominal) for row in statement.privacy}


TEN_AND_FOUR = {"a": [1] * 10, "b": [1] * 4}


def test_what_is_stated_is_the_budget_at_its_unit_and_composed_at_the_others() -> None:
    by_clip = figures(TEN_AND_FOUR, preset="dp-clip", budget_epsilon=8.0, segments=2)
    assert by_clip["clip"] == (pytest.approx(8.0), 0.0, 8.0)
    assert by_clip["speaker"] == (pytest.approx(80.0), 0.0, 80.0)
    assert by_clip["frame"] == by_clip["value"] == (pytest.approx(8.0), 0.0, None)
    by_speaker = figures(TEN_AND_FOUR, preset="dp-speaker", budget_epsilon=8.0)
    assert by_speaker["clip"] == by_speaker["speaker"] == (pytest.approx(8.0), 0.0, 8.0)
    fewer = figures({"a": [1]}, preset="dp-speaker", budget_epsilon=8.0)
    assert fewer["speaker"] == (pytest.approx(2.0), 0.0, 8.0)  # one clip where four could have been released
    gaussian = figures(TEN_AND_FOUR, preset="dp-clip", anonymizer="clip-statistics", budget_epsilon=4.0)
    assert gaussian["clip"] == (pytest.approx(4.0, rel=1e-6), 1e-5, 4.0)
    assert 4.0 * math.sqrt(10) < (gaussian["speaker"][0] or 0) < 40.0  # Gaussians compose by their root
    gaussian = figures(TEN_AND_FOUR, preset="dp-speaker", anonymizer="clip-statistics", budget_epsilon=4.0)
    assert gaussian["speaker"] == gaussian["clip"] == (pytest.approx(4.0, rel=1e-6), 1e-5, 4.0)


@pytest.mark.parametrize("name", ANONYMIZERS)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_ledger_gets_what_the_statement_says(name: str, preset: str) -> None:
    anonymizer = made(preset=preset, anonymizer=name, budget_epsilon=3.0)
    for unit, losses in anonymizer.losses(TEN_AND_FOUR).items():
        [stated] = [row for row in anonymizer.statement(TEN_AND_FOUR, "system").privacy if row.unit == unit]
        [loss] = losses
        assert loss.unit == unit
        assert loss.epsilon(stated.delta) == pytest.approx(stated.epsilon)
    planned = type(anonymizer).planned_losses(
        study_of(preset=preset, anonymizer=name, budget_epsilon=3.0), TEN_AND_FOUR
    )
    assert planned == anonymizer.losses(TEN_AND_FOUR)
    assert anonymizer.losses({}) == {"clip": (), "speaker": ()}


def test_the_statement_says_what_is_not_covered() -> None:
    for row in made(preset="dp-clip").statement(TEN_AND_FOUR, "system").privacy:
        assert "number of frames is not released" in row.note
        assert "labels" in row.note


def test_codewords_of_another_number_than_the_budget_requires_are_refused() -> None:
    two, eight = study_of(preset="dp-clip", budget_epsilon=2.0), study_of(preset="dp-clip", budget_epsilon=8.0)
    with pytest.raises(StudyError, match="16 public codewords"):
        ClipQuantizer.from_study(two, public_of(eight))
    with pytest.raises(StudyError, match="public arrays without"):
        ClipQuantizer.from_study(eight, {k: v for k, v in public_of(eight).items() if "codes" not in k})
