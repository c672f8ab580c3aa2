"""Sound and pictures, in and out. Everything decoded is checked; everything written appears whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np

from moretta.shared.core.array_types import Float32
from moretta.shared.core.atomic import atomic_path, write_atomic
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

SAMPLE_RATE = 16_000
"""Samples per second of all sound inside Moretta, as CREMA-D has it."""
MIN_SECONDS = 0.2
"""Shortest clip: shorter ones hold no vowel and next to no MFCC frames."""
SILENCE_DBFS = -70.0
"""Root mean square level, relative to full scale, below which a clip counts as silent. Soft sad speech of RAVDESS was
measured at -64 dBFS over the whole clip; the rounding noise of 16 bits lies at -101 dBFS."""
MIN_RATE, MAX_RATE = 4_000, 384_000
"""Sampling rates in Hz that a header may state. Telephones have 8,000; below 4,000 all vowels sound alike."""
MAX_PEAK = 8.0
"""Largest float sample: louder ones are no sound relative to full scale, such as integers stored as floats."""
OVERDRIVEN_SHARE = 0.05
"""Share of samples at full scale above which a clip counts as overdriven."""
SOUND_FILES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".aif", ".au", ".caf")
"""Endings of files that libsndfile reads; PyAV reads the sound of all others."""
_OFFSET_SECONDS = 0.05
"""Seconds over which an offset is measured: slower changes are no sound, but an offset or its drift."""
_MISSING_SECONDS = 0.02
"""How much shorter than its header a file may be: some recorders count the header as sound."""
_UNKNOWN_SIZES = (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000)
"""Sizes that programs write into a header before they know how much follows."""
_FLV_AUDIO_RATE = 22_050  # FLV's header knows 11,025, 22,050 and 44,100 Hz only
_CLOCK_SECONDS = 0.002  # FLV rounds the time of a frame to milliseconds

Audio = Float32


def read_audio(path: Path) -> Audio:
    """Sound of a file, or the first track of a video, [samples], mono at 16 kHz in [-1, 1]; channels are averaged.

    Raises:
        ClipError: reason `unreadable`, `truncated`, `empty`, `bad-rate`, `not-finite`, `too-short`, `too-long`,
            `out-of-range` or `silent`; of a video also `no-audio`.
    """
    import soundfile

    if path.suffix.lower() not in SOUND_FILES:
        return read_video_audio(path)
    with reading(path):
        with soundfile.SoundFile(path) as sound:
            rate = int(sound.samplerate)
            if sound.frames > MAX_SECONDS * max(rate, 1):
                raise ClipError("too-long", f"{path.name} has {sound.frames / rate:.0f} s", expected="one sentence")
            _check_rate(rate, path)
            samples = sound.read(dtype="float32", always_2d=True)
        check_wav_is_whole(path)
        return _checked(resample(samples.mean(axis=1), rate), path)


def read_video_audio(path: Path) -> Audio:
    """Decode the sound of a video file. Errors: see `read_audio`."""
    import av

    parts, samples = [np.zeros(0, np.float32)], 0
    with open_container(path) as container:
        if not container.streams.audio:
            raise ClipError("no-audio", f"{path.name} has no sound")
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        for frame in chain(container.decode(container.streams.audio[0]), [None]):
            if frame is not None:
                _check_rate(frame.sample_rate, path)
                samples += frame.samples
                if samples > MAX_SECONDS * frame.sample_rate:
                    raise ClipError("too-long", f"{path.name} has over {MAX_SECONDS:.0f} s of sound")
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        return _checked(np.concatenate(parts), path)


def read_frames(path: Path, *, fps: float | None) -> Iterator[Frame]:
    """Pictures of a video [H, W, 3] of RGB, as they are meant to be seen: upright, with square pixels, of one size.

    At most about `fps` frames per second are kept, none is made up; None keeps all.

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
            timed = fps is not None and frame.time is not None
            slot = int((frame.time + _CLOCK_SECONDS) * fps) if timed else index
            if slot > last_slot:
                last_slot = slot
                yield as_seen(frame, ratio)
    if last_slot < 0:
        raise ClipError("no-video", f"{path.name} has a picture track without a picture")


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
    video_codec, audio_codec, rate = codecs[path.suffix.lower()]
    pictures = iter(frames)
    first = next(pictures, None)
    if first is None:
        raise ValueError(f"{path.name}: no frame to write")
    height, width = first.shape[0] // 2 * 2, first.shape[1] // 2 * 2  # chroma is stored at half size
    with atomic_path(path) as temporary, av.open(str(temporary), "w") as container:
        video: Any = container.add_stream(video_codec, rate=Fraction(fps).limit_denominator(1000))
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.bit_rate = max(200_000, int(width * height * fps))
        video.codec_context.thread_count = 1
        if audio is not None:
            sound: Any = container.add_stream(audio_codec, rate=rate)
            sound.layout = "mono"
            samples = np.clip(resample(audio, SAMPLE_RATE, rate), -1, 1)[None].astype(np.float32)
            track = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            track.sample_rate = rate
            container.mux(sound.encode(track))
            container.mux(sound.encode(None))
        for picture in chain([first], pictures):
            shown = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
            container.mux(video.encode(shown))
        container.mux(video.encode(None))


