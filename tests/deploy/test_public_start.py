"""Federated training that starts from public people: over virtual sites in this process, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from moretta.deploy.runtime.planning import plan_simulation
from moretta.deploy.runtime.simulation import connect_locally
from moretta.server.aggregation.checked_strategy import CheckedStrategy
from moretta.server.stages import public_start
from moretta.server.stages.run import Run, RunContext
from moretta.server.stages.state import RESUME_FILE, load_progress, save_state
from moretta.server.study import CENTRAL_STAGES, SITE_STAGES, run_stages
from moretta.shared.audit.public_people import public_sets
from moretta.shared.core.errors import MorettaError, ReleaseError, StudyError
from moretta.shared.data.reader import read_corpus
from moretta.shared.release.anonymizer import prepare_public
from moretta.shared.study.schema import Study, parse_study
from tests.conftest import write_tone_corpus

SITES = range(1001, 1007)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Six people of sites, and eight public ones whose ids come after theirs."""
    root = tmp_path_factory.mktemp("people")
    corpus = write_tone_corpus(root / "corpus", speakers=14, sentences=("IEO",))
    public = shutil.copytree(corpus, root / "public")
    for folder, own in ((corpus, True), (public, False)):
        for path in (folder / "AudioWAV").iterdir():
            if (int(path.name[:4]) in SITES) != own:
                path.unlink()
    return corpus, public


@pytest.fixture
def study(folders: tuple[Path, Path]) -> Callable[..., Study]:
    content = {
        "sites": 3,
        "voice": {"anonymizer": "none", "form": "mfcc"},
        "face": {"enabled": False},
        "train": {"rounds": 2, "public": folders[1]},
        "split": {"folds": 3},
        "audit": {"enabled": False},
    }
    return lambda **changes: parse_study(content).with_changes(**changes)


def _run(corpus: Path, folder: Path, study: Study) -> Run:
    plan = plan_simulation(read_corpus(corpus), study, "moretta simulate")
    plan.save(folder)
    run = Run(RunContext(folder, plan))
    connect_locally(run, len(plan.sites))
    return run


def _until(run: Run, stage: str) -> Run:
    names = [stage.name for stage in SITE_STAGES]
    run_stages(run, SITE_STAGES[: names.index(stage) + 1], after_each=lambda r: save_state(r, RESUME_FILE))
    return run


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict[str, Any]]]:
    """Number of the round and weights, before each round of training."""
    found: list[tuple[int, dict[str, Any]]] = []
    original = CheckedStrategy.round

    def watched(self: CheckedStrategy, number: int, weights: Any) -> Any:
        found.append((number, dict(weights)))
        return original(self, number, weights)

    monkeypatch.setattr(CheckedStrategy, "round", watched)
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"aggregation__dp": "central", "privacy__dp_sgd": False},
        {"aggregation__secure": True},
        {"voice__model": "crnn", "train__optimizer": "adam", "train__learning_rate": 0.002, "train__rounds": 1},
    ],
    ids=["dp-sgd", "central", "secure", "crnn"],
)
def test_the_first_round_starts_from_public_people_and_the_report_says_so(
    folders: tuple[Path, Path], study: Any, tmp_path: Path, sent: list[Any], changes: dict[str, Any]
) -> None:
    run = _until(_run(folders[0], tmp_path / "run", study(**changes)), "evaluate")
    again = _until(_run(folders[0], tmp_path / "again", study(**changes)), public_start.STAGE)
    learned = load_file(run.context.public_start("voice"))
    assert {n: a.tobytes() for n, a in learned.items()} == {
        n: a.tobytes() for n, a in load_file(again.context.public_start("voice")).items()
    }
    assert sent[0][0] == 1
    assert all(np.array_equal(sent[0][1][name], learned[name]) for name in learned)
    run_stages(run, CENTRAL_STAGES[-1:])
    report = json.loads((run.context.folder / "report.json").read_text("utf-8"))
    start = report["emotion_public"]["voice"]
    assert (start["people"], start["clips"]) == (8, 48)
    assert start["result"]["speakers"] == report["emotion"]["voice"]["speakers"] == 2
    page = (run.context.folder / "report.html").read_text("utf-8")
    assert "48 clips of 8 public people" in page
    # Sites get the report: they know the study by its digest, and learn no path of the server
    assert parse_study(report["run"]["study"]).digest() == run.context.study.digest()
    assert report["run"]["study"]["train"]["public"] == folders[1].name
    assert str(folders[1].parent) not in page + json.dumps(report)


def test_public_people_cost_no_epsilon_and_the_sites_see_no_other_study(
    folders: tuple[Path, Path], study: Any, tmp_path: Path
) -> None:
    spent = []
    for name, asked in (("with", study()), ("without", study().model_copy(update={"train": _plain(study())}))):
        run = _until(_run(folders[0], tmp_path / name, asked), "train voice")
        spent.append({site: each.epsilon for site, each in run.training.spent.items()})
        assert bool(run.training.public_start) == (name == "with")
        assert asked.digest() == study().digest()
        assert str(folders[1]) not in str(asked.for_sites())
    assert spent[0] == spent[1]
    assert study().paths == {"train.public": folders[1]}


def _plain(study: Study) -> Any:
    return study.train.model_copy(update={"public": None})


