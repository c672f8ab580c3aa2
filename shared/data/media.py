"""Sound and pictures, in and out. Everything decoded is checked; everything written appears whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np

from moretta.shared.core.atomic import atomic_path
from moretta.shared.core.errors import ClipError
from moretta.shared.data.decoding import (
    MAX_SECONDS,
    Frame,
    as_seen,
    decoded_frames,
    open_container,
    picture_stream,
    pixel_ratio,
    reading,
)
from moretta.shared.data.sound_checks import (
    MIN_SECONDS,
    SAMPLE_RATE,
    SILENCE_DBFS,
    Audio,
    check_rate,
    check_wav_is_whole,
    checked_sound,
)

__all__ = [
    "CONTAINERS",
    "MAX_SECONDS",
    "MIN_SECONDS",
    "SAMPLE_RATE",
    "SILENCE_DBFS",
    "Audio",
    "Frame",
    "read_audio",
    "read_frames",
    "read_video_audio",
    "resample",
    "write_video",
    "write_wav",
]

_FLV_AUDIO_RATE = 22_050  # FLV's header knows 11,025, 22,050 and 44,100 Hz only
_CLOCK_SECONDS = 0.002  # FLV rounds the time of a frame to milliseconds
CONTAINERS = (".m4a", ".flv", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
"""Endings of files whose sound libsndfile does not read."""


def read_audio(path: Path) -> Audio:
    """Decode a sound file, or the first sound track of a video.

    Returns:
        [samples], mono at 16 kHz, in [-1, 1]. Channels are averaged, other rates resampled.

    Raises:
        ClipError: reason `unreadable`, `truncated`, `empty`, `bad-rate`, `not-finite`, `too-short`, `too-long`,
            `out-of-range` or `silent`; of a video also `no-audio`.
    """
    import soundfile

    if path.suffix.lower() in CONTAINERS:
        return read_video_audio(path)
    with reading(path):
        with soundfile.SoundFile(path) as sound:
            rate = int(sound.samplerate)
            if sound.frames > MAX_SECONDS * max(rate, 1):
                raise ClipError("too-long", f"{path.name} has {sound.frames / rate:.0f} s", expected="one sentence")
            check_rate(rate, path)
            samples = sound.read(dtype="float32", always_2d=True)
        check_wav_is_whole(path)
        return checked_sound(resample(samples.mean(axis=1), rate), path)


def read_frames(path: Path, *, fps: float | None) -> Iterator[Frame]:
    """Decode the pictures of a clip, one at a time, as they are meant to be seen: upright, with square pixels.

    Args:
        path: a video file.
        fps: at most about this many frames per second are kept, none is made up; None keeps all.

    Yields:
        [H, W, 3], RGB, all of one size.

    Raises:
        ClipError: reason `unreadable`, `truncated`, `damaged`, `empty`, `too-long`, `size-changes` or `no-video`,
            possibly after some frames.
    """
    last_slot = -1
    with open_container(path) as container:
        stream = picture_stream(container)
        if stream is None:
            raise ClipError("no-video", f"{path.name} has no pictures")
        ratio = pixel_ratio(stream, path)
        for index, frame in enumerate(decoded_frames(container, stream, path)):
            slot = index
            if fps is not None and frame.time is not None:
                slot = int((frame.time + _CLOCK_SECONDS) * fps)
            if slot > last_slot:
                last_slot = slot
                yield as_seen(frame, ratio)
    if last_slot < 0:
        raise ClipError("no-video", f"{path.name} has a picture track without a picture")


def read_video_audio(path: Path) -> Audio:
    """Decode the sound of a video file, as `read_audio` does for sound files.

    Raises:
        ClipError: those of `read_audio`, or reason `no-audio`.
    """
    import av

    parts: list[Audio] = []
    samples = 0
    with open_container(path) as container:
        if not container.streams.audio:
            raise ClipError("no-audio", f"{path.name} has no sound")
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        for frame in container.decode(container.streams.audio[0]):
            check_rate(frame.sample_rate, path)
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
            samples += frame.samples
            if samples > MAX_SECONDS * frame.sample_rate:
                raise ClipError("too-long", f"{path.name} has over {MAX_SECONDS:.0f} s of sound")
        parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
        return checked_sound(np.concatenate(parts) if parts else np.zeros(0, np.float32), path)


def write_wav(path: Path, samples: Audio) -> None:
    """Write [samples] in [-1, 1] at 16 kHz as 16-bit mono WAV. Louder samples are clipped."""
    import soundfile

    written = io.BytesIO()  # of a full disk soundfile would say no more than "System error."
    soundfile.write(written, np.clip(samples, -1, 1), SAMPLE_RATE, subtype="PCM_16", format="WAV")
    with atomic_path(path) as temporary:
        temporary.write_bytes(written.getvalue())


def write_video(path: Path, frames: Iterable[Frame], fps: float, audio: Audio | None) -> None:
    """Write frames, and sound if there is any, as `.flv` (flv1 and mp3) or `.mp4` (mpeg4 and aac).

    Args:
        path: its ending chooses the format.
        frames: [H, W, 3] each, RGB, all of one size; read as they are written. An odd last row or column is cut.
        fps: frames per second.
        audio: [samples] at 16 kHz, or None.

    Raises:
        ValueError: another ending, or no frame.
    """
    import av

    codecs = {".flv": ("flv1", "mp3", _FLV_AUDIO_RATE), ".mp4": ("mpeg4", "aac", SAMPLE_RATE)}
    if path.suffix.lower() not in codecs:
        raise ValueError(f"{path.name}: expected a name ending in .flv or .mp4")
    video_codec, audio_codec, audio_rate = codecs[path.suffix.lower()]
    pictures = iter(frames)
    first = next(pictures, None)
    if first is None:
        raise ValueError(f"{path.name}: no frame to write")
    height, width = first.shape[0] // 2 * 2, first.shape[1] // 2 * 2  # chroma is stored at half size
    with atomic_path(path) as temporary, av.open(str(temporary), "w") as container:
        video = container.add_stream(video_codec, rate=Fraction(fps).limit_denominator(1000))
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.bit_rate = max(200_000, int(width * height * fps))
        video.codec_context.thread_count = 1
        sound = None
        if audio is not None:
            sound = container.add_stream(audio_codec, rate=audio_rate)
            sound.layout = "mono"
        if sound is not None and audio is not None:
            _encode_sound(container, sound, resample(audio, SAMPLE_RATE, audio_rate), audio_rate)
        _encode_picture(container, video, first[:height, :width])
        for picture in pictures:
            _encode_picture(container, video, picture[:height, :width])
        container.mux(video.encode(None))


def resample(samples: Audio, rate: int, to: int = SAMPLE_RATE) -> Audio:
    """Change the rate of [samples] with a polyphase filter."""
    if rate == to:
        return samples
    from scipy.signal import resample_poly

    common = gcd(rate, to)
    resampled: Audio = resample_poly(samples, to // common, rate // common).astype(np.float32)
    return resampled


def _encode_picture(container: Any, stream: Any, picture: Frame) -> None:
    import av

    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    container.mux(stream.encode(frame))


def _encode_sound(container: Any, stream: Any, samples: Audio, rate: int) -> None:
    import av

    frame = av.AudioFrame.from_ndarray(np.clip(samples, -1, 1)[None].astype(np.float32), format="fltp", layout="mono")
    frame.sample_rate = rate
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
