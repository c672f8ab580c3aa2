import numpy as np
import pytest
import torch

from moretta.shared.core.errors import ClipError
from moretta.shared.features.mfcc import COEFFICIENTS, OUTPUT_RMS, mfcc, mfcc_batch, waveform_from_mfcc
from moretta.shared.release.release_format import MAX_SAMPLES


def speechlike(seed: int, seconds: float = 1.0) -> np.ndarray:
    """Harmonics under a moving envelope: voiced, with movement in every coefficient."""
    generator = np.random.default_rng(seed)
    t = np.arange(int(16_000 * seconds)) / 16_000
    pitch = 2 * np.pi * (110 + 40 * generator.random()) * t
    harmonics = sum(
        np.sin(h * pitch + generator.uniform(0, 6)) * (1 + np.sin(2 * np.pi * (2 + h / 5) * t)) / h
        for h in range(1, 30)
    )
    return (0.05 * harmonics + 0.001 * generator.standard_normal(len(t))).astype(np.float32)


def test_clip_of_2_6_seconds_has_261_frames_of_13():
    assert mfcc(speechlike(1, 2.6)).shape == (261, 13)


@pytest.mark.parametrize("coefficients", [2, 13, 40])
def test_number_of_coefficients_is_configurable_and_changes_no_coefficient(coefficients):
    clip = speechlike(2)
    np.testing.assert_allclose(mfcc(clip, coefficients)[:, :2], mfcc(clip)[:, :2], atol=1e-3)
    assert mfcc(clip, coefficients).shape[1] == coefficients


def test_mfcc_follow_their_definition():
    """An independent computation from the definition in numpy and scipy, for frames away from the edges."""
    from scipy.fft import dct

    clip = speechlike(3).astype(np.float64)
    window = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400), 56)
    hertz = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 42) / 2595) - 1)
    bins = np.linspace(0, 8000, 257)
    bands = np.stack(
        [np.interp(bins, hertz[b : b + 3], [0, 1, 0], left=0, right=0) for b in range(40)]
    )  # triangles between neighbouring corners
    for frame in (20, 50):
        middle = 160 * frame
        power = np.abs(np.fft.rfft(clip[middle - 256 : middle + 256] * window)) ** 2
        expected = dct(np.log(bands @ power + 1e-6), norm="ortho")[:13]
        np.testing.assert_allclose(mfcc(clip)[frame], expected, atol=0.05)


def test_batch_gives_what_single_clips_give():
    clips = [speechlike(seed, seconds) for seed, seconds in enumerate((0.025, 1.0, 0.333, 2.0, 0.5))]
    clips.insert(2, np.tile(clips[3], 31))  # longer than one chunk
    for clip, frames in zip(clips, mfcc_batch(clips), strict=True):
        np.testing.assert_allclose(frames, mfcc(clip), atol=1e-3)


def test_empty_batch_is_empty():
    assert mfcc_batch([]) == []


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (np.zeros(399, np.float32), "too-short"),
        (np.zeros(0, np.float32), "too-short"),
        (np.zeros(MAX_SAMPLES + 1, np.float32), "too-long"),
        (np.full(1000, np.nan, np.float32), "not-finite"),
        (np.zeros((1000, 2), np.float32), "wrong-shape"),
        (np.zeros(1000, np.int16), "wrong-shape"),
    ],
)
def test_unusable_sound_is_refused_by_reason(clip, reason):
    with pytest.raises(ClipError) as error:
        mfcc(clip)
    assert error.value.reason == reason


@pytest.mark.parametrize("coefficients", [13, 40])
def test_mfcc_survive_the_way_to_sound_and_back(coefficients):
    frames = mfcc(speechlike(4), coefficients)
    again = mfcc(waveform_from_mfcc(frames), coefficients)
    assert again.shape == frames.shape
    for c in range(COEFFICIENTS):
        assert np.corrcoef(frames[3:-3, c], again[3:-3, c])[0, 1] > 0.9, c


def test_waveform_is_the_same_twice_and_leaves_the_global_generator_alone():
    import torch

    frames = mfcc(speechlike(5))
    before = torch.get_rng_state()
    first = waveform_from_mfcc(frames)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(first, waveform_from_mfcc(frames))


@pytest.mark.parametrize("level", [0.001, 1.0])
def test_waveform_level_does_not_depend_on_the_input(level):
    out = waveform_from_mfcc(mfcc(level * speechlike(6)))
    assert np.sqrt(np.mean(out**2)) == pytest.approx(OUTPUT_RMS, rel=0.02)


@pytest.mark.parametrize("value", [1e6, -1e6, 3e38, 0.0])
def test_saturated_mfcc_give_finite_sound_in_range(value):
    out = waveform_from_mfcc(np.full((50, 13), value, np.float32))
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    assert np.abs(out).max() <= 1


def test_one_saturated_frame_does_not_drown_the_others():
    frames = mfcc(speechlike(7))
    frames[50] = 1e4
    again = mfcc(waveform_from_mfcc(frames))
    assert np.corrcoef(mfcc(speechlike(7))[5:40, 1], again[5:40, 1])[0, 1] > 0.9


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (np.zeros((2, 13)), "too-short"),
        (np.zeros((9, 41)), "wrong-shape"),
        (np.zeros(9), "wrong-shape"),
        (np.full((9, 13), np.inf), "not-finite"),
    ],
)
def test_unusable_mfcc_are_refused_by_reason(frames, reason):
    with pytest.raises(ClipError) as error:
        waveform_from_mfcc(frames)
    assert error.value.reason == reason


def test_mfcc_are_torchaudios() -> None:
    from torchaudio.transforms import MFCC

    sizes = {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 40}
    clip = np.random.default_rng(3).normal(0, 0.1, 20_000).astype(np.float32)
    padded = torch.from_numpy(np.pad(clip, 256))
    expected = MFCC(16_000, n_mfcc=13, log_mels=True, melkwargs={**sizes, "center": False})(padded).T
    torch.testing.assert_close(torch.from_numpy(mfcc(clip)), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("frames", [3, 4, 90])
def test_sound_of_magnitudes_is_to_the_bit_torchaudios_griffin_lim(frames: int) -> None:
    from torchaudio.transforms import GriffinLim

    from moretta.shared.features.mfcc import _griffin_lim

    power = torch.rand(257, frames, generator=torch.Generator().manual_seed(1)) ** 4
    theirs = GriffinLim(512, n_iter=32, win_length=400, hop_length=160, power=2.0, rand_init=False)
    assert torch.equal(_griffin_lim(power.sqrt()), theirs(power))
