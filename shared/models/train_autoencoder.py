"""The training of the face autoencoder on public faces.

A denoising autoencoder (Vincent et al., ICML 2008): noisy pictures in, clean ones out, by mean squared error, with the
choices the original project had. On the CPU the weights depend on seed, options and pictures alone, and on the machine.
A GPU draws its own corruption, so its weights are others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from moretta.shared.core.array_types import Float32
from moretta.shared.core.errors import CorpusError, Interrupted, RunError
from moretta.shared.models.autoencoder import Autoencoder
from moretta.shared.models.face_images import Pictures
from moretta.shared.models.training_state import Checkpoint, Epoch, TrainingRun, TrainOptions

HELD_OUT = 0.1
"""Part of the pictures, the last ones, that is never trained on: the training's PSNR is measured on it."""
MAX_HELD_OUT = 1000
_MAX_GRADIENT = 1.0
_CHECK_EVERY = 50
"""Steps between two looks at the gradients on a GPU, which otherwise would wait for each of them."""
_CPU = torch.device("cpu")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TrainedAutoencoder:
    """The result, and how it came about."""

    model: Autoencoder
    """The trained model, on the CPU."""
    history: tuple[Epoch, ...]
    trained_on: int
    held_out: int

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio of the last epoch, in dB, on held-out pictures."""
        return self.history[-1].psnr


def training_steps(options: TrainOptions, pictures: int) -> int:
    """How often `train_autoencoder` will call its `step` for so many pictures."""
    return options.epochs * math.ceil(_split(pictures)[0] / options.batch)


def train_autoencoder(
    pictures: Pictures,
    options: TrainOptions,
    *,
    device: torch.device = _CPU,
    checkpoint: Path | None = None,
    stopped: Callable[[], bool] = lambda: False,
    begun: Callable[[int], None] = lambda _: None,
    step: Callable[[], None] | None = None,
    epoch_done: Callable[[int, Epoch], None] = lambda *_: None,
) -> TrainedAutoencoder:
    """Train. The same pictures, options, machine and device give the same weights.

    Args:
        pictures: [N, side, side, 3]. The last tenth is held out, so those of one person should stand together.
        checkpoint: written after every epoch, and where the training is stopped; where it exists, training goes on from
            it, to the weights that it would have without the interruption. None writes nothing.
        stopped: whether to end now; it is asked after every batch.
        begun: gets the number of batches that the checkpoint has already.
        step: called after every batch: what it raises ends the training, without a checkpoint.
        epoch_done: gets the number of each epoch, from 1, and how it went.

    Raises:
        CorpusError: fewer than two pictures, or pictures of another size.
        RunError: the training diverged.
        StudyError: the checkpoint is of another training, or cannot be read.
        Interrupted: `stopped` says so.
    """
    _check(pictures, options.spec.side)
    train_count, held_count = _split(len(pictures))
    training = TrainingRun(options, training_steps(options, len(pictures)), device)
    saved = None if checkpoint is None else Checkpoint.of(checkpoint, options, pictures, training)
    if saved is not None:
        saved.restore(training)
    sizes = [min(options.batch, train_count - start) for start in range(0, train_count, options.batch)]
    begun(len(training.history) * len(sizes) + len(training.losses))
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        while len(training.history) < options.epochs:
            _learn_epoch(training, pictures[:train_count], options, stopped, step)
            if len(training.losses) < len(sizes):
                if saved is not None:
                    saved.save(training)
                kept = f"; {checkpoint} has what was learned" if saved is not None else ""
                found = f"the training was ended in epoch {len(training.history) + 1} of {options.epochs}{kept}"
                raise Interrupted(found, fix="go on with --resume" if saved is not None else "")
            loss = sum(float(loss) * size for loss, size in zip(training.losses, sizes, strict=True)) / train_count
            psnr = _psnr(training.model, pictures[train_count : train_count + held_count], options, device)
            training.end_epoch(Epoch(loss, psnr))
            if saved is not None:
                saved.save(training)
            epoch_done(len(training.history), training.history[-1])
    return TrainedAutoencoder(training.model.cpu().eval(), tuple(training.history), train_count, held_count)


def _check(pictures: Pictures, side: int) -> None:
    if pictures.dtype != np.uint8 or pictures.shape[1:] != (side, side, 3):
        found = f"pictures of {pictures.dtype} {list(pictures.shape[1:])}"
        raise CorpusError(found, expected=f"uint8 {[side, side, 3]}")
    if len(pictures) < 2:
        expected = "at least 2, and hundreds for a face to be seen"
        raise CorpusError(f"{len(pictures)} usable pictures", expected=expected, fix="add pictures")


def _split(pictures: int) -> tuple[int, int]:
    held = max(1, round(HELD_OUT * pictures))
    return pictures - held, min(held, MAX_HELD_OUT)


def _learn_epoch(
    training: TrainingRun,
    pictures: Pictures,
    options: TrainOptions,
    stopped: Callable[[], bool],
    step: Callable[[], None] | None,
) -> None:
    """Learn the batches of this epoch that are left. Those before are drawn again, which leaves generators as they
    were then."""
    done = len(training.losses)
    on_cpu = training.device.type == "cpu"
    drawn = _batches(pictures, options.batch, training.order, corrupted=on_cpu)
    for number, (part, corruption) in enumerate(_one_ahead(drawn)):
        if corruption is None:
            noise = torch.randn(part.shape, generator=training.corruption, device=training.device)
        else:
            noise = torch.from_numpy(corruption)
        if number < done:
            continue
        clean = _tensor(part, training.device)
        look = on_cpu or number % _CHECK_EVERY == 0 or (number + 1) * options.batch >= len(pictures)
        training.losses.append(_learn(training, clean, _noisy(clean, noise, options.noise), look=look))
        training.schedule.step()
        if step is not None:
            step()
        if stopped():
            return


def _batches(
    pictures: Pictures, size: int, rng: np.random.Generator, *, corrupted: bool
) -> Iterator[tuple[Pictures, Float32 | None]]:
    """Each picture once, in random order, every other one mirrored; uint8 [B, side, side, 3].

    With standard normal values of that shape, if `corrupted`.
    """
    order = rng.permutation(len(pictures))
    for start in range(0, len(order), size):
        chosen = np.sort(order[start : start + size])  # a memory map is read forwards
        part = pictures[chosen]
        mirrored = rng.random(len(part)) < 0.5
        part[mirrored] = part[mirrored, :, ::-1]
        yield part, rng.standard_normal(part.shape, dtype=np.float32) if corrupted else None


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The items unchanged; a thread makes the next one while the caller works on the last."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def _tensor(part: Pictures, device: torch.device) -> Tensor:
    """uint8 [B, side, side, 3] -> float32 [B, 3, side, side] in [0, 1], channels last."""
    values = torch.from_numpy(np.ascontiguousarray(part))
    if device.type == "cuda":  # from pinned memory the copy does not wait
        values = values.pin_memory().to(device, non_blocking=True)
    return values.to(device).permute(0, 3, 1, 2).float() / 255


def _noisy(clean: Tensor, drawn: Tensor, noise: float) -> Tensor:
    """`drawn`: standard normal [B, side, side, 3]."""
    return (clean + noise * drawn.permute(0, 3, 1, 2)).clamp(0, 1)


def _learn(training: TrainingRun, clean: Tensor, noisy: Tensor, *, look: bool) -> Tensor:
    """One step; returns the loss. `look`: check the gradients now. One that is not finite stays so in later steps."""
    model = training.model.train()
    training.optimizer.zero_grad()
    with torch.autocast(training.device.type, torch.bfloat16, enabled=training.precision == "bfloat16"):
        reconstructed = model(noisy)
    loss = torch.nn.functional.mse_loss(reconstructed.float(), clean)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRADIENT)
    if look and not bool(torch.isfinite(norm)):
        raise RunError("the training diverged", expected="finite gradients", fix="lower --learning-rate")
    training.optimizer.step()
    return loss.detach()


@torch.inference_mode()
def _psnr(model: Autoencoder, pictures: Pictures, options: TrainOptions, device: torch.device) -> float:
    model.eval()
    rng = np.random.default_rng(options.seed)  # the same corruption after every epoch
    total = 0.0
    for start in range(0, len(pictures), options.batch):
        part = pictures[start : start + options.batch]
        drawn = torch.from_numpy(rng.standard_normal(part.shape, dtype=np.float32)).to(device)
        clean = _tensor(part, device)
        total += float((model(_noisy(clean, drawn, options.noise)) - clean).square().mean()) * len(clean)
    return -10 * math.log10(max(total / len(pictures), 1e-10))
