"""Expressions translated by way of landmarks: a face and a category, a picture of landmarks, a face.

Tang and Sebe, "Facial Expression Translation Using Landmark Guided GANs", arXiv 2209.02136, 2022. One U-Net makes the
landmarks, a second one the face. A coordinator sends pictures of a public person, one for each emotion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from moretta.shared.core.array_types import Array, Float64, Int64, UInt8
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.core.workers import map_files, one_thread
from moretta.shared.features.faces import cut
from moretta.shared.models.drawn_landmarks import BOUNDARY, COUNT, Showing, box_of, in_box, true_points
from moretta.shared.models.face_images import FIRST_PUBLIC_IDENTITY
from moretta.shared.models.head import FaceIdentity, PublicPerson, make_identity
from moretta.shared.models.head.expression import showing
from moretta.shared.models.head.portrait import public_person
from moretta.shared.models.head.render import Vector, View, draw, render_clip
from moretta.shared.models.network_arrays import arrays_of, network_of
from moretta.shared.models.picture_gan import UNet
from moretta.shared.pretrained.cache import trained_arrays

Notify = Callable[[str], None]
SIDE = 64
LABELS = len(EMOTIONS)
SETTINGS = 4
"""Poses and lights of each head; all emotions are drawn in each."""
NEUTRAL = EMOTIONS.index("NEU")
PARTS = ((0, 16), (16, 26), (26, 42), (42, BOUNDARY), (BOUNDARY, COUNT))
"""Points of brows, nose, eyes, lips and boundary: each has a channel of a picture of landmarks."""
WIDTH = 16
"""Channels of the first level of networks."""
_FRAME = (320, 240)
_FRAMED = 0.75
"""Share of the side of the usual square around a face: hair and walls are left out, and faces move by more pixels."""
_POSE = (0.16, 0.08, 0.05)
_LIGHT: Vector = (0.25, 0.5, 1.0)
_CLIP_FRAMES = 8
_DOT = 1.5
"""Standard deviation in pixels of a point in a picture of landmarks."""
_RARE = -3.0
"""Logit of a landmark before training: most of such a picture is black."""
_TOGETHER = 12


class Translated(NamedTuple):
    """Drawn heads in every emotion."""

    pictures: UInt8
    """[settings, 6, 64, 64, 3], in the order of `EMOTIONS`; in each row head, pose, light and place are the same."""
    landmarks: UInt8
    """[settings, 6, 5, 64, 64], pictures of the exact points."""
    people: Int64
    """[settings], ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslationTask:
    """How the networks are trained."""

    heads: int = 60
    steps: int = 4_000
    landmarks: bool = True
    """Whether there is a picture of landmarks between category and face, as published."""


def draw_settings(heads: int, *, seed: int, first: int = 0, workers: int | None = None) -> Translated:
    """Draw heads from number `first` on, in `SETTINGS` poses and lights each, in every emotion."""
    found = map_files(partial(_settings, seed=seed), range(first, first + heads), workers=workers)
    pictures, landmarks = (np.concatenate([part[which] for part in found]) for which in (0, 1))
    return Translated(pictures, landmarks, np.repeat(np.arange(heads), SETTINGS))


def _settings(number: int, *, seed: int) -> tuple[UInt8, UInt8]:
    rng = np.random.default_rng([seed, number, 0x53])
    head = make_identity(FIRST_PUBLIC_IDENTITY + int(rng.integers(2**30)))
    rows = []
    for _ in range(SETTINGS):
        yaw, pitch, roll = (float(rng.normal(0, reach)) for reach in _POSE)
        light = (float(rng.normal(0.2, 0.4)), float(rng.normal(0.5, 0.2)), 1.0)
        rows.append(every_emotion(head, (yaw, pitch, roll), light, rng))
    return np.stack([pictures for pictures, _ in rows]), np.stack([landmarks for _, landmarks in rows])


def every_emotion(
    head: FaceIdentity, pose: Vector, light: Vector, rng: np.random.Generator | None = None
) -> tuple[UInt8, UInt8]:
    """Pictures [6, 64, 64, 3] of a head in every emotion, and pictures [6, 5, 64, 64] of its points."""
    (width, height), view = _FRAME, View(pose, light)
    shown = [Showing(showing(emotion, rng), pose) for emotion in EMOTIONS]
    points = [true_points(head, each, width, height) for each in shown]
    usual = box_of(points[NEUTRAL])
    box = replace(usual, size=_FRAMED * usual.size)
    frames = (draw(head, each.weights, view, width=width, height=height, supersample=1, rng=None) for each in shown)
    dots = np.stack([dotted(in_box(places, box, SIDE)) for places in points])
    return np.stack([cut(frame, box, SIDE) for frame in frames]), dots


