from __future__ import annotations

from pathlib import Path

import pytest

from moretta.shared.core.errors import CorpusError
from moretta.shared.data.reader import read_corpus


def corpus(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not decoded by the reader")
    return root


def test_names_give_actor_sex_emotion_level_and_sentence_and_the_modalities_of_one_clip_are_joined(
    tmp_path: Path,
) -> None:
    root = corpus(
        tmp_path,
        "Actor_12/03-01-06-01-02-01-12.wav",
        "Actor_12/02-01-06-01-02-01-12.mp4",
        "Actor_12/01-01-06-01-02-01-12.mp4",
        "Actor_01/01-02-01-01-01-02-01.mp4",
        "Actor_01/._03-01-03-01-01-01-01.wav",
    )
    sung, both = read_corpus(root).clips[::-1]
    assert (both.speaker, both.label, both.level, both.sentence) == ("12", "FEA", "normal", "speech-02")
    assert both.audio == root / "Actor_12/03-01-06-01-02-01-12.wav"
    assert both.video == root / "Actor_12/01-01-06-01-02-01-12.mp4"
    assert (sung.speaker, sung.label, sung.sentence, sung.audio) == ("01", "NEU", "song-01", None)
    speakers = read_corpus(root).speakers
    assert (speakers["12"].sex, speakers["01"].sex) == ("female", "male")


def test_other_names_and_labels_are_counted(tmp_path: Path) -> None:
    root = corpus(tmp_path, "03-01-02-01-01-01-03.wav", "03-01-04-01-01-01-03.wav", "03-01-09-01-01-01-03.wav", "x.txt")
    found = read_corpus(root)
    assert [clip.label for clip in found.clips] == ["SAD"]
    assert sorted(drop.reason for drop in found.dropped) == ["bad-name", "other-label"]
    assert len(read_corpus(root, classes=("calm", "sad")).clips) == 2


def test_a_folder_of_nothing_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="manifest"):
        read_corpus(corpus(tmp_path, "some.wav"))
