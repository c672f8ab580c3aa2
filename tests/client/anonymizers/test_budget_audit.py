"""Canaries against whole releases: what they prove lies under the claim, and releases broken on purpose are caught.

A trial is one clip, or one speaker with some clips, that said one thing or another; everything between the samples
and what is released is Moretta's own. The attacker knows both, the words and the noise's spread: the best test there
is adds up the log ratios of the likelihoods of what was released.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from privacy_auditing import CanaryTrials, gaussian_lower_bound, lower_bound

from moretta.client.anonymizers import clip_budget
from moretta.client.anonymizers.clip_budget import BudgetedVoice, ClipQuantizer, ClipStatistics
from moretta.shared.privacy.local_mechanisms import RandomizedResponse
from moretta.shared.privacy.noise import SeededNoise

sys.path.insert(0, str(Path(__file__).parent))
from budgeted import clips, computed_once, made

CONFIDENCE, DELTA = 0.999, 1e-5
EPSILON = {"clip-quantizer": 1.5, "clip-statistics": 2.0}
CLIPS_EACH = 3


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    computed_once(monkeypatch)


Person = tuple[np.ndarray, ...]


def anonymizer_of(name: str, preset: str, **more: Any) -> BudgetedVoice:
    limit = {"released_clips": CLIPS_EACH} if preset == "dp-speaker" else {}
    form = "code-tokens" if name == "clip-quantizer" else "code"
    return made(preset=preset, anonymizer=name, form=form, budget_epsilon=EPSILON[name], **limit, **more)


def noiseless(anonymizer: BudgetedVoice, person: Person) -> np.ndarray:
    """[clips, ...] what the noise is added to."""
    anonymizer.fit([("x", c) for c in person], SeededNoise(0))
    codes = np.concatenate([anonymizer.codes_of(c, "x") for c in person])
    if isinstance(anonymizer, ClipQuantizer):
        return anonymizer._codes.tokens(codes)
    values = np.asarray(codes[:, : clip_budget.VALUES], float)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True) / clip_budget.RADIUS, 1)


def worst_pair(anonymizer: BudgetedVoice, clips_each: int, times: int = 1) -> tuple[Person, Person]:
    """The two most different of some people; each recorded everything so many times."""
    order = np.random.default_rng(1).permutation(24).reshape(-1, clips_each)
    people = [tuple(clips(24)[n] for n in chosen) * times for chosen in order]

    def apart(pair: tuple[Person, Person]) -> float:
        one, other = (noiseless(anonymizer, person) for person in pair)
        differ = one != other if isinstance(anonymizer, ClipQuantizer) else np.linalg.norm(one - other, axis=1)
        return float(np.sum(differ))

    return max(itertools.combinations(people, 2), key=apart)


def released(anonymizer: BudgetedVoice, person: Person, label: str, trials: int) -> np.ndarray:
    """[trials, clips, ...] of so many people who all said the same."""
    whose = [str(n) for n in range(trials) for _ in person]
    anonymizer.fit(zip(whose, list(person) * trials, strict=True), SeededNoise(0, label))
    noise = [SeededNoise(1, label, n) for n in range(len(whose))]
    out = anonymizer.release(list(person) * trials, noise, whose)
    kept = [o for o in out if isinstance(o, np.ndarray)]
    return np.stack(kept).reshape(trials, -1, kept[0].shape[-1])


def audited(
    name: str, preset: str, broken: Callable[[BudgetedVoice], None] = lambda _: None, *, times: int = 1
) -> CanaryTrials:
    anonymizer = anonymizer_of(name, preset)
    pair = worst_pair(anonymizer, CLIPS_EACH if preset == "dp-speaker" else 1, times)
    truths = [noiseless(anonymizer, person) for person in pair]
    broken(anonymizer)
    scores = []
    for label, person in zip("ab", pair, strict=True):
        seen = released(anonymizer, person, label, 4_500 * min(times, 2) // len(person))
        if isinstance(anonymizer, ClipQuantizer):
            tokens = seen[:, :, 0]
            scores.append(((tokens == truths[0][None]) * 1.0 - (tokens == truths[1][None])).sum(axis=1))
        else:
            scores.append(((seen - (truths[0] + truths[1])[None] / 2) * (truths[0] - truths[1])[None]).sum(axis=(1, 2)))
    return CanaryTrials(*scores)


def proven(name: str, trials: CanaryTrials) -> float:
    if name == "clip-quantizer":
        return lower_bound(trials, confidence=CONFIDENCE)
    return gaussian_lower_bound(trials, delta=DELTA, cut=0.0, confidence=CONFIDENCE)


@pytest.mark.parametrize("name", EPSILON)
@pytest.mark.parametrize("preset", ["dp-clip", "dp-speaker"])
def test_what_canaries_prove_of_a_release_lies_under_its_claim_and_near_it(name: str, preset: str) -> None:
    found = proven(name, audited(name, preset))
    assert 0.35 * EPSILON[name] < found <= EPSILON[name]


def _half_as_random(anonymizer: BudgetedVoice) -> None:
    if isinstance(anonymizer, ClipQuantizer):
        right = anonymizer._response
        anonymizer._response = RandomizedResponse(
            choices=right.choices, token_epsilon=2 * right.token_epsilon, tokens=right.tokens
        )
    elif isinstance(anonymizer, ClipStatistics):
        right_noise = anonymizer._gaussian
        anonymizer._gaussian = type(right_noise)(sigma=right_noise.sigma / 2, distance=right_noise.distance)


@pytest.mark.parametrize("name", EPSILON)
@pytest.mark.parametrize("preset", ["dp-clip", "dp-speaker"])
def test_half_the_noise_is_caught(name: str, preset: str) -> None:
    assert proven(name, audited(name, preset, _half_as_random)) > EPSILON[name]


def test_statistics_that_are_not_cut_to_their_ball_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def uncut(anonymizer: BudgetedVoice) -> None:
        monkeypatch.setattr(clip_budget, "RADIUS", 1e9)  # the noise was calibrated before

    assert proven("clip-statistics", audited("clip-statistics", "dp-clip", uncut)) > EPSILON["clip-statistics"]


@pytest.mark.parametrize("name", EPSILON)
def test_more_clips_of_a_speaker_than_the_budget_is_for_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_budget.ClipSelection, "take", lambda *_: None)
    assert proven(name, audited(name, "dp-speaker", times=8)) > EPSILON[name]


def test_a_budget_that_every_clip_of_a_speaker_spends_anew_is_caught() -> None:
    def not_shared(anonymizer: BudgetedVoice) -> None:
        assert isinstance(anonymizer, ClipQuantizer)
        right = anonymizer._response
        anonymizer._response = RandomizedResponse(choices=right.choices, token_epsilon=EPSILON["clip-quantizer"])

    assert proven("clip-quantizer", audited("clip-quantizer", "dp-speaker", not_shared)) > EPSILON["clip-quantizer"]


@pytest.mark.parametrize("name", EPSILON)
def test_noise_from_a_known_seed_is_caught(name: str) -> None:
    """An attacker with the seed makes both releases and compares."""
    anonymizer = anonymizer_of(name, "dp-clip")
    one, other = worst_pair(anonymizer, 1)
    scores: list[list[float]] = [[], []]
    for trial in range(200):
        for truth, said in enumerate((one, other)):
            [seen] = anonymizer.release(list(said), [SeededNoise(trial)], ["x"])
            [made_again] = anonymizer.release(list(one), [SeededNoise(trial)], ["x"])
            scores[truth].append(-float(np.abs(np.asarray(seen, float) - np.asarray(made_again, float)).sum()))
    trials = CanaryTrials(np.array(scores[0]), np.array(scores[1]))
    assert lower_bound(trials, delta=DELTA, confidence=CONFIDENCE) > EPSILON[name]
