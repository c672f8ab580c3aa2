"""The state of a training of the face autoencoder, and the checkpoint that keeps it: one safetensors file, whole or not
there. Weights and the optimizer's averages are tensors; all else is JSON in the file's metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from moretta.shared.core.atomic import atomic_path, sync_folder
from moretta.shared.core.errors import StudyError
from moretta.shared.models.autoencoder import Autoencoder, AutoencoderSpec, fastest_precision
from moretta.shared.models.face_images import Pictures

FORMAT = "moretta-training-1"
_MODEL, _OPTIMIZER, _CORRUPTION = "model/", "optimizer/", "corruption"
_MOMENTUM = 0.9
_PART = ".part"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How to train. The defaults are the original project's, apart from the noise, which is the study's."""

    spec: AutoencoderSpec = field(default_factory=AutoencoderSpec)
    epochs: int = 50
    batch: int = 32
    learning_rate: float = 0.001
    """Learning rate at the start; it falls to zero along half a cosine (Loshchilov and Hutter, ICLR 2017)."""
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


class TrainingRun:
    """A training under way: all that decides how it goes on."""

    def __init__(self, options: TrainOptions, steps: int, device: torch.device) -> None:
        # Corruption comes from numpy as the order does: torch's own generator stays as the caller left it.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            model = Autoencoder(options.spec)
        self.device, self.precision = device, fastest_precision(device)
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.Adam(self.model.parameters(), lr=options.learning_rate, fused=device.type == "cuda" or None)
            if options.optimizer == "adam"
            else torch.optim.SGD(self.model.parameters(), lr=options.learning_rate, momentum=_MOMENTUM)
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)
        self.order = np.random.default_rng(options.seed)
        """Randomness of the order of pictures and of mirroring; on the CPU also of the corruption."""
        self.corruption = torch.Generator(device).manual_seed(options.seed)
        """Randomness of the corruption on a GPU."""
        self.history: list[Epoch] = []
        self.losses: list[float | Tensor] = []
        """Losses of the batches of this epoch."""
        self.epoch_start = self.generators()

    def generators(self) -> tuple[dict[str, Any], Tensor]:
        """The state of both."""
        return dict(self.order.bit_generator.state), self.corruption.get_state()

    def end_epoch(self, epoch: Epoch) -> None:
        """The next one begins."""
        self.history.append(epoch)
        self.losses, self.epoch_start = [], self.generators()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where one training is kept, and what distinguishes it from others."""

    path: Path
    training_of: dict[str, Any]
    """Options, SHA-256 of the pictures, kind of device and precision: weights depend on each."""

    @classmethod
    def of(cls, path: Path, options: TrainOptions, pictures: Pictures, training: TrainingRun) -> Self:
        """The state of a training on these pictures; nothing is read or written."""
        content = hashlib.sha256(pictures.data).hexdigest()
        facts = {"pictures": content, "device": training.device.type, "precision": training.precision}
        return cls(path, {**asdict(options), **facts})

    def save(self, training: TrainingRun) -> None:
        """Write the file, or leave the old one as it is."""
        from safetensors.torch import save_file

        numpy_state, torch_state = training.epoch_start
        tensors = {f"{_MODEL}{name}": tensor for name, tensor in training.model.state_dict().items()}
        for number, averages in training.optimizer.state_dict()["state"].items():
            tensors |= {f"{_OPTIMIZER}{number}/{name}": tensor for name, tensor in averages.items()}
        tensors[_CORRUPTION] = torch_state
        state = {
            "training": self.training_of,
            "history": [[epoch.loss, epoch.psnr] for epoch in training.history],
            "losses": [float(loss) for loss in training.losses],
            "order": numpy_state,
            "schedule": training.schedule.state_dict(),
            "rates": [group["lr"] for group in training.optimizer.param_groups],
        }
        with atomic_path(self.path, ending=_PART) as temporary:
            kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_file(kept, temporary, metadata={"format": FORMAT, "state": json.dumps(state)})
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(self.path.parent)

    def restore(self, training: TrainingRun) -> None:
        """Bring a training that has just begun as far as the file, if there is one. Raises StudyError: it cannot be
        read, or is of another training."""
        from safetensors import SafetensorError, safe_open

        for part in self.path.parent.glob(f".{self.path.stem[:100]}.*{_PART}"):  # of writing that was killed
            part.unlink()
        if not self.path.exists():
            return
        fix = f"name the options of then, or delete {self.path} to begin anew"
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise ValueError(f"its format is {metadata.get('format')!r}")
                state = json.loads(metadata["state"])
                others = _differences(state["training"], json.loads(json.dumps(self.training_of)))
                if others:
                    found = f"the checkpoint {self.path} of another training: {'; '.join(others)}"
                    raise StudyError(found, expected="the same options, pictures and device", fix=fix)
                _restore(training, state, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            found = f"the checkpoint {self.path} cannot be read: {error}"
            raise StudyError(found, expected=f"what train-face wrote ({FORMAT})", fix=fix) from error


def _restore(training: TrainingRun, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    training.model.load_state_dict(
        {name.removeprefix(_MODEL): tensor for name, tensor in tensors.items() if name.startswith(_MODEL)}
    )
    averages: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(_OPTIMIZER):
            number, _, kind = name.removeprefix(_OPTIMIZER).partition("/")
            averages.setdefault(int(number), {})[kind] = tensor
    groups = training.optimizer.state_dict()["param_groups"]
    for group, rate in zip(groups, state["rates"], strict=True):
        group["lr"] = rate
    training.optimizer.load_state_dict({"state": averages, "param_groups": groups})
    for parameter, kept in training.optimizer.state.items():  # in the parameter's order of axes, as they were made
        for kind, tensor in kept.items():
            if isinstance(tensor, Tensor) and tensor.shape == parameter.shape and parameter.dim():
                kept[kind] = torch.empty_like(parameter).detach().copy_(tensor)
    training.schedule.load_state_dict(state["schedule"])
    training.history = [Epoch(loss, psnr) for loss, psnr in state["history"]]
    training.losses = list(state["losses"])
    training.order.bit_generator.state = state["order"]
    training.corruption.set_state(tensors[_CORRUPTION])
    training.epoch_start = training.generators()


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`epochs 50, now 60` for everything that differs."""
    names = sorted(before.keys() | now.keys())
    return [f"{name} {before.get(name)}, now {now.get(name)}" for name in names if before.get(name) != now.get(name)]
