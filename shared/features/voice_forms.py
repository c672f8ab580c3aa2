"""Released forms: codebooks that tokens are read with, every form of voice and all codes as a sequence or as sound."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moretta.shared.core.array_types import Array, Float32
from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.terms import CODE_FORMS
from moretta.shared.features.mfcc import COEFFICIENTS, HOP_SAMPLES, Audio, Frames, mfcc, waveform_from_mfcc

Codebook = Float32
Sequence = Float32
"""[steps, d]"""
_CHUNK_FRAMES = 8_192  # the product with 256 codewords then stays in the processor's cache


def fit_codebook(frames: Array, size: int, *, seed: int) -> Codebook:
    """Centroids of the frames [frames, n] by mini-batch k-means (Sculley, WWW 2010), [min(size, frames), n]."""
    from sklearn.cluster import MiniBatchKMeans

    size = min(size, len(frames))
    means = MiniBatchKMeans(
        n_clusters=size, random_state=seed, n_init=2, batch_size=max(2_048, 4 * size), max_iter=50, compute_labels=False
    ).fit(np.ascontiguousarray(frames, np.float32))
    return np.ascontiguousarray(means.cluster_centers_, np.float32)


def nearest(frames: Array, codebook: Codebook) -> npt.NDArray[np.int32]:
    """Index, int32 [frames], of the nearest codeword [k, n] to each frame [frames, n]; of equally near ones the first.

    |x - c|² = |x|² - 2 (x·c - |c|²/2), so the nearest has the largest bracket: one matrix product.
    """
    frames = np.asarray(frames, np.float32)
    half_norms = 0.5 * np.square(codebook).sum(axis=1)  # [k]
    tokens = np.empty(len(frames), np.int32)
    for start in range(0, len(frames), _CHUNK_FRAMES):
        part = slice(start, start + _CHUNK_FRAMES)
        tokens[part] = (frames[part] @ codebook.T - half_norms).argmax(axis=1)
    return tokens


class FrameSample:
    """Keeps `size` frames of a stream, each set of that size as likely as any other.

    Every frame draws a key; the smallest keys stay (Efraimidis and Spirakis 2006, algorithm A-Res with equal weights).
    Which frames stay depends on the seed and their position, never on their content.

    >>> sample = FrameSample(2, 1, seed=1)
    >>> for _ in range(3):
    ...     sample.add(np.ones((5, 1), np.float32))
    >>> sample.frames().shape
    (2, 1)
    """

    def __init__(self, size: int, width: int, *, seed: int) -> None:
        self._size = size
        self._generator = np.random.default_rng([seed, 0x5A3])
        self._parts = [np.empty((0, width), np.float32)]
        self._keys = [np.empty(0)]

    def add(self, frames: Float32) -> None:
        """Offer frames, [frames, width]."""
        self._parts.append(frames)
        self._keys.append(self._generator.random(len(frames)))
        if sum(map(len, self._keys)) > 2 * self._size:
            self.frames()

    def frames(self) -> Float32:
        """The sample so far, [at most size, width], in order of arrival."""
        frames, keys = np.concatenate(self._parts), np.concatenate(self._keys)
        if len(keys) > self._size:
            kept = np.sort(np.argpartition(keys, self._size)[: self._size])
            frames, keys = frames[kept], keys[kept]
        self._parts, self._keys = [frames], [keys]
        return frames


def is_code(form: str) -> bool:
    """Whether a form holds codes: vectors that stand for neither sound nor pictures."""
    return form in CODE_FORMS


def as_sequence(
    form: str, array: Array, codebook: Codebook | None = None, *, coefficients: int | None = None
) -> Sequence:
    """Released voice, or codes of faces, as vectors in time, [steps, d]: codes as they are, everything else as MFCC.

    Args:
        form: any of `moretta.shared.core.terms.VoiceForm`; of faces any but `frames`.
        array: as that form has it.
        codebook: [k, d]; needed for both kinds of tokens.
        coefficients: of MFCC of waveforms; default the codebook's number or 13.

    Raises:
        ReleaseError: an unknown form, tokens without a codebook or beyond it.
        ClipError: a waveform that has no MFCC.
    """
    if form in ("code", "code-sequence"):
        return np.ascontiguousarray(array[None] if form == "code" else array, np.float32)
    if form == "code-tokens":
        return _codewords(array, codebook)
    return as_mfcc(form, array, codebook, coefficients=coefficients)


def model_input(form: str, array: Array, codebook: Codebook | None = None) -> Array:
    """Input of emotion models: float32 [d] of a `code`, `frames` as they are, else the result of `as_sequence`."""
    if form == "frames":
        return array
    return np.ascontiguousarray(array, np.float32) if form == "code" else as_sequence(form, array, codebook)


def as_mfcc(form: str, array: Array, codebook: Codebook | None = None, *, coefficients: int | None = None) -> Frames:
    """`tokens`, `mfcc` or a `waveform` as MFCC, [frames, coefficients]. Arguments and errors: see `as_sequence`."""
    if form == "tokens":
        return _codewords(array, codebook)
    if form == "mfcc":
        return np.ascontiguousarray(array, np.float32)
    if form == "waveform":
        return mfcc(array, coefficients or (COEFFICIENTS if codebook is None else codebook.shape[1]))
    expected = "a form that sound can be made of" if is_code(form) else "tokens, mfcc or waveform"
    raise ReleaseError(f"the released form voice/{form}", expected=expected)


def as_waveform(form: str, array: Array, codebook: Codebook | None = None) -> Audio:
    """A released voice array as sound, float32 [samples] at 16 kHz in [-1, 1]. Arguments and errors: see `as_mfcc`."""
    if form == "waveform":
        return np.ascontiguousarray(array, np.float32)
    return waveform_from_mfcc(as_mfcc(form, array, codebook))


def frame_count(form: str, array: Array) -> int:
    """How many frames or steps a released array stands for: the size that privacy is composed over."""
    if form in ("tokens", "mfcc", "code-sequence", "code-tokens", "frames"):
        return len(array)
    if form in ("code", "waveform"):
        return 1 if form == "code" else 1 + len(array) // HOP_SAMPLES
    raise ReleaseError(f"the released form {form}", expected="tokens, mfcc, waveform, frames or a form of codes")


def _codewords(tokens: Array, codebook: Codebook | None) -> Frames:
    if codebook is None:
        raise ReleaseError("tokens without a codebook", expected="a codebook, which the release should hold")
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < len(codebook):
        raise ReleaseError(
            f"tokens from {int(tokens.min())} to {int(tokens.max())}", expected=f"0 to {len(codebook)} exclusive"
        )
    return np.ascontiguousarray(codebook[tokens], np.float32)
