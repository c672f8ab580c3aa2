import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from moretta.shared.core.errors import CorpusError, ExitCode
from moretta.shared.core.labels import Emotion
from moretta.shared.data.reader import read_corpus

DEMOGRAPHICS = (
    "ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,Caucasian,Not Hispanic\n1002,21,Female,Asian,Not Hispanic\n"
)

MakeCorpus = Callable[..., Path]


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    def make(*files: str, demographics: str | bytes | None = DEMOGRAPHICS) -> Path:
        root = tmp_path / "corpus"
        root.mkdir()
        for file in files:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(b"not decoded by the reader")
        if isinstance(demographics, str):
            demographics = demographics.encode()
        if demographics is not None:
            (root / "VideoDemographics.csv").write_bytes(demographics)
        return root

    return make


def test_audio_and_video_of_one_name_are_one_clip(make_corpus: MakeCorpus) -> None:
    root = make_corpus(
        "AudioWAV/1001_IEO_ANG_HI.wav", "VideoFlash/1001_IEO_ANG_HI.flv", "VideoFlash/1002_TIE_SAD_XX.mp4"
    )
    corpus = read_corpus(root)
    both, video_only = corpus.clips
    assert both.audio is not None and both.video is not None and both.label == Emotion.ANG
    assert video_only.audio is None and video_only.video is not None
    assert (corpus.speakers["1001"].sex, corpus.speakers["1001"].age) == ("male", 51)
    assert (corpus.name, corpus.synthetic, corpus.dropped, corpus.warnings) == ("corpus", False, (), ())


def test_a_file_outside_the_grammar_is_dropped_and_named(make_corpus: MakeCorpus) -> None:
    root = make_corpus(
        "AudioWAV/1001_IEO_ANG_HI.wav", "AudioWAV/holiday.wav", "AudioWAV/notes.txt", "AudioWAV/.DS_Store"
    )
    dropped = {drop.file: drop.reason for drop in read_corpus(root).dropped}
    assert dropped == {"AudioWAV/holiday.wav": "bad-name", "AudioWAV/notes.txt": "wrong-kind"}


@pytest.mark.parametrize("second", ["VideoFlash/1001_IEO_ANG_HI.mp4", "VideoFlash/1001_ieo_ang_hi.flv"])
def test_of_two_files_of_one_name_the_published_form_is_kept(make_corpus: MakeCorpus, second: str) -> None:
    corpus = read_corpus(make_corpus(second, "VideoFlash/1001_IEO_ANG_HI.flv"))
    assert [clip.video.name for clip in corpus.clips if clip.video] == ["1001_IEO_ANG_HI.flv"]
    assert [(drop.file, drop.reason) for drop in corpus.dropped] == [(second, "duplicate")]


def test_the_known_defect_is_dropped_in_both_modalities(make_corpus: MakeCorpus) -> None:
    defect = "1076_MTI_SAD_XX"
    corpus = read_corpus(
        make_corpus(f"AudioWAV/{defect}.wav", f"VideoFlash/{defect}.flv", "AudioWAV/1001_IEO_ANG_HI.wav")
    )
    assert [clip.name for clip in corpus.clips] == ["1001_IEO_ANG_HI"]
    assert [drop.reason for drop in corpus.dropped] == ["known-defect", "known-defect"]


def test_votes_replace_intended_labels_and_ties_are_dropped(make_corpus: MakeCorpus) -> None:
    root = make_corpus("AudioWAV/1001_IEO_ANG_HI.wav", "AudioWAV/1001_TIE_SAD_XX.wav", "AudioWAV/1002_TIE_SAD_XX.wav")
    (root / "processedResults").mkdir()
    table = "FileName,VoiceVote,MultiModalVote\n1001_IEO_ANG_HI,A,N\n1001_TIE_SAD_XX,S,A:S\n"
    (root / "processedResults" / "summaryTable.csv").write_text(table)
    corpus = read_corpus(root, labels="vote")
    assert [(clip.name, clip.label) for clip in corpus.clips] == [("1001_IEO_ANG_HI", Emotion.NEU)]
    assert [drop.reason for drop in corpus.dropped] == ["no-vote", "no-vote"]
    assert set(corpus.speakers) == {"1001"}


def test_votes_without_their_table_are_an_error(make_corpus: MakeCorpus) -> None:
    with pytest.raises(CorpusError, match=r"summaryTable\.csv"):
        read_corpus(make_corpus("AudioWAV/1001_IEO_ANG_HI.wav"), labels="vote")


