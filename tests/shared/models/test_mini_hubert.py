"""A small HuBERT: hidden frames are hidden, they are named better than by guessing, and clips are embedded alike."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from moretta.shared.core.errors import StudyError
from moretta.shared.features.public_speech import synthetic_speech
from moretta.shared.models import train_mini_hubert as training
from moretta.shared.models.mini_hubert import MASK_FRAMES, PREFIX, MiniHubert, MiniHubertNet, heard_frames
from moretta.shared.models.train_mini_hubert import MiniHubertTask, Trained, train_mini_hubert

CLIPS = list(synthetic_speech(4, 1))
TASK = MiniHubertTask(steps=40, seed=1)


@pytest.fixture(scope="module")
def trained() -> Iterator[Trained]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "BATCH", 4)
        patch.setattr(training, "CROP_FRAMES", 100)
        yield train_mini_hubert(CLIPS, TASK)


def test_units_of_hidden_frames_are_named_better_than_by_their_frequency(trained: Trained) -> None:
    frames = training._all_frames(CLIPS)
    every = np.concatenate(frames)
    named = training._named(frames, every.mean(axis=0), every.std(axis=0), seed=1)
    shares = np.bincount(np.concatenate([one.units for one in named]), minlength=64) / sum(
        len(one.units) for one in named
    )
    by_frequency = -float((shares * np.log(np.maximum(shares, 1e-9))).sum())
    assert np.mean(trained.loss[-10:]) < by_frequency < np.log(64) < np.mean(trained.loss[:3])


def test_nothing_of_a_hidden_frame_is_seen() -> None:
    torch.manual_seed(1)
    network = MiniHubertNet().eval()
    one, other = torch.randn(2, 1, 80, 40)
    hidden, seen = torch.ones(1, 40, dtype=torch.bool), torch.zeros(1, 40, dtype=torch.bool)
    assert torch.equal(network(one, hidden), network(other, hidden))
    assert not torch.equal(network(one, seen), network(other, seen))


def test_spans_of_ten_frames_are_hidden_and_none_shows_everything() -> None:
    mask = training._mask((400, 100), np.random.default_rng(1)).numpy()
    assert mask.any(axis=1).all()
    assert 0.45 < mask.mean() < 0.6  # 1 - 0.92^10 of frames that ten others precede
    ends = np.flatnonzero(np.diff(mask.astype(np.int8), axis=1, append=0)[0])
    assert MASK_FRAMES == 10 and (np.diff(ends[: 2 * (len(ends) // 2)].reshape(-1, 2)) >= 10).all()


def test_what_is_embedded_does_not_depend_on_level_or_silent_ends(trained: Trained) -> None:
    clip, encoder = CLIPS[0], trained.encoder
    plain, quiet, late, other = encoder.embed([clip, 0.1 * clip, np.pad(clip, 8_000), CLIPS[7]])
    np.testing.assert_allclose(plain, quiet, atol=0.05)
    apart = np.linalg.norm(plain - other)
    assert np.linalg.norm(plain - late) < 0.2 * apart
    assert plain.shape == (128,) and np.array_equal(encoder.embed([clip])[0], plain)


def test_sites_take_the_arrays_that_they_need_and_no_other(trained: Trained) -> None:
    arrays = dict(trained.encoder.arrays)
    assert not any(part in name for name in arrays for part in ("head", "units", "masked"))
    again = MiniHubert.from_arrays(arrays)
    assert np.array_equal(again.embed(CLIPS[:2]), trained.encoder.embed(CLIPS[:2]))
    for name, array in arrays.items():
        with pytest.raises(StudyError):
            MiniHubert.from_arrays({**arrays, name: np.full_like(array, np.nan)})
    largest = {**arrays, **{name: np.full_like(array, 1e3) for name, array in arrays.items() if "layers" in name}}
    assert np.isfinite(MiniHubert.from_arrays(largest).embed(CLIPS[:1])).all()
    with pytest.raises(StudyError, match="first"):
        MiniHubert.from_arrays({name: array for name, array in arrays.items() if name != PREFIX + "first.bias"})


def test_the_same_speech_and_seed_give_the_same_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "BATCH", 2)
    first, again = (train_mini_hubert(CLIPS[:6], MiniHubertTask(steps=2, seed=3)) for _ in range(2))
    assert first.loss == again.loss
    assert all(np.array_equal(again.encoder.arrays[name], array) for name, array in first.encoder.arrays.items())


def test_speech_of_no_length_is_refused_with_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CROP_FRAMES", 200)
    short = [clip[4_000:9_000] for clip in CLIPS[:2]]
    assert max(map(len, heard_frames(short))) < 100
    with pytest.raises(StudyError, match="2 clips of public speech, none of them a second long") as caught:
        train_mini_hubert(short, TASK)
    assert "encoder_speech" in caught.value.fix
