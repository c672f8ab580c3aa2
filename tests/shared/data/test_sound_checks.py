from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from moretta.shared.core.errors import ClipError
from moretta.shared.data.media import is_overdriven, read_audio, write_wav

TONE = (0.3 * np.sin(np.arange(32_000) * 0.2)).astype(np.float32)


def reason_of(path: Path) -> str:
    with pytest.raises(ClipError) as raised:
        read_audio(path)
    assert path.name in raised.value.message
    return raised.value.reason


@pytest.mark.parametrize("share", [0.1, 0.4, 0.95])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
def test_a_half_copied_wav_is_named(tmp_path: Path, share: float, subtype: str) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, TONE, 16_000, subtype=subtype)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert reason_of(path) == "truncated"


def test_a_wav_with_notes_before_and_after_its_sound_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_wav(path, TONE)
    content = path.read_bytes()
    note = b"LIST" + (5).to_bytes(4, "little") + b"INFOx\0"
    path.write_bytes(content[:12] + note + content[12:] + note)
    assert len(read_audio(path)) == 32_000


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000])
def test_a_wav_whose_writer_did_not_know_its_length_is_read(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.wav"
    write_wav(path, TONE)
    content = bytearray(path.read_bytes())
    place = content.find(b"data") + 4
    content[place : place + 4] = size.to_bytes(4, "little")
    path.write_bytes(content)
    assert len(read_audio(path)) == 32_000


def drift() -> np.ndarray:
    return (0.4 * np.exp(-np.arange(32_000) / 20_000)).astype(np.float32)


@pytest.mark.parametrize("samples", [np.full(32_000, 0.5, np.float32), np.full(32_000, -0.01, np.float32), drift()])
def test_an_offset_is_no_sound(tmp_path: Path, samples: np.ndarray) -> None:
    write_wav(tmp_path / "a.wav", samples)
    assert reason_of(tmp_path / "a.wav") == "silent"


def test_speech_on_an_offset_is_sound(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", TONE * 0.02 + 0.5)
    assert len(read_audio(tmp_path / "a.wav")) == 32_000


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: soundfile.write(path, TONE, 1_000), "bad-rate"),
        (lambda path: soundfile.write(path, TONE, 2_000_000_000), "bad-rate"),
        (lambda path: soundfile.write(path, TONE * 30_000, 16_000, subtype="FLOAT"), "out-of-range"),
        (
            lambda path: soundfile.write(path, np.full(32_000, np.inf, np.float32), 16_000, subtype="FLOAT"),
            "not-finite",
        ),
        (lambda path: soundfile.write(path, TONE, 16_000, subtype="GSM610"), "unreadable"),
        (lambda path: soundfile.write(path, TONE, 16_000, subtype="G721_32"), "unreadable"),
        (lambda path: soundfile.write(path, np.stack([TONE, -TONE], 1), 16_000), "silent"),
    ],
)
def test_sound_that_cannot_be_trusted_is_named(tmp_path: Path, write: Callable[[Path], None], reason: str) -> None:
    write(tmp_path / "a.wav")
    assert reason_of(tmp_path / "a.wav") == reason


@pytest.mark.parametrize(("ending", "subtype"), [("flac", None), ("ogg", None), ("mp3", None), ("wav", "PCM_U8")])
def test_other_sound_files_are_read(tmp_path: Path, ending: str, subtype: str | None) -> None:
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, np.stack([TONE, np.zeros_like(TONE)], 1), 16_000, subtype=subtype)
    samples = read_audio(path)
    assert abs(len(samples) - 32_000) < 2_500 and np.abs(samples).max() == pytest.approx(0.15, abs=0.03)


def test_sound_of_a_phone_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    with av.open(str(path), "w", format="ipod") as target:
        stream = target.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(TONE[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    assert abs(len(read_audio(path)) - 32_000) < 3_200


def test_a_recording_at_full_scale_is_distinguished_from_a_loud_one() -> None:
    assert is_overdriven(np.clip(TONE * 10, -1, 1)) and not is_overdriven(TONE * 3)
