"""A package that is installed beside Moretta brings an attacker, a metric and a utility evaluator by entry points."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ATTACKER = '''
import numpy as np
from moretta.shared.audit.attackers import Identifier, attacker

@attacker("voice-level", modality="voice")
class Level(Identifier):
    """Nearest mean frame."""

    def fit(self, clips, *, seed):
        self.speakers = clips.speakers
        means = np.stack([clips.mfcc(i).mean(0) for i in range(len(clips))])
        self.centres = np.stack([means[clips.labels == n].mean(0) for n in range(len(self.speakers))])

    def scores(self, clips):
        means = np.stack([clips.mfcc(i).mean(0) for i in range(len(clips))])
        return -((means[:, None] - self.centres) ** 2).sum(2).astype(np.float32)
'''
METRIC = '''
from moretta.shared.audit.metrics import metric

@metric("score_gap", unit="", chance=0.0, private="low")
def score_gap(trials):
    """Distance of the means of mated and non-mated scores."""
    return float(trials.mated_scores.mean() - trials.nonmated_scores.mean())
'''
EVALUATOR = '''
import numpy as np
from moretta.shared.audit.utility.evaluators import UtilityEvaluator, utility_evaluator

@utility_evaluator("voice-first-emotion", modality="voice")
class First(UtilityEvaluator):
    """Always the first class."""

    def vectors(self, clips):
        return np.zeros((len(clips), 1), np.float32)

    def fit(self, vectors, emotions, *, seed):
        pass

    def scores(self, vectors):
        return np.eye(6, dtype=np.float32)[np.zeros(len(vectors), int)]
'''
ENTRY_POINTS = """
[moretta.attackers]
level = visiting_package.attacker
[moretta.metrics]
gap = visiting_package.metric
[moretta.evaluators]
first = visiting_package.evaluator
"""
RUN = """
import json, sys, tempfile
from pathlib import Path

def main():
    from speakers import voices
    from moretta.shared.audit.runner import audit
    from moretta.shared.audit.utility.evaluators import evaluate_utility

    clips = voices(speakers=4, clips=8)
    found = audit(clips, clips, attackers=["voice-level"], seed=1, bootstrap=0, workers=2).results
    with tempfile.TemporaryDirectory() as scratch:
        options = {"draws": 0, "workers": 1, "scratch": Path(scratch)}
        found += evaluate_utility(clips, clips, evaluators=["voice-first-emotion"], **options)
    print(json.dumps([r.model_dump() for r in found if r.subset == "all" and r.pooled == 1]))

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The folder that pip would have put the package into."""
    package, info = tmp_path / "visiting_package", tmp_path / "visiting_package-1.0.dist-info"
    package.mkdir()
    info.mkdir()
    for name, content in {"__init__": "", "attacker": ATTACKER, "metric": METRIC, "evaluator": EVALUATOR}.items():
        (package / f"{name}.py").write_text(content)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: visiting-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return tmp_path


def test_an_audit_runs_what_an_installed_package_brings(installed: Path) -> None:
    script = installed / "run_audit.py"
    script.write_text(RUN)
    path = os.pathsep.join([str(installed), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    figures = {(r["attacker"], r["scenario"], r["metric"]): r["value"] for r in results if not r["invalid"]}
    assert figures["voice-level", "unprotected", "top1"] > 0.9
    assert figures["voice-level", "semi-informed", "score_gap"] > 0
    assert figures["voice-first-emotion", "semi-informed", "uar"] == pytest.approx(1 / 6)
