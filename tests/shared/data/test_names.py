import pytest
from hypothesis import given
from hypothesis import strategies as st

from moretta.shared.core.errors import ClipError
from moretta.shared.core.labels import Emotion
from moretta.shared.data.corpora.cremad import SENTENCES, ClipName, Level

names = st.builds(
    ClipName,
    st.integers(0, 9999),
    st.sampled_from(sorted(SENTENCES)),
    st.sampled_from(Emotion),
    st.sampled_from(Level),
)


@given(names)
def test_every_name_reads_back_as_itself(name: ClipName) -> None:
    assert ClipName.parse(str(name)) == name


@given(names, st.integers(0, 14), st.characters())
def test_one_changed_character_gives_a_valid_name_or_a_named_refusal(name: ClipName, at: int, new: str) -> None:
    text = str(name)
    changed = text[:at] + new + text[at + 1 :]
    try:
        assert str(ClipName.parse(changed)) == changed
    except ClipError as error:
        assert error.reason == "bad-name"


@given(st.text())
def test_any_text_is_parsed_or_refused_as_bad_name(text: str) -> None:
    try:
        assert str(ClipName.parse(text)) == text
    except ClipError as error:
        assert error.reason == "bad-name"


@pytest.mark.parametrize(
    "stem",
    ["", "clip", "1001_IEO_ANG", "1001_IEO_ANG_HI_2", "1001_XXX_ANG_HI", "1001_IEO_JOY_HI", "1001_IEO_ANG_XL",
     "١٠٠١_IEO_ANG_HI", "1001_IEO_ANG_HI\n"],
)  # fmt: skip
def test_a_name_outside_the_grammar_is_refused(stem: str) -> None:
    with pytest.raises(ClipError, match="expected"):
        ClipName.parse(stem)
