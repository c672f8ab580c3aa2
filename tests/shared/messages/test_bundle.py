from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
from flwr.cli.build import build_fab_from_disk

import moretta.deploy
from moretta.shared.core.errors import RefusedError
from moretta.shared.messages.relay import read_bundle, read_folder

FOLDER = Path(moretta.deploy.__file__).parent / "fab"


@pytest.fixture(scope="module")
def built() -> bytes:
    """The bundle as Flower itself makes it of the installed folder."""
    return build_fab_from_disk(FOLDER)


def rezipped(archive: bytes, change: Any = lambda files: files, *, method: int = zipfile.ZIP_STORED) -> bytes:
    """The same files in other bytes, or other files. The list of contents is made to fit."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        files = {name: opened.read(name) for name in opened.namelist() if name != ".info/CONTENT"}
    files = change(files)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as made:
        for name, content in files.items():
            made.writestr(name, content)
        made.writestr(".info/CONTENT", "\n".join(f"{name},0,0" for name in files))
    return target.getvalue()


def test_the_installed_folder_is_the_bundle_that_flower_makes_of_it(built: bytes) -> None:
    assert read_bundle(built) == read_folder(FOLDER)
    assert read_bundle(built).app == "moretta/moretta-fab"


def test_other_bytes_of_the_same_files_are_the_same_bundle(built: bytes) -> None:
    other = rezipped(built)
    assert other != built
    assert read_bundle(other) == read_bundle(built)


@pytest.mark.parametrize(
    "change",
    [
        lambda files: {**files, "moretta_fab/client_app.py": files["moretta_fab/client_app.py"] + b"\nimport os\n"},
        lambda files: {**files, "moretta_fab/more.py": b""},
        lambda files: {**files, "moretta.py": b"app = None"},
        lambda files: {n: c for n, c in files.items() if n != "moretta_fab/__init__.py"},
        lambda files: {
            **files,
            "pyproject.toml": files["pyproject.toml"].replace(b"moretta_fab.client_app", b"os"),
        },
    ],
)
def test_any_other_code_or_configuration_is_another_bundle(built: bytes, change: Any) -> None:
    assert read_bundle(rezipped(built, change)).digest != read_bundle(built).digest


def _twice(built: bytes) -> bytes:
    target = io.BytesIO(built)
    with zipfile.ZipFile(target, "a") as made:
        made.writestr("moretta_fab/client_app.py", b"app = None")
    return target.getvalue()


def _unlisted(built: bytes) -> bytes:
    target = io.BytesIO(built)
    with zipfile.ZipFile(target, "a") as made:
        made.writestr("moretta_fab/evil.py", b"app = None")
    return target.getvalue()


@pytest.mark.parametrize(
    ("spoil", "reported"),
    [
        (lambda built: b"", "no archive"),
        (lambda built: b"PK\3\4 and so on", "no archive"),
        (lambda built: built[: len(built) // 2], "no archive"),
        (_twice, "one file name twice"),
        (_unlisted, "does not fit"),
        (lambda built: rezipped(built, lambda files: {"x.py": b""}), "no usable pyproject.toml"),
        (lambda built: rezipped(built, lambda files: {**files, "pyproject.toml": b"["}), "no usable pyproject.toml"),
        (
            lambda built: rezipped(built, lambda f: {**f, "x.md": bytes(2**21)}, method=zipfile.ZIP_DEFLATED),
            r"files, 2\d{6} bytes",
        ),
        (lambda built: rezipped(built, lambda files: {**files, **{f"{n}.py": b"" for n in range(200)}}), "205 files"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_is_no_plain_bundle_is_refused(built: bytes, spoil: Any, reported: str) -> None:
    with pytest.raises(RefusedError, match=reported):
        read_bundle(spoil(built))
