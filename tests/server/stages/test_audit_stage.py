"""The stage audit where there is nobody to attack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from staging import do, warnings_of

from moretta.server.stages.audit import can_be_attacked
from moretta.server.stages.run import Run, RunContext, SiteFacts
from moretta.shared.audit.report.verdict import NOT_ATTACKED
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.data.corpora.cremad import Level
from moretta.shared.release import AnonymizerStatement, ReleasedClip, ReleaseWriter, open_release
from moretta.shared.study.run_plan import PlannedSite, SimulationPlan
from moretta.shared.study.schema import Study


def released(folder: Path, *clips_of: int) -> Run:
    """One site that released so many clips of each of its speakers."""
    site = PlannedSite(name="site-00", speakers=tuple(range(len(clips_of))))
    study = Study().with_changes(face__enabled=False)
    plan = SimulationPlan(
        corpus=folder,
        corpus_name="c",
        synthetic=True,
        study=study,
        sites=(site,),
        folds=(site.speakers, ()),
        command="moretta simulate",
    )
    writer = ReleaseWriter(folder / site.name, forms={"voice": "code"})
    for speaker, clips in enumerate(clips_of):
        for clip in range(clips):
            described = ReleasedClip(
                clip=f"{speaker:08x}{clip:08x}",
                speaker=f"{speaker:016x}",
                emotion=EMOTIONS[clip % 6],
                sentence="IEO",
                level=Level.XX,
            )
            writer.add(described, {"voice": np.zeros(3, np.float32)})
    statement = AnonymizerStatement(modality="voice", name="n", version="1", form="code", parameters={}, noise="none")
    writer.finish(site=site.name, study=study.digest(), anonymizers=(statement,))
    run = Run(RunContext(folder, plan))
    run.releases.kept[site.name] = open_release(folder / site.name)
    run.releases.facts[site.name] = SiteFacts(sum(clips_of), len(clips_of))
    return run


@pytest.mark.parametrize("clips_of", [(1, 1, 1), (2, 1, 1), (5,)])
def test_where_no_two_people_have_two_clips_the_study_goes_on_and_the_report_says_why_nobody_was_attacked(
    tmp_path: Path, clips_of: tuple[int, ...]
) -> None:
    run = released(tmp_path, *clips_of)
    # what has no model left the sites all the same
    run.absent |= dict.fromkeys(("voice", "face", "fused"), "no held-out clip")
    do(run, "audit")
    assert run.attacks.identity == []
    (warning,) = warnings_of(run)
    assert warning.startswith("nobody can be re-identified by voice: fewer than two people")
    do(run, "report")
    assert run.gate is not None
    assert {(c.of, c.state, c.why) for c in run.gate.criteria} == {("voice", "inconclusive", NOT_ATTACKED)}


def test_two_people_of_two_clips_can_be_attacked(tmp_path: Path) -> None:
    assert can_be_attacked(released(tmp_path, 2, 2, 1).releases, "voice")
