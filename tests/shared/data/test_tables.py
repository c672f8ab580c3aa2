from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.shared.core.errors import CorpusError
from moretta.shared.core.labels import Emotion
from moretta.shared.data.corpora.cremad import read_votes
from moretta.shared.data.tables import SEX_WORDS, read_demographics


def people(tmp_path: Path, content: str | bytes) -> tuple[dict[int, tuple[str | None, int | None]], list[str]]:
    path = tmp_path / "VideoDemographics.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    speakers, warnings = read_demographics(path)
    return {number: (speaker.sex, speaker.age) for number, speaker in speakers.items()}, warnings


@pytest.mark.parametrize(
    ("sex", "read"),
    [
        *((word, "female") for word in ("F", "f", "Female", "WOMAN", "w", "weiblich")),
        *((word, "male") for word in ("M", "m", "Male", "man", "männlich")),
    ],
)
def test_a_sex_that_is_clear_is_read(tmp_path: Path, sex: str, read: str) -> None:
    found, warnings = people(tmp_path, f"ActorID,Age,Sex\n1001,51,{sex}\n")
    assert found == {"1001": (read, 51)} and not warnings


@pytest.mark.parametrize("sex", ["1", "2", "0", "x", "divers", "Fmale", "male?"])
def test_a_sex_that_is_unclear_is_unknown_and_named_once(tmp_path: Path, sex: str) -> None:
    found, (warning,) = people(tmp_path, f"ActorID,Age,Sex\n1001,51,{sex}\n1002,20,{sex}\n")
    assert found["1001"] == (None, 51)
    assert "VideoDemographics.csv lines 2, 3" in warning and repr(sex) in warning and "female or male" in warning


def test_m_is_unclear_beside_h(tmp_path: Path) -> None:
    found, warnings = people(tmp_path, "ActorID,Age,Sex\n1001,51,M\n1002,20,H\n")
    assert found == {"1001": (None, 51), "1002": (None, 20)} and len(warnings) == 2


@pytest.mark.parametrize(
    ("age", "read"),
    [("51", 51), ("51.0", 51), ("51.9", 51), ("51 years", 51), ("50-59", 54), ("20 to 29", 24), ("7", 7)],
)
def test_an_age_that_is_clear_is_read(tmp_path: Path, age: str, read: int) -> None:
    found, warnings = people(tmp_path, f"ActorID,Age,Sex\n1001,{age},Male\n")
    assert found == {"1001": ("male", read)} and not warnings


@pytest.mark.parametrize("age", ["0", "999", "-5", "old", "25-34", "1e3", "5151", "60+", "59-50"])
def test_an_age_that_is_unclear_is_unknown_and_named(tmp_path: Path, age: str) -> None:
    found, (warning,) = people(tmp_path, f"ActorID,Age,Sex\n1001,{age},Male\n")
    assert found == {"1001": ("male", None)}
    assert "line 2" in warning and repr(age) in warning and "1 to 120" in warning


@pytest.mark.parametrize("nothing", ["", "NA", "unknown", "?"])
def test_what_is_not_given_is_reported_in_one_warning(tmp_path: Path, nothing: str) -> None:
    found, (warning,) = people(tmp_path, f"ActorID,Age,Sex\n1001,51,{nothing}\n1002,20,{nothing}\n")
    assert found["1002"] == (None, 20) and "no sex of 2 speakers: 1001, 1002" in warning


def test_rows_that_agree_are_one_and_rows_that_contradict_are_unknown(tmp_path: Path) -> None:
    rows = "1001,51,Male\n1001,51,M\n1002,20,Female\n1002,20,Male\n1003,30,Male\n1003,31,Male\n1004,,Male\n1004,40,\n"
    found, warnings = people(tmp_path, "ActorID,Age,Sex\n" + rows)
    assert found == {"1001": ("male", 51), "1002": (None, 20), "1003": ("male", None), "1004": ("male", 40)}
    assert [w for w in warnings if "contradicting" in w and "sex" in w and "1002" in w]
    assert [w for w in warnings if "contradicting" in w and "age" in w and "1003" in w]


TABLE = "ActorID,Age,Sex,Race\n1001,51,Male,Weiß\n1002,21,Female,\n"


