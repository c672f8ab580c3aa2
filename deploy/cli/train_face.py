"""`moretta train-face`: the autoencoder that hides faces, trained on faces that anybody may see."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moretta.deploy.cli.console import AsJson, note, progress, show
from moretta.shared.core.errors import StudyError

if TYPE_CHECKING:
    from moretta.shared.models.face_images import FaceImages
    from moretta.shared.models.train_autoencoder import TrainedAutoencoder, TrainOptions


class Preset(StrEnum):
    """Sizes that a study can name."""

    EXACT = "exact"
    SMALL = "small"


class Optimizer(StrEnum):
    """Methods that update the weights."""

    ADAM = "adam"
    SGD = "sgd"


def train_face(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Face images, in any depth; without it faces are drawn.")
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="The file to write; face.weights of a study names it.")],
    preset: Annotated[Preset, typer.Option(help="exact: 128 pixels, latent 4096; small: 64 pixels, latent 300.")] = (
        Preset.EXACT
    ),
    side: Annotated[int | None, typer.Option(help="Pixels, a multiple of 16; overrides the preset.")] = None,
    latent: Annotated[int | None, typer.Option(min=1, help="Latent size; overrides the preset.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="The original project used 50, 100 and 150.")] = 50,
    batch: Annotated[int, typer.Option(min=2, help="32 or 64 in the original.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="0.01 or 0.001 in the original.")] = 0.001,
    optimizer: Annotated[Optimizer, typer.Option(help="How the weights are updated.")] = Optimizer.ADAM,
    noise: Annotated[float, typer.Option(help="Standard deviation of the corruption, for values in [0, 1].")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same weights on one machine.")] = 1,
    synthetic: Annotated[int, typer.Option(min=2, help="Pictures to draw if there is no DIR.")] = 600,
    as_json: AsJson = False,
) -> None:
    """Train the face autoencoder on public faces, and write it as safetensors.

    Use faces that anybody may have: what the network learns is sent to every site.

    Example: moretta train-face ffhq/ --out face.safetensors --epochs 50
    """
    from moretta.shared.core.workers import cpu_count, limit_threads
    from moretta.shared.models.autoencoder import AutoencoderSpec
    from moretta.shared.models.autoencoder_file import save_autoencoder
    from moretta.shared.models.train_autoencoder import TrainOptions, train_autoencoder, training_steps

    _check_writable(out)
    named = AutoencoderSpec.preset(preset.value)
    options = TrainOptions(
        spec=AutoencoderSpec(side=named.side if side is None else side, latent=latent or named.latent),
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        optimizer=optimizer.value,
        noise=noise,
        seed=seed,
    )
    note("rendering synthetic faces" if folder is None else f"reading the faces in {folder}")
    images = _images(folder, options.spec.side, synthetic, seed)
    limit_threads(cpu_count())  # nothing else runs now
    with progress("Training", training_steps(options, len(images.pictures))) as step:
        trained = train_autoencoder(images.pictures, options, step=step)
    save_autoencoder(trained.model, out)
    facts = _facts(out, images, trained, options, source="synthetic" if folder is None else str(folder))
    show(facts, _lines(facts), as_json=as_json, indent=1)


def _check_writable(out: Path) -> None:
    """Hours of training must not end in a file that cannot be written."""
    from moretta.deploy.runtime.run_folder import prepare_output

    try:
        if out.is_dir():
            raise IsADirectoryError(f"{out} is a folder")
        prepare_output(out.parent)
    except OSError as error:
        raise StudyError(f"--out {out} cannot be written: {error}", fix="name a file in a folder of yours") from error


def _images(folder: Path | None, side: int, synthetic: int, seed: int) -> FaceImages:
    from moretta.shared.models.face_images import (
        PICTURES_PER_PERSON,
        image_files,
        read_face_images,
        render_face_images,
    )

    if folder is not None:
        files = image_files(folder)
        with progress("Reading faces", len(files)) as step:
            return read_face_images(folder, files, side, step=step)
    people = -(-synthetic // PICTURES_PER_PERSON)
    with progress("Drawing people", people) as step:
        return render_face_images(people, side, seed=seed, step=step)


def _facts(
    out: Path, images: FaceImages, trained: TrainedAutoencoder, options: TrainOptions, *, source: str
) -> dict[str, Any]:
    return {
        "file": str(out),
        "source": source,
        "side": options.spec.side,
        "latent": options.spec.latent,
        "pictures": len(images.pictures),
        "without_face": images.centred,
        "detector": images.detector,
        "dropped": [{"file": drop.file, "reason": drop.reason, "detail": drop.detail} for drop in images.dropped],
        "trained_on": trained.trained_on,
        "held_out": trained.held_out,
        "psnr_db": round(trained.psnr, 2),
        "history": [{"loss": round(epoch.loss, 6), "psnr_db": round(epoch.psnr, 2)} for epoch in trained.history],
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    lines = [
        f"{facts['file']}: {facts['side']} x {facts['side']} pixels, latent size {facts['latent']}",
        f"trained on {facts['trained_on']} pictures ({facts['source']}), {facts['psnr_db']} dB PSNR on "
        f"{facts['held_out']} held out",
    ]
    if facts["without_face"]:
        lines.append(f"{facts['without_face']} pictures show no face ({facts['detector']}): their centre was taken")
    lines += [f"dropped {drop['file']}: {drop['detail']}" for drop in facts["dropped"][:10]]
    if len(facts["dropped"]) > 10:
        lines.append(f"... and {len(facts['dropped']) - 10} more (--json lists all)")
    return lines
