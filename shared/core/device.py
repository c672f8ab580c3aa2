"""Which device networks are trained and run on: the one place that turns a name into a device of this machine.

Nothing here starts CUDA. A process that has started it must not fork, and the apps of sites and server are forks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, get_args

from moretta.shared.core.errors import StudyError

if TYPE_CHECKING:
    import torch

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DEVICE_VARIABLE = "MORETTA_DEVICE"
"""Carries the device of `computing_on` into worker processes."""
_PREFERRED = ("cuda", "mps", "cpu")
_BY_DRIVER = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""Makes PyTorch request its GPUs from the driver, which starts nothing."""


def resolve_device(name: str) -> torch.device:
    """The device that a name stands for here; `auto` takes the first of cuda, mps and cpu that is there. Raises
    StudyError: no such name, or no such device on this machine."""
    import torch

    names = get_args(DeviceName)
    if name not in names:
        raise StudyError(f"the device {name!r}", expected=f"one of: {', '.join(names)}", fix="correct the device")
    if name == "auto":
        return torch.device(next(device for device in _PREFERRED if not _why_not(device)))
    if reason := _why_not(name):
        here = ", ".join(device for device in _PREFERRED if not _why_not(device))
        fix = "choose one of these, or auto, which takes the first of them"
        raise StudyError(f"the device {name}, but {reason}", expected=f"a device of this machine: {here}", fix=fix)
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """`cpu`, or the kind and the model of a GPU, for the record of a run. Call it where CUDA is used anyway."""
    import torch

    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


@contextmanager
def computing_on(name: str) -> Iterator[torch.device]:
    """Let the networks of attackers run on a device: in this process, and in the workers that it starts in the block.

    Raises StudyError as `resolve_device` does.
    """
    device, before = resolve_device(name), os.environ.get(DEVICE_VARIABLE)
    os.environ[DEVICE_VARIABLE] = device.type
    try:
        yield device
    finally:
        if before is None:
            del os.environ[DEVICE_VARIABLE]
        else:
            os.environ[DEVICE_VARIABLE] = before


def computing_device() -> torch.device:
    """The device of the `computing_on` around this; the CPU without one."""
    return resolve_device(os.environ.get(DEVICE_VARIABLE, "cpu"))


def _why_not(device: str) -> str:
    """The reason why a device cannot be used here; empty if it can."""
    import torch

    if device == "mps" and not torch.backends.mps.is_available():
        return "PyTorch finds no GPU of Apple"
    if device == "cuda":
        if torch.version.cuda is None and torch.version.hip is None:
            return "this PyTorch is built without CUDA"
        os.environ.setdefault(_BY_DRIVER, "1")
        if not torch.cuda.is_available():
            return "PyTorch finds no NVIDIA GPU with a driver for it"
    return ""
