"""Habits of command lines: short options, suggestions, quiet; and study files that explain themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer

from moretta.deploy.cli.console import be_loud
from moretta.deploy.cli.main import app, run
from moretta.deploy.runtime.study_file import starting_study, study_json_schema
from moretta.shared.core.errors import ExitCode
from moretta.shared.release.anonymizer import anonymizer_names
from moretta.shared.study.schema import Study, load_study, parse_study

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture
def reported(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: Any) -> tuple[int, str, str]:
        code = run([str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield call
    be_loud()


def _commands(group: Any) -> Any:
    for command in group.commands.values():
        if hasattr(command, "commands"):
            yield from _commands(command)
        else:
            yield command


def test_every_command_has_the_short_options() -> None:
    for command in _commands(typer.main.get_command(app)):
        options = [option for parameter in command.params for option in parameter.opts]
        assert {"-v", "--verbose", "-q", "--quiet"} <= set(options), command.name
        assert ("--out" in options) == ("-o" in options), command.name
        assert len(options) == len(set(options)), command.name


def test_help_version_and_suggestions(reported: Any) -> None:
    assert reported("-h")[1] == reported("--help")[1] != ""
    assert reported("study", "show", "-h")[0] == ExitCode.OK
    assert reported("--version")[1] == reported("version")[1] != ""
    for line, meant in ((("simulte",), "'simulate'"), (("site", "pendign"), "'pending'"), (("study", "rum"), "'run'")):
        code, _, err = reported(*line)
        assert code == ExitCode.USAGE
        assert err.casefold().count("did you mean") == 1 and meant in err
    assert "--sites" in reported("simulate", "--sitez", "3")[2]


@pytest.mark.parametrize("where", ["before", "after"])
def test_quiet_leaves_results_and_errors_and_no_notes(reported: Any, tmp_path: Path, where: str) -> None:
    first, last = (["-q"], []) if where == "before" else ([], ["-q"])
    made = ["corpus", "synth", tmp_path / "quiet", "--speakers", "1", "--clips", "1", "--no-video"]
    code, out, err = reported(*first, *made, *last)
    assert code == ExitCode.OK and "1 clips of 1 speakers" in out and not err
    code, _, err = reported(*first, "audit", tmp_path / "absent", "-o", tmp_path / "a", *last)
    assert code == ExitCode.RELEASE and err.count("\n") == 1 and "no folder" in err
    assert "Making clips: 1/1" in reported(*made[:2], tmp_path / "loud", *made[3:])[2]


def test_a_shell_can_complete_commands_and_options() -> None:
    environment = {**os.environ, "_MORETTA_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
    for words, wanted in (("moretta study val", "validate"), ("moretta simulate --ro", "--rounds")):
        code = "import sys; sys.argv[0] = 'moretta'; from moretta.deploy.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "COMP_WORDS": words},
            capture_output=True,
            text=True,
            check=False,
        )
        assert wanted in done.stdout.split()


PROBLEMS = """
sitez = 3
epsilon = 2
[train]
round = 2
strategy = "FedMagic"
[privacy]
unit = "group"
[aggregation]
secure = true
[audit]
attackers = ["voice-magic"]
"""


def test_validate_prints_every_problem_of_a_study_at_once(reported: Any, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(PROBLEMS, encoding="utf-8")
    code, out, _ = reported("study", "validate", path, "--json")
    problems = json.loads(out)["problems"]
    assert code == ExitCode.STUDY and json.loads(out)["digest"] is None
    for part in ("did you mean sites?", "did you mean privacy.epsilon", "did you mean train.rounds?", "privacy.unit"):
        assert sum(part in problem for problem in problems) == 1, part
    assert any("hides the updates that audit.updates attacks" in problem for problem in problems)
    path.write_text(PROBLEMS.replace("secure = true", ""), encoding="utf-8")
    code, _, err = reported("study", "validate", path)
    assert code == ExitCode.STUDY and "FedMagic" in err and "voice-magic" in err and "train.rounds?" in err
    path.write_text("sites = 3\n", encoding="utf-8")
    assert reported("study", "validate", path)[1].split()[-1] == Study(sites=3).digest()
    assert reported("study", "validate", path, "--set", "sites=0")[0] == ExitCode.STUDY


@pytest.mark.parametrize("text", [f"a = {'[' * 5000}{']' * 5000}", ".".join("a" * 5000) + " = 1"])
def test_a_study_that_is_nested_too_deeply_is_one_sentence(reported: Any, tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text, encoding="utf-8")
    code, _, err = reported("study", "validate", path)
    assert code == ExitCode.STUDY and "nested too deeply" in err and err.count("\n") == 1


def test_an_unknown_anonymizer_is_never_answered_with_none(reported: Any) -> None:
    code, _, err = reported("study", "show", "--set", "voice.anonymizer=nope")
    assert code == ExitCode.STUDY and "did you mean" not in err and "mcadams, " in err
    assert "did you mean mcadams?" in reported("study", "show", "--set", "voice.anonymizer=macadams")[2]


def test_a_setting_without_a_value_is_explained_by_one_value(reported: Any) -> None:
    code, _, err = reported("study", "show", "--set", "foo")
    assert code == ExitCode.STUDY and "such as privacy.epsilon=4;" in err and "study.md" in err


def test_init_names_a_folder_in_which_no_file_can_be_made(reported: Any) -> None:
    code, _, err = reported("study", "init", "/proc/study.toml")
    assert code == ExitCode.STORAGE and "no file can be made in /proc;" in err


def test_export_of_a_report_alone_asks_for_the_folder_of_the_run(
    reported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moretta.deploy.model.export_model.load_report", lambda folder: None)
    code, _, err = reported("export", tmp_path, "--out", tmp_path / "model")
    assert code == ExitCode.STUDY and "no plan.json" in err and "name that folder" in err


def test_init_writes_a_study_that_changes_nothing_and_explains_every_key(reported: Any, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    assert reported("study", "init", path)[0] == ExitCode.OK
    assert load_study(path) == Study()
    code, _, err = reported("study", "init", path)
    assert code == ExitCode.STUDY and "there already" in err
    uncommented = [
        line.removeprefix("# ")
        for line in path.read_text("utf-8").splitlines()
        if line.startswith("[") or (line.startswith("# ") and " = " in line and "`" not in line)
    ]
    assert parse_study(tomllib.loads("\n".join(uncommented))) == Study()
    text = starting_study(path)
    for modality in ("voice", "face"):
        for key in getattr(Study(), modality).options.model_dump():
            assert f"# {key} " in text


def test_show_prints_the_effective_study_and_what_set_changes(reported: Any, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text("[train]\nrounds = 3\n", encoding="utf-8")
    _, out, _ = reported("study", "show", path, "--set", "privacy.epsilon=2", "--set", "voice.anonymizer=mcadams")
    found = parse_study(tomllib.loads(out))
    assert (found.train.rounds, found.privacy.epsilon, found.voice.anonymizer) == (3, 2.0, "mcadams")
    assert out.startswith(f"# digest {found.digest()}")
    assert reported("study", "show", path, "--set", "train.round=2")[0] == ExitCode.STUDY


def test_set_is_taken_wherever_a_study_is_read() -> None:
    reading = {
        command.name
        for command in _commands(typer.main.get_command(app))
        if any(parameter.name == "study" and parameter.name != "folder" for parameter in command.params)
    }
    with_set = {
        command.name
        for command in _commands(typer.main.get_command(app))
        if any("--set" in parameter.opts for parameter in command.params)
    }
    reading -= {"withdraw", "report"}  # digests
    assert reading == with_set >= {"simulate", "anonymize", "budget", "run", "review", "choose", "zoo", "sweep"}


def test_editors_can_check_study_files_by_their_schema(reported: Any) -> None:
    schema = json.loads(reported("study", "schema")[1])
    assert json.dumps(schema, indent=1) + "\n" == study_json_schema()
    check = jsonschema.Draft202012Validator(schema)
    check.check_schema(schema)
    good = [{}, json.loads(Study().model_dump_json(exclude_none=True))]
    for modality in ("voice", "face"):
        for name in anonymizer_names(modality):
            study = parse_study({modality: {"anonymizer": name}})
            good.append(json.loads(study.model_dump_json(exclude_none=True)))
    for content in good:
        assert not list(check.iter_errors(content))
    bad = [
        {"sitez": 1},
        {"sites": 0},
        {"voice": {"anonymizer": "magic"}},
        {"voice": {"options": {"epsilom": 1}}},
        {"voice": {"anonymizer": "speaker-normalized", "options": {"epsilon": 1.0}}},
        {"train": {"rounds": "many"}},
    ]
    for content in bad:
        assert list(check.iter_errors(content)), content
    assert "fails" in schema["$defs"]["TrainSection"]["properties"]["min_sites"]["description"]
