from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moretta.client.settings import SiteSettings, simulated_site
from moretta.shared.features.public_speech import PublicVoice
from moretta.shared.study.run_plan import PlannedSite, SimulationPlan
from moretta.shared.study.schema import Study, parse_study

sys.path.insert(0, str(Path(__file__).parent))
from signing import Authority


@dataclass(frozen=True)
class Simulated:
    """A plan of two sites on disk, two speakers each; 1001 and 1003 are held out."""

    folder: Path
    study: Study
    public: dict[str, Any]

    def site(self, partition: int = 0) -> SiteSettings:
        return simulated_site(self.folder, partition)


def plan_study(**changes: Any) -> Study:
    content: dict[str, Any] = {"sites": 2, "face": {"enabled": False}, "train": {"rounds": 2}, "split": {"folds": 2}}
    content["voice"] = {"codebook_size": 16}
    return parse_study({**content, **changes})


@pytest.fixture
def study() -> Study:
    return plan_study()


@pytest.fixture
def simulated(tmp_path: Path, tiny_corpus: Path, study: Study) -> Simulated:
    plan = SimulationPlan(
        corpus=tiny_corpus,
        corpus_name="tones",
        synthetic=False,
        study=study,
        sites=(
            PlannedSite(name="site-00", speakers=("1001", "1002")),
            PlannedSite(name="site-01", speakers=("1003", "1004")),
        ),
        folds=(("1001", "1003"), ("1002", "1004")),
        command="moretta simulate",
    )
    plan.save(tmp_path / "run")
    generator = np.random.default_rng(1)
    voice = PublicVoice(
        mean=np.zeros(13, np.float32),
        std=np.full(13, 20, np.float32),
        codebook=generator.standard_normal((16, 13)).astype(np.float32),
    )
    return Simulated(tmp_path / "run", study, voice.to_arrays())


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="session")
def other_authority() -> Authority:
    return Authority()
