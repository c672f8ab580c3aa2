from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.shared.core.errors import StudyError
from moretta.shared.features.mfcc import mfcc
from moretta.shared.models.emotion import (
    MIN_STD,
    PublicScale,
    Standardise,
    emotion_model,
    face_sequence,
    initial_weights,
    voice_sequence,
    voice_statistics,
    voice_window,
)

MODELS: list[tuple[Any, str]] = [
    ("voice", "statistics"),
    ("voice", "layered"),
    ("voice", "cnn"),
    ("voice", "crnn"),
    ("face", "gradients"),
    ("face", "cnn"),
    ("face", "sequence"),
]


def clip(modality: str, frames: int, seed: int = 0) -> np.ndarray[Any, Any]:
    generator = np.random.default_rng(seed)
    if modality == "voice":
        return generator.normal(0, 20, (frames, 13)).astype(np.float32)
    return generator.integers(0, 256, (frames, 64, 64, 3), np.uint8)


@pytest.mark.parametrize(("modality", "name"), MODELS)
def test_a_clip_of_any_length_becomes_an_input_of_one_size_and_six_scores(modality: Any, name: str) -> None:
    model = emotion_model(modality, name)
    inputs = np.stack([model.features(clip(modality, frames, frames), None) for frames in (1, 2, 7, 300)])
    assert inputs.dtype == np.float32
    assert np.isfinite(inputs).all()
    network = model.build(inputs.shape[1:])
    network.load_state_dict(initial_weights(model, inputs, seed=1))
    scores = network(torch.from_numpy(inputs))
    assert scores.shape == (4, 6)
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize(("modality", "name"), MODELS)
def test_opacus_takes_every_model(modality: Any, name: str) -> None:
    from opacus.validators import ModuleValidator

    model = emotion_model(modality, name)
    network = model.build(model.features(clip(modality, 5), None).shape)
    assert ModuleValidator.validate(network, strict=False) == []


@pytest.mark.parametrize(("modality", "name"), MODELS)
def test_only_the_network_is_trained_and_not_the_standardisation(modality: Any, name: str) -> None:
    model = emotion_model(modality, name)
    network = model.build(model.features(clip(modality, 5), None).shape)
    trained = {n for n, _ in network.named_parameters()}
    assert trained
    assert not trained & {"0.mean", "0.std"}
    assert {"0.mean", "0.std"} <= set(network.state_dict())


@pytest.mark.parametrize(("modality", "name"), MODELS)
def test_initial_weights_repeat_by_seed_and_leave_the_global_generator_alone(modality: Any, name: str) -> None:
    model = emotion_model(modality, name)
    inputs = np.stack([model.features(clip(modality, 9, s), None) for s in range(3)])
    before = torch.random.get_rng_state()
    one, again, other = (initial_weights(model, inputs, seed=s) for s in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[n], again[n]) for n in one)
    if name in ("cnn", "crnn", "sequence"):  # the linear models start at zero
        assert any(not torch.equal(one[n], other[n]) for n in one)


def test_spectra_are_seen_of_sound_and_frames_of_every_other_form() -> None:
    model = emotion_model("voice", "crnn")
    hum = (0.1 * np.sin(2 * np.pi * 440 * np.arange(40_000) / 16_000)).astype(np.float32)
    bands = model.input_of("waveform", hum, None, None)
    assert bands.shape == (48, 128)
    assert bands[:, 64].argmax() == bands[:, 20].argmax() < 24  # one tone throughout
    assert np.abs(bands).max() < Standardise.LIMIT
    assert model.input_of("mfcc", clip("voice", 30), None, None).shape == (13, 256)
    for name in ("statistics", "layered", "cnn"):
        other = emotion_model("voice", name)
        assert np.array_equal(other.input_of("waveform", hum, None, None), other.features(mfcc(hum, 13), None))


def test_all_steps_of_spectra_are_standardised_alike() -> None:
    inputs = np.random.default_rng(1).normal(size=(9, 48, 128)).astype(np.float32) * np.arange(1, 49)[:, None]
    weights = initial_weights(emotion_model("voice", "crnn"), inputs, seed=1)
    for name, figure in (("0.mean", inputs.mean((0, 2))), ("0.std", inputs.std((0, 2)))):
        assert np.ptp(weights[name].numpy(), axis=1).max() == 0
        np.testing.assert_allclose(weights[name][:, 0], figure, rtol=1e-3, atol=1e-4)