@pytest.mark.parametrize(
    "content",
    [
        TABLE.encode(),
        TABLE.encode("utf-8-sig"),
        TABLE.encode("utf-16"),
        TABLE.encode("utf-16-le"),
        TABLE.encode("latin-1"),
        TABLE.replace(",", ";").encode(),
        TABLE.replace(",", "\t").encode(),
        ("sep=;\r\n" + TABLE.replace(",", ";")).encode(),
        TABLE.replace("\n", "\r\n").encode(),
        TABLE.replace("ActorID,Age,Sex", '"actor id"," AGE ","Gender"').encode(),
        (TABLE + "\n\n,,,\n  \n").encode(),
        TABLE.replace("1001,51,Male", '"1001", 51.0 ,"Male"').replace('"1001", ', '"1001",').encode(),
        TABLE.replace("1001", "Actor_1001").encode(),
        ("# exported on 1 May; by hand\n# ages, in years\n\n" + TABLE).encode(),
        ("People of the study\n\n" + TABLE.replace(",", ";")).encode(),
        TABLE.replace("\n", "\r").encode(),
        TABLE.replace("Male", "M.").replace("Female", "f.").encode(),
        TABLE.replace("Weiß", '"Weiß, ""or so"",\nand so on"').encode(),
        TABLE.replace(",Race", "").replace(",Weiß", "").encode(),
    ],
)
def test_a_table_is_read_however_it_was_saved(tmp_path: Path, content: bytes) -> None:
    found, warnings = people(tmp_path, content)
    assert found == {"1001": ("male", 51), "1002": ("female", 21)} and not warnings


def test_a_column_twice_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="more than one column age"):
        people(tmp_path, "ActorID,age,Sex,Age\n1001,51,Male,9\n")


def test_a_table_without_names_of_columns_is_refused_with_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="1001, 51, Male"):
        people(tmp_path, "1001,51,Male\n1002,21,Female\n")


def test_a_row_that_is_no_persons_is_ignored_and_named(tmp_path: Path) -> None:
    found, (warning,) = people(tmp_path, "ActorID,Age,Sex\n1001,51,Male\n# mean,36,\n")
    assert found == {"1001": ("male", 51)}
    assert warning.endswith("the ActorID '# mean' is not understood; expected a number; the row is ignored")


def test_a_decimal_comma_is_read_where_columns_are_divided_otherwise(tmp_path: Path) -> None:
    assert people(tmp_path, "ActorID;Age;Sex\n1001;51,0;m\n")[0] == {"1001": ("male", 51)}


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=200), header=st.sampled_from([b"", b"ActorID,Age,Sex\n", b"ActorID;Age;Sex\r\n"]))
def test_any_bytes_are_read_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, header: bytes
) -> None:
    try:
        found, _ = people(tmp_path_factory.mktemp("table"), header + content)
    except CorpusError as error:
        assert "VideoDemographics.csv" in error.message
    else:
        assert all(sex in (None, *SEX_WORDS) and (age is None or 1 <= age <= 120) for sex, age in found.values())


def votes(tmp_path: Path, rows: str) -> tuple[dict[str, Emotion | None], list[str]]:
    path = tmp_path / "summaryTable.csv"
    path.write_text('"","FileName","VoiceVote","MultiModalVote"\n' + rows)
    return read_votes(path)


@pytest.mark.parametrize(
    "name", ["1001_IEO_ANG_MD", "1001_ieo_ang_md", "1001_IEO_ANG_MD.wav", "AudioWAV/1001_IEO_ANG_MD.WAV"]
)
@pytest.mark.parametrize("vote", ["H", "h", "HAP", "Happy", "happiness"])
def test_a_vote_is_read_however_it_is_written(tmp_path: Path, name: str, vote: str) -> None:
    assert votes(tmp_path, f"1,{name},A,{vote}\n") == ({"1001_IEO_ANG_MD": Emotion.HAP}, [])


def test_ties_are_no_vote_and_need_no_warning(tmp_path: Path) -> None:
    assert votes(tmp_path, "1,1001_IEO_ANG_MD,A,A:S\n2,1001_IEO_SAD_MD,A,S:S\n") == (
        {"1001_IEO_ANG_MD": None, "1001_IEO_SAD_MD": Emotion.SAD},
        [],
    )


def test_a_clip_twice_is_believed_only_if_the_rows_agree(tmp_path: Path) -> None:
    rows = "1,1001_IEO_ANG_MD,A,A\n2,1001_IEO_ANG_MD,A,H\n3,1001_IEO_SAD_MD,A,S\n4,1001_ieo_sad_md.wav,A,Sad\n"
    found, (warning,) = votes(tmp_path, rows)
    assert found == {"1001_IEO_ANG_MD": None, "1001_IEO_SAD_MD": Emotion.SAD}
    assert "contradicting" in warning and "1001_IEO_ANG_MD" in warning


def test_a_vote_or_name_that_is_not_understood_is_named(tmp_path: Path) -> None:
    found, warnings = votes(tmp_path, "1,1001_IEO_ANG_MD,A,Cross\n2,holiday,A,A\n")
    assert found == {"1001_IEO_ANG_MD": None}
    assert any("'Cross'" in w and "line 2" in w for w in warnings) and any("'holiday'" in w for w in warnings)
