"""Public arrays of a hostile coordinator: refused by themselves, or every clip is released and noise covers it all.

As attacks were found: a divisor of 5e-324 made the rows of some clips NaN, which noise passes on; a projection of
3.4e38 overflowed above a threshold alone, and the clip that was dropped for it revealed one exact bit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import planted_encoder

from moretta.client.anonymizers.autoencoder import AutoencoderFaceAnonymizer, trained_autoencoder
from moretta.client.anonymizers.clip_budget import RADIUS, ClipBudgetOptions, ClipStatistics
from moretta.client.anonymizers.mfcc_quantizer import MfccQuantizer
from moretta.client.clips import release as release_module
from moretta.client.clips.release import make_release, public_rules
from moretta.client.training.data import public_scale
from moretta.shared.core.errors import MorettaError, StudyError
from moretta.shared.features.faces import FaceCropper
from moretta.shared.features.mfcc import check_samples, mfcc
from moretta.shared.features.public_codes import PublicCodes
from moretta.shared.features.speaker_code import CODE_LIMIT
from moretta.shared.models.autoencoder import Autoencoder, AutoencoderSpec, autoencoder_arrays
from moretta.shared.privacy.noise import SeededNoise, bounded, in_ball
from moretta.shared.release.anonymizer import Anonymizer, anonymizer_names, get_anonymizer
from moretta.shared.release.release_format import check_array
from moretta.shared.study.public_arrays import Rule, Rules, check_public
from moretta.shared.study.schema import Study, parse_study

sys.path.insert(0, str(Path(__file__).parent))
from budgeted import clip, public_of, study_of

STUDIES: dict[str, dict[str, Any]] = {
    "mfcc-quantizer": {},
    "mfcc-quantizer as sound": {"form": "waveform"},
    "mfcc-quantizer with its own codebook": {"codebook": "local", "form": "tokens"},
    "clip-quantizer": {"preset": "dp-clip", "anonymizer": "clip-quantizer", "form": "code-tokens"},
    "clip-quantizer of a speaker": {"preset": "dp-speaker", "anonymizer": "clip-quantizer", "segments": 2},
    "clip-statistics": {"preset": "dp-clip", "anonymizer": "clip-statistics", "segments": 2},
    "clip-statistics of a speaker": {"preset": "dp-speaker", "anonymizer": "clip-statistics"},
    "emotion-label-rr": {"anonymizer": "emotion-label-rr", "labels_from": "public"},
    "speaker-normalized": {"anonymizer": "speaker-normalized"},
    "speaker-normalized in steps": {"anonymizer": "speaker-normalized", "form": "code-sequence"},
    "speaker-normalized by a network": {"anonymizer": "speaker-normalized", "code_encoder": "network"},
}
LEAVES_OUT = {"public-voice"}
"""Guarantees nothing, and drops clips for what is in them; `test_voice_bank` has its hostile arrays."""
for _name in anonymizer_names("voice"):  # a new one that needs public arrays is tried, too
    _rules = get_anonymizer("voice", _name).public_rules(study_of(anonymizer=_name))
    if _name not in LEAVES_OUT and not all(rule.optional for rule in _rules.values()):
        STUDIES.setdefault(_name, {"anonymizer": _name})


@pytest.fixture(autouse=True, scope="module")
def _encoder() -> Iterator[None]:
    """No public network is on a machine that tests."""
    with planted_encoder():
        yield


BAD = (np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 5e-324, 1e-45, 0.0, -1.0)
SAMPLES = 3_200


@lru_cache
def said() -> tuple[np.ndarray, ...]:
    """Sounds of every kind that can be decoded, all of one length."""
    time = np.arange(SAMPLES, dtype=np.float32)
    click = np.zeros(SAMPLES, np.float32)
    click[7] = 1
    kinds = [clip(1, SAMPLES), clip(2, SAMPLES), np.zeros(SAMPLES), np.ones(SAMPLES), np.sin(time / 9), click]
    kinds += [np.full(SAMPLES, 3e38), np.where(time % 2 == 0, -3e38, 3e38), np.full(SAMPLES, 1e-45)]
    return tuple(check_samples(np.asarray(kind, np.float32)) for kind in kinds)


def of_rules(rules: Rules) -> dict[str, np.ndarray]:
    """Arrays that the rules allow."""
    generator, sizes = np.random.default_rng(5), {"units": 7, "words": 4, "values": 3, "codewords": 16}

    def one(name: str, rule: Rule) -> np.ndarray:
        shape = [sizes[size] if isinstance(size, str) else size for size in rule.shape]
        drawn = np.abs(generator.normal(size=shape)) + 0.5 if rule.lowest > 0 else generator.normal(size=shape)
        return np.clip(drawn, rule.lowest, rule.largest).astype(rule.dtype)

    return {name: one(name, rule) for name, rule in rules.items()}


@lru_cache
def honest(case: str) -> tuple[Study, dict[str, np.ndarray], Rules]:
    study = study_of(**STUDIES[case])
    rules = public_rules(study)
    return study, (public_of(study) if isinstance(study.voice.options, ClipBudgetOptions) else of_rules(rules)), rules


def spoiled(array: np.ndarray, rule: Rule, data: st.DataObject) -> np.ndarray:
    how = data.draw(st.sampled_from(["one", "all", "edges", "rank", "type", "alike", "short"]))
    made = array.astype(np.float64)
    if how in ("one", "all"):
        made.reshape(-1)[slice(None) if how == "all" else slice(0, 1)] = data.draw(st.sampled_from(BAD))
    if how == "edges":  # all that is allowed, to the last bit
        made[...] = data.draw(st.sampled_from([rule.lowest, rule.largest]))
    if how == "alike":  # rank 1 and duplicate codewords
        made[...] = made.reshape(len(made), -1)[:1].reshape(1, *made.shape[1:])
    with np.errstate(over="ignore", invalid="ignore"):
        cast = made.astype(array.dtype) if array.dtype != np.int64 else np.nan_to_num(made).astype(np.int64)
        if how == "rank":
            return cast[None]
        if how == "type":
            return cast.astype(data.draw(st.sampled_from(["float64", "float16", "int8", "complex64", "bool"])))
    return cast[:-1] if how == "short" else cast


def released(made: Anonymizer, clips: list[np.ndarray], noise: int) -> list[Any]:
    """Of two speakers, one half of the clips each."""
    whose = ["a" if number % 2 else "b" for number in range(len(clips))]
    made.fit(list(zip(whose, clips, strict=True)), SeededNoise(noise, "fit"))
    if made.trains_on_emotions:
        made.train_on_emotions((who, sound, n % 6) for n, (who, sound) in enumerate(zip(whose, clips, strict=True)))
    out = made.release(clips, [SeededNoise(noise, n) for n in range(len(clips))], whose)
    over_budget = [result for result in out if getattr(result, "reason", "") == "over-budget"]
    assert len(over_budget) == sum(max(0, whose.count(who) - (_limit(made) or 99)) for who in ("a", "b"))
    return [result for result in out if getattr(result, "reason", "") != "over-budget"]


def _limit(made: Any) -> int | None:
    limit: int | None = getattr(made._options, "clip_limit", None)
    return limit


@pytest.mark.parametrize("case", STUDIES)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_hostile_arrays_are_refused_by_themselves_or_every_clip_is_released_under_its_noise(
    case: str, data: st.DataObject
) -> None:
    study, arrays, rules = honest(case)
    hostile = dict(arrays)
    for name in data.draw(st.lists(st.sampled_from(sorted(arrays)), min_size=1, max_size=3, unique=True)):
        hostile[name] = spoiled(hostile[name], rules[name], data)
    kind = get_anonymizer("voice", study.voice.anonymizer)
    try:
        check_public(hostile, rules)
        made = kind.from_study(study, hostile)
    except StudyError:
        return
    chosen = [said()[n] for n in data.draw(st.lists(st.integers(0, len(said()) - 1), min_size=4, max_size=4))]
    other = [said()[data.draw(st.integers(0, len(said()) - 1))], *chosen[1:]]
    first, second = released(made, chosen, 1), released(kind.from_study(study, hostile), other, 1)
    for result in (*first, *second):
        assert isinstance(result, np.ndarray), result
        codewords = made.codebook
        check_array("voice", made.form, result, codebook_size=None if codewords is None else len(codewords))
    if made.form == "code" and study.voice.anonymizer in ("clip-statistics", "speaker-normalized"):
        _stays_within_the_sensitivity(study, first, second)


def _stays_within_the_sensitivity(study: Study, first: list[Any], second: list[Any]) -> None:
    """The noise is the same in both, so what differs is what was there before it; up to the grid, a 4096th of sigma."""
    for one, other in zip(first, second, strict=True):
        apart = np.abs(one.astype(np.float64) - other)
        if study.voice.anonymizer == "speaker-normalized":
            assert apart.max() <= 2 * CODE_LIMIT + 0.01
        elif study.voice.options.clip_limit is None:
            assert np.linalg.norm(apart) <= 2 * RADIUS + 0.01


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_value_of_mfcc_moves_by_its_sensitivity_at_most_whatever_the_statistics_are(data: st.DataObject) -> None:
    """Behind the check, too: statistics that no check lets pass."""
    study, arrays, _ = honest("mfcc-quantizer")
    made = MfccQuantizer.from_study(study, arrays)
    bad = np.full(13, np.float32(data.draw(st.sampled_from(BAD))))
    made._public = type(made._public)(mean=bad, std=bad, codebook=made._public.codebook)
    one, other = (mfcc(said()[data.draw(st.integers(0, 5))]) for _ in range(2))
    with np.errstate(all="ignore"):
        first, second = (made._noisy(frames, SeededNoise(1)) for frames in (one, other))
    assert np.isfinite(first).all()
    assert np.abs(first.astype(np.float64) - second).max() <= 2 * study.voice.options.bound + 1e-5


def test_a_projection_that_overflows_above_a_threshold_drops_no_clip() -> None:
    """As it was found: a loud clip overflowed float32, failed its check and was dropped; a quiet one was not."""
    study, arrays, rules = honest("clip-statistics")
    hostile = {**arrays, "voice/codes/projection": np.full_like(arrays["voice/codes/projection"], 3.4e38)}
    with pytest.raises(StudyError, match="voice/codes/projection with values that cannot be"):
        check_public(hostile, rules)
    made = ClipStatistics.from_study(study, arrays)
    old = made._codes
    made._codes = PublicCodes(old.center, old.spread, hostile["voice/codes/projection"], old.codewords)
    out = made.release(list(said()), [SeededNoise(n) for n in range(len(said()))], ["a"] * len(said()))
    assert all(isinstance(result, np.ndarray) and np.isfinite(result).all() for result in out)


def test_a_network_whose_codes_are_huge_and_alike_does_not_break_the_persons_covariance() -> None:
    """Rounding made its smallest eigenvalues negative, their root NaN, and the dropped people revealed their clips."""
    study, arrays, rules = honest("speaker-normalized by a network")
    hostile = {name: np.full_like(array, min(rules[name].largest, 1e6)) for name, array in arrays.items()}
    hostile["voice/speaker/spread"][:] = 5e-4
    hostile["voice/speaker/codewords"] = arrays["voice/speaker/codewords"]
    hostile["voice/speaker/rounds"] = np.zeros(1, np.int64)
    generator = np.random.default_rng(1)
    for name in ("voice/speaker/projection", "voice/speaker/hidden-weight"):
        hostile[name] *= np.sign(generator.normal(size=hostile[name].shape)).astype(np.float32)
    check_public(hostile, rules)
    made = get_anonymizer("voice", "speaker-normalized").from_study(study, hostile)
    assert all(isinstance(result, np.ndarray) for result in released(made, list(said()), 3))


@pytest.mark.parametrize(
    "change",
    [
        {"voice/mean": np.full(13, np.nan, np.float32)},
        {"voice/std": np.full(13, 5e-324, np.float32)},
        {"voice/std": np.full(13, -1, np.float32)},
        {"voice/codebook": np.full((16, 13), 3.4e38, np.float32)},
        {"voice/codebook": np.zeros((16, 13))},
        {"voice/codebook-radius": np.array([5e-324], np.float32)},
        {"face/more": np.zeros(1, np.float32)},
    ],
    ids=str,
)
def test_a_request_with_arrays_that_cannot_be_is_refused_before_a_clip_is_read(
    simulated: Any, study: Study, monkeypatch: pytest.MonkeyPatch, change: dict[str, np.ndarray]
) -> None:
    def nobody_reads(*_: Any) -> Any:
        raise AssertionError("a clip was read")

    monkeypatch.setattr(release_module, "site_corpus", nobody_reads)
    with pytest.raises(StudyError, match=next(iter(change))):
        make_release(simulated.site(), study, {**simulated.public, **change})


def test_later_requests_change_no_scale_that_models_are_trained_with(simulated: Any, study: Study) -> None:
    site = simulated.site()
    made = make_release(site, study, simulated.public)
    before = public_scale(made.folder)
    again = make_release(site, study, {**simulated.public, "voice/std": np.full(13, np.nan, np.float32)})
    after = public_scale(again.folder)
    assert before is not None and after is not None
    np.testing.assert_array_equal(before.std, after.std)
    np.testing.assert_array_equal(before.std, simulated.public["voice/std"])


@given(st.lists(st.floats(width=64), min_size=1, max_size=5), st.floats(1e-6, 1e6))
@settings(max_examples=60, deadline=None)
def test_bounded_values_are_bounded_whatever_they_are(values: list[float], limit: float) -> None:
    inside, ball = bounded(np.array(values), limit), in_ball(np.array(values), limit)
    assert np.abs(inside).max() <= limit
    assert np.linalg.norm(ball) <= limit * (1 + 1e-12)


class _NoDetector:
    name = "none"

    def find_all(self, frame: Any) -> list[Any]:
        del frame
        return []


@lru_cache
def network() -> dict[str, np.ndarray]:
    torch.manual_seed(1)
    model = Autoencoder(AutoencoderSpec.preset("small"))
    return {f"face/{name}": array for name, array in autoencoder_arrays(model).items()}


@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_a_hostile_network_for_faces_is_refused_by_itself_or_every_clip_is_released(data: st.DataObject) -> None:
    study = parse_study({"voice": {"enabled": False}, "face": {"anonymizer": "autoencoder"}})
    rules, hostile = public_rules(study), dict(network())
    for name in data.draw(st.lists(st.sampled_from(sorted(hostile)), min_size=1, max_size=5, unique=True)):
        hostile[name] = spoiled(hostile[name], rules[name], data)
    try:
        check_public(hostile, rules)
        model = trained_autoencoder(study, hostile)
    except MorettaError:
        return
    made = AutoencoderFaceAnonymizer(FaceCropper(64, _NoDetector()), model, noise=0.1)
    pictures = [np.full((2, 80, 80, 3), level, np.uint8) for level in (0, 255)]
    for result in made.release(pictures, [SeededNoise(1), SeededNoise(2)], ["a", "b"]):
        assert isinstance(result, np.ndarray), result
        check_array("face", "frames", result)


@pytest.mark.parametrize("case", [case for case in STUDIES if "quantizer" not in case or "clip" in case])
def test_a_clip_that_cannot_be_measured_is_released_as_a_point_that_everybody_knows(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To leave it out would tell that it is one of those, without noise."""
    from moretta.client.anonymizers import clip_budget
    from moretta.shared.features import speaker_code

    def broken(real: Any) -> Any:
        def measure(samples: Any, *rest: Any) -> Any:
            loud = np.concatenate([np.ravel(part) for part in samples]) if isinstance(samples, list) else samples
            if np.abs(loud).max() > 9:
                raise FloatingPointError("this clip alone")
            return real(samples, *rest)

        return measure

    monkeypatch.setattr(clip_budget, "mfcc", broken(clip_budget.mfcc))
    monkeypatch.setattr(speaker_code, "delivery_batch", broken(speaker_code.delivery_batch))
    study, arrays, _ = honest(case)
    made = get_anonymizer("voice", study.voice.anonymizer).from_study(study, arrays)
    for result in released(made, [said()[0], said()[6], said()[1], said()[7]], 1):
        assert isinstance(result, np.ndarray), result
        assert np.isfinite(result).all()
