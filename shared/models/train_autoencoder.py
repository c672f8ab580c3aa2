"""Public faces, read from a folder or drawn, and the training of the face autoencoder on them.

A denoising autoencoder (Vincent et al., ICML 2008): noisy pictures in, clean ones out, by mean squared error, with the
choices the original project had.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moretta.shared.core.errors import ClipError, CorpusError, RunError, StudyError
from moretta.shared.core.labels import Emotion
from moretta.shared.core.workers import map_files
from moretta.shared.data.clips import Drop
from moretta.shared.features.faces import FaceCropper
from moretta.shared.models.autoencoder import Autoencoder, AutoencoderSpec, fastest_precision

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
FIRST_PUBLIC_IDENTITY = 1_000_000
"""Seeds of public people start here: speakers of a synthetic corpus are far below, so nobody is in both."""
PICTURES_PER_PERSON = 3
"""A second picture of a person costs a third of the first, but the network learns more from new people."""
_MAX_IMAGE_BYTES = 200 * 2**20
_RENDERED = (160, 120)  # pixels, as the synthetic corpus has them
_POSE = (0.16, 0.08, 0.05)  # yaw, pitch, roll in radians: standard deviations

Pictures = npt.NDArray[np.uint8]
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
        # Several processes write to the file, each its own rows.
        rows = partial(np.memmap, file.name, np.uint8, "r+", shape=(count, side, side, 3))
        parts = map_files(partial(make, rows=rows), items, workers=workers, progress=step)
        pictures: Pictures = rows()  # still readable once the file has lost its name
    outcomes = [outcome for part in parts for outcome in part]
    good = [outcome for outcome in outcomes if outcome.drop is None]
    for place, outcome in enumerate(good):
        if place != outcome.row:
            pictures[place] = pictures[outcome.row]
    dropped = tuple(outcome.drop for outcome in outcomes if outcome.drop is not None)
    centred = sum(not outcome.found for outcome in good)
    return FaceImages(pictures[: len(good)], centred, _cropper(side).detector, dropped)


def _read_face(item: tuple[int, Path], *, folder: Path, side: int, rows: Callable[[], Pictures]) -> list[_Outcome]:
    row, path = item
    try:
        rows()[row], found = _cropper(side).crop(_decoded(path))
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


def _render_person(person: int, *, side: int, seed: int, rows: Callable[[], Pictures]) -> list[_Outcome]:
    from moretta.shared.models.head import make_identity, render_frame

    rng = np.random.default_rng((seed, person))
    identity = make_identity(FIRST_PUBLIC_IDENTITY + int(rng.integers(2**30)))
    width, height = _RENDERED
    pictures, outcomes = rows(), []
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


HELD_OUT = 0.1
"""Part of the pictures, the last ones, that is never trained on: the training's PSNR is measured on it."""
MAX_HELD_OUT = 1000
_MOMENTUM = 0.9
_MAX_GRADIENT = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How to train. The defaults are the original project's, apart from the noise, which is the study's."""

    spec: AutoencoderSpec = field(default_factory=AutoencoderSpec)
    epochs: int = 50
    batch: int = 32
    learning_rate: float = 0.001
    """At the start; it falls to zero along half a cosine (Loshchilov and Hutter, ICLR 2017)."""
    optimizer: Literal["adam", "sgd"] = "adam"
    noise: float = 0.1
    """Standard deviation of the corruption, for values in [0, 1]."""
    seed: int = 1

    def __post_init__(self) -> None:
        problems = [
            f"{name} {value}"
            for name, value, good in (
                ("epochs", self.epochs, self.epochs >= 1),
                ("batch", self.batch, 2 <= self.batch <= 4096),
                ("learning rate", self.learning_rate, 0 < self.learning_rate <= 1),
                ("noise", self.noise, 0 <= self.noise <= 1),
                ("optimizer", self.optimizer, self.optimizer in {"adam", "sgd"}),
            )
            if not good
        ]
        if problems:
            raise StudyError(
                f"training with {', '.join(problems)}",
                expected="epochs >= 1, batch 2 to 4096, learning rate in (0, 1], noise in [0, 1], adam or sgd",
            )


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the pictures."""

    loss: float
    """Mean squared error on the training pictures while they were learned, for values in [0, 1]."""
    psnr: float
    """Peak signal-to-noise ratio in dB of reconstructions of corrupted held-out pictures against the clean ones."""


