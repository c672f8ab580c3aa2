"""The stages of a study, in the order in which they run."""

from __future__ import annotations

from moretta.server.stages.approval import STAGE as APPROVAL
from moretta.server.stages.approval import approval_wanted, wait_for_approval
from moretta.server.stages.audit import audit
from moretta.server.stages.code import STAGE, code_wanted, federate_code
from moretta.server.stages.evaluate import evaluate
from moretta.server.stages.public import make_public
from moretta.server.stages.release import collect_releases
from moretta.server.stages.report import report
from moretta.server.stages.run_context import Stage
from moretta.server.stages.train import train_face, train_fusion, train_voice
from moretta.server.stages.utility import central_check

SITE_STAGES: list[Stage] = [
    Stage("codebook", make_public),
    Stage(APPROVAL, wait_for_approval, approval_wanted),
    Stage(STAGE, federate_code, code_wanted),
    Stage("release", collect_releases),
    Stage("train voice", train_voice),
    Stage("train face", train_face),
    Stage("train fusion", train_fusion, lambda run: run.study.fusion.kind == "learned"),
    Stage("evaluate", evaluate),
]
"""These talk with the sites."""

CENTRAL_STAGES: list[Stage] = [
    Stage("central check", central_check),
    Stage("audit", audit),
    Stage("report", report),
]
"""These need only what the sites have released."""
