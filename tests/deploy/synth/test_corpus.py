import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from moretta.deploy.synth import corpus as synth
from moretta.deploy.synth.corpus import clip_names, loudness_per_frame, make_speakers, synthesize_corpus
from moretta.shared.core.errors import CorpusError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.data.corpora.cremad import Level
from moretta.shared.data.media import read_audio, read_frames, read_video_audio
from moretta.shared.data.reader import read_corpus


def digests(root: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (root / "AudioWAV").iterdir()}


def test_two_speakers_with_two_clips_each_make_a_corpus_that_says_it_is_synthetic(tmp_path: Path) -> None:
    ticks: list[None] = []
    corpus = synthesize_corpus(
        tmp_path / "made", speakers=2, clips=2, seed=1, video=False, workers=1, progress=lambda: ticks.append(None)
    )
    assert corpus.synthetic and "synthetic" in corpus.name
    assert len(corpus.clips) == len(ticks) == 4 and not corpus.dropped and not corpus.warnings
    assert {speaker.sex for speaker in corpus.speakers.values()} == {"female", "male"}
    assert all(clip.audio is not None and len(read_audio(clip.audio)) > 8_000 for clip in corpus.clips)
    assert "says nothing" in json.loads((tmp_path / "made" / "SYNTHETIC.json").read_text())["statement"]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_the_same_seed_gives_the_same_bytes_however_many_workers(tmp_path: Path) -> None:
    for name, seed, workers in (("a", 1, 1), ("b", 1, 2), ("c", 2, 1)):
        synthesize_corpus(tmp_path / name, speakers=2, clips=2, seed=seed, video=False, workers=workers)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert set(digests(tmp_path / "a").values()).isdisjoint(digests(tmp_path / "c").values())


def test_a_clip_with_a_face_has_pictures_and_the_same_sound(tmp_path: Path) -> None:
    corpus = synthesize_corpus(tmp_path / "made", speakers=1, clips=1, seed=1, workers=1)
    (clip,) = corpus.clips
    assert clip.audio is not None and clip.video is not None
    sound = read_audio(clip.audio)
    frames = list(read_frames(clip.video, fps=None))
    assert len(frames) == int(len(sound) / 16_000 * synth.FRAMES_PER_SECOND)
    assert frames[0].shape == (120, 160, 3) and np.std(frames[0]) > 10
    assert abs(len(read_video_audio(clip.video)) - len(sound)) < 3_200


def test_a_folder_that_holds_something_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(CorpusError, match="not empty"):
        synthesize_corpus(tmp_path, speakers=1, clips=1, seed=0, video=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(("speakers", "clips"), [(0, 1), (1, 0), (1, 83)])
def test_impossible_numbers_are_refused(tmp_path: Path, speakers: int, clips: int) -> None:
    with pytest.raises(CorpusError, match="expected"):
        synthesize_corpus(tmp_path / "made", speakers=speakers, clips=clips, seed=0, video=False)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize_corpus(tmp_path / "made", speakers=2, clips=2, seed=1, video=False, workers=1, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_empty_folder_is_filled(tmp_path: Path) -> None:
    synthesize_corpus(tmp_path, speakers=1, clips=1, seed=0, video=False, workers=1)
    assert len(read_corpus(tmp_path).clips) == 1


def test_names_are_crossed_distinct_and_as_many_as_in_crema_d() -> None:
    names = clip_names(1001, 82)
    assert len(set(names)) == 82
    assert all((name.level is Level.XX) == (name.sentence != "IEO" or name.emotion.value == "NEU") for name in names)
    first = clip_names(1001, 24)
    assert {(name.sentence, name.emotion) for name in first} == {
        (sentence, emotion) for sentence in {name.sentence for name in first} for emotion in EMOTIONS
    }


def test_a_person_does_not_depend_on_how_many_others_there_are() -> None:
    assert make_speakers(20, 5)[:3] == make_speakers(3, 5)


def test_loudness_follows_the_sound() -> None:
    audio = np.concatenate([np.zeros(8_000), np.full(8_000, 0.3)]).astype(np.float32)
    loudness = loudness_per_frame(audio, 10)
    assert loudness.shape == (10,)
    np.testing.assert_allclose(loudness, [0] * 5 + [1] * 5)
