"""On a toy: some measurements show the emotion, others mostly how each person shows it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from moretta.shared.core.errors import StudyError
from moretta.shared.features.speaker_code import HiddenLayer
from moretta.shared.features.speaker_normalization import SpeakerWhitening
from moretta.shared.models import speaker_net as train_module
from moretta.shared.models.speaker_net import PublicSpeech, SpeakerNet, train_speaker_net

PEOPLE, EMOTIONS, EACH = 8, 6, 8
SHOWN, STYLE, NOISE = (0.6, 2.0), 1.0, 0.15
Toy = tuple[np.ndarray, np.ndarray, np.ndarray]


@cache
def toy(seed: int = 0) -> Toy:
    """Six emotions on a circle, which two values can tell; no whitening moves what is between them."""
    generator = np.random.default_rng(seed)
    angle = 2 * np.pi * np.arange(EMOTIONS) / EMOTIONS
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # [emotions, 2]
    styles = STYLE * generator.normal(size=(PEOPLE, EMOTIONS, 4))
    person = np.repeat(np.arange(PEOPLE), EMOTIONS * EACH)
    emotion = np.tile(np.arange(EMOTIONS), PEOPLE * EACH)
    reported = np.tile(circle[emotion], 4) * np.repeat(SHOWN, 4) + NOISE * generator.normal(size=(len(person), 8))
    reported[:, 4:] += styles[person, emotion]
    return reported, person, emotion


def train(speech: Toy, size: int = 2, seed: int = 1, **options: Any) -> tuple[HiddenLayer, np.ndarray]:
    return train_speaker_net(*speech, size=size, noise=options.get("noise", 0.0), seed=seed)


def released(net: tuple[HiddenLayer, np.ndarray], speech: Toy) -> np.ndarray:
    raw = net[0](speech[0]) @ net[1]
    codes = np.empty_like(raw)
    for one in range(PEOPLE):
        mine = speech[1] == one
        codes[mine] = SpeakerWhitening.of(raw[mine], np.ones(mine.sum()))(raw[mine])
    return codes


def read_off(codes: np.ndarray, person: np.ndarray, emotion: np.ndarray) -> tuple[float, float]:
    """Parts of clips that a fresh attacker with the emotion re-identifies, and whose emotion is read."""
    known = np.arange(len(codes)) // EMOTIONS % 2 == 0
    named = []
    for one in range(EMOTIONS):
        seen, requested = known & (emotion == one), ~known & (emotion == one)
        attacker = LogisticRegression(max_iter=500).fit(codes[seen], person[seen])
        named.append(attacker.score(codes[requested], person[requested]))
    strangers = person >= PEOPLE // 2
    evaluator = LogisticRegression(max_iter=500).fit(codes[~strangers], emotion[~strangers])
    return float(np.mean(named)), float(evaluator.score(codes[strangers], emotion[strangers]))


@pytest.fixture
def _all_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the folds in which the number of rounds is found."""
    monkeypatch.setattr(train_module, "_best_rounds", lambda *_: train_module.ROUNDS)


@pytest.mark.usefixtures("_all_rounds")
def test_a_network_recognizes_the_emotion_of_people_it_was_not_trained_on() -> None:
    others = toy(7)
    assert read_off(released(train(toy()), others), *others[1:])[1] > 0.9


def test_training_stops_early_where_held_out_people_are_recognized_no_better() -> None:
    places, person, emotion = toy()
    senseless = np.random.default_rng(3).normal(size=(len(person), 95))
    with_key, missed_key = (
        train_module._best_rounds(PublicSpeech(seen, person, emotion, EMOTIONS), 5, 0.0, 1)
        for seen in (places, senseless)
    )
    assert missed_key <= 3
    assert with_key >= 8


@pytest.mark.usefixtures("_all_rounds")
def test_the_same_seed_gives_the_same_network_and_no_global_state_is_touched() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = train(toy(), noise=0.5)
    assert torch.equal(torch.rand(1), expected)
    again = train(toy(), noise=0.5)
    np.testing.assert_array_equal(first[1], again[1])
    np.testing.assert_array_equal(first[0].weight, again[0].weight)
    other = train(toy(), seed=2)
    assert np.abs(first[1] - other[1]).max() > 0.01


def test_what_a_site_computes_is_what_was_trained() -> None:
    torch.manual_seed(1)
    net = SpeakerNet(95, 5).eval()
    places = np.random.default_rng(1).normal(size=(40, 95))
    hidden, directions = net.arrays()
    with torch.no_grad():
        expected = net(torch.tensor(places, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(hidden(places) @ directions, expected, atol=1e-5)


def test_rounds_have_whole_people_and_no_more_rows_than_needed() -> None:
    speech = PublicSpeech(np.zeros((4_500, 2)), np.arange(4_500) // 900, np.arange(4_500) % 2, 2)
    parts = list(speech.in_random_rounds(np.random.default_rng(0)))
    assert {tuple(part.clips) for part in parts} == {(900, 900)}
    assert len({float(part.person.sum()) for part in parts}) == 1  # people of a round are numbered from 0


@pytest.mark.parametrize(("people", "emotions"), [(2, 3), (5, 1)])
def test_too_few_people_or_emotions_are_an_error(people: int, emotions: int) -> None:
    places, person, emotion = toy()
    few = person < people
    with pytest.raises(StudyError, match="public speech of"):
        train((places[few], person[few], emotion[few] % emotions))
