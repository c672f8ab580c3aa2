from __future__ import annotations

import re
from pathlib import Path

from people import voices

from moretta.server.audit.attackers import base
from moretta.server.audit.run import run_audit

GUIDE = Path(__file__).parents[3] / "docs" / "attackers.md"


def test_the_attacker_that_the_guide_writes_runs_in_an_audit() -> None:
    code = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert len(code) == 1
    assert len(code[0].splitlines()) <= 35
    try:
        exec(compile(code[0], str(GUIDE), "exec"), {"__name__": "guide"})  # noqa: S102
        rows = run_audit(voices(), voices(), attackers=["voice-loudness"], seed=1, bootstrap=0, workers=1)
    finally:
        base._REGISTRY.pop("voice-loudness", None)
    top1 = [r.value for r in rows if (r.scenario, r.metric, r.subset, r.pooled) == ("unprotected", "top1", "all", 1)]
    assert top1[0] is not None
    assert top1[0] > 0.4


def test_the_guide_names_every_attacker() -> None:
    text = GUIDE.read_text("utf-8")
    for name in base.attacker_names():
        stem = name.removesuffix("+head")
        assert stem in text or re.sub(r"\d$", "1", stem) in text, name
