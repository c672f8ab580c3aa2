"""Encoders as attackers: found by name, absent rather than broken, one embedding per clip in order."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pytest

from moretta.shared.audit.attackers import Embedder, attacker_names, get_attacker
from moretta.shared.audit.attackers.open_set import PretrainedAttacker
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.core.array_types import Float32
from moretta.shared.core.labels import Emotion
from moretta.shared.data.corpora.cremad import Level
from moretta.shared.pretrained.encoder import Clips, PretrainedEncoder
from moretta.shared.release.release_format import ReleasedClip


class Lengths(PretrainedEncoder):
    """Embeds a clip as an angle that stands for its length."""

    name: ClassVar[str] = "lengths"
    modality = "voice"
    dimensions: ClassVar[int] = 2
    version: ClassVar[str] = "1"
    weights: ClassVar[tuple[str, ...]] = ()
    threshold: ClassVar[float] = 0.5
    loads = 0
    largest = 0

    @classmethod
    def load(cls) -> Self:
        cls.loads += 1
        return cls()

    def vectors(self, clips: Clips) -> Float32:
        type(self).largest = max(self.largest, len(clips))
        return np.array([[np.cos(len(clip) / 1e4), np.sin(len(clip) / 1e4)] for clip in clips], np.float32)


class LengthsAttacker(PretrainedAttacker):
    network = Lengths


def voices(count: int) -> ClipSet:
    clips = [
        ReleasedClip(clip=f"{i:016x}", speaker=f"{i % 3:016x}", emotion=Emotion.ANG, sentence="IEO", level=Level.HI)
        for i in range(count)
    ]
    arrays = [np.zeros(4000 + i, np.float32) for i in range(count)]
    return ClipSet.from_arrays(clips, arrays, modality="voice", form="waveform")


def test_clips_are_embedded_in_order_in_bounded_chunks_by_one_encoder() -> None:
    found = np.concatenate([LengthsAttacker().embed(voices(70)), LengthsAttacker().embed(voices(3))])
    lengths = np.round(1e4 * np.arctan2(found[:, 1], found[:, 0])).astype(int)
    assert lengths.tolist() == [*range(4000, 4070), 4000, 4001, 4002]
    assert Lengths.loads == 1
    assert Lengths.largest <= 32
    assert LengthsAttacker().embed(voices(3).subset([])).shape == (0, 2)


def test_the_pretrained_attackers_are_registered() -> None:
    assert {"campplus", "ge2e", "hubert", "wav2vec2"} <= set(attacker_names("voice", "pretrained"))
    assert {"sface", "dlib"} <= set(attacker_names("face", "pretrained"))


@pytest.mark.parametrize("name", ["campplus", "ge2e", "hubert", "wav2vec2", "sface", "dlib"])
def test_an_absent_one_says_so_instead_of_failing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORETTA_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cls = get_attacker(name)
    assert issubclass(cls, Embedder)
    assert not cls.trainable
    assert "run `" in (cls.missing() or "")
    assert 0 < cls.max_unprotected_eer < 0.5
