"""Translated faces: truth is drawn where it should be, the category decides, and the way leads over landmarks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moretta.shared.core.labels import EMOTIONS
from moretta.shared.models import translated_face
from moretta.shared.models.head.portrait import public_person
from moretta.shared.models.picture_gan import UNet
from moretta.shared.models.translated_face import (
    LABELS,
    NEUTRAL,
    SETTINGS,
    SIDE,
    Translated,
    TranslationTask,
    Translator,
    dotted,
    draw_settings,
    every_emotion,
    portraits,
    public_clips,
    public_portrait,
    train_translator,
    trained_translator,
    translated,
)

QUIET = {"seed": 1, "notify": lambda text: None}


@pytest.fixture(scope="module")
def drawn() -> Translated:
    return draw_settings(1, seed=5, workers=1)


def test_in_one_setting_only_the_expression_differs(drawn: Translated) -> None:
    assert drawn.pictures.shape == (SETTINGS, LABELS, SIDE, SIDE, 3) and drawn.pictures.dtype == np.uint8
    assert drawn.landmarks.shape == (SETTINGS, LABELS, SIDE, SIDE) and drawn.people.tolist() == [0] * SETTINGS
    for pictures in drawn.pictures:
        moved = np.abs(pictures.astype(int) - pictures[NEUTRAL]).mean(axis=(1, 2, 3))
        corner = np.abs(pictures[:, :6, :6].astype(int) - pictures[NEUTRAL][:6, :6]).max()
        assert (np.delete(moved, NEUTRAL) > 0.5).all() and corner <= 2
    assert np.abs(drawn.pictures[0].astype(int) - drawn.pictures[1]).mean() > 5  # another pose and light


def test_dots_are_where_points_are_and_those_of_the_boundary_are_darker() -> None:
    places = np.full((98, 2), 5.0)
    places[0], places[97] = (20.0, 40.0), (50.0, 10.0)
    picture = dotted(places)
    assert picture[40, 20] == 255 and picture[10, 50] == 127 and picture[30, 30] == 0


def test_a_category_changes_what_a_u_net_makes_and_the_smallest_maps_carry_it() -> None:
    torch.manual_seed(1)
    network, picture = UNet(3, 1, 4, LABELS), torch.rand(1, 3, SIDE, SIDE)
    with torch.no_grad():
        one, other = (network(picture, torch.eye(LABELS)[[which]]) for which in (0, 1))
    assert one.shape == (1, 1, SIDE, SIDE) and float(one.min()) >= 0 and float(one.max()) <= 1
    assert not torch.equal(one, other)


def test_the_loss_of_faces_reaches_the_network_of_landmarks() -> None:
    torch.manual_seed(1)
    translator = Translator()
    _, made = translator(torch.rand(2, 3, SIDE, SIDE), torch.eye(LABELS)[:2])
    made.sum().backward()
    assert translator.points is not None
    assert all(weights.grad is not None and bool(weights.grad.any()) for weights in translator.points.parameters())


@pytest.mark.parametrize("landmarks", [True, False])
def test_it_learns_and_the_same_seed_gives_the_same_networks(drawn: Translated, landmarks: bool) -> None:
    said: list[str] = []
    task = TranslationTask(steps=20, landmarks=landmarks)
    one, other = (train_translator(drawn, task, seed=2, notify=said.append) for _ in range(2))
    assert all(torch.equal(one.state_dict()[name], tensor) for name, tensor in other.state_dict().items())
    errors = [float(line.split("pixels ")[1].split(",")[0]) for line in said[: len(said) // 2]]
    assert np.mean(errors[-3:]) < 0.9 * errors[0]
    made = translated(one, drawn.pictures[0], np.arange(LABELS))
    assert made.shape == (LABELS, SIDE, SIDE, 3) and made.dtype == np.uint8


def test_networks_are_trained_once_for_a_task_and_draw_the_public_person(
    monkeypatch: pytest.MonkeyPatch, drawn: Translated
) -> None:
    monkeypatch.setattr(translated_face, "draw_settings", lambda *_, **__: drawn)
    said: list[str] = []
    task = TranslationTask(heads=2, steps=2)
    first = trained_translator(task, seed=1, notify=said.append)
    assert said
    said.clear()
    again = trained_translator(task, seed=1, notify=said.append)
    assert not said
    np.testing.assert_array_equal(portraits(first, "hazel"), portraits(again, "hazel"))
    whole = every_emotion(public_person("hazel"), (0.0, 0.0, 0.0), (0.25, 0.5, 1.0))[0]
    np.testing.assert_array_equal(public_portrait("hazel"), whole[NEUTRAL])


def test_clips_of_public_people_show_every_emotion() -> None:
    (person,) = public_clips(1, 1, seed=1, workers=1)
    assert [label for _, label in person] == list(range(len(EMOTIONS)))
    assert all(clip.dtype == np.uint8 and clip.shape[1:] == (120, 160, 3) for clip, _ in person)
