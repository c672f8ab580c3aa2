"""Public faces for the training of the face autoencoder, read from a folder or drawn."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from moretta.shared.core.array_types import UInt8
from moretta.shared.core.errors import ClipError, CorpusError
from moretta.shared.core.labels import Emotion
from moretta.shared.core.workers import cpu_count, map_files
from moretta.shared.data.clips import Drop
from moretta.shared.features.faces import cropper_of

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
FIRST_PUBLIC_IDENTITY = 1_000_000
"""Seeds of public people start here: speakers of a synthetic corpus are far below, so nobody is in both."""
PICTURES_PER_PERSON = 3
"""A second picture of a person costs a third of the first, but the network learns more from new people."""
_MAX_IMAGE_BYTES = 200 * 2**20
_TOGETHER, _SHARES = 64, 8
"""Pictures or people that a worker gets at once, at most; and how many such parts each worker gets, at least."""
_RENDERED = (160, 120)  # pixels, as the synthetic corpus has them
_POSE = (0.16, 0.08, 0.05)  # yaw, pitch, roll in radians: standard deviations

Pictures = UInt8
"""[N, side, side, 3], RGB; may be a memory map larger than memory."""
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class FaceImages:
    """Faces of one size."""

    pictures: Pictures
    """A memory map on a file without a name, which is gone once nobody holds it."""
    centred: int
    """Pictures in which no face was found: their centre was cut out."""
    detector: str
    dropped: tuple[Drop, ...] = ()
    """Files that could not be used."""
    emotions: tuple[str, ...] = ()
    """Emotion of each picture of drawn people; empty for a folder, whose emotions are unknown."""


def image_files(folder: Path) -> list[Path]:
    """All pictures under a folder, in order of their paths. Raises CorpusError: no such folder, or no picture in it."""
    if not folder.is_dir():
        raise CorpusError(f"the folder {folder} does not exist", expected="a folder of face images")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        endings = ", ".join(sorted(SUFFIXES))
        raise CorpusError(
            f"no picture under {folder}", expected=f"files ending in {endings}", fix="name another folder"
        )
    return files


def read_face_images(
    folder: Path,
    files: Sequence[Path],
    side: int,
    *,
    step: Callable[[], None] | None = None,
    workers: int | None = None,
) -> FaceImages:
    """Cut the largest face out of each of the pictures that `image_files` lists, as crops of `side` pixels.

    `step` is called after every file; None as `workers` takes a process for each core.

    Raises:
        CorpusError: not one file can be used.
    """
    read = partial(_read_face, folder=folder, side=side)
    images = _filled(read, list(enumerate(files)), count=len(files), side=side, step=step, workers=workers)
    if not len(images.pictures):
        raise CorpusError(
            f"none of the {len(files)} pictures under {folder} can be read",
            expected="face images",
            fix=f"look at {images.dropped[0].file}: {images.dropped[0].detail}",
        )
    return images


def render_face_images(
    people: int, side: int, *, seed: int, step: Callable[[], None] | None = None, workers: int | None = None
) -> FaceImages:
    """Draw public people, `PICTURES_PER_PERSON` of each one after the other, with any emotion, pose and light.

    Another seed gives other people. The rest is as in `read_face_images`.
    """
    render = partial(_render_person, side=side, seed=seed)
    return _filled(render, range(people), count=people * PICTURES_PER_PERSON, side=side, step=step, workers=workers)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The result for one row of the memory map."""

    row: int
    found: bool = False
    drop: Drop | None = None
    emotion: str = ""


def _filled(
    make: Callable[[Item, Pictures], list[_Outcome]],
    items: Sequence[Item],
    *,
    count: int,
    side: int,
    step: Callable[[], None] | None,
    workers: int | None,
) -> FaceImages:
    """Let `make(item, rows)` write pictures; drop the rows it could not write and close the gaps."""
    size = max(1, min(_TOGETHER, len(items) // (_SHARES * (workers or cpu_count()))))
    chunks, left = [items[i : i + size] for i in range(0, len(items), size)], len(items)

    def done() -> None:
        nonlocal left
        for _ in range(min(size, left)):
            left -= 1
            if step is not None:
                step()

    with tempfile.NamedTemporaryFile(prefix="moretta-faces-") as file:
        file.truncate(max(1, count) * side * side * 3)
        # Several processes write to the file, each its own rows.
        rows = partial(np.memmap, file.name, np.uint8, "r+", shape=(count, side, side, 3))
        parts = map_files(partial(_made, make, rows), chunks, workers=workers, progress=done)
        pictures: Pictures = rows()  # still readable once the file has lost its name
    outcomes = [outcome for part in parts for outcome in part]
    good = [outcome for outcome in outcomes if outcome.drop is None]
    for place, outcome in enumerate(good):
        if place != outcome.row:
            pictures[place] = pictures[outcome.row]
    dropped = tuple(outcome.drop for outcome in outcomes if outcome.drop is not None)
    centred = sum(not outcome.found for outcome in good)
    emotions = tuple(outcome.emotion for outcome in good if outcome.emotion)
    return FaceImages(pictures[: len(good)], centred, cropper_of(side).detector, dropped, emotions)


def _made(
    make: Callable[[Item, Pictures], list[_Outcome]], rows: Callable[[], Pictures], items: Sequence[Item]
) -> list[_Outcome]:
    pictures = rows()
    return [outcome for item in items for outcome in make(item, pictures)]


def _read_face(item: tuple[int, Path], pictures: Pictures, *, folder: Path, side: int) -> list[_Outcome]:
    row, path = item
    try:
        pictures[row], found = cropper_of(side).crop(_decoded(path))
    except (ClipError, OSError, cv2.error) as error:
        return [_Outcome(row, drop=Drop(path.relative_to(folder).as_posix(), "unreadable", str(error)))]
    return [_Outcome(row, found)]


def _decoded(path: Path) -> Pictures:
    if path.stat().st_size > _MAX_IMAGE_BYTES:
        raise ClipError("unreadable", f"{path.name} has {path.stat().st_size} bytes", expected="a picture")
    data = np.frombuffer(path.read_bytes(), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if picture is None:
        raise ClipError("unreadable", f"{path.name} is not a picture", expected="png, jpg, bmp, webp or tiff")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _render_person(person: int, pictures: Pictures, *, side: int, seed: int) -> list[_Outcome]:
    from moretta.shared.models.head import make_identity, render_frame

    rng = np.random.default_rng((seed, person))
    identity = make_identity(FIRST_PUBLIC_IDENTITY + int(rng.integers(2**30)))
    width, height = _RENDERED
    outcomes = []
    for row in range(person * PICTURES_PER_PERSON, (person + 1) * PICTURES_PER_PERSON):
        yaw, pitch, roll = (float(rng.normal(0, reach)) for reach in _POSE)
        emotion = list(Emotion)[int(rng.integers(len(Emotion)))]
        frame = render_frame(
            identity,
            emotion,
            intensity=float(rng.uniform(0.2, 1.1)),
            jaw_open=float(rng.uniform(0, 0.4)),
            pose=(yaw, pitch, roll),
            light=(float(rng.normal(0.2, 0.4)), float(rng.normal(0.5, 0.2)), 1.0),
            width=width,
            height=height,
            rng=rng,
        )
        pictures[row], found = cropper_of(side).crop(frame)
        outcomes.append(_Outcome(row, found, emotion=emotion))
    return outcomes
