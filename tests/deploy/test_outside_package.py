"""A package that is installed beside Moretta brings an anonymizer, an attacker and a metric: the commands use them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moretta.shared.release import open_release

ANONYMIZER = '''
import numpy as np
from moretta.shared.core.terms import PrivacyStatement
from moretta.shared.features.mfcc import check_samples
from moretta.shared.release.anonymizer import Anonymizer, anonymizer
from moretta.shared.study.options import Options
from moretta.shared.study.sections import Epsilon

class LevelOptions(Options):
    epsilon: Epsilon = 1.0

@anonymizer("outside-level", modality="voice", version="1")
class OutsideLevel(Anonymizer):
    """Mean and deviation of the level, each in [0, 1], with Laplace noise."""

    Options = LevelOptions
    form, forms = "code", ("code",)

    @classmethod
    def from_study(cls, study, public):
        made = cls()
        made.epsilon = LevelOptions.of(study.voice.options).epsilon
        return made

    def release_clip(self, clip, noise, speaker):
        level = 1 + np.log10(np.abs(check_samples(clip)) + 1e-4) / 4
        values = np.clip([level.mean(), 4 * level.std()], 0, 1)
        return (values + noise.laplace(1 / self.epsilon, (2,))).astype(np.float32)

    def parameters(self):
        return {"epsilon": self.epsilon}

    def privacy(self, sizes):
        return (PrivacyStatement(mechanism="Laplace", unit="clip", epsilon=2 * self.epsilon),)
'''
ATTACKER = '''
import numpy as np
from moretta.shared.audit.attackers import Identifier, attacker

@attacker("outside-nearest", modality="voice")
class Nearest(Identifier):
    """Nearest mean code."""

    def fit(self, clips, *, seed):
        self.speakers = clips.speakers
        x = self.vectors(clips)
        self.centres = np.stack([x[clips.labels == n].mean(0) for n in range(len(self.speakers))])

    def scores(self, clips):
        return -((self.vectors(clips)[:, None] - self.centres) ** 2).sum(2).astype(np.float32)

    def vectors(self, clips):
        return np.stack([clips.mfcc(i).mean(0) for i in range(len(clips))])
'''
METRIC = '''
from moretta.shared.audit.metrics import metric

@metric("outside_gap", unit="", chance=0.0, private="low")
def gap(trials):
    """Distance of the means of mated and non-mated scores."""
    return float(trials.mated_scores.mean() - trials.nonmated_scores.mean())
'''
ENTRY_POINTS = """
[moretta.anonymizers]
level = outside_package.anonymizer
[moretta.attackers]
nearest = outside_package.attacker
[moretta.metrics]
gap = outside_package.metric
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The folder that pip would have put the package into."""
    package, info = tmp_path / "site" / "outside_package", tmp_path / "site" / "outside_package-1.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    for name, content in {"__init__": "", "anonymizer": ANONYMIZER, "attacker": ATTACKER, "metric": METRIC}.items():
        (package / f"{name}.py").write_text(content)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return tmp_path / "site"


def test_the_zoo_plans_what_an_installed_package_brings(installed: Path) -> None:
    code = "from moretta.deploy.sweep.zoo import *; "
    code += "grid = with_public(zoo_grid(Study(), ['none', 'outside-level']), Path('/speech'), 'voice'); "
    code += "print(*[(c.curve, c.study.voice.form, [str(p) for p in c.study.paths.values()])"
    code += " for c in make_grid(grid).cells])"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert "('outside-level: default', 'code', [])" in done.stdout, done.stderr
    assert "('none: original recordings', 'waveform', ['/speech'])" in done.stdout


def run(installed: Path, *arguments: str) -> str:
    """A command in a process that has the package."""
    command = [sys.executable, "-c", "from moretta.deploy.cli.main import main; main()", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_commands_use_what_an_installed_package_brings(installed: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    study, out = tmp_path / "study.toml", tmp_path / "out"
    study.write_text('[voice]\nanonymizer = "outside-level"\noptions = { epsilon = 4.0 }\n[face]\nenabled = false\n')
    run(installed, "anonymize", "--corpus", str(tiny_corpus), "--out", str(out), "--study", str(study))
    audited = ["audit", str(out / "release"), "--corpus", str(tiny_corpus), "--attackers", "outside-nearest"]
    audited += [
        "--bootstrap",
        "0",
        "--no-inference",
        "--no-utility",
        "--workers",
        "1",
        "--out",
        str(tmp_path / "audit"),
    ]
    run(installed, *audited)
    (stated,) = open_release(out / "release").statement.anonymizers
    assert (stated.name, stated.parameters) == ("outside-level", {"epsilon": 4.0})
    assert stated.privacy[0].epsilon == 8.0
    rows = [r for r in json.loads((tmp_path / "audit" / "audit.json").read_text())["audit"] if r["pooled"] == 1]
    found = {(row["attacker"], row["scenario"], row["metric"]): row["value"] for row in rows if row["subset"] == "all"}
    assert found["outside-nearest", "semi-informed", "outside_gap"] is not None
    assert found["outside-nearest", "unprotected", "top1"] is not None
