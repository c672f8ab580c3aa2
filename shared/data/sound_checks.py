"""What is looked for in sound before it is used: damage that decoders pass over without a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moretta.shared.core.errors import ClipError

SAMPLE_RATE = 16_000
"""Samples per second of all sound inside Moretta, as CREMA-D has it."""
MIN_SECONDS = 0.2
"""Shorter clips hold no vowel and next to no MFCC frames."""
SILENCE_DBFS = -70.0
"""Root mean square level, relative to full scale, below which a clip counts as silent. Soft sad speech of RAVDESS was
measured at -64 dBFS over the whole clip; the rounding noise of 16 bits lies at -101 dBFS."""
MIN_RATE, MAX_RATE = 4_000, 384_000
"""Hz that a header may say. Telephones have 8,000; below 4,000 no vowel can be told from another."""
MAX_PEAK = 8.0
"""Louder floats are no sound relative to full scale, such as integers that were stored as floats."""
OVERDRIVEN_SHARE = 0.05
"""Of samples at full scale, above which a clip is named as overdriven."""

_OFFSET_SECONDS = 0.05
"""What changes slower than this is no sound: an offset, or its drift."""
_MISSING_SECONDS = 0.02
"""How much shorter than its header a file may be: some recorders count the header as sound."""
_UNKNOWN_SIZES = (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000)
"""What programs write into a header before they know how much follows."""

Audio = NDArray[np.float32]


def check_rate(rate: float, path: Path) -> None:
    """Check a header's samples per second.

    Raises:
        ClipError: reason `bad-rate`.
    """
    if not MIN_RATE <= rate <= MAX_RATE:
        found = f"{path.name} has a rate of {rate:.0f} samples per second"
        raise ClipError("bad-rate", found, expected=f"{MIN_RATE} to {MAX_RATE}", fix="export it again")


def check_wav_is_whole(path: Path) -> None:
    """Check that a RIFF file holds as much sound as its header says. Other files pass.

    Raises:
        ClipError: reason `truncated`.
    """
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


def checked_sound(samples: Audio, path: Path) -> Audio:
    """Sound at 16 kHz, if it is any.

    Returns:
        [samples], cut to [-1, 1].

    Raises:
        ClipError: reason `empty`, `not-finite`, `too-short`, `out-of-range` or `silent`.
    """
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
    level = _level(samples)
    if level < SILENCE_DBFS:
        found = f"{path.name} has a level of {level:.0f} dBFS, not counting an offset"
        raise ClipError("silent", found, expected=f"above {SILENCE_DBFS:.0f}")
    return np.clip(samples, -1, 1)


def is_overdriven(samples: Audio) -> bool:
    """Whether so much of [samples] in [-1, 1] stands at full scale that the recording was too loud."""
    return float(np.mean(np.abs(samples) > 0.999)) > OVERDRIVEN_SHARE


def _level(samples: Audio) -> float:
    """Root mean square in dB of full scale of what alternates: a dead microphone with an offset is silent."""
    from scipy.ndimage import uniform_filter1d

    values = samples.astype(np.float64)
    changing = values - uniform_filter1d(values, int(_OFFSET_SECONDS * SAMPLE_RATE), mode="nearest")
    return float(10 * np.log10(max(float(np.mean(np.square(changing))), 1e-20)))
