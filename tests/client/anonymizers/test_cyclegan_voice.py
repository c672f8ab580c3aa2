"""`cyclegan-voice`: pitch goes to the other sex's, durations by the factor, everything is finite and deterministic."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from moretta.client.anonymizers.cyclegan_voice import CycleOptions, CycleVoice
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.features.public_speech import synthetic_speakers
from moretta.shared.features.world_voice import WorldVoice, missing_world, pitch_of
from moretta.shared.models import train_voice_cycle
from moretta.shared.models.network_arrays import array_shapes
from moretta.shared.models.speech import make_voice, synthesize
from moretta.shared.models.train_voice_cycle import CycleTask, pools_of, train_cycle
from moretta.shared.models.voice_cycle import CycleFigures, Generator, Pools, VoiceCycle
from moretta.shared.privacy.mechanism import Unbounded
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.anonymizer import get_anonymizer
from moretta.shared.release.release_format import check_array
from moretta.shared.study.schema import Study

pytestmark = pytest.mark.skipif(missing_world() is not None, reason="install world")
WIDTH = 4
FEMALE, MALE = 5.35, 4.8  # 210 and 122 Hz


def planted(scale: float = 0.05) -> VoiceCycle:
    """Small networks of random weights between pools of known pitch."""
    torch.manual_seed(1)
    networks = Generator(WIDTH), Generator(WIDTH)
    with torch.no_grad():
        for network in networks:
            network.last.weight.mul_(scale)
    center = np.zeros((2, 24))
    center[:, 0], center[:, 1] = -14, (1.0, 2.0)
    pools = Pools(center, np.full((2, 24), 0.5), np.array([FEMALE, MALE]), np.array([0.2, 0.3]))
    return VoiceCycle.of(networks, pools, CycleFigures(1, 1, 1, 1, 1, 1, 1), width=WIDTH)


def voices() -> list[tuple[str, np.ndarray]]:
    """Two clips each of four synthetic people, of both sexes."""
    said = [(n, make_voice(n)) for n in range(40, 60)]
    chosen = [each for sex in ("female", "male") for each in [p for p in said if p[1].sex == sex][:2]]
    return [(str(n), synthesize(voice, e, "DFA", seed=k)) for n, voice in chosen for k, e in enumerate(EMOTIONS[:2])]


def released(made: CycleVoice, clips: list[tuple[str, np.ndarray]]) -> list[Any]:
    made.fit(clips, SeededNoise(1, "fit"))
    return made.release([c for _, c in clips], [SeededNoise(n) for n in range(len(clips))], [who for who, _ in clips])


def build(**options: Any) -> CycleVoice:
    return CycleVoice(CycleOptions(width=WIDTH, **options), planted())


def log_pitch(sound: np.ndarray) -> float:
    return float(logs_of(sound).mean())


def logs_of(sound: np.ndarray) -> np.ndarray:
    hertz = pitch_of(sound)
    return np.asarray(np.log(hertz[hertz > 0]))


@pytest.mark.parametrize("factor", [1.0, 1.25, 0.8])
def test_a_release_is_as_long_as_the_factor_says(factor: float) -> None:
    clips = voices()[::4]
    for (_, clip), sound in zip(clips, released(build(duration_factor=factor), clips), strict=True):
        check_array("voice", "waveform", sound)
        assert len(sound) / len(clip) == pytest.approx(factor, rel=0.01)


def test_a_clip_that_would_become_too_long_is_left_out_with_that_reason() -> None:
    """As found: it was counted as `check-failed`, after a minute of work."""
    (who, clip), *_ = voices()
    long = np.tile(clip, 1 + 61 * 16_000 // len(clip))[: 61 * 16_000]
    short, dropped = released(build(duration_factor=2.0), [(who, clip), (who, long)])
    check_array("voice", "waveform", short)
    assert isinstance(dropped, ClipError) and dropped.reason == "too-long"
    assert "a release of 122 s" in str(dropped) and "lower duration_factor" in str(dropped)


def test_a_stretched_release_says_the_same_at_the_same_pitch() -> None:
    clips = voices()[:1]
    plain, slow = (released(build(duration_factor=factor), clips)[0] for factor in (1.0, 1.5))
    assert log_pitch(slow) == pytest.approx(log_pitch(plain), abs=0.05)


def test_pitch_lands_in_the_other_pool() -> None:
    """Of clips whose pitch is that of a pool: the mean is that of the other, and so is the deviation."""
    pools, generator = planted().pools, np.random.default_rng(1)
    for pool, mean, deviation in ((0, FEMALE, 0.2), (1, MALE, 0.3)):
        hertz = np.exp(generator.normal(mean, deviation, 4_000)) * (np.arange(4_000) % 3 > 0)
        moved = pools.pitch_to_other(hertz, pool)
        np.testing.assert_array_equal(moved > 0, hertz > 0)
        logs = np.log(moved[moved > 0])
        assert abs(logs.mean() - (MALE if pool == 0 else FEMALE)) < 0.05
        assert abs(logs.std() - (0.3 if pool == 0 else 0.2)) < 0.03


def test_in_sound_too_the_mean_pitch_of_a_sex_becomes_that_of_the_other() -> None:
    """Of the release as it is, tracked again; pools of other order would move everybody away."""
    clips, cycle = voices(), planted()
    sides = [[logs_of(clip) for _, clip in own] for own in (clips[:4], clips[4:])]
    melodies = np.concatenate(sides[0]), np.concatenate(sides[1])
    tones = {"pitch": [logs.mean() for logs in melodies], "pitch-spread": [logs.std() for logs in melodies]}
    measured = {f"voice/cycle/{name}": np.array(values, np.float32) for name, values in tones.items()}
    made = CycleVoice(CycleOptions(width=WIDTH), VoiceCycle({**cycle.arrays, **measured}, WIDTH))
    sounds = released(made, clips)
    for pool, own in enumerate((sounds[:4], sounds[4:])):
        assert abs(np.concatenate([logs_of(sound) for sound in own]).mean() - melodies[1 - pool].mean()) < 0.05


def test_a_persons_pool_comes_from_all_of_their_clips() -> None:
    """One shrill clip of a low voice is still a clip of that person."""
    who, calm = next((w, c) for w, c in voices() if log_pitch(c) < (FEMALE + MALE) / 2)
    shrill = WorldVoice.of(calm).with_pitch(2.4).sound()
    assert log_pitch(shrill) > (FEMALE + MALE) / 2
    made = build()
    released(made, [(who, calm), (who, calm), (who, calm), (who, shrill), ("other", shrill)])
    assert made._pools == {who: 1, "other": 0}


def test_silence_and_strangers_are_released() -> None:
    made = build()
    made.fit([], SeededNoise(1))
    for clip in (np.zeros(16_000, np.float32), voices()[0][1]):
        sound = made.release_clip(clip, SeededNoise(1), "nobody")
        check_array("voice", "waveform", sound)
        assert len(sound) == len(clip)


@pytest.mark.parametrize("bad", [1e3, -1e3, 0.0])
def test_whatever_the_weights_are_a_release_is_finite(bad: float) -> None:
    honest = planted()
    hostile = {name: np.full(array.shape, bad, np.float32) for name, array in honest.arrays.items() if "from-" in name}
    made = CycleVoice(CycleOptions(width=WIDTH), VoiceCycle.from_arrays({**honest.arrays, **hostile}, width=WIDTH))
    for sound in released(made, voices()[::4]):
        check_array("voice", "waveform", sound)
    moved = made._cycle.cepstra(np.random.default_rng(1).normal(size=(50, 24)), 0) - made._cycle.pools.center[1]
    assert np.abs(moved).max() <= 5 * 0.5 + 1e-6  # deviations of the planted pool


def test_arrays_that_cannot_be_are_refused() -> None:
    arrays = planted().arrays
    for name in [*(n for n in arrays if "from-" not in n), next(n for n in arrays if "from-male" in n)]:
        array = arrays[name]
        for changed in (np.full_like(array, np.nan), array.astype(np.float64), array[None]):
            with pytest.raises(StudyError, match=name):
                VoiceCycle.from_arrays({**arrays, name: changed}, width=WIDTH)
    with pytest.raises(StudyError, match="spread"):
        VoiceCycle.from_arrays({**arrays, "voice/cycle/spread": np.zeros((2, 24), np.float32)}, width=WIDTH)
    assert set(array_shapes(partial(Generator, WIDTH))) < {name.partition(".")[2] for name in arrays}


def test_public_speech_of_one_sex_is_an_error() -> None:
    spoken = [one for one in synthetic_speakers(1, voices=4, clips=2) if one.sex == "female"]
    with pytest.raises(StudyError, match="clips of known sex"):
        pools_of(spoken, seed=1)
    with pytest.raises(StudyError, match="0 female and 0 male"):
        pools_of([], seed=1)


def test_sexes_that_are_the_wrong_way_round_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_voice_cycle, "FEWEST", 3)
    other = {"female": "male", "male": "female"}
    spoken = [replace(one, sex=other[one.sex]) for one in synthetic_speakers(1, voices=6, clips=2)]
    with pytest.raises(StudyError, match=r"the pitch of female \d+ and of male \d+"):
        pools_of(spoken, seed=1, most=4)


def test_the_same_seed_gives_the_same_networks_of_real_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_voice_cycle, "FEWEST", 3)
    clips = pools_of(synthetic_speakers(1, voices=6, clips=2), seed=1, most=4)
    assert max(map(len, clips)) <= 4
    first, same, other = (train_cycle(clips, CycleTask(width=WIDTH, steps=2), seed=seed).arrays for seed in (1, 1, 2))
    for name, array in first.items():
        np.testing.assert_array_equal(array, same[name])
    assert any(not np.array_equal(array, other[name]) for name, array in first.items())


def test_it_guarantees_nothing_and_says_what_it_is() -> None:
    study = Study().with_changes(voice={"anonymizer": "cyclegan-voice", "options": {"duration_factor": 1.25}})
    kind = get_anonymizer("voice", "cyclegan-voice")
    assert study.voice.form == "waveform"
    losses = kind.planned_losses(study, {"a": [100, 200]})
    assert all(isinstance(loss, Unbounded) for own in losses.values() for loss in own)
    assert kind.strength(study) == {"duration_factor": 1.25}
    assert kind.is_fitted(study)
    assert build().parameters()["distortion_db"]["identity"] == 1.0


def test_a_missing_vocoder_is_an_error_that_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    study, kind = (
        Study().with_changes(voice={"anonymizer": "cyclegan-voice"}),
        get_anonymizer("voice", "cyclegan-voice"),
    )
    assert r"pip install 'moretta[world]'" in (kind.missing(study) or "")
    with pytest.raises(StudyError, match=r"pip install 'moretta\[world\]'"):
        kind.prepare_public(study, lambda text: None)
    with pytest.raises(StudyError, match=r"pip install 'moretta\[world\]'"):
        build().fit([], SeededNoise(1))
