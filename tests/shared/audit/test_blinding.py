"""Nobody blinds the attackers by values far outside those of the others, and usual people are never left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.shared.audit.blinding import FEWEST_PEOPLE, outlying
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.runner import audit
from moretta.shared.release.release_format import ReleasedClip

CLIPS = 12


def _people(people: int, width: int, seed: int, *, tails: str = "normal") -> tuple[np.ndarray, np.ndarray]:
    """Clips around a middle of each person's own, with values of very different scales."""
    rng = np.random.default_rng(seed)
    middles, scales = rng.normal(size=(people, 1, width)), 10.0 ** rng.integers(-6, 6, width)
    size = (people, CLIPS, width)
    noise = {
        "normal": rng.normal,
        "t": lambda size: rng.standard_t(4, size),
        "laplace": rng.laplace,
        "cauchy": rng.standard_cauchy,
    }[tails](size=size)
    return ((middles + noise) * scales).reshape(-1, width), np.repeat(np.arange(people), CLIPS)


@settings(max_examples=60, deadline=None)
@given(st.integers(6, 20), st.integers(0, 10**6), st.sampled_from(["normal", "t", "laplace", "cauchy"]))
def test_usual_people_are_never_outside(people: int, seed: int, tails: str) -> None:
    values, labels = _people(people, 64, seed, tails=tails)
    assert not outlying(values, labels).any()


@settings(max_examples=60, deadline=None)
@given(st.integers(6, 20), st.integers(5, 64), st.floats(1.0, 8.0), st.integers(0, 10**6))
def test_people_who_are_easy_to_distinguish_are_seldom_outside(
    people: int, width: int, apart: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(people), CLIPS)
    values = apart * rng.normal(size=(people, width))[labels] + rng.normal(size=(len(labels), width))
    assert outlying(values, labels).mean() <= (0.0 if width >= 16 else 0.34)  # few values make a share coarse


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["normal", "laplace"]))
def test_people_with_many_more_clips_are_not_outside(seed: int, tails: str) -> None:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(22), [2] * 20 + [80, 300])
    values = getattr(rng, tails)(size=(len(labels), 64))
    assert not outlying(values, labels).any()


@settings(max_examples=60, deadline=None)
@given(st.integers(6, 20), st.sampled_from([30.0, 1e20, 1e38, np.inf, np.nan]), st.integers(0, 10**6), st.data())
def test_people_far_outside_are_found_as_long_as_they_are_few(
    people: int, factor: float, seed: int, data: st.DataObject
) -> None:
    values, labels = _people(people, 64, seed)
    far = data.draw(st.sets(st.integers(0, people - 1), min_size=1, max_size=max(1, people // 4)))
    values[np.isin(labels, list(far))] *= factor
    assert set(np.flatnonzero(outlying(values, labels)).tolist()) == far


def test_a_value_that_is_zero_for_most_people_makes_nobody_outlying() -> None:
    values, labels = _people(8, 64, 1)
    values[:, :5] = 0.0
    values[labels == 3, :5] = 1.0
    assert not outlying(values, labels).any()


def test_a_single_huge_clip_of_a_person_is_enough() -> None:
    values, labels = _people(8, 64, 1)
    values[np.flatnonzero(labels == 3)[0]] *= 1e20
    assert np.flatnonzero(outlying(values, labels)).tolist() == [3]


def test_among_few_people_nobody_can_be_called_outlying() -> None:
    values, labels = _people(FEWEST_PEOPLE - 1, 8, 1)
    values[labels == 0] *= 1e20
    assert not outlying(values, labels).any()


def _released(values: np.ndarray, labels: np.ndarray) -> ClipSet:
    clips = [
        ReleasedClip(clip=f"{index:016x}", speaker=f"{person:016x}", emotion="ANG", sentence="", level="")
        for index, person in enumerate(labels.tolist())
    ]
    return ClipSet.from_arrays(clips, list(values.astype(np.float32)), modality="voice", form="code")


@pytest.mark.parametrize("factor", [100.0, 1e20, 3e38])
def test_one_person_s_huge_codes_hide_nobody_else(tmp_path: Path, factor: float) -> None:
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(8), CLIPS)
    values = rng.normal(size=(8, 16))[labels] + 0.3 * rng.normal(size=(len(labels), 16))
    spoiled = values.copy()
    with np.errstate(over="ignore"):
        spoiled[labels == 2] = np.clip(spoiled[labels == 2] * factor, -3e38, 3e38)

    def top1(of: np.ndarray) -> tuple[float, int]:
        found = audit(None, _released(of, labels), attackers=["voice-logistic"], bootstrap=0, workers=1)
        rows = [r for r in found.results if (r.scenario, r.metric, r.pooled) == ("semi-informed", "top1", 1)]
        row = next(r for r in rows if r.subset == "all")
        assert row.left_out == len(found.outlying)
        assert found.unused.get("outlying", 0) == CLIPS * len(found.outlying)
        assert not row.invalid and row.value is not None
        return row.value, row.left_out

    usual, hostile = top1(values), top1(spoiled)
    assert usual[0] > 0.9 and usual[1] == 0
    assert hostile[0] > 0.9 and hostile[1] == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 20), st.integers(2, 20), st.integers(0, 10**6), st.booleans())
def test_values_of_few_steps_make_nobody_outlying(people: int, width: int, seed: int, labels_alone: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(people), CLIPS)
    if labels_alone:  # one of `width` labels a clip, and each person has a favourite
        favourite = rng.integers(width, size=people)[labels]
        chosen = np.where(rng.random(len(labels)) < 0.4, favourite, rng.integers(width, size=len(labels)))
        values = np.eye(width)[chosen]
    else:
        values = rng.choice([-1.0, 0.0, 0.0, 1.0], size=(len(labels), width))
    assert not outlying(values, labels).all()
    assert outlying(values, labels).mean() <= 0.25


def test_many_invented_people_of_one_huge_value_make_every_figure_invalid() -> None:
    values, labels = _people(17, 16, 2)
    values[labels >= 8] = 1e20
    assert outlying(values, labels).all()


@pytest.mark.parametrize(("usual", "factor"), [(8, 1e-6), (8, 1e6), (6, 1e6), (11, 1e6)])
def test_where_invented_people_are_many_no_figure_counts_and_nobody_is_left_out(usual: int, factor: float) -> None:
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(17), CLIPS)
    values = rng.normal(size=(17, 16))[labels] + 0.3 * rng.normal(size=(len(labels), 16))
    values[labels >= usual] *= factor
    found = audit(None, _released(values, labels), attackers=["voice-logistic"], bootstrap=0, workers=1)
    assert not found.outlying and "many-outlying" not in found.unused
    attacked = [r for r in found.results if not r.is_anchor and r.value is not None]
    assert attacked and all(r.invalid and "nobody can say who is usual" in r.reason for r in attacked)
