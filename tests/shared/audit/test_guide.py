from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from speakers import voices

from moretta.shared.audit import utility as emotion
from moretta.shared.audit.attackers import attacker_registry
from moretta.shared.audit.metrics import metric_registry
from moretta.shared.audit.modality_audit import run_audit
from moretta.shared.audit.utility import evaluate_utility

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
def _forgotten() -> Iterator[None]:
    """What the guide registers is gone after its test."""
    attacker_registry.load_attackers()
    metric_registry.metrics_of("trials")
    emotion.evaluator_names()
    kept = [
        (r, dict(r))
        for r in (attacker_registry._REGISTRY, metric_registry._REGISTRY, emotion.evaluator_registry._REGISTRY)
    ]
    yield
    for live, before in kept:
        live.clear()
        live.update(before)  # type: ignore[arg-type]


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


def test_the_judge_that_the_guide_writes_is_asked(tmp_path: Path) -> None:
    run_code("Write a judge of emotion")
    rows = evaluate_utility(
        voices(), voices(), evaluators=["voice-level"], seed=1, draws=0, workers=1, scratch=tmp_path
    )
    assert len(rows) == 3
    assert all(row.uar is not None for row in rows)


def test_the_guide_names_every_attacker_metric_and_judge() -> None:
    text = GUIDE.read_text("utf-8")
    for name in attacker_registry.attacker_names():
        stem = name.removesuffix("+head")
        assert stem in text or re.sub(r"\d$", "1", stem) in text, name
    for kind in ("trials", "ranking", "similarity"):
        for metric in metric_registry.metrics_of(kind):  # type: ignore[arg-type]
            assert f"`{metric.name}`" in text, metric.name
    for evaluator in emotion.evaluator_names():
        assert f"`{evaluator}`" in text, evaluator
