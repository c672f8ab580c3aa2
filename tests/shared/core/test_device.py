import os

import pytest
import torch

from moretta.shared.core.device import DEVICE_VARIABLE, computing_device, computing_on, resolve_device
from moretta.shared.core.errors import ExitCode, StudyError
from moretta.shared.core.workers import Workers


@pytest.fixture
def machine(monkeypatch):
    """Pretends that this machine has some GPUs; nothing is computed on them."""

    def has(*, cuda: bool = False, mps: bool = False) -> None:
        monkeypatch.setattr("torch.version.cuda", "13.0")
        monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
        monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)

    return has


@pytest.mark.parametrize(
    ("cuda", "mps", "taken"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu"), (True, False, "cuda")]
)
def test_auto_takes_cuda_then_mps_then_the_cpu(machine, cuda, mps, taken):
    machine(cuda=cuda, mps=mps)
    assert resolve_device("auto") == torch.device(taken)


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_absent_device_is_bad_input_and_the_error_lists_those_that_are_there(machine, name):
    machine(cuda=name != "cuda", mps=name != "mps")
    with pytest.raises(StudyError, match=f"{name}, but .* this machine: (mps|cuda), cpu; to fix it: .*auto") as error:
        resolve_device(name)
    assert error.value.exit_code == ExitCode.STUDY


def test_pytorch_without_cuda_is_named_as_the_cause(machine, monkeypatch):
    machine()
    monkeypatch.setattr("torch.version.cuda", None)
    with pytest.raises(StudyError, match="built without CUDA"):
        resolve_device("cuda")


def test_unknown_name_is_refused_with_those_that_exist():
    with pytest.raises(StudyError, match="'gpu'; expected one of: auto, cpu, cuda, mps"):
        resolve_device("gpu")


def test_the_cpu_is_taken_without_a_look_at_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: pytest.fail("looked at GPUs"))
    assert resolve_device("cpu").type == "cpu"


def test_looking_for_gpus_leaves_a_process_that_may_fork(machine, monkeypatch):
    """PyTorch starts CUDA in order to count GPUs, unless it is asked to let the driver count."""
    monkeypatch.delenv("PYTORCH_NVML_BASED_CUDA_CHECK", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1")
    assert resolve_device("cuda").type == "cuda"


def test_workers_compute_where_the_block_says_and_nothing_is_left_of_it_afterwards(machine, monkeypatch):
    monkeypatch.delenv(DEVICE_VARIABLE, raising=False)
    machine(mps=True)
    with computing_on("auto") as device:
        assert device.type == computing_device().type == "mps"
        with Workers(2) as pool:
            assert dict(pool.run(os.getenv, [(DEVICE_VARIABLE,)])) == {0: "mps"}
        with computing_on("cpu"):
            assert computing_device().type == "cpu"
        assert computing_device().type == "mps"
    assert computing_device().type == "cpu"
    assert DEVICE_VARIABLE not in os.environ
