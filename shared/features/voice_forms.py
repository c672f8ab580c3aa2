"""Released voice, whatever its form, as a sequence or as sound: attackers and models ask for what they need."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.terms import CODE_FORMS
from moretta.shared.features.mfcc import COEFFICIENTS, HOP_SAMPLES, Audio, Frames, mfcc, waveform_from_mfcc

Codebook = npt.NDArray[np.float32]
Sequence = npt.NDArray[np.float32]
"""[steps, d]"""


def is_code(form: str) -> bool:
    """Whether a form holds codes: vectors that stand for no sound."""
    return form in CODE_FORMS


def as_sequence(
    form: str, array: npt.NDArray[Any], codebook: Codebook | None = None, *, coefficients: int | None = None
) -> Sequence:
    """A released voice array as vectors in time: codes as they are, everything else as MFCC.

    Args:
        form: any of `moretta.shared.release.release_format.VoiceForm`.
        array: as that form has it.
        codebook: [k, d]; needed for both kinds of tokens.
        coefficients: of MFCC of waveforms, see `as_mfcc`.

    Returns:
        float32 [steps, d]; one step for a `code`.

    Raises:
        ReleaseError: an unknown form, tokens without a codebook or beyond it.
        ClipError: a waveform that has no MFCC.
    """
    if form == "code":
        return np.ascontiguousarray(array[None], np.float32)
    if form == "code-sequence":
        return np.ascontiguousarray(array, np.float32)
    if form == "code-tokens":
        return _look_up(array, codebook)
    return as_mfcc(form, array, codebook, coefficients=coefficients)


def model_input(form: str, array: npt.NDArray[Any], codebook: Codebook | None = None) -> npt.NDArray[np.float32]:
    """What emotion models take: float32 [d] of a `code`, else what `as_sequence` gives. Errors: see there."""
    return np.ascontiguousarray(array, np.float32) if form == "code" else as_sequence(form, array, codebook)


def as_mfcc(
    form: str, array: npt.NDArray[Any], codebook: Codebook | None = None, *, coefficients: int | None = None
) -> Frames:
    """A released voice array as MFCC.

    Args:
        form: `tokens`, `mfcc` or `waveform`.
        array: as `moretta.shared.release.release_format` describes that form.
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
    """How many frames or steps a released array stands for: the size that privacy is composed over."""
    if form in ("tokens", "mfcc", "code-sequence", "code-tokens"):
        return len(array)
    if form == "code":
        return 1
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
    if is_code(form):
        return ReleaseError(f"the released form voice/{form}", expected="a form that sound can be made of")
    return ReleaseError(f"the released form voice/{form}", expected="tokens, mfcc or waveform")
