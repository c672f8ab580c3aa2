from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from moretta.server.stages import state
from moretta.server.stages.run import Run, RunContext, SiteFacts, SiteSpending
from moretta.server.stages.state import (
    RESUME_FILE,
    STATE_FILE,
    load_progress,
    load_round,
    load_state,
    save_round,
    save_state,
)
from moretta.server.study import Stage, run_stages
from moretta.shared.audit.report.report_schema import RoundRow
from moretta.shared.core.errors import ReleaseError, RunError, StudyError
from moretta.shared.core.labels import Emotion
from moretta.shared.data.corpora.cremad import Level
from moretta.shared.release import AnonymizerStatement, ReleasedClip, ReleaseWriter, open_release
from moretta.shared.study.run_plan import PlannedSite, SimulationPlan
from moretta.shared.study.schema import Study


@pytest.fixture
def run(tmp_path: Path) -> Run:
    plan = SimulationPlan(
        corpus=tmp_path,
        corpus_name="c",
        synthetic=True,
        study=Study(),
        sites=(PlannedSite(name="site-00", speakers=(1, 2)),),
        folds=((1,), (2,)),
        command="moretta simulate",
    )
    plan.save(tmp_path)
    folder = tmp_path / "server" / "releases" / "site-00"
    writer = ReleaseWriter(folder, forms={"voice": "mfcc"})
    clip = ReleasedClip(clip="0" * 16, speaker="1" * 16, emotion=Emotion.SAD, sentence="IEO", level=Level.XX)
    writer.add(clip, {"voice": np.ones((5, 13), np.float32)})
    statement = AnonymizerStatement(modality="voice", name="n", version="1", form="mfcc", parameters={}, noise="none")
    writer.finish(site="site-00", study=plan.study.digest(), anonymizers=(statement,))
    made = Run(RunContext(tmp_path, plan))
    made.releases.facts["site-00"] = SiteFacts(
        clips=1, speakers=1, dropped={"voice-silent": 1}, training={"voice": 1}, held_out=("1" * 16,)
    )
    made.releases.kept["site-00"] = open_release(folder)
    made.public["voice/mean"] = np.arange(13, dtype=np.float32)
    made.training.spent["site-00"] = SiteSpending(rounds=2, epsilon={1: 0.5, 2: 0.9})
    made.training.rounds.append(RoundRow(stage="train voice", round=1, sites=1, failed=0, loss=None, seconds=1.0))
    made.training.trained = ("voice",)
    made.absent["face"] = "no clip of the corpus has video"
    made.context.miss("site-00", "train voice", "it was lost", round_number=2, lost=True)
    made.context.warn("a warning")
    return made


def _save(run: Run, file: Path = STATE_FILE) -> None:
    save_state(run, file)


def _loaded(run: Run) -> Run:
    """The progress that was saved; fails if there is none."""
    saved = load_progress(run.context.folder)
    assert saved is not None
    return saved


def test_a_run_comes_back_as_it_was_without_its_sites(run: Run) -> None:
    _save(run)
    again = load_state(run.context.folder)
    assert (again.context.folder, again.context.plan, again.context.progress) == (
        run.context.folder,
        run.context.plan,
        run.context.progress,
    )
    for name in ("training", "absent", "approval", "evaluation"):
        assert getattr(again, name) == getattr(run, name), name
    assert again.releases.facts == run.releases.facts
    assert np.array_equal(again.public["voice/mean"], run.public["voice/mean"])
    assert [c.clip for c in again.releases.kept["site-00"].clips] == ["0" * 16]
    with pytest.raises(RunError, match="after their part was over"):
        _ = again.grid


def test_a_run_without_public_arrays_comes_back_too(run: Run) -> None:
    run.public.clear()
    _save(run)
    assert load_state(run.context.folder).public == {}


def test_a_run_that_has_not_begun_has_no_progress(run: Run) -> None:
    assert load_progress(run.context.folder) is None


