from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moretta.shared.core.errors import ClipError
from moretta.shared.data.clips import Clip
from moretta.shared.data.recordings import ClipStore


def clip(name: str) -> Clip:
    return Clip(name, "1001", "ANG", audio=Path(f"{name}.wav"))


def test_every_clip_is_decoded_once_and_reads_alike_and_nothing_is_left_on_disk(tmp_path: Path) -> None:
    decoded: list[str] = []

    def decode(one: Clip) -> np.ndarray | None:
        decoded.append(one.name)
        if one.name == "broken":
            raise ClipError("truncated", "half of a file")
        return None if one.name == "silent" else np.arange(24, dtype=np.uint8).reshape(2, 3, 4) + len(one.name)

    store = ClipStore(decode, tmp_path / "home")
    for _ in range(3):
        for name in ("a", "bbb"):
            found = store(clip(name))
            assert found is not None and found.flags.writeable
            np.testing.assert_array_equal(found, np.arange(24, dtype=np.uint8).reshape(2, 3, 4) + len(name))
        assert store(clip("silent")) is None
        with pytest.raises(ClipError, match="half of a file"):
            store(clip("broken"))
    assert decoded == ["a", "bbb", "silent", "broken"]
    assert list((tmp_path / "home").iterdir()) == []


def test_what_does_not_fit_or_is_not_read_again_is_not_kept(tmp_path: Path) -> None:
    decoded: list[str] = []

    def decode(one: Clip) -> np.ndarray:
        decoded.append(one.name)
        return np.zeros(10, np.float32)

    store = ClipStore(decode, tmp_path, most_bytes=50)
    for name in ("a", "b", "b", "a"):
        store(clip(name))
    store.keeping = False
    store(clip("c"))
    store(clip("c"))
    assert decoded == ["a", "b", "b", "c", "c"]
