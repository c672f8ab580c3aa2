import json
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from moretta.deploy.cli.corpus import train_face
from moretta.shared.core.errors import CorpusError, ExitCode, StudyError
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


def started(faces: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "moretta.deploy.cli.main", "train-face", str(faces), "--out", str(out)]
    options = ["--side", "32", "--latent", "8", "--epochs", "100000", "--batch", "4", "--device", "cpu", *more]
    return subprocess.Popen([*command, *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_training_with_a_checkpoint_and_resume_goes_on_from_it(
    faces: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out, epochs = tmp_path / "face.safetensors", []
    for more in ([], ["--resume"]):
        process = started(faces, out, *more)
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch "):
                epochs.append(int(line.split()[1].partition("/")[0]))
                if not more or len(epochs) > 3:
                    break
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == ExitCode.INTERRUPTED, errors
        assert "go on with --resume" in errors
        assert (tmp_path / "face.checkpoint.safetensors").exists()
        assert not out.exists()
    assert epochs[0] == 1
    assert epochs[1] > 1
    assert epochs == sorted(set(epochs))


def test_checkpoint_is_neither_overwritten_nor_used_without_a_word(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "face.safetensors"
    checkpoint = tmp_path / "face.checkpoint.safetensors"
    checkpoint.write_bytes(b"hours of work")
    with pytest.raises(StudyError, match="go on from it with --resume, or delete it"):
        run(str(faces), "--out", str(out))
    assert checkpoint.read_bytes() == b"hours of work"
    checkpoint.unlink()
    run(str(faces), "--out", str(out), "--resume")  # nothing to go on from: it begins
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["face.safetensors"]


def test_absent_device_is_refused_before_a_picture_is_read(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("moretta.shared.models.face_images.image_files", lambda _: pytest.fail("read pictures"))
    with pytest.raises(StudyError, match="the device cuda"):
        run(str(faces), "--out", str(tmp_path / "face.safetensors"), "--device", "cuda")


def test_empty_folder_and_unusable_output_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError):
        run(str(tmp_path), "--out", str(tmp_path / "face.safetensors"))
    with pytest.raises(StudyError, match="cannot be written"):
        run(str(tmp_path), "--out", str(tmp_path))