@pytest.mark.parametrize("files", [(), ("AudioWAV/holiday.wav",), ("Holiday/1001_IEO_ANG_HI.wav",)])
def test_a_folder_without_a_usable_clip_is_an_error(make_corpus: MakeCorpus, files: tuple[str, ...]) -> None:
    with pytest.raises(CorpusError) as raised:
        read_corpus(make_corpus(*files))
    assert raised.value.exit_code is ExitCode.CORPUS
    assert "expected" in raised.value.message


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no folder"):
        read_corpus(tmp_path / "nowhere")


def test_votes_that_fit_no_clip_are_an_error_about_the_table(make_corpus: MakeCorpus) -> None:
    root = make_corpus("AudioWAV/1001_IEO_ANG_HI.wav")
    (root / "summaryTable.csv").write_text("FileName,MultiModalVote\n1001_IEO_ANG_HI,Cross\n")
    with pytest.raises(CorpusError, match=r"'Cross' is not understood.*MultiModalVote in summaryTable\.csv"):
        read_corpus(root, labels="vote")


def test_what_systems_leave_in_folders_is_no_part_of_a_corpus(make_corpus: MakeCorpus) -> None:
    litter = ("Thumbs.db", "desktop.ini", "._1001_IEO_ANG_HI.wav", ".DS_Store")
    root = make_corpus("AudioWAV/1001_IEO_ANG_HI.wav", *(f"AudioWAV/{name}" for name in litter))
    assert not read_corpus(root).dropped


def test_folders_links_and_strange_names_are_dropped_and_distinguished(make_corpus: MakeCorpus) -> None:
    root = make_corpus("AudioWAV/1001_IEO_ANG_HI.WAV", "AudioWAV/1001_IEO_SAD_HI (1).wav", "AudioWAV/Jose\u0301.wav")
    audio = root / "AudioWAV"
    (audio / "1001_IEO_FEA_HI.wav").mkdir()
    (audio / "1001_IEO_DIS_HI.wav").symlink_to("1001_IEO_DIS_HI.wav")
    (audio / "1001_IEO_HAP_HI.wav").symlink_to("nowhere")
    (audio / "1001_IEO_SAD_HI.wav").symlink_to("/dev/zero")
    os.mkfifo(audio / "1001_IEO_ANG_LO.wav")
    corpus = read_corpus(root)
    assert [clip.name for clip in corpus.clips] == ["1001_IEO_ANG_HI"]
    found = {Path(drop.file).stem: drop.detail.split(";")[0] for drop in corpus.dropped if drop.reason == "wrong-kind"}
    assert found == {
        "1001_IEO_FEA_HI": "a folder",
        "1001_IEO_DIS_HI": "a link to nothing",
        "1001_IEO_HAP_HI": "a link to nothing",
        "1001_IEO_SAD_HI": "a device or a pipe",
        "1001_IEO_ANG_LO": "a device or a pipe",
    }
    assert sum(drop.reason == "bad-name" for drop in corpus.dropped) == 2


