from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from moretta.shared.audit.attackers import networks

sys.path.insert(0, str(Path(__file__).parent))  # `speakers`, which these tests share


@dataclass(frozen=True)
class _SmallBatches(networks.Schedule):
    batch: int = 16


@pytest.fixture(autouse=True)
def _quick_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up clips have at most 40 frames, which a network would be shown again and again, and are few."""
    monkeypatch.setattr(networks, "TRAIN_FRAMES", 40)
    monkeypatch.setattr(networks, "TEST_FRAMES", 40)
    monkeypatch.setattr(networks, "Schedule", _SmallBatches)
