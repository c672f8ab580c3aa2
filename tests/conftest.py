"""Settings and fixtures of all tests: one compute thread, no time limits, only their own cache, small releases."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from moretta.shared.core.workers import limit_threads

sys.path.insert(0, str(Path(__file__).parent))  # `privacy_auditing`, which tests of several parts share
limit_threads(1)
settings.register_profile(
    "busy machines",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,  # where a run must be repeatable, each one draws the same examples
)
settings.load_profile("busy machines")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def tiny_corpus(tmp_path: Path) -> Path:
    """Four speakers, six emotions, two sentences, sound only: tones that differ by speaker and emotion."""
    return write_tone_corpus(tmp_path / "tones")


def write_tone_corpus(
    root: Path, *, speakers: int = 4, seconds: float = 0.6, sentences: tuple[str, ...] = ("IEO", "TIE")
) -> Path:
    import soundfile

    rng = np.random.default_rng(3)
    (root / "AudioWAV").mkdir(parents=True)
    time = np.arange(int(16_000 * seconds)) / 16_000
    lines = ["ActorID,Age,Sex,Race,Ethnicity"]
    for speaker in range(1001, 1001 + speakers):
        lines.append(f"{speaker},{20 + speaker % 40},{'Male' if speaker % 2 else 'Female'},Unknown,Unknown")
        for number, emotion in enumerate(("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")):
            for sentence in sentences:
                tone = np.sin(2 * np.pi * (100 + 40 * (speaker - 1000) + 15 * number) * time)
                samples = 0.3 * tone + 0.05 * rng.standard_normal(len(time))
                name = f"{speaker}_{sentence}_{emotion}_XX.wav"
                soundfile.write(root / "AudioWAV" / name, samples.astype(np.float32), 16_000)
    (root / "VideoDemographics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.fixture(autouse=True)
def _own_cache(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests neither read nor fill the user's cache, unless they are marked `user_cache`."""
    if "user_cache" not in request.keywords:
        monkeypatch.setenv("MORETTA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
