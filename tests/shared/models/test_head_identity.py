"""Promises of `moretta.shared.models.head`: who a seed is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.shared.models.head import make_identity
from moretta.shared.models.head.hair import CUTS
from moretta.shared.models.head.mesh import HEIGHT, WIDTH, MeshPart, load_asset
from moretta.shared.models.head.traits import OLDEST, YOUNGEST, HairStyle, draw_traits

SEEDS = st.integers(0, 2**31)


@settings(max_examples=6, deadline=None)
@given(SEEDS)
def test_a_seed_is_always_the_same_person(seed: int) -> None:
    first, second = make_identity(seed), make_identity(seed)
    assert first.traits == second.traits
    np.testing.assert_array_equal(first.vertices, second.vertices)
    np.testing.assert_array_equal(first.texture.colour, second.texture.colour)


def test_two_seeds_differ_in_shape_and_colour() -> None:
    first, second = make_identity(1), make_identity(2)
    skin = min(first.skin_count, second.skin_count)
    assert np.abs(first.vertices[:skin] - second.vertices[:skin]).max() > 0.02
    assert np.abs(first.texture.colour - second.texture.colour).mean() > 0.005


@settings(max_examples=200, deadline=None)
@given(SEEDS)
def test_ages_are_those_of_the_corpus_and_sex_is_named(seed: int) -> None:
    traits = draw_traits(seed, None, None)
    assert YOUNGEST <= traits.age <= OLDEST
    assert traits.sex in {"female", "male"}


@pytest.mark.parametrize("sex", ["female", "male"])
def test_requested_sex_and_age_are_given(sex: str) -> None:
    person = make_identity(5, sex=sex, age=61)
    assert (person.sex, person.age) == (sex, 61)


def test_requested_sex_keeps_what_it_does_not_name() -> None:
    drawn = draw_traits(5, None, None)
    other = draw_traits(5, "male" if drawn.sex == "female" else "female", None)
    assert (drawn.age, drawn.skin, drawn.wall) == (other.age, other.skin, other.wall)


def test_unknown_sex_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'other'.*'female' or 'male'"):
        make_identity(1, sex="other")


def test_people_wear_at_least_six_hair_styles() -> None:
    styles = {draw_traits(seed, None, None).style for seed in range(60)}
    assert len(styles) >= 6
    assert len({draw_traits(seed, "female", None).style for seed in range(60)}) >= 4


def test_styles_with_volume_grow_a_shell_and_painted_ones_do_not() -> None:
    for seed in range(8):
        person = make_identity(seed)
        shell = int((person.part == MeshPart.HAIR).sum())
        assert (shell > 0) == (person.traits.style in CUTS)
    assert HairStyle.SHAVED not in CUTS


def test_every_corner_lies_on_the_texture() -> None:
    person = make_identity(3)
    assert person.places.min() >= 0
    assert person.places[..., 0].max() < WIDTH
    assert person.places[..., 1].max() < HEIGHT
    assert person.faces.max() < len(person.vertices)


def test_asset_is_small_plain_and_whole() -> None:
    asset = load_asset()
    assert np.isfinite(asset.rest).all()
    assert np.isfinite(asset.shifts).all()
    assert asset.shifts.shape == (len(asset.targets), len(asset.rest), 3)
    assert {"lips", "eyelids", "ears", "inside-mouth"} <= asset.masks.keys()
    left, right = (asset.rest[eye].mean(0) for eye in asset.eye_rows)
    np.testing.assert_allclose(left * (-1, 1, 1), right, atol=0.02)


def test_unknown_target_is_an_error() -> None:
    with pytest.raises(KeyError, match="face/nothing"):
        load_asset().blend({"face/nothing": 1.0})