@dataclass(frozen=True, slots=True)
class TrainedAutoencoder:
    """The result, and how it came about."""

    model: Autoencoder
    history: tuple[Epoch, ...]
    trained_on: int
    held_out: int

    @property
    def psnr(self) -> float:
        """Of the last epoch, in dB, on pictures that were held out."""
        return self.history[-1].psnr


def training_steps(options: TrainOptions, pictures: int) -> int:
    """How often `train_autoencoder` will call its `step` for so many pictures."""
    return options.epochs * math.ceil(_split(pictures)[0] / options.batch)


def train_autoencoder(
    pictures: Pictures, options: TrainOptions, *, step: Callable[[], None] | None = None
) -> TrainedAutoencoder:
    """Train. The same pictures, options and machine give the same weights; nothing is written.

    The last tenth of the pictures [N, side, side, 3] is held out, so those of one person should stand together. `step`
    is called after every batch: what it raises ends the training.

    Raises:
        CorpusError: fewer than two pictures, or pictures of another size.
        RunError: the training diverged.
    """
    side = options.spec.side
    if pictures.dtype != np.uint8 or pictures.shape[1:] != (side, side, 3):
        raise CorpusError(
            f"pictures of {pictures.dtype} {list(pictures.shape[1:])}", expected=f"uint8 {[side, side, 3]}"
        )
    if len(pictures) < 2:
        expected = "at least 2, and hundreds for a face to be seen"
        raise CorpusError(f"{len(pictures)} usable pictures", expected=expected, fix="add pictures")
    train_count, held_count = _split(len(pictures))
    rng = np.random.default_rng(options.seed)
    # Corruption comes from numpy as the order does: torch's own generator stays as the caller left it.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = Autoencoder(options.spec).to(memory_format=torch.channels_last)
    optimizer = (
        torch.optim.Adam(model.parameters(), lr=options.learning_rate)
        if options.optimizer == "adam"
        else torch.optim.SGD(model.parameters(), lr=options.learning_rate, momentum=_MOMENTUM)
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training_steps(options, len(pictures)))
    history = []
    for _ in range(options.epochs):
        losses = []
        for clean in _batches(pictures[:train_count], options.batch, rng):
            losses.append(_learn(model, optimizer, clean, _noisy(clean, options.noise, rng)) * len(clean))
            schedule.step()
            if step is not None:
                step()
        psnr = _psnr(model, pictures[train_count : train_count + held_count], options)
        history.append(Epoch(sum(losses) / train_count, psnr))
    return TrainedAutoencoder(model.eval(), tuple(history), train_count, held_count)


def _split(pictures: int) -> tuple[int, int]:
    held = max(1, round(HELD_OUT * pictures))
    return pictures - held, min(held, MAX_HELD_OUT)


def _batches(pictures: Pictures, size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Each picture once, in random order, every other one mirrored; float32 [B, 3, side, side] in [0, 1]."""
    order = rng.permutation(len(pictures))
    for start in range(0, len(order), size):
        chosen = np.sort(order[start : start + size])  # a memory map is read forwards
        part = pictures[chosen]
        mirrored = rng.random(len(part)) < 0.5
        part[mirrored] = part[mirrored, :, ::-1]
        yield _tensor(part)


def _tensor(part: Pictures) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(part)).permute(0, 3, 1, 2).float() / 255


def _noisy(clean: Tensor, noise: float, rng: np.random.Generator) -> Tensor:
    batch, channels, height, width = clean.shape
    drawn = rng.standard_normal((batch, height, width, channels), dtype=np.float32)
    return (clean + noise * torch.from_numpy(drawn).permute(0, 3, 1, 2)).clamp(0, 1)


def _learn(model: Autoencoder, optimizer: torch.optim.Optimizer, clean: Tensor, noisy: Tensor) -> float:
    model.train()
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=fastest_precision() == "bfloat16"):
        reconstructed = model(noisy)
    loss = torch.nn.functional.mse_loss(reconstructed.float(), clean)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRADIENT)
    if not bool(torch.isfinite(norm)):
        raise RunError("the training diverged", expected="finite gradients", fix="lower --learning-rate")
    optimizer.step()
    return float(loss.detach())


@torch.inference_mode()
def _psnr(model: Autoencoder, pictures: Pictures, options: TrainOptions) -> float:
    model.eval()
    rng = np.random.default_rng(options.seed)  # the same corruption after every epoch
    total = 0.0
    for start in range(0, len(pictures), options.batch):
        clean = _tensor(pictures[start : start + options.batch])
        total += float((model(_noisy(clean, options.noise, rng)) - clean).square().mean()) * len(clean)
    return -10 * math.log10(max(total / len(pictures), 1e-10))
