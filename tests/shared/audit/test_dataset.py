from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import soundfile
from speakers import describe, faces, voices

from moretta.shared.audit.dataset import ClipSet
from moretta.shared.data.reader import read_corpus
from moretta.shared.release import AnonymizerStatement, PseudonymKey, ReleaseWriter, open_release


def test_packed_views_equal_those_made_on_the_spot(tmp_path: Path) -> None:
    plain = voices(speakers=2)
    packed = plain.with_views(tmp_path).subset([3, 1])
    reached = pickle.loads(pickle.dumps(packed))  # noqa: S301 - as a worker process gets it
    for position, index in enumerate((3, 1)):
        np.testing.assert_array_equal(reached.mfcc(position), plain.mfcc(index))
        np.testing.assert_array_equal(reached.statistics(position), plain.statistics(index))


def test_thumbnails_are_small_and_few(tmp_path: Path) -> None:
    packed = faces(speakers=2).with_views(tmp_path)
    assert packed.thumbnails(0).shape == (4, 48, 48, 3)


def test_constant_gives_every_clip_the_same_content_and_keeps_the_names(tmp_path: Path) -> None:
    clips = voices(speakers=2).with_views(tmp_path)
    constant = ClipSet.constant(clips)
    assert constant.clips == clips.clips
    assert {constant.content_key(i) for i in range(len(constant))} == {clips.content_key(0)}
    np.testing.assert_array_equal(constant.mfcc(5), clips.mfcc(0))


def test_content_keys_follow_content_not_names() -> None:
    clips = voices(speakers=2)
    renamed = ClipSet.from_arrays(
        clips.clips[::-1], [clips.arrays[i].read() for i in range(len(clips))], modality="voice", form="mfcc"
    )
    assert renamed.content_key(2) == clips.content_key(2)
    assert len({clips.content_key(i) for i in range(len(clips))}) == len(clips)


def test_a_corrupt_file_is_left_out_and_counted(tiny_corpus: Path, tmp_path: Path) -> None:
    (tiny_corpus / "AudioWAV" / "1001_IEO_ANG_XX.wav").write_bytes(b"RIFF and nothing after it")
    corpus = read_corpus(tiny_corpus)
    clips = ClipSet.from_corpus(corpus, "voice", PseudonymKey.seeded(1, "here")).with_views(tmp_path)
    assert len(clips) == len(corpus.clips) - 1
    assert clips.damaged == {"unreadable": 1}
    soundfile.read(tiny_corpus / "AudioWAV" / "1001_IEO_DIS_XX.wav")  # the others are fine


def test_a_releases_codebook_is_read_once_for_all_of_its_clips(tmp_path: Path) -> None:
    writer = ReleaseWriter(tmp_path / "release", forms={"voice": "tokens"}, codebook=np.eye(4, 13, dtype=np.float32))
    for number in range(3):
        writer.add(describe(0, number), {"voice": np.array([number, 3, 1], np.int32)})
    statement = AnonymizerStatement(modality="voice", name="n", version="1", form="tokens", parameters={}, noise="none")
    writer.finish(site="site-00", study="0" * 64, anonymizers=(statement,))
    clips = ClipSet.from_releases([open_release(tmp_path / "release")], "voice")
    assert len({id(array.codebook) for array in clips.arrays}) == 1
    reached = pickle.loads(pickle.dumps(clips.subset([2, 0])))  # noqa: S301 - as a worker process gets it
    for index in range(2):
        np.testing.assert_array_equal(
            reached.mfcc(index), np.eye(4, 13, dtype=np.float32)[reached.arrays[index].read()]
        )