def test_a_run_that_goes_on_trains_on_public_people_no_second_time(
    folders: tuple[Path, Path], study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list[Any]
) -> None:
    run = _until(_run(folders[0], tmp_path / "run", study()), "release")
    saved = load_progress(run.context.folder)
    assert saved is not None
    connect_locally(saved, 3)
    monkeypatch.setattr("moretta.server.study.train_on_public", lambda *_: pytest.fail("trained again"))
    _until(saved, "evaluate")
    assert saved.training.public_start["voice"].people == 8
    learned = load_file(saved.context.public_start("voice"))
    assert all(np.array_equal(sent[0][1][name], learned[name]) for name in learned)


def test_public_clips_that_cannot_be_used_are_counted_and_no_class_may_be_lost_with_them(
    folders: tuple[Path, Path], study: Any, tmp_path: Path
) -> None:
    public = shutil.copytree(folders[1], tmp_path / "public")
    for path in (public / "AudioWAV").glob("1007_*_FEA_*"):
        path.write_bytes(b"RIFF" + 500 * b"x")
    context = _run(folders[0], tmp_path / "run", study(train__public=public)).context
    starts = public_start.train_on_public(context, prepare_public(study()))
    assert starts["voice"].clips == 47
    assert context.progress.warnings == ["public people of [train]: 1 of 48 clips with voice cannot be used"]
    for path in (public / "AudioWAV").glob("*_FEA_*"):
        path.write_bytes(b"RIFF" + 500 * b"x")
    with pytest.raises(StudyError, match="no public clip of FEA with voice can be used"):
        public_start.train_on_public(context, prepare_public(study()))


def test_empty_files_are_no_recordings_that_two_people_share(
    folders: tuple[Path, Path], study: Any, tmp_path: Path
) -> None:
    corpus, public = (shutil.copytree(folder, tmp_path / folder.name) for folder in folders)
    for folder in (corpus, public):
        sorted((folder / "AudioWAV").iterdir())[0].write_bytes(b"")
    assert plan_simulation(read_corpus(corpus), study(train__public=public), "moretta simulate")


def test_a_run_without_the_weights_of_public_people_does_not_go_on_from_the_seed(
    folders: tuple[Path, Path], study: Any, tmp_path: Path
) -> None:
    run = _until(_run(folders[0], tmp_path / "run", study()), public_start.STAGE)
    run.context.public_start("voice").unlink()
    with pytest.raises(ReleaseError, match="a whole voice-public"):
        load_progress(run.context.folder)


def test_a_public_model_that_diverged_ends_the_run_before_sites_release(
    folders: tuple[Path, Path], study: Any, tmp_path: Path
) -> None:
    run = _run(folders[0], tmp_path / "run", study(voice__model="cnn", train__learning_rate=300.0))
    with pytest.raises(StudyError, match="public people did not converge") as refused:
        _until(run, "release")
    assert "learning_rate" in refused.value.message
    assert not run.releases.kept and not run.context.public_start("voice").exists()


def _renamed(public: Path, corpus: Path) -> None:
    """One person of the study under another id."""
    for path in (corpus / "AudioWAV").glob("1001_*"):
        shutil.copy(path, public / "AudioWAV" / path.name.replace("1001", "1099"))


def _same(public: Path, corpus: Path) -> None:
    for path in (corpus / "AudioWAV").glob("1002_*"):
        shutil.copy(path, public / "AudioWAV")


def _few(public: Path, _: Path) -> None:
    for path in (public / "AudioWAV").glob("1014_*"):
        path.unlink()


def _no_fear(public: Path, _: Path) -> None:
    for path in (public / "AudioWAV").glob("*_FEA_*"):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda public, _: shutil.rmtree(public), "no folder"),
        (_few, "7 public people with sound in .*; expected at least 8"),
        (_no_fear, "no public clip of FEA with sound"),
        (_same, "1 people in both the study and the public people of .*: 1002"),
        (_renamed, r"6 recordings of the study among the public people .*: 1099_IEO_\w+_XX.wav is 1001_IEO_"),
    ],
    ids=["absent", "few", "no class", "same ids", "other ids"],
)
def test_public_people_that_cannot_be_used_are_refused_before_anything_is_released(
    folders: tuple[Path, Path], study: Any, tmp_path: Path, spoil: Any, said: str
) -> None:
    public = shutil.copytree(folders[1], tmp_path / "public")
    spoil(public, folders[0])
    with pytest.raises(MorettaError, match=said) as refused:
        plan_simulation(read_corpus(folders[0]), study(train__public=public), "moretta simulate")
    assert "[train]" in refused.value.message or "no folder" in refused.value.message


def test_attackers_do_not_learn_from_the_study_s_people_under_other_ids(
    folders: tuple[Path, Path], study: Any, tmp_path: Path
) -> None:
    public = shutil.copytree(folders[1], tmp_path / "public")
    _renamed(public, folders[0])
    asked = study(audit__public=public)
    with pytest.raises(StudyError, match="6 recordings of the study among the public people"):
        plan_simulation(read_corpus(folders[0]), asked, "moretta simulate")
    with pytest.raises(StudyError, match="6 recordings of the study among the public people"):
        public_sets(asked, prepare_public(asked), read_corpus(folders[0]))


def test_voices_alone_start_no_model_of_faces(folders: tuple[Path, Path], study: Any, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="0 public people with pictures"):
        public_start.public_corpus(study(voice__enabled=False, face__enabled=True), "train")
    run = _run(folders[0], tmp_path / "run", study())
    both = run.context.plan.model_copy(update={"study": study(face__enabled=True, face__anonymizer="none")})
    context = RunContext(run.context.folder, both)
    starts = public_start.train_on_public(context, prepare_public(study()))
    assert list(starts) == ["voice"]
    assert context.progress.warnings == ["the face model starts from the seed: no public person of [train] has face"]
