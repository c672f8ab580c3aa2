from __future__ import annotations

import re
from pathlib import Path

import pytest
from speakers import run_audit, voices

from moretta.shared.audit.attackers.base import ATTACKERS
from moretta.shared.audit.metrics.scores import METRICS
from moretta.shared.audit.utility.evaluators import EVALUATORS, evaluate_utility

GUIDE = Path(__file__).parents[3] / "docs" / "attackers.md"


def code_under(heading: str) -> str:
    part = GUIDE.read_text("utf-8").split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    blocks: list[str] = re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    assert len(blocks) == 1
    assert len(blocks[0].splitlines()) <= 35
    return blocks[0]


def run_code(heading: str) -> None:
    exec(compile(code_under(heading), str(GUIDE), "exec"), {"__name__": "guide"})  # noqa: S102


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the attacker that the guide registers after its test."""
    for registry in (ATTACKERS, METRICS, EVALUATORS):
        registry.load()
        monkeypatch.setattr(registry, "_items", dict(registry._items))


def test_the_attacker_that_the_guide_writes_runs_in_an_audit() -> None:
    run_code("Write an attacker")
    rows = run_audit(voices(), voices(), attackers=["voice-loudness"], seed=1, bootstrap=0, workers=1)
    top1 = [r.value for r in rows if (r.scenario, r.metric, r.subset, r.pooled) == ("unprotected", "top1", "all", 1)]
    assert top1[0] is not None
    assert top1[0] > 0.4


def test_the_metric_that_the_guide_writes_is_in_every_row_set() -> None:
    run_code("Write a metric")
    rows = run_audit(voices(), voices(apart=0.0, seed=3), attackers=["voice-logistic"], seed=1, bootstrap=10, workers=1)
    found = {(r.scenario, r.subset): r for r in rows if r.metric == "d_prime"}
    there, gone = found["unprotected", "all"].value, found["semi-informed", "all"].value
    assert there is not None
    assert gone is not None
    assert there > 2
    assert gone < 0.8
    assert found["unprotected", "female"].low is not None


def test_the_utility_evaluator_that_the_guide_writes_runs(tmp_path: Path) -> None:
    run_code("Write a utility evaluator")
    rows = evaluate_utility(
        voices(), voices(), evaluators=["voice-level"], seed=1, draws=0, workers=1, scratch=tmp_path
    )
    assert len(rows) == 3
    assert all(row.value is not None for row in rows)


def test_the_guide_names_every_attacker_metric_and_utility_evaluator() -> None:
    text = GUIDE.read_text("utf-8")
    for name in ATTACKERS.names():
        stem = name.removesuffix("+head")
        assert stem in text or re.sub(r"\d$", "1", stem) in text, name
    for name in [*METRICS.names(), *EVALUATORS.names()]:
        assert f"`{name}`" in text, name