def dotted(places: Float64) -> UInt8:
    """Pictures [5, 64, 64] of points [98, 2], in pixels: a soft dot for each point, a picture for each of `PARTS`."""
    across = np.arange(SIDE)
    right, down = (np.exp(-np.square(across - places[:, which, None]) / (2 * _DOT**2)) for which in (0, 1))  # [98, 64]
    dots = down[:, :, None] * right[:, None, :]
    return np.asarray(np.stack([dots[first:last].max(axis=0) for first, last in PARTS]) * 255, np.uint8)


class Translator(nn.Module):
    """Faces [n, 3, 64, 64] and categories [n, 6] to logits of landmarks [n, 5, 64, 64], and to faces.

    Faces come out as the face that goes in and a change; they may leave [0, 1] by a little.

    Args:
        landmarks: whether they are between; without, the second network gets the category itself.
    """

    def __init__(self, landmarks: bool = True) -> None:
        super().__init__()
        self.points = UNet(3, len(PARTS), WIDTH, LABELS, bias=_RARE) if landmarks else None
        self.faces = UNet(3 + len(PARTS), 3, WIDTH) if landmarks else UNet(3, 3, WIDTH, LABELS)

    def forward(self, faces: Tensor, category: Tensor) -> tuple[Tensor | None, Tensor]:
        """See the class; `category` is one-hot."""
        if self.points is None:
            return None, faces + self.faces(faces, category)
        logits = self.points(faces, category)
        return logits, faces + self.faces(torch.cat([faces, torch.sigmoid(logits)], dim=1))


def translated(translator: Translator, faces: UInt8, emotions: Int64) -> UInt8:
    """Faces [n, 64, 64, 3] with the emotions of these class indices [n]; the same shape."""
    parts = []
    with one_thread(), torch.inference_mode():
        for start in range(0, len(faces), _TOGETHER):
            wanted = torch.from_numpy(np.asarray(emotions[start : start + _TOGETHER]))
            made = translator(as_tensor(faces[start : start + _TOGETHER]), one_hot(wanted))[1]
            parts.append((made.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.asarray(np.concatenate(parts), np.uint8)


def as_tensor(pictures: UInt8) -> Tensor:
    """Pictures [n, 64, 64, 3] as [n, 3, 64, 64] in [0, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def one_hot(emotions: Tensor) -> Tensor:
    """Class indices [n] as categories [n, 6]."""
    return functional.one_hot(emotions, LABELS).float()


def public_portrait(person: PublicPerson) -> UInt8:
    """The neutral picture [64, 64, 3] of a public person, from the front."""
    return np.asarray(every_emotion(public_person(person), (0.0, 0.0, 0.0), _LIGHT)[0][NEUTRAL])


def trained_translator(task: TranslationTask, *, seed: int, notify: Notify) -> Translator:
    """Drawn for and trained once for each task: the networks are kept in the user's cache."""
    from moretta.shared.models.train_translated_face import train_translator

    def trained() -> dict[str, Array]:
        notify(f"drawing {task.heads} heads in {LABELS} emotions, {SETTINGS} times each")
        return arrays_of(train_translator(draw_settings(task.heads, seed=seed), task, seed=seed, notify=notify), "")

    found = trained_arrays("translators", "faces", f"{task} {seed}", trained)
    return network_of(partial(Translator, task.landmarks), found).eval()


def portraits(translator: Translator, person: PublicPerson) -> UInt8:
    """The public person in each emotion, [6, 64, 64, 3], as networks translate the neutral portrait."""
    return translated(translator, np.repeat(public_portrait(person)[None], LABELS, axis=0), np.arange(LABELS))


def public_clips(
    people: int = 16, each: int = 2, *, seed: int, workers: int | None = None
) -> Iterator[list[tuple[UInt8, int]]]:
    """Clips [frames, 120, 160, 3] of so many drawn people, `each` of every emotion, with their class indices."""
    yield from map_files(partial(_clips, each=each, seed=seed), range(people), workers=workers)


def _clips(number: int, *, each: int, seed: int) -> list[tuple[UInt8, int]]:
    rng = np.random.default_rng([seed, number, 0xC1])
    head = make_identity(FIRST_PUBLIC_IDENTITY + int(rng.integers(2**30)))
    made = []
    for label, emotion in enumerate(EMOTIONS):
        for _ in range(each):
            strength, loudness = float(rng.uniform(0.4, 1)), rng.uniform(0, 1, _CLIP_FRAMES)
            clip = render_clip(head, emotion, loudness, fps=5, intensity=strength, seed=int(rng.integers(2**30)))
            made.append((np.stack(list(clip)), label))
    return made
