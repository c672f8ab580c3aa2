"""Translated faces: truth is drawn where it should be, the category decides, and the way leads over landmarks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moretta.shared.core.labels import EMOTIONS
from moretta.shared.models import train_translated_face, translated_face
from moretta.shared.models.head.portrait import public_person
from moretta.shared.models.picture_gan import UNet
from moretta.shared.models.train_translated_face import changed, train_translator
from moretta.shared.models.translated_face import (
    LABELS,
    NEUTRAL,
    PARTS,
    SETTINGS,
    SIDE,
    Translated,
    TranslationTask,
    Translator,
    as_tensor,
    dotted,
    draw_settings,
    every_emotion,
    one_hot,
    portraits,
    public_clips,
    public_portrait,
    trained_translator,
    translated,
)

QUIET = {"seed": 1, "notify": lambda text: None}


@pytest.fixture(scope="module")
def drawn() -> Translated:
    return draw_settings(1, seed=5, workers=1)


def spread(maps: torch.Tensor) -> float:
    """Mean distance from the mean of six, [settings, 6, ...]."""
    return float((maps - maps.mean(dim=1, keepdim=True)).abs().mean())


def begun(network: UNet) -> UNet:
    """As after some training: an untrained one gives the same for all."""
    torch.nn.init.normal_(network.last.weight, std=0.1)
    return network


def test_in_one_setting_only_the_expression_differs_and_it_can_be_seen(drawn: Translated) -> None:
    assert drawn.pictures.shape == (SETTINGS, LABELS, SIDE, SIDE, 3) and drawn.pictures.dtype == np.uint8
    assert drawn.landmarks.shape == (SETTINGS, LABELS, len(PARTS), SIDE, SIDE)
    assert drawn.people.tolist() == [0] * SETTINGS
    for pictures in drawn.pictures:
        moved = np.abs(pictures.astype(int) - pictures[NEUTRAL]).mean(axis=(1, 2, 3))
        corner = np.abs(pictures[:, :4, :4].astype(int) - pictures[NEUTRAL][:4, :4]).max()
        assert (np.delete(moved, NEUTRAL) > 2).all() and corner <= 2
    assert np.abs(drawn.pictures[0].astype(int) - drawn.pictures[1]).mean() > 5  # another pose and light


def test_each_part_of_a_face_has_its_dots_where_its_points_are() -> None:
    places = np.full((98, 2), -50.0)
    places[0], places[97] = (20.0, 40.0), (50.0, 10.0)
    pictures = dotted(places)
    assert pictures[0, 40, 20] == 255 and pictures[-1, 10, 50] == 255
    assert pictures[0, 10, 50] == 0 and pictures[1:-1].max() == 0


def test_a_category_changes_what_a_u_net_makes() -> None:
    torch.manual_seed(1)
    network, picture = begun(UNet(3, 1, 4, LABELS)), torch.rand(1, 3, SIDE, SIDE)
    with torch.no_grad():
        one, other = (network(picture, torch.eye(LABELS)[[which]]) for which in (0, 1))
    assert one.shape == (1, 1, SIDE, SIDE) and not torch.equal(one, other)


def test_an_untrained_translator_gives_the_face_back() -> None:
    faces = torch.rand(2, 3, SIDE, SIDE)
    for landmarks in (True, False):
        torch.testing.assert_close(Translator(landmarks)(faces, torch.eye(LABELS)[:2])[1], faces)


def test_the_loss_of_faces_reaches_the_network_of_landmarks() -> None:
    torch.manual_seed(1)
    translator = Translator()
    assert translator.points is not None
    begun(translator.points), begun(translator.faces)
    _, made = translator(torch.rand(2, 3, SIDE, SIDE), torch.eye(LABELS)[:2])
    made.sum().backward()
    assert all(weights.grad is not None and bool(weights.grad.any()) for weights in translator.points.parameters())


def test_pixels_near_a_change_count_more() -> None:
    source = torch.zeros(1, 3, SIDE, SIDE)
    wanted = source.clone()
    wanted[:, :, 30:36, 30:36] = 1
    weights = changed(source, wanted)
    assert float(weights[0, 0, 33, 33]) == 9 and float(weights[0, 0, 5, 5]) == 1


def test_landmarks_soon_depend_on_the_category(drawn: Translated) -> None:
    translator = train_translator(drawn, TranslationTask(steps=60), **QUIET)
    faces = as_tensor(drawn.pictures[:, NEUTRAL])
    with torch.no_grad():
        logits = [translator(faces, one_hot(torch.full((SETTINGS,), label)))[0] for label in range(LABELS)]
    made = torch.sigmoid(torch.stack([part for part in logits if part is not None], dim=1))
    assert spread(made) > 0.03 * spread(torch.from_numpy(drawn.landmarks).float() / 255)


def test_the_category_is_that_of_the_wanted_face(monkeypatch: pytest.MonkeyPatch) -> None:
    categories: list[int] = []
    wanted_faces: list[int] = []

    class Watched(Translator):
        def forward(self, faces: torch.Tensor, category: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
            categories.extend(category.argmax(dim=1).tolist())
            return super().forward(faces, category)

    def watched(source: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        wanted_faces.extend((wanted[:, 0, 0, 0] * 255 / 40).round().int().tolist())
        return changed(source, wanted)

    monkeypatch.setattr(train_translated_face, "Translator", Watched)
    monkeypatch.setattr(train_translated_face, "changed", watched)
    grey = np.arange(LABELS, dtype=np.uint8)[:, None, None, None] * 40  # as bright as the number of its emotion
    pictures = np.broadcast_to(grey, (1, LABELS, SIDE, SIDE, 3)).copy()
    landmarks = np.zeros((1, LABELS, len(PARTS), SIDE, SIDE), np.uint8)
    train_translator(Translated(pictures, landmarks, np.zeros(1, np.int64)), TranslationTask(steps=3), **QUIET)
    assert categories == wanted_faces and len(set(categories)) > 2


@pytest.mark.parametrize("landmarks", [True, False])
def test_the_same_seed_gives_the_same_networks(drawn: Translated, landmarks: bool) -> None:
    task = TranslationTask(steps=3, landmarks=landmarks)
    one, other = (train_translator(drawn, task, **QUIET) for _ in range(2))
    assert all(torch.equal(one.state_dict()[name], tensor) for name, tensor in other.state_dict().items())
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
