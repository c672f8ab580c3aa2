"""A corpus of one's own: which rows are clips, and which are dropped and counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moretta.shared.core.errors import CorpusError
from moretta.shared.data.media import read_audio, write_video, write_wav
from moretta.shared.data.reader import read_corpus

CLASSES = ("calm", "bored", "HAP")


def corpus(root: Path, *rows: str, header: str = "audio,speaker,label", files: tuple[str, ...] = ("a.wav",)) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not decoded by the reader")
    (root / "manifest.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return root


def test_rows_are_clips_of_odd_speakers_under_the_labels_of_the_study(tmp_path: Path) -> None:
    root = corpus(
        tmp_path / "own",
        "x/b.ogg,Zoë (3),happy,F,41,q-7,north,train,12",
        "a.wav,P-07/b,Calm,m,,q-8,south,test,3",
        header="audio,Speaker ID,Emotion,Gender,Age,Sentence,Site,Split,Room",
        files=("a.wav", "x/b.ogg"),
    )
    found = read_corpus(root, classes=CLASSES)
    first, second = found.clips
    assert (first.name, first.speaker, first.label, first.sentence) == ("a.wav", "P-07/b", "calm", "q-8")
    assert (second.name, second.speaker, second.label, second.audio) == ("x/b.ogg", "Zoë (3)", "HAP", root / "x/b.ogg")
    assert (found.speakers["Zoë (3)"].sex, found.speakers["Zoë (3)"].age) == ("female", 41)
    assert found.sites == {"P-07/b": "south", "Zoë (3)": "north"} and found.tested == {"P-07/b"}
    assert any("ignored: Room" in warning for warning in found.warnings)
    assert any("no age of 1 speakers: P-07/b" in warning for warning in found.warnings)


def test_clips_of_other_labels_are_dropped_and_counted(tmp_path: Path) -> None:
    root = corpus(tmp_path / "own", "a.wav,s1,bored", "b.wav,s2,awed", files=("a.wav", "b.wav"))
    found = read_corpus(root, classes=CLASSES)
    (drop,) = found.dropped
    assert (drop.file, drop.reason, drop.speaker) == ("b.wav", "other-label", "s2") and list(found.speakers) == ["s1"]
    with pytest.raises(CorpusError, match=r"classes = \['awed', 'bored'\]"):
        read_corpus(root)
    assert [clip.label for clip in read_corpus(root, classes=None).clips] == ["bored", "awed"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("../outside.wav,s1,calm", "outside"),
        ("x/../../outside.wav,s1,calm", "outside"),
        ("/etc/passwd,s1,calm", "outside"),
        ("C:\\clips\\a.wav,s1,calm", "outside"),
        ("..\\outside.wav,s1,calm", "outside"),
        ("nothing.wav,s1,calm", "missing"),
        (f"{'a' * 5000}.wav,s1,calm", "missing"),
        ("folder,s1,calm", "wrong-kind"),
        ("./a.wav,s1,calm", "duplicate"),
        ("a.wav,s2,bored", "duplicate"),
        ("b.wav,NaN,calm", "bad-row"),
        ("b.wav,s1,nan", "bad-row"),
        ("b.wav,,calm", "bad-row"),
        (f"b.wav,{'s' * 1000},calm", "bad-row"),
        ("b.wav,s\x1b[2J,calm", "bad-row"),
        (",s1,calm", "bad-row"),
    ],
)
def test_a_row_that_cannot_be_a_clip_is_dropped_by_its_reason(tmp_path: Path, row: str, reason: str) -> None:
    (tmp_path / "outside.wav").write_bytes(b"secret")
    root = corpus(tmp_path / "own", "a.wav,s1,calm", row, files=("a.wav", "b.wav", "folder/c.wav"))
    found = read_corpus(root, classes=CLASSES)
    (drop,) = found.dropped
    assert drop.reason == reason and drop.file.startswith("manifest.csv line 3") and len(found.clips) == 1
    assert all(path.is_relative_to(root) for clip in found.clips for path in clip.files)


def test_a_manifest_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="also speaker"):
        read_corpus(corpus(tmp_path / "a", "a.wav,calm", header="audio,label"), classes=CLASSES)
    with pytest.raises(CorpusError, match="no column of files"):
        read_corpus(corpus(tmp_path / "b", "s1,calm", header="speaker,label"), classes=CLASSES)
    with pytest.raises(CorpusError, match="larger than"):
        read_corpus(corpus(tmp_path / "c", "a.wav,s1,calm" + " " * (17 << 20)), classes=CLASSES)
    with pytest.raises(CorpusError, match="no usable clip"):
        read_corpus(corpus(tmp_path / "d", "../a.wav,s1,calm"), classes=CLASSES)
    with pytest.raises(CorpusError, match="several sites: s1"):
        rows = ("a.wav,s1,calm,north", "b.wav,s1,calm,south")
        read_corpus(
            corpus(tmp_path / "e", *rows, header="audio,speaker,label,site", files=("a.wav", "b.wav")), classes=CLASSES
        )
    with pytest.raises(CorpusError, match="one label a clip"):
        read_corpus(corpus(tmp_path / "f", "a.wav,s1,calm"), labels="vote", classes=CLASSES)


def test_what_is_not_understood_is_unknown_and_named(tmp_path: Path) -> None:
    root = corpus(
        tmp_path / "own",
        "a.wav,s1,calm,I wonder what this is,train",
        "b.wav,s1,calm,q1,test",
        "c.wav,s2,calm,q1,later",
        header="path,speaker,label,sentence,split",
        files=("a.wav", "b.wav", "c.wav"),
    )
    found = read_corpus(root, classes=CLASSES)
    assert [clip.sentence for clip in found.clips] == ["", "q1", "q1"] and found.tested == {"s1"}
    reported = "\n".join(found.warnings)
    assert "the sentence 'I wonder what this is' is not understood" in reported
    assert "the split 'later' is not understood" in reported and "who count as test: s1" in reported


def test_sound_is_read_from_any_container(tmp_path: Path) -> None:
    import av

    tone = (0.3 * np.sin(2 * np.pi * 220 * np.arange(16_000) / 16_000)).astype(np.float32)
    root = tmp_path / "own"
    root.mkdir()
    write_wav(root / "a.wav", tone)
    for name, codec in (("b.mka", "mp3"), ("c.odd", "aac")):
        with av.open(str(root / name), "w", format="matroska") as container:
            stream = container.add_stream(codec, rate=16_000)
            stream.layout = "mono"
            frame = av.AudioFrame.from_ndarray((tone * 32767).astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate = 16_000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    write_video(root / "d.mp4", [np.full((48, 64, 3), 90 + i, np.uint8) for i in range(10)], 10, tone)
    rows = ("a.wav,,s1,calm", "b.mka,,s1,calm", "c.odd,,s2,calm", ",d.mp4,s2,calm")
    found = read_corpus(corpus(root, *rows, header="audio,video,speaker,label", files=()), classes=CLASSES)
    assert len(found.clips) == 4 and not found.dropped
    lengths = [len(read_audio(clip.audio or clip.video or root)) for clip in found.clips]
    assert all(abs(length - 16_000) < 3_000 for length in lengths)


def test_a_parquet_manifest_reads_alike(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow
    from pyarrow import parquet

    root = corpus(tmp_path / "own", files=("a.wav", "b.wav"))
    (root / "manifest.csv").unlink()
    table = {"audio": ["a.wav", "b.wav"], "speaker": [7.0, float("nan")], "label": ["calm", "bored"], "odd": [[1], [2]]}
    parquet.write_table(pyarrow.table(table), root / "manifest.parquet")
    found = read_corpus(root, classes=CLASSES)
    assert [clip.speaker for clip in found.clips] == ["7"] and [drop.reason for drop in found.dropped] == ["bad-row"]
    (root / "manifest.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(CorpusError, match="cannot be read"):
        read_corpus(root, classes=CLASSES)
