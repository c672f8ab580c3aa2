"""Voice, one process and one thread: MFCC, noise and tokens against librosa, numpy and scikit-learn; sound back from
MFCC against librosa at equal quality.

Quality is the log-spectral distance between the mel spectrum of the clip and that of the sound made from its MFCC, with
equal root mean squares: in dB, averaged over frames.
"""

from __future__ import annotations

import librosa
import numpy as np
from sklearn.cluster import KMeans

from moretta.client.anonymizers.mfcc_quantizer import MfccQuantizer
from moretta.shared.core.workers import limit_threads
from moretta.shared.features.mfcc import (
    COEFFICIENTS,
    FFT_SAMPLES,
    HOP_SAMPLES,
    MELS,
    SAMPLE_RATE,
    WINDOW_SAMPLES,
    Audio,
    Frames,
    mfcc,
    waveform_from_mfcc,
)
from moretta.shared.features.public_speech import PublicVoice, make_public_voice, synthetic_speech
from moretta.shared.privacy.noise import SystemNoise
from moretta.shared.study.schema import Study
from tests.benchmarks.figures import paired, quick

CLIP_SECONDS = 2.6
BATCH = 8  # as a release is made
FRAMES = {"n_fft": FFT_SAMPLES, "win_length": WINDOW_SAMPLES, "hop_length": HOP_SAMPLES}
SIZES = {**FRAMES, "sr": SAMPLE_RATE, "n_mels": MELS}
ITERATIONS = (4, 8, 16, 32)
"""Of Griffin and Lim's algorithm in librosa: the fewest whose quality is ours, or its default."""


def main() -> None:
    """Two rows."""
    limit_threads(1)
    count, samples = 16 if quick() else 64, int(CLIP_SECONDS * SAMPLE_RATE)
    speech = np.concatenate(list(synthetic_speech(8, 1)))
    clips = [np.take(speech, range(i * samples, (i + 1) * samples), mode="wrap") for i in range(count)]
    tokens(clips, make_public_voice(codebook_size=64, voices=4))
    waveforms(clips[: 1 if quick() else 3])


def tokens(clips: list[Audio], public: PublicVoice) -> None:
    """The default anonymizer with noise of the operating system, and the same by well-known packages."""
    quantizer = MfccQuantizer.from_study(Study().with_changes(voice__form="tokens"), public.to_arrays())
    options = MfccQuantizer.options_of(Study())
    scale = options.sensitivity / options.epsilon
    means = KMeans(64, n_init=1, random_state=0).fit(public.codebook)
    means.cluster_centers_ = np.ascontiguousarray(public.codebook)
    generator = np.random.default_rng()

    def theirs() -> list[np.ndarray]:
        made = []
        for clip in clips:
            frames = librosa.feature.mfcc(y=clip, n_mfcc=COEFFICIENTS, htk=True, norm=None, **SIZES).T
            inside = np.clip((frames - public.mean) / public.std, -3, 3)
            noisy = np.clip(inside + generator.laplace(0, scale, inside.shape), -3, 3)
            made.append(means.predict(noisy.astype(np.float32)))
        return made

    def ours() -> list[np.ndarray]:
        made = []
        for start in range(0, len(clips), BATCH):
            batch = clips[start : start + BATCH]
            released = quantizer.release(batch, [SystemNoise() for _ in batch], ["somebody"] * len(batch))
            made += [array for array in released if isinstance(array, np.ndarray)]
        return made

    assert [made.shape for made in ours()] == [made.shape for made in theirs()]
    paired(
        "voice-tokens",
        "voice anonymization, no waveform, system noise",
        "librosa, numpy and scikit-learn",
        ours,
        theirs,
        target=10,
        better="higher",
        detail={"clips": len(clips)},
    )


def waveforms(clips: list[Audio]) -> None:
    """Sound from the MFCC of each clip; each side reads those that it defines itself."""
    own = [mfcc(clip) for clip in clips]
    other = [librosa.feature.mfcc(y=clip, n_mfcc=COEFFICIENTS, **SIZES) for clip in clips]
    wanted = np.mean([distance(clip, waveform_from_mfcc(frames)) for clip, frames in zip(clips, own, strict=True)])
    for steps in ITERATIONS:
        found = np.mean([distance(clip, inverse(frames, steps)) for clip, frames in zip(clips, other, strict=True)])
        if found <= wanted:
            break
    paired(
        "voice-waveform",
        "waveform from MFCC",
        f"librosa, {steps} iterations",
        lambda: [waveform_from_mfcc(frames) for frames in own],
        lambda: [inverse(frames, steps) for frames in other],
        target=5,
        better="higher",
        detail={"ours_db": float(wanted), "theirs_db": float(found), "clips": len(clips)},
    )
    assert wanted <= found + 0.1, f"the quality is not equal: {wanted:.2f} dB, and librosa's {found:.2f} dB"


def inverse(frames: Frames, steps: int) -> Audio:
    """Sound by librosa."""
    made: Audio = librosa.feature.inverse.mfcc_to_audio(frames, n_iter=steps, **SIZES)
    return made


def distance(clip: Audio, made: Audio) -> float:
    """Log-spectral distance in dB."""
    gain = np.sqrt(np.mean(np.square(clip)) / np.mean(np.square(made)))
    spectra = [np.log10(librosa.feature.melspectrogram(y=each, **SIZES) + 1e-6) for each in (clip, made * gain)]
    frames = min(each.shape[1] for each in spectra)
    first, second = (each[:, :frames] for each in spectra)
    return float(10 * np.sqrt(np.square(first - second).mean(axis=0)).mean())


if __name__ == "__main__":
    main()
