import pytest
from hypothesis import given
from hypothesis import strategies as st

from moretta.shared.core.errors import StudyError
from moretta.shared.data.clips import Speaker, assign_sites, make_folds

people = st.lists(
    st.builds(Speaker, st.integers(1001, 1200).map(str), st.sampled_from(["female", "male", None])),
    min_size=2,
    max_size=60,
    unique_by=lambda speaker: speaker.id,
)


@given(people, st.integers(2, 8), st.integers(0, 2**32))
def test_every_speaker_is_in_one_fold_and_sexes_are_balanced(speakers: list[Speaker], folds: int, seed: int) -> None:
    folds = min(folds, len(speakers))
    dealt = make_folds(speakers, folds, seed)
    assert sorted(number for fold in dealt for number in fold) == sorted(speaker.id for speaker in speakers)
    for sexes in (("female",), ("male",), (None,), ("female", "male", None)):
        group = {speaker.id for speaker in speakers if speaker.sex in sexes}
        sizes = [len(group.intersection(fold)) for fold in dealt]
        assert max(sizes) - min(sizes) <= 1


@given(people, st.randoms(use_true_random=False), st.integers(0, 99))
def test_folds_depend_on_the_seed_and_not_on_the_order_of_speakers(speakers, random, seed) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(speakers)
    random.shuffle(shuffled)
    assert make_folds(speakers, 2, seed) == make_folds(shuffled, 2, seed)


def test_another_seed_deals_otherwise() -> None:
    speakers = [Speaker(str(number)) for number in range(1001, 1025)]
    assert make_folds(speakers, 5, 1) != make_folds(speakers, 5, 2)


@given(people, st.integers(1, 8))
def test_every_site_has_a_speaker(speakers: list[Speaker], sites: int) -> None:
    sites = min(sites, len(speakers))
    dealt = assign_sites(speakers, sites, 0)
    assert len(dealt) == sites and all(dealt)
    assert sorted(number for site in dealt for number in site) == sorted(speaker.id for speaker in speakers)


def test_too_few_speakers_are_an_error_that_names_both_numbers() -> None:
    speakers = [Speaker("1001"), Speaker("1002"), Speaker("1001")]
    with pytest.raises(StudyError, match=r"5 folds over 2 speakers"):
        make_folds(speakers, 5, 0)
    with pytest.raises(StudyError, match=r"3 sites over 2 speakers"):
        assign_sites(speakers, 3, 0)
    with pytest.raises(StudyError, match="folds = 1"):
        make_folds(speakers, 1, 0)
    with pytest.raises(StudyError, match="sites = 0"):
        assign_sites(speakers, 0, 0)