def write_picture(path: Path, frame: Frame) -> None:
    """Write one frame [H, W, 3] of RGB as PNG, without loss."""
    import cv2

    _, data = cv2.imencode(".png", np.ascontiguousarray(frame[:, :, ::-1]))
    write_atomic(path, data.tobytes())


def resample(samples: Audio, rate: int, to: int = SAMPLE_RATE) -> Audio:
    """Change the rate of [samples] with a polyphase filter."""
    if rate == to:
        return samples
    from scipy.signal import resample_poly

    common = gcd(rate, to)
    return np.asarray(resample_poly(samples, to // common, rate // common), np.float32)


def is_overdriven(samples: Audio) -> bool:
    """Whether so much of [samples] in [-1, 1] stands at full scale that the recording was too loud."""
    return float(np.mean(np.abs(samples) > 0.999)) > OVERDRIVEN_SHARE


def check_wav_is_whole(path: Path) -> None:
    """Check that a RIFF file holds as much sound as its header says; else a ClipError `truncated`. Other files pass."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
            return
        bytes_per_second = 0
        while len(chunk := file.read(8)) == 8:
            name, length = chunk[:4], int.from_bytes(chunk[4:], "little")
            start = file.tell()
            if name == b"fmt ":
                bytes_per_second = int.from_bytes(file.read(12)[8:12], "little")
            if name == b"data":
                missing = start + length - size
                if length not in _UNKNOWN_SIZES and missing > _MISSING_SECONDS * bytes_per_second:
                    found = f"{path.name} holds {size - start} of the {length} bytes of sound that its header says"
                    raise ClipError("truncated", found, fix="copy it again")
                return
            file.seek(start + length + length % 2)


def _check_rate(rate: float, path: Path) -> None:
    if not MIN_RATE <= rate <= MAX_RATE:
        found = f"{path.name} has a rate of {rate:.0f} samples per second"
        raise ClipError("bad-rate", found, expected=f"{MIN_RATE} to {MAX_RATE}", fix="export it again")


def _checked(samples: Audio, path: Path) -> Audio:
    """Sound at 16 kHz, if it is any, cut to [-1, 1]."""
    from scipy.ndimage import uniform_filter1d

    if not len(samples):
        raise ClipError("empty", f"{path.name} has no sample")
    if not np.isfinite(samples).all():
        raise ClipError("not-finite", f"{path.name} has samples that are not numbers")
    if len(samples) < MIN_SECONDS * SAMPLE_RATE:
        found = f"{path.name} lasts {len(samples) / SAMPLE_RATE:.2f} s"
        raise ClipError("too-short", found, expected=f"at least {MIN_SECONDS} s")
    peak = float(np.abs(samples).max())
    if peak > MAX_PEAK:
        found = f"{path.name} has samples up to {peak:.0f}"
        raise ClipError("out-of-range", found, expected="samples in [-1, 1]", fix="export it again as 16-bit PCM")
    # Root mean square in dB of full scale of what alternates: a dead microphone with an offset is silent.
    values = samples.astype(np.float64)
    changing = values - uniform_filter1d(values, int(_OFFSET_SECONDS * SAMPLE_RATE), mode="nearest")
    level = float(10 * np.log10(max(float(np.mean(np.square(changing))), 1e-20)))
    if level < SILENCE_DBFS:
        found = f"{path.name} has a level of {level:.0f} dBFS, not counting an offset"
        raise ClipError("silent", found, expected=f"above {SILENCE_DBFS:.0f}")
    return np.clip(samples, -1, 1)
