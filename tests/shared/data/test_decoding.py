from __future__ import annotations

import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from videos import MATRICES, colours, corners, encode, set_matrix

from moretta.shared.core.errors import ClipError
from moretta.shared.data.media import read_audio, read_frames, write_video

TONE = (0.3 * np.sin(np.arange(32_000) * 0.2)).astype(np.float32)


def reason_of(path: Path) -> str:
    with pytest.raises(ClipError) as raised:
        list(read_frames(path, fps=None))
    assert path.name in raised.value.message
    return raised.value.reason


@pytest.mark.parametrize(
    ("matrix", "seen"),
    zip(MATRICES, ("rgbw", "wrgb", "bwrg", "gbwr", "grwb", "wbgr", "rwbg"), strict=True),
)
def test_a_video_comes_out_as_its_display_matrix_says(tmp_path: Path, matrix: str, seen: str) -> None:
    path = encode(tmp_path / "a.mp4", [corners()] * 3)
    set_matrix(path, MATRICES[matrix])
    frame = next(read_frames(path, fps=None))
    assert colours(frame) == seen
    assert frame.shape == ((96, 64, 3) if "quarter" in matrix or "turned" in matrix else (64, 96, 3))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_phone_held_in_any_way_gives_an_upright_picture(tmp_path: Path, turns: int) -> None:
    path = encode(tmp_path / "a.mp4", [np.rot90(corners(), turns)] * 3)
    set_matrix(path, MATRICES[("as stored", "quarter turn", "half turn", "three quarters")[turns]])
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation != 0
    assert colours(next(read_frames(path, fps=None))) == "rgbw"


@pytest.mark.parametrize(
    ("ratio", "shape"), [(Fraction(16, 11), (64, 140, 3)), (Fraction(1, 2), (128, 96, 3)), (None, (64, 96, 3))]
)
def test_pixels_that_are_not_square_are_made_square(
    tmp_path: Path, ratio: Fraction | None, shape: tuple[int, ...]
) -> None:
    path = encode(tmp_path / "a.mp4", [corners()] * 2, ratio=ratio)
    frame = next(read_frames(path, fps=None))
    assert frame.shape == shape and colours(frame) == "rgbw"


def test_pixels_that_no_camera_has_are_refused(tmp_path: Path) -> None:
    assert reason_of(encode(tmp_path / "a.mp4", [corners()] * 2, ratio=Fraction(9, 1))) == "unreadable"


def test_narrow_pixels_of_a_turned_video_are_made_square_before_it_is_turned(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", [np.rot90(corners(64, 64))] * 2, ratio=Fraction(2, 1))
    set_matrix(path, MATRICES["quarter turn"])
    frame = next(read_frames(path, fps=None))
    assert frame.shape == (128, 64, 3) and colours(frame) == "rgbw"


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "yuv420p10le"),
        ("a.mkv", "libx264", "gray"),
        ("a.mov", "mpeg4", "yuv420p"),
        ("a.mov", "png", "rgba"),
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("a.avi", "mjpeg", "yuvj444p"),
    ],
)
def test_other_containers_and_pixels_are_read(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    frames = list(read_frames(encode(tmp_path / name, [corners()] * 4, codec=codec, pix_fmt=pix_fmt), fps=None))
    assert len(frames) == 4 and all(frame.shape == (64, 96, 3) for frame in frames)
    assert pix_fmt == "gray" or colours(frames[-1]) == "rgbw"


def test_a_changing_frame_rate_is_thinned_by_time(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mkv", [corners()] * 12, times=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 24, 36])
    assert len(list(read_frames(path, fps=1.0))) == 3


def test_a_video_whose_size_changes_is_named(tmp_path: Path) -> None:
    parts = [
        encode(tmp_path / f"{size}.h264", [corners(size, 2 * size)] * 8, container="h264").read_bytes()
        for size in (64, 32)
    ]
    path = tmp_path / "a.mp4"
    path.write_bytes(b"".join(parts))
    assert reason_of(path) == "size-changes"


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def noise(count: int = 36) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (48, 64, 3)).astype(np.uint8) for _ in range(count)]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    ("name", "options"), [("a.flv", {}), ("a.mp4", {}), ("a.mp4", {"movflags": "faststart"}), ("a.mkv", {})]
)
def test_a_half_copied_video_is_named(tmp_path: Path, name: str, options: dict[str, str], share: float) -> None:
    codec = "flv1" if name.endswith("flv") else "mpeg4"
    path = encode(tmp_path / name, noise(), codec=codec, options=options)
    assert len(list(read_frames(path, fps=None))) == 36
    cut(path, share)
    assert reason_of(path) in ("truncated", "damaged", "unreadable")


def test_a_cover_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp3"), "w") as target:
        cover = target.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 64, 96, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        sound = target.add_stream("mp3", rate=16_000, layout="mono")
        target.mux(cover.encode(av.VideoFrame.from_ndarray(corners(), format="rgb24")))
        target.mux(cover.encode(None))
        frame = av.AudioFrame.from_ndarray(TONE[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        target.mux(sound.encode(frame))
        target.mux(sound.encode(None))
    (tmp_path / "a.mp3").rename(tmp_path / "a.mp4")
    assert reason_of(tmp_path / "a.mp4") == "no-video"
    assert abs(len(read_audio(tmp_path / "a.mp4")) - 32_000) < 3_200


def fail(error: Exception) -> Callable[..., object]:
    def failing(*_: object, **__: object) -> object:
        raise error

    return failing


@pytest.mark.parametrize(
    "error", [ValueError("x"), TypeError("x"), IndexError("x"), MemoryError(), OverflowError("x"), RuntimeError("x")]
)
@pytest.mark.parametrize("where", ["av.open", "soundfile.SoundFile"])
def test_whatever_a_decoder_raises_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    write_video(tmp_path / "a.flv", [corners()] * 2, 12, None)
    (tmp_path / "a.wav").write_bytes(b"anything")
    monkeypatch.setattr(where, fail(error))
    with pytest.raises(ClipError, match=r"a\.(flv|wav) cannot be decoded") as raised:
        list(read_frames(tmp_path / "a.flv", fps=None)) if where == "av.open" else read_audio(tmp_path / "a.wav")
    assert raised.value.reason == "unreadable"
