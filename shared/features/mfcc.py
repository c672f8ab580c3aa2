"""MFCC, one definition for both sides: waveform to MFCC, and back as far as that is possible.

16 kHz, 25 ms Hann windows every 10 ms, 40 mel bands from 0 to 8 kHz, natural logarithm of band energy, orthonormal
DCT-II. A clip of n samples has `1 + n // 160` frames: 261 for 2.6 s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from moretta.shared.core.array_types import Array, Float32
from moretta.shared.core.errors import ClipError
from moretta.shared.release.release_format import MAX_SAMPLES, MIN_SAMPLES

if TYPE_CHECKING:
    import torch

SAMPLE_RATE = 16_000
WINDOW_SAMPLES = 400
HOP_SAMPLES = 160
FFT_SAMPLES = 512
MELS = 40
COEFFICIENTS = 13
LOUDEST = 10.0
"""Largest value of a sample; larger ones are cut. Resampling goes a little beyond 1, damaged files far beyond."""
MIN_FRAMES = 1 + MIN_SAMPLES // HOP_SAMPLES
OUTPUT_RMS = 0.05
"""Root mean square of every resynthesized waveform, relative to full scale (-26 dB)."""
_EDGE_SAMPLES = FFT_SAMPLES // 2  # silence on either side puts the middle of frame t at sample 160 t
_INNER_SAMPLES = (FFT_SAMPLES - WINDOW_SAMPLES) // 2  # of a frame on either side of its window
_CHUNK_SAMPLES = 60 * SAMPLE_RATE  # bounds the spectrogram in memory to 12 MB
_CHUNK_FRAMES = 256  # their spectra stay in the processor's cache
_FLOOR = 1e-6  # added to each band's energy, as torchaudio does
_LOG_FLOOR = float(np.log(_FLOOR))
_LOG_CEILING = float(np.log(WINDOW_SAMPLES**2))  # no band of sound in [-1, 1] holds more: window gain squared, twice
_GRIFFIN_LIM_STEPS, _MOMENTUM = 32, 0.99

Audio = Float32
Frames = Float32
"""[frames, coefficients]"""


def mfcc(samples: Array, coefficients: int = COEFFICIENTS) -> Frames:
    """MFCC [1 + samples // 160, coefficients] of one clip, mono at 16 kHz. Errors: see `check_samples`.

    Coefficients are from 1 to 40; the first is c0, the level.
    """
    return mfcc_batch([samples], coefficients)[0]


def mfcc_batch(clips: Sequence[Array], coefficients: int = COEFFICIENTS) -> list[Frames]:
    """MFCC of each clip, as by `mfcc` up to rounding, and with its errors.

    It is quick on one thread: the clips are joined, with silence between them, into one long signal.
    """
    chunks: list[list[Audio]] = [[]]
    for clip in map(check_samples, clips):
        if chunks[-1] and sum(map(len, chunks[-1])) + len(clip) > _CHUNK_SAMPLES:
            chunks.append([])
        chunks[-1].append(clip)
    return [frames for chunk in chunks if chunk for frames in _mfcc_of_joined(chunk, coefficients)]


def check_samples(samples: Array) -> Audio:
    """The clip as float32, samples beyond +- `LOUDEST` cut.

    Every anonymizer can measure and release a clip that passes. Clips are dropped here and for no other reason.

    Raises:
        ClipError: reason `wrong-shape`, `too-short`, `too-long` or `not-finite`.
    """
    what = f"sound of {samples.dtype} {list(samples.shape)}"
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise ClipError("wrong-shape", what, expected="mono sound, float [samples] at 16 kHz")
    if len(samples) < MIN_SAMPLES:
        raise ClipError("too-short", what, expected=f"at least {MIN_SAMPLES} samples, one window")
    if len(samples) > MAX_SAMPLES:
        raise ClipError("too-long", what, expected=f"at most {MAX_SAMPLES} samples", fix="cut the clip")
    lowest, highest = samples.min(), samples.max()  # NaN if one is
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise ClipError("not-finite", f"{what} with values that are not finite", expected="samples in [-1, 1]")
    loud = max(-lowest, highest) > LOUDEST
    return np.ascontiguousarray(np.clip(samples, -LOUDEST, LOUDEST) if loud else samples, np.float32)


def waveform_from_mfcc(frames: Array) -> Audio:
    """Sound with about these MFCC: inverse DCT, inverse mel, Griffin-Lim with phases from zero.

    Deterministic. Band energies that no sound in [-1, 1] can have are brought into range first, so that one frame
    saturated by noise does not drown the others.

    Args:
        frames: [frames, coefficients], at least 3 frames.

    Returns:
        [160 (frames - 1)], in [-1, 1], its root mean square at `OUTPUT_RMS` unless it is silence.

    Raises:
        ClipError: reason `wrong-shape`, `too-short` or `not-finite`.
    """
    import torch

    what = f"MFCC of {list(frames.shape)}"
    if frames.ndim != 2 or not 1 <= frames.shape[1] <= MELS:
        raise ClipError("wrong-shape", what, expected=f"[frames, coefficients], at most {MELS} coefficients")
    if len(frames) < MIN_FRAMES:
        raise ClipError("too-short", what, expected=f"at least {MIN_FRAMES} frames")
    if not np.isfinite(frames).all():
        raise ClipError("not-finite", f"{what} with values that are not finite")
    dct, inverse_mel = _inverse(frames.shape[1])
    with torch.inference_mode():
        log_mel = torch.from_numpy(np.ascontiguousarray(frames, np.float32)) @ dct  # [frames, mels]
        energy = log_mel.clamp(_LOG_FLOOR, _LOG_CEILING).exp().T  # [mels, frames]
        samples: Audio = _griffin_lim(inverse_mel(energy.contiguous()).sqrt()).numpy()
    rms = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    if rms < 1e-12:
        return np.zeros_like(samples)
    return np.asarray(np.clip(samples * (OUTPUT_RMS / rms), -1, 1), np.float32)


def _mfcc_of_joined(clips: list[Audio], coefficients: int) -> Iterator[Frames]:
    import torch

    starts = [0]
    for clip in clips:  # each clip starts on the frame grid
        starts.append(starts[-1] + -(-(len(clip) + 2 * _EDGE_SAMPLES) // HOP_SAMPLES) * HOP_SAMPLES)
    joined = np.empty(starts[-1] + FFT_SAMPLES, np.float32)
    end = 0
    for clip, start in zip(clips, starts, strict=False):
        joined[end : start + _EDGE_SAMPLES] = 0
        end = start + _EDGE_SAMPLES + len(clip)
        joined[start + _EDGE_SAMPLES : end] = clip
    joined[end:] = 0
    window, mel, dct = _forward(coefficients)
    with torch.inference_mode():
        inner = torch.from_numpy(joined)[_INNER_SAMPLES:-_INNER_SAMPLES]
        places = inner.unfold(0, WINDOW_SAMPLES, HOP_SAMPLES)  # [all frames, samples], no copy
        energy = torch.empty(len(places), MELS)
        windowed = torch.zeros(_CHUNK_FRAMES, FFT_SAMPLES)
        for start in range(0, len(places), _CHUNK_FRAMES):
            part = places[start : start + _CHUNK_FRAMES]
            rows = windowed[: len(part)]
            torch.mul(part, window, out=rows[:, :WINDOW_SAMPLES])
            spectrum = torch.view_as_real(torch.fft.rfft(rows)).flatten(1)
            torch.mm(spectrum.square_(), mel, out=energy[start : start + len(part)])
        frames = (energy.add_(_FLOOR).log_() @ dct).numpy()  # [all frames, coefficients]
    for clip, start in zip(clips, starts, strict=False):
        first = start // HOP_SAMPLES
        yield frames[first : first + 1 + len(clip) // HOP_SAMPLES].copy()


@lru_cache(maxsize=8)
def _forward(coefficients: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The window; weights [2 x 257, mels] of squared real and imaginary parts in turn; the DCT [mels, n]."""
    import torch
    from torchaudio.functional import create_dct, melscale_fbanks

    bands = melscale_fbanks(FFT_SAMPLES // 2 + 1, 0.0, SAMPLE_RATE / 2, MELS, SAMPLE_RATE)
    return torch.hann_window(WINDOW_SAMPLES), bands.repeat_interleave(2, dim=0), create_dct(coefficients, MELS, "ortho")


@lru_cache(maxsize=8)
def _inverse(coefficients: int) -> tuple[torch.Tensor, torch.nn.Module]:
    """[coefficients, mels], whose product with MFCC inverts an orthonormal DCT; then from mel bands to frequencies."""
    from torchaudio.functional import create_dct
    from torchaudio.transforms import InverseMelScale

    return create_dct(coefficients, MELS, "ortho").T.contiguous(), InverseMelScale(
        FFT_SAMPLES // 2 + 1, MELS, SAMPLE_RATE
    )


def _griffin_lim(magnitudes: torch.Tensor) -> torch.Tensor:
    """Sound of magnitudes [257, frames]: to the bit torchaudio's fast Griffin-Lim (Perraudin et al., WASPAA 2013).

    Quicker, since what the windows add up to is computed once, and not in every step.
    """
    import torch

    window = torch.nn.functional.pad(_forward(COEFFICIENTS)[0], (_INNER_SAMPLES, _INNER_SAMPLES))
    frames, inside = magnitudes.shape[1], slice(_EDGE_SAMPLES, -_EDGE_SAMPLES)
    size = FFT_SAMPLES + HOP_SAMPLES * (frames - 1)

    def added(parts: torch.Tensor) -> torch.Tensor:
        """Overlapping parts [frames, 512] as one signal."""
        whole: torch.Tensor = torch.ops.aten.unfold_backward(parts, [size], 0, FFT_SAMPLES, HOP_SAMPLES)
        return whole[inside]

    def sound(phases: torch.Tensor) -> torch.Tensor:
        return added(torch.fft.irfft((magnitudes * phases).T, FFT_SAMPLES) * window) / weights

    weights = added(window.square().expand(frames, -1))
    phases, before = torch.ones(magnitudes.shape, dtype=torch.complex64), None
    for _ in range(_GRIFFIN_LIM_STEPS):
        padded = torch.nn.functional.pad(sound(phases)[None], (_EDGE_SAMPLES, _EDGE_SAMPLES), mode="reflect")[0]
        rebuilt = torch.fft.rfft(padded.unfold(0, FFT_SAMPLES, HOP_SAMPLES) * window).T
        phases = rebuilt if before is None else rebuilt - before.mul_(_MOMENTUM / (1 + _MOMENTUM))
        phases = phases / phases.abs().add_(1e-16)
        before = rebuilt
    return sound(phases)
