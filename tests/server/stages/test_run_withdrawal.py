"""A coordinator removes a person who has withdrawn from a run, on a site's notice."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from moretta.deploy.cli.study import app
from moretta.server.stages import run_withdrawal
from moretta.server.stages.lifecycle import only_attempt
from moretta.server.stages.run_withdrawal import forget_person
from moretta.shared.audit.report.report_file import load_report, write_report
from moretta.shared.audit.score_files import SCORES_FILE
from moretta.shared.core.errors import ReleaseError, RunError
from moretta.shared.core.labels import Emotion
from moretta.shared.data.corpora.cremad import Level
from moretta.shared.release import AnonymizerStatement, Release, ReleasedClip, ReleaseWriter, open_release

SITE, PERSON, OTHER = "clinic-a", "a" * 16, "b" * 16


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with one release of two people, three clips each, and what is made of it."""
    writer = ReleaseWriter(tmp_path / "server" / "releases" / SITE, forms={"voice": "waveform"})
    for number in range(6):
        clip = ReleasedClip(
            clip=f"{number:016x}",
            speaker=(PERSON, OTHER)[number % 2],
            emotion=Emotion.ANG,
            sentence="IEO",
            level=Level.XX,
        )
        writer.add(clip, {"voice": np.full(400, number / 10, np.float32)})
    statement = AnonymizerStatement(
        modality="voice", name="none", version="1", form="waveform", parameters={}, noise="none"
    )
    writer.finish(site=SITE, study="s", anonymizers=(statement,))
    for path in (
        "updates/voice/clinic-a",
        "updates/voice/clinic-b",
        "checkpoints/voice",
        "embeddings/one",
        "attacks/one",
    ):
        (tmp_path / "server" / path).parent.mkdir(parents=True, exist_ok=True)
        save_file({"a": np.zeros(1, np.float32)}, tmp_path / "server" / f"{path}.safetensors")
    (tmp_path / "server" / "state.json").write_text(json.dumps({"progress": {"warnings": ["an older one"]}}))
    return tmp_path


def release(run: Path) -> Release:
    return open_release(run / "server" / "releases" / SITE)


def test_no_array_of_the_person_is_left_and_the_others_are_whole(run: Path) -> None:
    done = forget_person(run, SITE, PERSON)
    assert (done.clips, done.models, done.models_removed, done.report) == (3, ("voice",), False, False)
    left = release(run)
    assert (left.statement.clips, left.statement.speakers) == (3, 1)
    assert {clip.speaker: float(array[0]) for clip, array in left.arrays("voice")}.keys() == {OTHER}
    assert not left.damaged
    content = b"".join(path.read_bytes() for path in left.folder.iterdir())
    assert PERSON.encode() not in content
    assert np.full(400, 0.2, np.float32).tobytes() not in content
    assert np.full(400, 0.3, np.float32).tobytes() in content


def test_what_was_made_of_single_clips_goes_and_models_stay_marked_unless_requested(run: Path) -> None:
    (run / SCORES_FILE).write_bytes(b"scores of the person's clips among others")
    forget_person(run, SITE, PERSON)
    assert not (run / SCORES_FILE).exists()
    kept = {path.relative_to(run / "server").as_posix() for path in (run / "server").glob("[ucea]*/**/*.safetensors")}
    assert kept == {"updates/voice/clinic-b.safetensors", "checkpoints/voice.safetensors"}
    warnings = json.loads((run / "server" / "state.json").read_text())["progress"]["warnings"]
    assert warnings[0] == "an older one"
    assert "3 released clips were removed" in warnings[1]
    assert forget_person(run, SITE, PERSON, models=True).models_removed
    assert not list((run / "server" / "checkpoints").iterdir())
    assert len(json.loads((run / "server" / "state.json").read_text())["progress"]["warnings"]) == 2


def test_a_command_that_was_killed_half_way_is_ended_by_the_next(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_withdrawal, "_without", killed)
    with pytest.raises(KeyboardInterrupt):
        forget_person(run, SITE, PERSON)
    monkeypatch.undo()
    assert forget_person(run, SITE, PERSON).clips == 3
    content = b"".join(path.read_bytes() for path in release(run).folder.iterdir())
    assert np.full(400, 0.2, np.float32).tobytes() not in content


def test_a_pseudonym_that_is_not_there_and_a_run_at_work_are_refused(run: Path) -> None:
    with pytest.raises(ReleaseError, match="no released clip"):
        forget_person(run, SITE, "c" * 16)
    with pytest.raises(ReleaseError):
        forget_person(run, "clinic-z", PERSON)
    with only_attempt(run, 1), pytest.raises(RunError, match="at work"):
        forget_person(run, SITE, PERSON)
    assert release(run).statement.clips == 6


def test_the_command_prompts_first_and_states_what_is_left(run: Path) -> None:
    arguments = ["withdraw", str(run), "--site", SITE, "--speaker", PERSON]
    assert CliRunner().invoke(app, arguments, input="n\n").exit_code == 1
    assert release(run).statement.clips == 6
    reported = CliRunner().invoke(app, [*arguments, "--yes"])
    assert reported.exit_code == 0, reported.output
    assert "3 released clips are removed; there is no report" in reported.stdout
    assert "The models voice are still there" in reported.stdout


def test_the_report_says_first_that_it_is_older_than_the_deletion(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "shared" / "audit" / "report"))
    example = importlib.import_module("example")
    write_report(example.report(), run)
    assert forget_person(run, SITE, PERSON).report
    assert "clinic-a reported that a person has withdrawn" in load_report(run).run.warnings[0]
    assert "3 released clips were removed" in (run / "report.html").read_text("utf-8")
