"""A whole choice over given results: what failed, how it ends, and what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moretta.deploy.sweep import run_sweep as sweeping
from moretta.deploy.sweep.choosing import choose_anonymizer, plan_choice
from moretta.deploy.sweep.jobs import Job
from moretta.deploy.sweep.sweep_results import CellAudit, Released, ResultFolder
from moretta.shared.audit.result import Result
from moretta.shared.core.errors import ExitCode
from moretta.shared.study.schema import Study

CANDIDATES = '[[curve]]\nname = "a"\n[[curve]]\nname = "b"\nset = { voice.options.codebook_size = 16 }\n'


def audited(*, invalid: bool) -> CellAudit:
    row = Result(
        modality="voice", attacker="voice-svm", kind="adaptive", scenario="semi-informed", metric="top1", value=0.3,
        low=0.2, high=0.4, chance=0.25, speakers=4, clips=24, invalid=invalid,
    )  # fmt: skip
    emotion = Result(
        attack="utility", target="emotion", modality="voice", attacker="j", kind="trained", scenario="semi-informed",
        metric="uar", value=0.5, low=0.4, high=0.6, chance=1 / 6, speakers=4, clips=48,
    )  # fmt: skip
    return CellAudit(rows=(row,), utility=(emotion,))


@pytest.mark.usefixtures("tiny_corpus")
@pytest.mark.parametrize(
    ("broken", "chosen", "code"),
    [
        ("", "a", ExitCode.OK),
        ("a", "b", ExitCode.OK),
        ("ab", None, ExitCode.RUN_FAILED),
        ("invalid", None, ExitCode.GATE),
    ],
)
def test_who_failed_stops_no_choice_among_the_others_and_what_was_not_tried_is_no_broken_cap(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
    chosen: str | None,
    code: ExitCode,
) -> None:
    failing = "" if broken == "invalid" else broken

    def do(todo: list[Job], out: Path, **_: Any) -> dict[str, str]:
        for job in todo:
            if job.label[-1] not in failing:
                result = Released(privacy=()) if job.kind == "release" else audited(invalid=broken == "invalid")
                ResultFolder(out).keep(job, result)
        return {job.key: "out of memory" for job in todo if job.label[-1] in failing}

    monkeypatch.setattr(sweeping, "_do", do)
    out = tmp_path / "out"
    (tmp_path / "mine.toml").write_text(CANDIDATES, encoding="utf-8")
    plan = plan_choice(
        tmp_path / "tones", modality="voice", max_top1=0.5, candidates=tmp_path / "mine.toml", study=Study(),
        attackers=(), command="c",
    )  # fmt: skip
    found, worked = choose_anonymizer(
        plan, out, modality="voice", max_top1=0.5, jobs=1, command="c", notify=lambda text: None
    )
    assert found.code(worked) == code
    assert (found.chosen.name if found.chosen else None) == chosen
    assert "".join(c.name for c in found.candidates if c.excluded == "out of memory") == failing
    assert (out / "study.toml").exists() == (out / "audit.html").exists() == (chosen is not None)
    assert len(worked.failed) == 2 * len(failing)
