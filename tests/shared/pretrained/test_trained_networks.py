"""Public networks that are trained here: once for equal choices, by one process, and kept."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from moretta.shared.core.errors import StudyError
from moretta.shared.pretrained import cache
from moretta.shared.pretrained.cache import trained_arrays

ARRAYS = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "rounds": np.array([3], np.int64)}


@pytest.fixture(autouse=True)
def _empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MORETTA_CACHE", str(tmp_path))


def test_a_network_is_trained_once_for_equal_choices_and_equal_code(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []

    def ask(choices: str) -> dict[str, np.ndarray]:
        return trained_arrays("nets", "small", choices, lambda: trained.append(choices) or ARRAYS)  # type: ignore[func-returns-value]

    first, again = ask("epochs 1"), ask("epochs 1")
    assert trained == ["epochs 1"]
    for found in (first, again):
        assert all(
            np.array_equal(found[name], array) and found[name].dtype == array.dtype for name, array in ARRAYS.items()
        )
    ask("epochs 2")
    monkeypatch.setattr(cache, "code_digest", lambda: "other code")
    ask("epochs 1")
    assert trained == ["epochs 1", "epochs 2", "epochs 1"]


def test_two_who_ask_at_once_wait_for_one_training(tmp_path: Path) -> None:
    trained: list[int] = []

    def train() -> dict[str, np.ndarray]:
        trained.append(1)
        return ARRAYS

    askers = [Thread(target=trained_arrays, args=("nets", "small", "x", train)) for _ in range(4)]
    for one in askers:
        one.start()
    for one in askers:
        one.join()
    assert trained == [1] and len(list(tmp_path.glob("nets/*.safetensors"))) == 1


def test_a_training_that_fails_leaves_nothing_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    def fail() -> dict[str, np.ndarray]:
        raise StudyError("no speech")

    with pytest.raises(StudyError, match="no speech"):
        trained_arrays("nets", "small", "x", fail)
    assert not list(tmp_path.glob("nets/*.safetensors"))
    trained_arrays("nets", "small", "x", lambda: ARRAYS)
    (path,) = tmp_path.glob("nets/*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StudyError, match="cannot be read") as caught:
        trained_arrays("nets", "small", "x", lambda: ARRAYS)
    assert str(path) in caught.value.message and "delete it" in caught.value.fix