def test_inputs_are_standardised_by_the_clips_given_and_never_divided_by_nothing() -> None:
    model = emotion_model("voice", "statistics")
    inputs = np.stack([model.features(clip("voice", 50, s), None) for s in range(20)])
    inputs[:, 0] = 3.0  # the same in every clip
    weights = initial_weights(model, inputs, seed=1)
    assert float(weights["0.std"].min()) >= 0.999 * MIN_STD
    layer = Standardise(inputs.shape[1:])
    layer.load_state_dict({n[2:]: t for n, t in weights.items() if n.startswith("0.")})
    out = layer(torch.from_numpy(inputs)).numpy()
    assert np.abs(out.mean(0)).max() < 1e-3
    assert np.abs(out).max() <= Standardise.LIMIT
    assert np.isfinite(layer(torch.full((1, inputs.shape[1]), 1e30)).numpy()).all()


@settings(max_examples=30, deadline=None)
@given(frames=st.integers(1, 600), level=st.floats(-1e6, 1e6))
def test_voice_features_stay_finite_and_bounded_under_a_public_scale(frames: int, level: float) -> None:
    scale = PublicScale(np.zeros(13, np.float32), np.ones(13, np.float32))
    mfcc = np.full((frames, 13), level, np.float32)
    for features in (voice_statistics(mfcc, scale), voice_window(mfcc, scale), voice_sequence(mfcc, scale)):
        assert np.isfinite(features).all()
        assert np.abs(features).max() <= 10


def test_the_window_is_the_middle_of_a_long_clip_and_the_whole_of_a_short_one() -> None:
    long = np.repeat(np.arange(300, dtype=np.float32)[:, None], 13, axis=1)
    assert voice_window(long, None)[0].tolist() == list(range(22, 278))
    short = voice_window(long[:10], None)
    assert short.shape == (13, 256)
    assert short[0, :11].tolist() == [*range(10), 0]


def test_a_short_clip_stands_in_the_middle_of_its_own_mean_and_a_long_one_is_cut() -> None:
    long = np.repeat(np.arange(300, dtype=np.float32)[:, None], 13, axis=1)
    assert voice_sequence(long, None)[0].tolist() == list(range(22, 278))
    short = voice_sequence(long[:10], None)
    assert short[0, 123:133].tolist() == list(range(10))
    assert set(short[0, :123]) | set(short[0, 133:]) == {4.5}


def test_a_sequence_of_faces_keeps_the_order_of_frames_and_needs_no_colour() -> None:
    frames = clip("face", 30)
    forward, backward = face_sequence(frames, None), face_sequence(frames[::-1].copy(), None)
    assert forward.shape == (288, 16)
    assert np.array_equal(forward[:, 0], backward[:, -1])
    assert not np.allclose(forward, backward)
    grey = frames.copy()
    grey[...] = grey[..., :1]
    assert np.allclose(face_sequence(grey, None), face_sequence(grey[..., 0].copy(), None), atol=1e-5)


def test_statistics_do_not_depend_on_when_something_was_said_but_on_how_it_changes() -> None:
    mfcc = clip("voice", 40)
    forward, backward = voice_statistics(mfcc, None), voice_statistics(mfcc[::-1].copy(), None)
    assert np.allclose(forward, backward, atol=1e-3)
    shuffled = voice_statistics(mfcc[np.random.default_rng(1).permutation(40)], None)
    assert np.allclose(forward[: 13 * 4], shuffled[: 13 * 4], atol=1e-3)
    assert not np.allclose(forward[13 * 4 :], shuffled[13 * 4 :], atol=1e-1)


@pytest.mark.parametrize("name", ["statistics", "layered", "cnn", "crnn"])
def test_every_voice_model_takes_a_code(name: str) -> None:
    codes = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    model = emotion_model("voice", name)
    inputs = np.stack([model.features(code, None) for code in codes])
    if name == "crnn":
        assert np.allclose(inputs, codes[:, :, None])  # the same at every step
    elif name != "cnn":
        assert np.array_equal(inputs, codes)  # nothing of it is lost
    network = model.build(inputs.shape[1:])
    network.load_state_dict(initial_weights(model, inputs, seed=1))
    assert network(torch.from_numpy(inputs)).shape == (5, 6)


@pytest.mark.parametrize(
    ("modality", "known"),
    [("voice", "cnn, crnn, layered, statistics"), ("face", "cnn, gradients, sequence")],
)
def test_an_unknown_model_is_refused_with_the_known_ones(modality: Any, known: str) -> None:
    with pytest.raises(StudyError, match=f"one of: {known}"):
        emotion_model(modality, "transformer")
