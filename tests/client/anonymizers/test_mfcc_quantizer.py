import numpy as np
import pytest

from moretta.client.anonymizers.mfcc_quantizer import MfccQuantizer
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.features.mfcc import mfcc
from moretta.shared.features.public_speech import PublicVoice
from moretta.shared.features.voice_forms import as_mfcc, nearest
from moretta.shared.privacy.noise import SeededNoise, SystemNoise
from moretta.shared.release.anonymizer import get_anonymizer
from moretta.shared.release.release_format import check_array
from moretta.shared.study.schema import Study

K = 16


def clip(seed: int, samples: int = 8_000) -> np.ndarray:
    generator = np.random.default_rng(seed)
    envelope = np.repeat(generator.uniform(0.01, 0.3, samples // 800 + 1), 800)[:samples]
    return np.asarray(envelope * generator.standard_normal(samples), np.float32)


CLIPS = [clip(seed) for seed in range(4)]
FRAMES = np.concatenate([mfcc(c) for c in CLIPS])
PUBLIC = PublicVoice(
    FRAMES.mean(axis=0),
    FRAMES.std(axis=0),
    np.random.default_rng(9).normal(size=(K, 13)).astype(np.float32),
)


def quantizer(**voice: object) -> MfccQuantizer:
    study = Study().with_changes(**{f"voice__{k}": v for k, v in ({"codebook_size": K} | voice).items()})
    found = get_anonymizer("voice", "mfcc-quantizer").from_study(study, PUBLIC.to_arrays())
    assert isinstance(found, MfccQuantizer)
    return found


def of_one(clips) -> list[tuple[str, np.ndarray]]:
    """As `fit` takes them; whose they are does not matter here."""
    return [("somebody", c) for c in clips]


def whose(clips) -> list[str]:
    return ["somebody"] * len(clips)


def seeded(number: int = len(CLIPS), seed: int = 1) -> list[SeededNoise]:
    return [SeededNoise(seed, index) for index in range(number)]


class Recorder(SeededNoise):
    """Keeps what it drew, and with which scale."""

    def laplace(self, scale, shape):
        self.scale, self.drawn = scale, super().laplace(scale, shape)
        return self.drawn


@pytest.mark.parametrize("preset", ["bounded", "original"])
@pytest.mark.parametrize("form", ["tokens", "mfcc", "waveform"])
def test_every_preset_releases_every_form_within_the_format(preset, form):
    anonymizer = quantizer(preset=preset, form=form)
    anonymizer.fit(of_one(CLIPS), SeededNoise(1))
    for released, raw in zip(anonymizer.release(CLIPS, seeded(), whose(CLIPS)), CLIPS, strict=True):
        assert isinstance(released, np.ndarray)
        check_array("voice", form, released, codebook_size=K)
        assert anonymizer.frames(released) == len(mfcc(raw))


@pytest.mark.parametrize("preset", ["bounded", "original"])
def test_released_mfcc_are_codewords_of_the_released_tokens(preset):
    tokens, frames = quantizer(preset=preset, form="tokens"), quantizer(preset=preset, form="mfcc")
    for anonymizer in (tokens, frames):
        anonymizer.fit(of_one(CLIPS), SeededNoise(1))
    for t, m in zip(
        tokens.release(CLIPS, seeded(), whose(CLIPS)), frames.release(CLIPS, seeded(), whose(CLIPS)), strict=True
    ):
        np.testing.assert_array_equal(as_mfcc("tokens", t, tokens.codebook), m)


@pytest.mark.parametrize("preset", ["bounded", "original"])
def test_noise_reaches_the_tokens_value_by_value(preset):
    """A codebook so fine that tokens show the noisy value: what is released is value plus noise of the right scale."""
    anonymizer = quantizer(preset=preset, epsilon=2.0, sensitivity=1.0, bound=50.0)
    grid = np.linspace(-10, 10, 4_001, dtype=np.float32)
    words = np.repeat(grid[:, None], 13, axis=1)
    anonymizer._codewords = np.concatenate([words[:, :1], np.zeros((len(grid), 12), np.float32)], axis=1)
    frames = np.zeros((4_000, 13), np.float32)
    if preset == "bounded":
        frames += PUBLIC.mean
    released = anonymizer._codewords[anonymizer.tokens(frames, SeededNoise(3))][:, 0]
    assert np.abs(released).mean() == pytest.approx(0.5, rel=0.06)  # E|Laplace(b)| = b = sensitivity / epsilon
    assert np.square(released).mean() == pytest.approx(2 * 0.5**2, rel=0.15)
    assert np.median(released) == pytest.approx(0, abs=0.04)


@pytest.mark.parametrize("preset", ["bounded", "original"])
def test_noise_has_one_value_for_each_mfcc_value_at_the_scale_of_the_study(preset):
    noise = Recorder(1)
    anonymizer = quantizer(preset=preset, epsilon=0.8, sensitivity=0.5)
    anonymizer.fit(of_one(CLIPS), SeededNoise(1))
    anonymizer.release(CLIPS[:1], [noise], ["somebody"])
    assert noise.scale == pytest.approx(0.625)
    assert noise.drawn.shape == mfcc(CLIPS[0]).shape


def test_bounded_clips_before_noise_whatever_was_said():
    """The guarantee rests on this: a value beyond the bound is as noisy as the bound itself, not pinned to it."""
    anonymizer = quantizer(bound=1.0)
    at_bound, inference = PUBLIC.restore(np.full((50, 13), 1.0)), PUBLIC.restore(np.full((50, 13), 1e6))
    noisy = anonymizer._noisy(inference, SeededNoise(1))
    np.testing.assert_allclose(noisy, anonymizer._noisy(at_bound, SeededNoise(1)), atol=1e-5)
    assert (noisy < 1.0).mean() == pytest.approx(0.5, abs=0.1)
    np.testing.assert_array_equal(
        anonymizer.tokens(inference, SeededNoise(1)), nearest(noisy, PUBLIC.codebook), strict=True
    )


def test_bounded_output_range_does_not_depend_on_the_data():
    noisy = quantizer(epsilon=0.01, bound=2.0)._noisy(FRAMES, SeededNoise(1))
    assert np.abs(noisy).max() <= 2.0


def test_without_noise_tokens_are_the_nearest_codewords():
    anonymizer = quantizer(epsilon=1e9, bound=100.0)
    standardised = PUBLIC.standardise(FRAMES)
    expected = np.linalg.norm(standardised[:, None] - PUBLIC.codebook[None], axis=2).argmin(axis=1)
    assert (anonymizer.tokens(FRAMES, SeededNoise(1)) == expected).mean() > 0.99


def test_released_public_codebook_is_in_units_of_mfcc():
    np.testing.assert_allclose(quantizer().codebook, PUBLIC.restore(PUBLIC.codebook), rtol=1e-5)


@pytest.mark.parametrize("preset", ["bounded", "original"])
def test_batch_gives_what_single_clips_give(preset):
    anonymizer = quantizer(preset=preset, form="tokens")
    anonymizer.fit(of_one(CLIPS), SeededNoise(1))
    batch = anonymizer.release(CLIPS, seeded(), whose(CLIPS))
    for index, raw in enumerate(CLIPS):
        [single] = anonymizer.release([raw], [SeededNoise(1, index)], ["somebody"])
        assert (single == batch[index]).mean() > 0.99


@pytest.mark.parametrize("codebook", ["public", "local"])
def test_same_seed_gives_the_same_release_and_another_seed_another(codebook):
    def released(seed: int) -> np.ndarray:
        anonymizer = quantizer(codebook=codebook)
        anonymizer.fit(of_one(CLIPS), SeededNoise(seed, "fit"))
        return np.concatenate(anonymizer.release(CLIPS, seeded(seed=seed), whose(CLIPS)))

    np.testing.assert_array_equal(released(1), released(1))
    assert not np.array_equal(released(1), released(2))


def test_system_noise_gives_another_release_each_time():
    anonymizer = quantizer()
    first, second = (anonymizer.release(CLIPS[:1], [SystemNoise()], ["somebody"])[0] for _ in range(2))
    assert not np.array_equal(first, second)


def test_clip_that_fails_is_returned_as_its_error_and_the_others_are_released():
    class Broken(SeededNoise):
        def laplace(self, *_):
            raise OSError("no entropy")

    clips = [CLIPS[0], np.zeros(10, np.float32), np.full(8_000, np.nan, np.float32), CLIPS[1], CLIPS[2]]
    out = quantizer().release(clips, [*seeded(3), Broken(1), SeededNoise(4)], whose(clips))
    assert isinstance(out[0], np.ndarray)
    assert isinstance(out[1], ClipError)
    assert out[1].reason == "too-short"
    assert isinstance(out[2], ClipError)
    assert out[2].reason == "not-finite"
    assert isinstance(out[3], OSError)
    assert isinstance(out[4], np.ndarray)


def test_local_codebook_that_was_never_fitted_releases_nothing():
    anonymizer = quantizer(preset="original")
    assert anonymizer.codebook is None
    [out] = anonymizer.release(CLIPS[:1], seeded(1), ["somebody"])
    assert isinstance(out, ClipError)
    assert out.reason == "no-codebook"


def test_fit_takes_a_stream_and_passes_over_unusable_clips():
    anonymizer = quantizer(codebook="local")
    anonymizer.fit((c for c in of_one([np.zeros(3, np.float32), *CLIPS])), SeededNoise(1))
    assert anonymizer.codebook is not None
    assert anonymizer.codebook.shape == (K, 13)
    assert anonymizer.statement({}, "seeded").counts == {"codebook_frames": len(FRAMES)}


def test_bounded_local_codebook_sees_clips_through_noise_only():
    """Noise that drowns the clips must drown what they did to the codebook."""
    quiet, loud = [0.001 * c for c in CLIPS], CLIPS
    codebooks = []
    for clips in (quiet, loud):
        anonymizer = quantizer(codebook="local", epsilon=1e-9)
        anonymizer.fit(of_one(clips), SeededNoise(1))
        codebooks.append(anonymizer.codebook)
    np.testing.assert_allclose(*codebooks, rtol=1e-4)


def test_public_codebook_ignores_the_clips_it_is_offered():
    anonymizer = quantizer()
    anonymizer.fit(iter(of_one(CLIPS)), SeededNoise(1))
    np.testing.assert_allclose(anonymizer.codebook, PUBLIC.restore(PUBLIC.codebook), rtol=1e-5)


def rows(anonymizer: MfccQuantizer) -> dict[str, tuple[float | None, float | None]]:
    statement = anonymizer.statement({"a": [260, 100], "b": [200, 200]}, "system")
    assert statement.noise == "system"
    return {row.unit: (row.epsilon, row.nominal) for row in statement.privacy}


def test_statement_of_bounded_counts_the_true_sensitivity():
    found = rows(quantizer(bound=3.0))
    assert found["value"] == (pytest.approx(9.6), pytest.approx(0.8))
    assert found["clip"] == (pytest.approx(9.6 * 3380), pytest.approx(2704))
    assert found["speaker"] == (pytest.approx(9.6 * 13 * 400), pytest.approx(0.8 * 13 * 400))


def test_statement_of_original_admits_that_nothing_is_guaranteed():
    found = rows(quantizer(preset="original"))
    assert found["clip"] == (None, pytest.approx(2704))
    assert {epsilon for epsilon, _ in found.values()} == {None}


def test_statement_of_bounded_with_local_codebook_counts_both_looks_at_the_clips():
    public, local = rows(quantizer()), rows(quantizer(codebook="local"))
    for unit, (epsilon, nominal) in public.items():
        assert local[unit] == (pytest.approx(2 * epsilon), pytest.approx(2 * nominal))


def test_public_codebook_of_another_size_than_the_study_is_refused():
    with pytest.raises(StudyError, match="16 codewords"):
        quantizer(codebook_size=32)


def test_missing_public_voice_is_refused():
    with pytest.raises(StudyError, match="voice/mean"):
        MfccQuantizer.from_study(Study(), {})
