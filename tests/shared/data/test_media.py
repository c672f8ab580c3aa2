from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from moretta.shared.core.errors import ClipError
from moretta.shared.data.media import Audio, Frame, read_audio, read_frames, read_video_audio, write_video, write_wav


def tone(seconds: float, *, hertz: float = 440, rate: int = 16_000) -> Audio:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def pictures(count: int, *, height: int = 48, width: int = 64) -> list[Frame]:
    """Red, growing brighter from frame to frame."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[..., 0] = np.linspace(50, 250, count, dtype=np.uint8)[:, None, None]
    return list(frames)


def test_wav_reads_back_what_was_written(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", tone(0.5))
    samples = read_audio(tmp_path / "a.wav")
    assert samples.dtype == np.float32 and samples.shape == (8000,)
    np.testing.assert_allclose(samples, tone(0.5), atol=2 / 32768)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_and_stereo_become_16_khz_mono(tmp_path: Path, rate: int) -> None:
    left = tone(1, rate=rate)
    soundfile.write(tmp_path / "a.wav", np.stack([left, np.zeros_like(left)], axis=1), rate)
    samples = read_audio(tmp_path / "a.wav")
    assert abs(len(samples) - 16_000) <= 1
    spectrum = np.abs(np.fft.rfft(samples[:16_000]))
    assert abs(int(spectrum.argmax()) - 440) <= 1
    assert np.abs(samples).max() == pytest.approx(0.25, abs=0.02)


def silence(path: Path) -> None:
    write_wav(path, np.full(16_000, 1e-4, np.float32))


def test_soft_real_speech_is_not_taken_for_silence(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", tone(1) * (10 ** (-65 / 20) / np.sqrt(np.mean(tone(1) ** 2))))
    assert len(read_audio(tmp_path / "a.wav")) == 16_000


def not_numbers(path: Path) -> None:
    soundfile.write(path, np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: write_wav(path, np.zeros(0, np.float32)), "empty"),
        (lambda path: path.write_bytes(b"RIFF garbage" * 50), "unreadable"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "unreadable"),
        (lambda path: write_wav(path, tone(0.1)), "too-short"),
        (lambda path: soundfile.write(path, np.zeros(2_000, np.int16), 8_000, subtype="PCM_U8"), "silent"),
        (lambda path: soundfile.write(path, np.full(70_000, 9, np.int16), 100), "too-long"),
        (silence, "silent"),
        (not_numbers, "not-finite"),
        (lambda _: None, "unreadable"),
    ],
)
def test_unusable_sound_is_refused_with_its_reason(tmp_path: Path, write: Callable[[Path], None], reason: str) -> None:
    write(tmp_path / "a.wav")
    with pytest.raises(ClipError) as raised:
        read_audio(tmp_path / "a.wav")
    assert raised.value.reason == reason


@pytest.mark.parametrize("ending", [".flv", ".mp4"])
def test_video_with_sound_reads_back_alike(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    write_video(path, iter(pictures(24)), 12, tone(2))
    frames = list(read_frames(path, fps=None))
    assert len(frames) == 24
    assert frames[0].shape == (48, 64, 3) and frames[0].dtype == np.uint8
    red = np.array([frame.reshape(-1, 3).mean(0) for frame in frames])
    assert np.abs(red[:, 0] - np.linspace(50, 250, 24)).max() < 12 and red[:, 1:].max() < 12
    sound = read_video_audio(path)
    assert abs(len(sound) - 32_000) < 3_200
    assert abs(int(np.abs(np.fft.rfft(sound[4_000:20_000])).argmax()) - 440) <= 1
    assert list(tmp_path.iterdir()) == [path], "no temporary file stays"


@pytest.mark.parametrize(("fps", "expected"), [(12, 24), (6, 12), (5, 10), (1, 2), (30, 24)])
def test_frames_are_thinned_to_the_rate_requested_and_never_made_up(tmp_path: Path, fps: float, expected: int) -> None:
    write_video(tmp_path / "a.flv", pictures(24), 12, None)
    assert len(list(read_frames(tmp_path / "a.flv", fps=fps))) == expected


def test_odd_sizes_lose_a_row_not_the_clip(tmp_path: Path) -> None:
    write_video(tmp_path / "a.flv", pictures(3, height=33, width=41), 12, None)
    assert next(read_frames(tmp_path / "a.flv", fps=None)).shape == (32, 40, 3)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"FLV garbage" * 50), "unreadable"),
        (lambda path: soundfile.write(path, tone(1), 16_000, format="WAV"), "no-video"),
    ],
)
def test_a_clip_without_pictures_is_refused_with_its_reason(
    tmp_path: Path, write: Callable[[Path], None], reason: str
) -> None:
    write(tmp_path / "a.flv")
    with pytest.raises(ClipError) as raised:
        list(read_frames(tmp_path / "a.flv", fps=None))
    assert raised.value.reason == reason


def test_a_clip_without_sound_is_refused_with_its_reason(tmp_path: Path) -> None:
    write_video(tmp_path / "a.flv", pictures(3), 12, None)
    with pytest.raises(ClipError) as raised:
        read_video_audio(tmp_path / "a.flv")
    assert raised.value.reason == "no-audio"


def test_a_video_whose_frames_fail_half_way_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> object:
        yield from pictures(5)
        raise RuntimeError("renderer")

    with pytest.raises(RuntimeError, match="renderer"):
        write_video(tmp_path / "a.flv", failing(), 12, tone(1))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
