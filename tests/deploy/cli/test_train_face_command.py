import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from moretta.deploy.cli.corpus import train_face
from moretta.shared.core.errors import CorpusError, StudyError
from moretta.shared.models.autoencoder import AutoencoderSpec, load_autoencoder

app = typer.Typer()
app.command()(train_face)
QUICK = ("--side", "32", "--latent", "8", "--epochs", "1", "--batch", "4")


def run(*arguments: str) -> str:
    return CliRunner().invoke(app, [*arguments, *QUICK], catch_exceptions=False).stdout


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    folder = tmp_path / "faces"
    folder.mkdir()
    for number in range(10):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((40, 40, 3), 20 * number, np.uint8))
    (folder / "broken.png").write_bytes(b"broken")
    return folder


def test_autoencoder_is_written_and_the_figures_reported(faces: Path, tmp_path: Path) -> None:
    facts = json.loads(run(str(faces), "--out", str(tmp_path / "deep" / "face.safetensors"), "--json"))
    assert (facts["pictures"], facts["trained_on"], facts["held_out"]) == (10, 9, 1)
    assert [drop["file"] for drop in facts["dropped"]] == ["broken.png"]
    assert facts["psnr_db"] > 0
    assert load_autoencoder(Path(facts["file"])).spec == AutoencoderSpec(side=32, latent=8)


def test_faces_are_drawn_if_there_is_no_folder(tmp_path: Path) -> None:
    reported = run("--out", str(tmp_path / "face.safetensors"), "--synthetic", "3")
    assert "trained on 2 pictures (synthetic)" in reported


def test_interrupted_training_leaves_no_file(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("moretta.shared.models.train_autoencoder._learn", interrupt)
    out = tmp_path / "out" / "face.safetensors"
    CliRunner().invoke(app, [str(faces), "--out", str(out), *QUICK])
    assert list(out.parent.iterdir()) == []


def test_empty_folder_and_unusable_output_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError):
        run(str(tmp_path), "--out", str(tmp_path / "face.safetensors"))
    with pytest.raises(StudyError, match="cannot be written"):
        run(str(tmp_path), "--out", str(tmp_path))
