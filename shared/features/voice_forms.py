"""Released voice, whatever its form, as MFCC or as sound: attackers and models ask for what they need."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.errors import ReleaseError
from moretta.shared.features.mfcc import COEFFICIENTS, HOP_SAMPLES, Audio, Frames, mfcc, waveform_from_mfcc

Codebook = npt.NDArray[np.float32]


def as_mfcc(
    form: str, array: npt.NDArray[Any], codebook: Codebook | None = None, *, coefficients: int | None = None
) -> Frames:
    """A released voice array as MFCC.

    Args:
        form: `tokens`, `mfcc` or `waveform`.
        array: as `moretta.shared.release.format` describes that form.
        codebook: [k, coefficients] in units of MFCC; needed for tokens.
        coefficients: for waveforms only; default the codebook's number or 13.

    Returns:
        float32 [frames, coefficients]

    Raises:
        ReleaseError: an unknown form, tokens without a codebook or beyond it.
        ClipError: a waveform that has no MFCC.
    """
    if form == "tokens":
        return _look_up(array, codebook)
    if form == "mfcc":
        return np.ascontiguousarray(array, np.float32)
    if form == "waveform":
        known = COEFFICIENTS if codebook is None else codebook.shape[1]
        return mfcc(array, coefficients or known)
    raise _unknown(form)


def as_waveform(form: str, array: npt.NDArray[Any], codebook: Codebook | None = None) -> Audio:
    """A released voice array as sound, float32 [samples] at 16 kHz in [-1, 1]. Arguments and errors: see `as_mfcc`."""
    if form == "waveform":
        return np.ascontiguousarray(array, np.float32)
    return waveform_from_mfcc(as_mfcc(form, array, codebook))


def frame_count(form: str, array: npt.NDArray[Any]) -> int:
    """How many MFCC frames a released array stands for: the size that privacy is composed over."""
    if form in ("tokens", "mfcc"):
        return len(array)
    if form == "waveform":
        return 1 + len(array) // HOP_SAMPLES
    raise _unknown(form)


def _look_up(tokens: npt.NDArray[Any], codebook: Codebook | None) -> Frames:
    if codebook is None:
        raise ReleaseError("tokens without a codebook", expected="a codebook, which the release should hold")
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < len(codebook):
        raise ReleaseError(
            f"tokens from {int(tokens.min())} to {int(tokens.max())}", expected=f"0 to {len(codebook)} exclusive"
        )
    return np.ascontiguousarray(codebook[tokens], np.float32)


def _unknown(form: str) -> ReleaseError:
    return ReleaseError(f"the released form voice/{form}", expected="tokens, mfcc or waveform")
