"""Sound and pictures, in and out. Everything decoded is checked; everything written appears whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moretta.shared.atomic import atomic_path
from moretta.shared.errors import ClipError

SAMPLE_RATE = 16_000
"""Samples per second of all sound inside Moretta, as CREMA-D has it."""
MIN_SECONDS = 0.2
"""Shorter clips hold no vowel and next to no MFCC frames."""
MAX_SECONDS = 600.0
"""A clip is one sentence. The limit bounds memory, not taste."""
SILENCE_DBFS = -70.0
"""Root mean square level, relative to full scale, below which a clip counts as silent. Soft sad speech of RAVDESS was
measured at -64 dBFS over the whole clip; the rounding noise of 16 bits lies at -101 dBFS."""

_FLV_AUDIO_RATE = 22_050  # FLV's header knows 11,025, 22,050 and 44,100 Hz only
_CLOCK_SECONDS = 0.002  # FLV rounds the time of a frame to milliseconds
_GIT_LFS = b"version https://git-lfs"

Audio = NDArray[np.float32]
Frame = NDArray[np.uint8]


def read_audio(path: Path) -> Audio:
    """Decode a sound file.

    Returns:
        [samples], mono at 16 kHz, in [-1, 1]. Channels are averaged, other rates resampled.

    Raises:
        ClipError: reason `unreadable`, `empty`, `not-finite`, `too-short`, `too-long` or `silent`.
    """
    import soundfile

    _check_file(path)
    try:
        with soundfile.SoundFile(path) as sound:
            rate = int(sound.samplerate)
            if sound.frames > MAX_SECONDS * rate:
                raise ClipError("too-long", f"{path.name} has {sound.frames / rate:.0f} s", expected="one sentence")
            samples = sound.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise ClipError("unreadable", f"{path.name} is not a sound file ({error})") from error
    return _checked(resample(samples.mean(axis=1), rate), path)


def read_frames(path: Path, *, fps: float | None) -> Iterator[Frame]:
    """Decode the pictures of a clip, one at a time.

    Args:
        path: a video file.
        fps: at most about this many frames per second are kept, none is made up; None keeps all.

    Yields:
        [H, W, 3], RGB.

    Raises:
        ClipError: reason `unreadable`, `empty` or `no-video`, possibly after some frames.
    """
    last_slot = -1
    with _open_container(path) as container:
        if not container.streams.video:
            raise ClipError("no-video", f"{path.name} has no pictures")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(stream)):
            slot = index
            if fps is not None and frame.time is not None:
                slot = int((frame.time + _CLOCK_SECONDS) * fps)
            if slot > last_slot:
                last_slot = slot
                yield frame.to_ndarray(format="rgb24")
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
    with _open_container(path) as container:
        if not container.streams.audio:
            raise ClipError("no-audio", f"{path.name} has no sound")
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        for frame in container.decode(container.streams.audio[0]):
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
            samples += frame.samples
            if samples > MAX_SECONDS * frame.sample_rate:
                raise ClipError("too-long", f"{path.name} has over {MAX_SECONDS:.0f} s of sound")
        parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return _checked(np.concatenate(parts) if parts else np.zeros(0, np.float32), path)


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


@contextmanager
def _open_container(path: Path) -> Iterator[Any]:
    """Turns every decoding error inside the block into a ClipError."""
    import av

    _check_file(path)
    try:
        with av.open(str(path)) as container:
            yield container
    except (av.FFmpegError, EOFError, ValueError) as error:
        raise ClipError("unreadable", f"{path.name} cannot be decoded ({error})") from error


def _check_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(len(_GIT_LFS))
    except OSError as error:
        raise ClipError("unreadable", f"{path.name} cannot be opened ({error.strerror})") from error
    if not head:
        raise ClipError("empty", f"{path.name} has no byte")
    if head == _GIT_LFS:
        raise ClipError("unreadable", f"{path.name} is a Git LFS pointer", fix="run `git lfs pull` in the corpus")


def _checked(samples: Audio, path: Path) -> Audio:
    if not len(samples):
        raise ClipError("empty", f"{path.name} has no sample")
    if not np.isfinite(samples).all():
        raise ClipError("not-finite", f"{path.name} has samples that are not numbers")
    if len(samples) < MIN_SECONDS * SAMPLE_RATE:
        raise ClipError(
            "too-short", f"{path.name} lasts {len(samples) / SAMPLE_RATE:.2f} s", expected=f"at least {MIN_SECONDS} s"
        )
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    level = 10 * np.log10(max(power, 1e-20))
    if level < SILENCE_DBFS:
        raise ClipError("silent", f"{path.name} has a level of {level:.0f} dBFS", expected=f"above {SILENCE_DBFS:.0f}")
    return np.clip(samples, -1, 1)