def test_links_to_outside_of_the_folder_are_dropped_and_those_within_are_followed(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    root = make_corpus("AudioWAV/1001_IEO_ANG_HI.wav", "kept/1.wav")
    outside = tmp_path / "private"
    (outside / "AudioWAV").mkdir(parents=True)
    for name in ("1001_IEO_SAD_HI", "1002_IEO_SAD_HI"):
        (outside / "AudioWAV" / f"{name}.wav").write_bytes(b"private")
    (root / "AudioWAV" / "1002_IEO_SAD_HI.wav").symlink_to(outside / "AudioWAV" / "1002_IEO_SAD_HI.wav")
    (root / "AudioWAV" / "1001_IEO_HAP_HI.wav").symlink_to("../kept/1.wav")
    corpus = read_corpus(root)
    assert [clip.name for clip in corpus.clips] == ["1001_IEO_ANG_HI", "1001_IEO_HAP_HI"]
    assert [(d.file, d.reason) for d in corpus.dropped] == [("AudioWAV/1002_IEO_SAD_HI.wav", "outside")]
    assert "1002" not in corpus.speakers
    (tmp_path / "named").symlink_to(root)  # the user's own choice
    assert len(read_corpus(tmp_path / "named").clips) == 2
    (root / "VideoFlash").symlink_to(outside / "AudioWAV")
    (outside / "AudioWAV" / "1001_IEO_FEA_HI.mp4").write_bytes(b"private")
    assert ("VideoFlash/1001_IEO_FEA_HI.mp4", "outside") in [(d.file, d.reason) for d in read_corpus(root).dropped]


def test_a_folder_of_links_to_outside_alone_and_a_table_there_are_errors(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    root = make_corpus("VideoDemographics.csv")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1001_IEO_ANG_HI.wav").write_bytes(b"x")
    (root / "AudioWAV").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorpusError, match=r"1 outside.*copy the files there, or name the folder that has them"):
        read_corpus(root)
    (root / "AudioWAV").unlink()
    (root / "AudioWAV").mkdir()
    (root / "AudioWAV" / "1001_IEO_ANG_HI.wav").write_bytes(b"x")
    (root / "VideoDemographics.csv").rename(tmp_path / "people.csv")
    (root / "VideoDemographics.csv").symlink_to(tmp_path / "people.csv")
    with pytest.raises(CorpusError, match=r"VideoDemographics\.csv .* is a link to outside"):
        read_corpus(root)


def test_a_folder_that_may_not_be_read_is_an_error_that_names_it(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_corpus("AudioWAV/1001_IEO_ANG_HI.wav")

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(CorpusError, match=r"AudioWAV cannot be read \(Permission denied\)"):
        read_corpus(root)


def test_demographics_without_the_columns_are_an_error(make_corpus: MakeCorpus) -> None:
    with pytest.raises(CorpusError, match="also ActorID, Age, Sex"):
        read_corpus(make_corpus("AudioWAV/1001_IEO_ANG_HI.wav", demographics="who,what\n1,2\n"))


def test_a_byte_order_mark_is_tolerated(make_corpus: MakeCorpus) -> None:
    corpus = read_corpus(make_corpus("AudioWAV/1001_IEO_ANG_HI.wav", demographics="\ufeff" + DEMOGRAPHICS))
    assert corpus.speakers["1001"].sex == "male"


@pytest.mark.parametrize("demographics", [None, DEMOGRAPHICS])
def test_an_unlisted_speaker_is_kept_and_warned_of(make_corpus: MakeCorpus, demographics: str | None) -> None:
    corpus = read_corpus(make_corpus("AudioWAV/1003_IEO_ANG_HI.wav", demographics=demographics))
    assert corpus.speakers["1003"].sex is None and corpus.speakers["1003"].age is None
    assert len(corpus.warnings) == 1 and "1003" in corpus.warnings[0]


@pytest.mark.parametrize("marker", [json.dumps({"name": "made up"}), "damaged {"])
def test_a_marker_makes_the_corpus_synthetic_even_if_damaged(make_corpus: MakeCorpus, marker: str) -> None:
    root = make_corpus("AudioWAV/1001_IEO_ANG_HI.wav")
    (root / "SYNTHETIC.json").write_text(marker)
    corpus = read_corpus(root)
    assert corpus.synthetic
    assert corpus.name == ("made up" if marker.startswith("{") else "corpus")


@pytest.mark.parametrize("target", ["../elsewhere.json", "/dev/zero", "nowhere", "SYNTHETIC.json", "."])
def test_a_marker_that_is_no_file_of_the_folder_marks_and_is_not_read(make_corpus: MakeCorpus, target: str) -> None:
    """As found: a link to a device took all memory, a broken link passed for real people."""
    root = make_corpus("AudioWAV/1001_IEO_ANG_HI.wav")
    (root.parent / "elsewhere.json").write_text(json.dumps({"name": "not to be seen"}))
    (root / "SYNTHETIC.json").symlink_to(target)
    corpus = read_corpus(root)
    assert corpus.synthetic and corpus.name == "corpus"
    assert "no small file in the folder itself" in corpus.warnings[0]


def test_a_marker_of_endless_depth_or_size_marks_and_is_a_warning(make_corpus: MakeCorpus) -> None:
    root = make_corpus("AudioWAV/1001_IEO_ANG_HI.wav")
    for content in ("[" * 100_000, " " * 2_000_000):
        (root / "SYNTHETIC.json").write_text(content)
        corpus = read_corpus(root)
        assert corpus.synthetic and corpus.warnings[0].startswith("SYNTHETIC.json")


def test_clips_come_in_order_of_their_names(make_corpus: MakeCorpus) -> None:
    names = ["1002_IEO_ANG_HI", "1001_TIE_SAD_XX", "1001_IEO_SAD_HI", "1001_IEO_ANG_HI"]
    corpus = read_corpus(make_corpus(*(f"AudioWAV/{name}.wav" for name in names)))
    assert [clip.name for clip in corpus.clips] == sorted(names)
    assert [clip.name for clip in corpus.of(["1002"])] == ["1002_IEO_ANG_HI"]
