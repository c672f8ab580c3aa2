"""Public faces to train the autoencoder on: a folder of pictures of any depth, or faces drawn by the renderer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from moretta.shared.core.errors import ClipError, CorpusError
from moretta.shared.core.labels import Emotion
from moretta.shared.core.workers import map_files
from moretta.shared.data.clips import Drop
from moretta.shared.features.faces import FaceCropper

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
FIRST_PUBLIC_IDENTITY = 1_000_000
"""Seeds of public people start here: speakers of a synthetic corpus are far below, so nobody is in both."""
PICTURES_PER_PERSON = 3
"""A second picture of a person costs a third of the first, but the network learns more from new people."""
_MAX_IMAGE_BYTES = 200 * 2**20
_RENDERED = (160, 120)  # pixels, as the synthetic corpus has them
_POSE = (0.16, 0.08, 0.05)  # yaw, pitch, roll in radians: standard deviations

Picture = npt.NDArray[np.uint8]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class FaceImages:
    """Faces of one size."""

    pictures: npt.NDArray[np.uint8]
    """[N, side, side, 3], RGB; a memory map on a file without a name, which is gone once nobody holds it."""
    centred: int
    """Pictures in which no face was found: their centre was cut out."""
    detector: str
    dropped: tuple[Drop, ...] = ()
    """Files that could not be used."""


def image_files(folder: Path) -> list[Path]:
    """All pictures under a folder, in order of their paths.

    Raises:
        CorpusError: no such folder, or no picture in it.
    """
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
    """Read pictures and cut the largest face out of each.

    Args:
        folder: what the names of dropped files are relative to.
        files: pictures, as `image_files` lists them.
        side: of the crops, in pixels.
        step: called after every file.
        workers: processes; None takes one for each core.

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

    Args:
        people: how many.
        side: of the crops, in pixels.
        seed: another seed gives other people.
        step: called after every person.
        workers: processes; None takes one for each core.
    """
    render = partial(_render_person, side=side, seed=seed)
    return _filled(render, range(people), count=people * PICTURES_PER_PERSON, side=side, step=step, workers=workers)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The result for one row of the memory map."""

    row: int
    found: bool = False
    drop: Drop | None = None


@dataclass(frozen=True, slots=True)
class _Rows:
    """A file of pictures that several processes write to, each its own rows."""

    path: str
    count: int
    side: int

    def open(self) -> npt.NDArray[np.uint8]:
        return np.memmap(self.path, np.uint8, "r+", shape=(self.count, self.side, self.side, 3))


def _filled(
    make: Callable[..., list[_Outcome]],
    items: Sequence[Item],
    *,
    count: int,
    side: int,
    step: Callable[[], None] | None,
    workers: int | None,
) -> FaceImages:
    """Let `make(item, rows)` write pictures; drop the rows it could not write and close the gaps."""
    with tempfile.NamedTemporaryFile(prefix="moretta-faces-") as file:
        file.truncate(max(1, count) * side * side * 3)
        rows = _Rows(file.name, count, side)
        parts = map_files(partial(make, rows=rows), items, workers=workers, progress=step)
        pictures = rows.open()  # still readable once the file has lost its name
    outcomes = [outcome for part in parts for outcome in part]
    good = [outcome for outcome in outcomes if outcome.drop is None]
    for place, outcome in enumerate(good):
        if place != outcome.row:
            pictures[place] = pictures[outcome.row]
    dropped = tuple(outcome.drop for outcome in outcomes if outcome.drop is not None)
    centred = sum(not outcome.found for outcome in good)
    return FaceImages(pictures[: len(good)], centred, _cropper(side).detector, dropped)


def _read_face(item: tuple[int, Path], *, folder: Path, side: int, rows: _Rows) -> list[_Outcome]:
    row, path = item
    try:
        rows.open()[row], found = _cropper(side).crop(_decoded(path))
    except (ClipError, OSError, cv2.error) as error:
        return [_Outcome(row, drop=Drop(path.relative_to(folder).as_posix(), "unreadable", str(error)))]
    return [_Outcome(row, found)]


def _decoded(path: Path) -> Picture:
    if path.stat().st_size > _MAX_IMAGE_BYTES:
        raise ClipError("unreadable", f"{path.name} has {path.stat().st_size} bytes", expected="a picture")
    data = np.frombuffer(path.read_bytes(), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if picture is None:
        raise ClipError("unreadable", f"{path.name} is not a picture", expected="png, jpg, bmp, webp or tiff")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _render_person(person: int, *, side: int, seed: int, rows: _Rows) -> list[_Outcome]:
    from moretta.shared.models.head import make_identity, render_frame

    rng = np.random.default_rng((seed, person))
    identity = make_identity(FIRST_PUBLIC_IDENTITY + int(rng.integers(2**30)))
    width, height = _RENDERED
    pictures, outcomes = rows.open(), []
    for row in range(person * PICTURES_PER_PERSON, (person + 1) * PICTURES_PER_PERSON):
        yaw, pitch, roll = (float(rng.normal(0, reach)) for reach in _POSE)
        frame = render_frame(
            identity,
            list(Emotion)[int(rng.integers(len(Emotion)))],
            intensity=float(rng.uniform(0.2, 1.1)),
            jaw_open=float(rng.uniform(0, 0.4)),
            pose=(yaw, pitch, roll),
            light=(float(rng.normal(0.2, 0.4)), float(rng.normal(0.5, 0.2)), 1.0),
            width=width,
            height=height,
            rng=rng,
        )
        pictures[row], found = _cropper(side).crop(frame)
        outcomes.append(_Outcome(row, found))
    return outcomes


@lru_cache(maxsize=4)
def _cropper(side: int) -> FaceCropper:
    return FaceCropper(side)
