import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from moretta.shared.core.errors import CorpusError
from moretta.shared.data.check import check_corpus
from moretta.shared.data.media import write_video, write_wav

TONE, OTHER, THIRD = ((0.3 * np.sin(np.arange(16_000) * step)).astype(np.float32) for step in (0.2, 0.3, 0.4))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three good clips, of which one has its sound in its video, and one file for each thing that can be wrong."""
    root = tmp_path / "corpus"
    audio, video = root / "AudioWAV", root / "VideoFlash"
    frames = np.full((12, 32, 32, 3), 90, np.uint8)
    write_wav(audio / "1001_IEO_ANG_HI.wav", TONE)
    write_video(video / "1001_IEO_ANG_HI.flv", frames, 12, TONE)
    soundfile.write(audio / "1002_TIE_SAD_XX.wav", np.stack([OTHER, OTHER], 1), 8_000)
    write_wav(audio / "1001_TIE_SAD_XX.wav", np.zeros(16_000, np.float32))
    (audio / "1001_TIE_NEU_XX.wav").write_bytes(b"RIFF")
    (audio / "1001_TIE_HAP_XX.wav").write_bytes(b"")
    (audio / "party.wav").write_bytes(b"")
    soundfile.write(video / "1002_TIE_FEA_XX.flv", THIRD, 16_000, format="WAV")
    (root / "VideoDemographics.csv").write_text("ActorID,Age,Sex\n1001,51,Male\n1002,22,Female\n")
    return root


@pytest.mark.parametrize("workers", [1, 2])
def test_every_unusable_file_is_named_with_its_reason(corpus: Path, workers: int) -> None:
    ticks: list[int] = []
    report = check_corpus(corpus, workers=workers, progress=lambda total: lambda: ticks.append(total))
    assert {drop.file: drop.reason for drop in report.unusable} == {
        "AudioWAV/1001_TIE_SAD_XX.wav": "silent",
        "AudioWAV/1001_TIE_NEU_XX.wav": "unreadable",
        "AudioWAV/1001_TIE_HAP_XX.wav": "empty",
        "AudioWAV/party.wav": "bad-name",
        "VideoFlash/1002_TIE_FEA_XX.flv": "no-video",
    }
    assert not report.ok and ticks == [8] * 8


def test_counts_are_of_usable_files_by_speaker_emotion_and_modality(corpus: Path) -> None:
    report = check_corpus(corpus, workers=1)
    first, second = report.speakers
    assert (report.clips, report.emotions) == (3, {"ANG": 1, "FEA": 1, "SAD": 1})
    assert (first.speaker, first.sex, first.clips, first.audio, first.video) == ("1001", "male", 1, 1, 1)
    assert (second.clips, second.audio, second.video, second.emotions) == (2, 2, 0, {"FEA": 1, "SAD": 1})
    assert report.converted == {"8000 Hz, 2 channels": 1}
    assert report.audio is not None and report.audio.total == pytest.approx(4.0)
    assert report.video is not None and report.video.total == pytest.approx(1.0)
    assert json.loads(json.dumps(report.to_json()))["reasons"]["silent"] == 1


def test_a_corpus_is_compared_with_the_published_lists(corpus: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "SentenceFilenames.csv").write_text(
        '"Stimulus_Number","Filename"\n1,"1001_IEO_ANG_HI"\n2,"1001_TIE_DIS_XX"\n'
    )
    (lists / "VideoDemographics.csv").write_text("ActorID,Age,Sex\n1001,50,Male\n1003,20,Female\n")
    (lists / "summaryTable.csv").write_text("FileName,MultiModalVote\n1001_IEO_ANG_HI,A\n1001_TIE_DIS_XX,A:D\n")
    published = check_corpus(corpus, names=lists, workers=1).published
    assert published is not None
    assert (published.listed_clips, published.present_clips, published.without_vote) == (2, 1, 1)
    assert "1002_TIE_SAD_XX" in published.unknown_clips and published.missing_clips == ["1001_TIE_DIS_XX"]
    assert (published.unknown_speakers, published.missing_speakers, published.different_speakers) == (
        ["1002"],
        ["1003"],
        ["1001"],
    )


def test_missing_lists_are_an_error(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no SentenceFilenames\.csv"):
        check_corpus(corpus, names=tmp_path, workers=1)