def test_a_run_goes_on_from_the_last_whole_round_with_what_the_strategy_remembered(run: Run) -> None:
    run.context.progress.done[:] = ["codebook", "release"]
    run.training.trained = ()
    _save(run, RESUME_FILE)
    for number in (1, 2):
        weights, memory = {"w": np.full(3, number, np.float32)}, {"m_t/w": np.full(3, 9.0)}
        save_round(run, "voice", number, weights=weights, strategy=memory)
    progress = _loaded(run).context.progress
    assert progress.done == ["codebook", "release"]
    assert progress.last_round == {"voice": 2}
    assert progress.position == "round 2 of training voice"
    weights, memory = load_round(_loaded(run).context, "voice")
    assert weights["w"].tolist() == [2.0] * 3
    assert memory["m_t/w"].tolist() == [9.0] * 3
    assert [p.name for p in run.context.checkpoint("voice", 2).parent.iterdir()] == ["voice-round-00002.safetensors"]


def test_a_crash_between_the_two_files_of_a_checkpoint_leaves_the_round_before(run: Run, monkeypatch: Any) -> None:
    run.training.trained = ()
    _save(run, RESUME_FILE)
    save_round(run, "voice", 1, weights={"w": np.ones(3, np.float32)}, strategy={})
    monkeypatch.setattr(state, "_write", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        save_round(run, "voice", 2, weights={"w": np.zeros(3, np.float32)}, strategy={})
    monkeypatch.undo()
    assert load_round(_loaded(run).context, "voice")[0]["w"].tolist() == [1.0] * 3


def test_models_of_stages_that_are_over_come_back_with_the_run(run: Run) -> None:
    run.context.checkpoint("voice").parent.mkdir(parents=True)
    save_file({"w": np.ones(3, np.float32)}, run.context.checkpoint("voice"))
    _save(run, RESUME_FILE)
    assert _loaded(run).models["voice"]["w"].tolist() == [1.0] * 3


@pytest.mark.parametrize("damage", ["state gone", "state cut", "public cut", "release gone", "unknown key"])
def test_a_damaged_state_is_refused(run: Run, damage: str) -> None:
    _save(run)
    folder = run.context.folder
    kept, public = folder / STATE_FILE, folder / "server" / "public.safetensors"
    match damage:
        case "state gone":
            kept.unlink()
        case "state cut":
            kept.write_bytes(kept.read_bytes()[:-20])
        case "public cut":
            public.write_bytes(public.read_bytes()[:5])
        case "release gone":
            (folder / "server" / "releases" / "site-00" / "statement.json").unlink()
        case "unknown key":
            kept.write_text(kept.read_text().replace('"trained"', '"trainer"'))
    with pytest.raises(ReleaseError):
        load_state(folder)


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="moretta simulate"):
        load_state(tmp_path)


def test_stages_that_are_over_are_not_run_again(run: Run) -> None:
    ran: list[str] = []
    stages = [Stage(name, lambda r, name=name: ran.append(name)) for name in ("one", "two")]  # type: ignore[misc]
    run.context.progress.done[:] = ["one"]
    saved: list[list[str]] = []
    run_stages(run, stages, after_each=lambda r: saved.append(list(r.context.progress.done)))
    assert ran == ["two"]
    assert saved == [["one", "two"]]


@pytest.mark.parametrize("error", [RunError("x"), ZeroDivisionError("x")])
def test_an_error_carries_the_name_of_its_stage_and_stops_the_run(run: Run, error: Exception) -> None:
    def fail(*_: Any) -> None:
        raise error

    ran: list[str] = []
    stages = [Stage("one", lambda r: ran.append("one")), Stage("two", fail), Stage("three", fail)]
    with pytest.raises(type(error)) as caught:
        run_stages(run, stages)
    assert caught.value.__notes__ == ["in the stage 'two'"]
    assert ran == ["one"]
    assert [s.name for s in run.context.progress.stages] == ["one"]
    assert '"stage": "two", "state": "started"' in (run.context.folder / "progress.jsonl").read_text()
