from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from moretta.deploy.runtime.planning import without_missing
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.data.check import check_corpus
from moretta.shared.data.clips import Clip
from moretta.shared.data.media import write_video, write_wav
from moretta.shared.data.reader import read_corpus
from moretta.shared.data.recordings import has_sound, read_pictures, read_sound
from moretta.shared.study.schema import parse_study


def tone(seconds: float, hertz: float = 300) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(16_000 * seconds)) / 16_000)).astype(np.float32)


def pictures(seconds: float, grey: int = 90) -> list[np.ndarray]:
    return [np.full((48, 64, 3), grey, np.uint8)] * round(12 * seconds)


def clip_of(root: Path, *, wav: float | None, video: float | None, track: float | None = None) -> Clip:
    """The one clip of a corpus, with files and tracks of so many seconds."""
    name = "1001_IEO_ANG_HI"
    if wav is not None:
        write_wav(root / "AudioWAV" / f"{name}.wav", tone(wav))
    if video is not None:
        sound = None if track is None else tone(track)
        write_video(root / "VideoFlash" / f"{name}.flv", pictures(video), 12, sound)
    (clip,) = read_corpus(root).clips
    return clip


def refused(clip: Clip) -> Sequence[str]:
    kinds = []
    for kind in ("sound", "pictures"):
        try:
            found = read_sound(clip) if kind == "sound" else read_pictures(clip, fps=5.0)
            assert found is not None
        except ClipError as error:
            assert error.reason == "other-length"
            kinds.append(kind)
    return kinds


def test_the_sound_of_a_video_is_used_where_there_is_no_sound_file(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, wav=None, video=2, track=2)
    sound = read_sound(clip)
    assert sound is not None and abs(len(sound) - 32_000) < 3_200
    report = check_corpus(tmp_path, workers=1)
    assert report.ok and report.inside_videos == 1
    assert report.audio is not None and report.audio.files == 1


def test_a_sound_file_goes_before_the_sound_of_a_video(tmp_path: Path) -> None:
    sound = read_sound(clip_of(tmp_path, wav=1.8, video=2, track=2))
    assert sound is not None and len(sound) == 28_800


def test_a_mute_video_has_no_sound_and_is_not_blamed(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, wav=None, video=2)
    assert read_sound(clip) is None and not has_sound(clip) and check_corpus(tmp_path, workers=1).ok
    voice_only = parse_study({"face": {"enabled": False}})
    with pytest.raises(StudyError, match="has sound"):
        without_missing(read_corpus(tmp_path), voice_only)


@pytest.mark.parametrize(
    ("wav", "video", "track", "kinds"),
    [
        (2, 2, None, []),
        (2, 2.3, None, []),
        (4, 4.7, None, []),
        (4, 12, None, ["pictures"]),
        (2, 3, None, ["pictures"]),
        (12, 4, None, ["sound"]),
        (2, 0.1, None, ["pictures"]),
        (None, 6, 2, ["pictures"]),
        (None, 2, 6, ["sound"]),
    ],
)
def test_what_lasts_much_longer_than_the_rest_of_its_clip_is_named(
    tmp_path: Path, wav: float | None, video: float, track: float | None, kinds: list[str]
) -> None:
    clip = clip_of(tmp_path, wav=wav, video=video, track=track)
    assert refused(clip) == kinds
    reasons = [drop.reason for drop in check_corpus(tmp_path, workers=1).unusable]
    assert reasons == ["other-length"] * len(kinds)


def test_a_half_copied_file_is_blamed_and_not_the_whole_one_beside_it(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, wav=4, video=4)
    assert clip.audio is not None
    clip.audio.write_bytes(clip.audio.read_bytes()[:40_000])
    assert [drop.file for drop in check_corpus(tmp_path, workers=1).unusable] == ["AudioWAV/1001_IEO_ANG_HI.wav"]


def test_one_recording_under_two_names_is_named_and_under_two_speakers_it_is_a_fault(tmp_path: Path) -> None:
    audio, video = tmp_path / "AudioWAV", tmp_path / "VideoFlash"
    for hertz, name in ((200, "1001_IEO_ANG_HI"), (300, "1001_TIE_SAD_XX"), (200, "1001_TIE_HAP_XX")):
        write_wav(audio / f"{name}.wav", tone(1, hertz))
    for grey, name in ((60, "1001_IEO_ANG_HI"), (120, "1001_TIE_SAD_XX")):
        write_video(video / f"{name}.flv", pictures(1, grey), 12, None)
    report = check_corpus(tmp_path, workers=1)
    (same,) = report.repeated
    assert report.ok and not same.fault and same.emotions == ["ANG", "HAP"]
    assert same.files == ["AudioWAV/1001_IEO_ANG_HI.wav", "AudioWAV/1001_TIE_HAP_XX.wav"]
    write_wav(audio / "1002_IEO_ANG_HI.wav", tone(1, 300))
    (video / "1002_IEO_ANG_HI.mp4").write_bytes((video / "1001_TIE_SAD_XX.flv").read_bytes())
    report = check_corpus(tmp_path, workers=1)
    assert not report.ok and [(same.kind, same.speakers) for same in report.repeated if same.fault] == [
        ("sound", ["1001", "1002"]),
        ("pictures", ["1001", "1002"]),
    ]
