"""Figures of the face meters on pictures whose truth is known: `python tests/benchmarks/face_meters_table.py FOLDER`.

FOLDER holds photographs named PERSON_anything.jpg, two or more of each person, such as the Face Research Lab London Set
(DeBruine and Jones, 2017); or videos of CREMA-D. Each is cropped as at a site, compared with itself after a change, and
with the next picture of the same and of another person. Needs the weights of `moretta attackers fetch`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from moretta.shared.audit.arrays import VideoFaces
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.utility.content import MeterInput
from moretta.shared.audit.utility.face_content import FACE_METERS
from moretta.shared.core.array_types import UInt8
from moretta.shared.features.faces import FaceCropper
from moretta.shared.features.landmarks import FaceMesh
from moretta.shared.release.release_format import ReleasedClip

COLUMNS = ("landmark_error", "landmark_movement", "ssim", "sface", "dlib", "expression_agreement")


def jpeg(quality: int) -> Callable[[UInt8], UInt8]:
    """A frame after lossy compression."""

    def change(picture: UInt8) -> UInt8:
        _, data = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        read = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert read is not None  # it was encoded here
        return np.asarray(read[:, :, ::-1], np.uint8)

    return change


def blur(sigma: float) -> Callable[[UInt8], UInt8]:
    """A frame out of focus."""
    return lambda picture: np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8)


CHANGES: dict[str, Callable[[UInt8], UInt8]] = {
    "unchanged": lambda picture: picture,
    "JPEG, quality 50": jpeg(50),
    "JPEG, quality 10": jpeg(10),
    "blur of 1 pixel": blur(1),
    "blur of 3 pixels": blur(3),
}


def crops_of(folder: Path, side: int, fps: float) -> dict[str, UInt8]:
    """Clips of faces by name; a photograph is a clip of one frame."""
    if videos := sorted(folder.rglob("*.flv")):
        return {path.stem: VideoFaces(side, fps)(path) for path in videos}
    cropper = FaceCropper(side)
    pictures = ((path.stem, cv2.imread(str(path))) for path in sorted(folder.rglob("*.jpg")))
    read = ((name, bgr) for name, bgr in pictures if bgr is not None)
    return {name: cropper.crop(np.ascontiguousarray(bgr[:, :, ::-1]))[0][None] for name, bgr in read}


def clip_set(names: list[str], arrays: list[UInt8]) -> ClipSet:
    """The clips under the numbers of their people."""
    people = sorted({name.partition("_")[0] for name in names})
    clips = [
        ReleasedClip(
            clip=f"{number:016x}",
            speaker=f"{people.index(name.partition('_')[0]):016x}",
            emotion="NEU",
            sentence="",
            level="",
        )
        for number, name in enumerate(names)
    ]
    return ClipSet.from_arrays(clips, arrays, modality="face", form="frames")


def line(label: str, original: ClipSet, released: ClipSet) -> None:
    """Print one line of all meters."""
    given = MeterInput({"original": original, "released": released}, seed=0, draws=100)
    rows = {}
    for meter in FACE_METERS.values():
        for row in meter(given):
            rows[row.attacker if row.metric == "identity_cosine" else row.metric] = row
    cells = [rows[name].value for name in COLUMNS]
    print(label.ljust(32), *("   -  " if value is None else f"{value:6.3f}" for value in cells), flush=True)


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--fps", type=float, default=10)
    given = parser.parse_args()
    found = crops_of(given.folder, given.side, given.fps)
    mesh = FaceMesh.load()
    shown = [mesh.points(frame) is not None for frames in found.values() for frame in frames]
    print(f"{len(found)} clips, a face found in {sum(shown)} of {len(shown)} frames")
    print(" " * 32, *COLUMNS)
    names = list(found)
    original = clip_set(names, [found[name] for name in names])
    for label, change in CHANGES.items():
        line(label, original, clip_set(names, [np.stack([change(f) for f in found[name]]) for name in names]))
    for label, same in (("another picture of the person", True), ("another person", False)):
        pairs = {a: [b for b in names if b != a and (b.split("_")[0] == a.split("_")[0]) is same] for a in names}
        if all(pairs.values()):
            others = [found[pairs[name][(7 * place) % len(pairs[name])]] for place, name in enumerate(names)]
            line(label, original, clip_set(names, others))


if __name__ == "__main__":
    main()
