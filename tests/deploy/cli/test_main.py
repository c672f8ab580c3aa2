from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from moretta.deploy.cli.main import app, run
from moretta.shared.core.errors import ExitCode

VOICE = "[face]\nenabled = false\n[split]\nfolds = 2\n"


def commands(group: Any, *path: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *path, name)
        else:
            yield (*path, name)


ALL = list(commands(typer.main.get_command(app)))


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def reported(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line; returns code, stdout and stderr."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        code = run([str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(VOICE + "[audit]\nenabled = false\n", encoding="utf-8")
    return path


def test_the_commands_that_were_promised_are_there() -> None:
    promised = {("simulate",), ("anonymize",), ("audit",), ("train-face",), ("version",)}
    assert promised | {("corpus", "check"), ("corpus", "synth"), ("attackers", "fetch"), ("report", "show")} <= set(ALL)


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_has_help_with_an_example(reported: Any, path: tuple[str, ...]) -> None:
    code, out, _ = reported(*path, "--help")
    assert code == ExitCode.OK
    assert "Example" in out
    assert f"moretta {' '.join(path)}" in " ".join(out.split())


def test_help_of_the_whole_names_every_command(reported: Any) -> None:
    code, out, _ = reported("--help")
    assert code == ExitCode.OK
    for path in ALL:
        assert path[0] in out


@pytest.mark.parametrize(
    "line",
    [
        ("simulte",),
        ("simulate", "--sitez", "3"),
        ("simulate", "--sites", "0"),
        ("simulate", "--sites", "many"),
        ("report",),
    ],
    ids=" ".join,
)
def test_an_unknown_command_option_or_value_is_a_usage_error(reported: Any, line: tuple[str, ...]) -> None:
    code, _, err = reported(*line)
    assert code == ExitCode.USAGE
    assert "Usage" in err


def _speakers(corpus: Path, keep: int) -> Path:
    for path in (corpus / "AudioWAV").iterdir():
        if int(path.name[:4]) > 1000 + keep:
            path.unlink()
    return corpus


def test_a_study_file_with_problems_names_them_all(reported: Any, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text("sites = 0\ncolour = 1\n", encoding="utf-8")
    code, _, err = reported("simulate", "--study", path, "--out", tmp_path / "out")
    assert code == ExitCode.STUDY
    for part in ("sites", "colour", "(got 0)", "expected", "to fix it"):
        assert part in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("by", ["option", "study"])
def test_absent_device_is_bad_input_before_anything_is_made(
    reported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    path = tmp_path / "s.toml"
    path.write_text('[run]\ndevice = "cuda"\n' if by == "study" else "", encoding="utf-8")
    more = ("--device", "cuda") if by == "option" else ()
    code, _, err = reported("simulate", "--study", path, "--out", tmp_path / "out", *more)
    assert code == ExitCode.STUDY
    assert "the device cuda, but" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[voice]\nanonymizer = "magic"', "mfcc-quantizer"),
        ('[voice]\nmodel = "huge"', "statistics"),
        ('[train]\nstrategy = "FedMagic"', "FedAvg"),
        ("[train]\nstrategy_options = { magic = 1 }", "options that Flower's FedAvg takes"),
        ('[audit]\nattackers = ["voice-magic"]', "voice-logistic"),
    ],
)
def test_a_name_that_does_not_exist_is_reported_before_anything_is_made(
    reported: Any, tmp_path: Path, content: str, expected: str
) -> None:
    path = tmp_path / "s.toml"
    path.write_text(content, encoding="utf-8")
    for command in (("simulate",), ("anonymize", "--corpus", tmp_path)):
        code, _, err = reported(*command, "--study", path, "--out", tmp_path / "out")
        assert code == ExitCode.STUDY
        assert expected in err
        assert not (tmp_path / "out").exists()


def test_a_missing_folder_an_empty_one_and_wrong_names_are_corpus_errors(
    reported: Any, tmp_path: Path, study: Path
) -> None:
    empty, layout, wrong = tmp_path / "empty", tmp_path / "layout", tmp_path / "wrong"
    empty.mkdir()
    (layout / "AudioWAV").mkdir(parents=True)
    (wrong / "AudioWAV").mkdir(parents=True)
    (wrong / "AudioWAV" / "holiday.wav").write_bytes(b"x")
    (wrong / "AudioWAV" / "1001_IEO_JOY_XX.wav").write_bytes(b"x")
    cases = {
        tmp_path / "missing": "no folder",
        empty: "no corpus that Moretta knows",
        layout: "no usable clip",
        wrong: "2 bad-name",
    }
    for folder, found in cases.items():
        for command in ("simulate", "anonymize"):
            code, _, err = reported(command, "--corpus", folder, "--study", study, "--out", tmp_path / f"out-{command}")
            assert code == ExitCode.CORPUS, folder
            assert found in err
            assert "expected" in err
            shutil.rmtree(tmp_path / f"out-{command}", ignore_errors=True)


def test_a_table_that_cannot_be_decoded_is_an_error_that_says_where(
    reported: Any, tiny_corpus: Path, study: Path, tmp_path: Path
) -> None:
    (tiny_corpus / "VideoDemographics.csv").write_bytes("ActorID,Age,Sex\n".encode("utf-16")[:-1])
    code, _, err = reported("simulate", "--corpus", tiny_corpus, "--study", study, "--out", tmp_path / "out")
    assert code == ExitCode.CORPUS
    assert "VideoDemographics.csv" in err and "utf-16" in err and "export it again" in err


def test_more_sites_than_speakers_is_a_study_error(
    reported: Any, tiny_corpus: Path, study: Path, tmp_path: Path
) -> None:
    code, _, err = reported(
        "simulate", "--corpus", tiny_corpus, "--study", study, "--sites", 5, "--out", tmp_path / "out"
    )
    assert code == ExitCode.STUDY
    assert (
        "5 sites over 4 speakers; expected at least one speaker at each site; to fix it: set sites to at most 4" in err
    )


def test_one_speaker_only_is_a_study_error(reported: Any, tiny_corpus: Path, study: Path, tmp_path: Path) -> None:
    corpus = _speakers(tiny_corpus, 1)
    code, _, err = reported("simulate", "--corpus", corpus, "--study", study, "--sites", 1, "--out", tmp_path / "out")
    assert code == ExitCode.STUDY
    assert "a corpus of 1 speaker; expected at least 2" in err
    assert "to fix it" in err


def test_one_emotion_only_is_a_study_error(reported: Any, tiny_corpus: Path, study: Path, tmp_path: Path) -> None:
    for path in (tiny_corpus / "AudioWAV").iterdir():
        if "_SAD_" not in path.name:
            path.unlink()
    code, _, err = reported(
        "simulate", "--corpus", tiny_corpus, "--study", study, "--sites", 2, "--out", tmp_path / "out"
    )
    assert code == ExitCode.STUDY
    assert "a corpus of one emotion (SAD); expected at least 2" in err


@pytest.mark.parametrize("command", ["simulate", "anonymize"])
def test_a_folder_that_is_not_empty_is_left_as_it_is(
    reported: Any, tiny_corpus: Path, study: Path, tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    code, _, err = reported(command, "--corpus", tiny_corpus, "--study", study, "--out", out)
    assert code == ExitCode.STUDY
    assert "is not an empty folder" in err
    assert "choose another --out" in err
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]


def test_a_corpus_without_what_the_study_needs_is_reported(reported: Any, tiny_corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "faces.toml"
    path.write_text("[voice]\nenabled = false\n", encoding="utf-8")
    for command in ("simulate", "anonymize"):
        code, _, err = reported(command, "--corpus", tiny_corpus, "--study", path, "--out", tmp_path / command)
        assert code == ExitCode.STUDY
        assert "no clip of the corpus has video" in err


@pytest.mark.parametrize(
    "voice",
    [
        'anonymizer = "speaker-normalized"\n[voice.options]\ncode_training = "federated"',
        'anonymizer = "emotion-label-rr"\n[voice.options]\nlabels_from = "federated"',
    ],
)
def test_a_site_alone_releases_nothing_that_sites_would_have_to_learn_together(
    reported: Any, tiny_corpus: Path, tmp_path: Path, voice: str
) -> None:
    path = tmp_path / "together.toml"
    path.write_text(f"[face]\nenabled = false\n[voice]\n{voice}\n", encoding="utf-8")
    code, _, err = reported("anonymize", "--corpus", tiny_corpus, "--study", path, "--out", tmp_path / "out")
    assert code == ExitCode.STUDY
    assert "sites learn together" in err and "moretta simulate" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (("simulate", "--study", "absent.toml", "--json"), ExitCode.STUDY),
        (("anonymize", "--corpus", "absent", "--out", "o", "--json"), ExitCode.CORPUS),
        (("corpus", "check", "absent", "--json"), ExitCode.CORPUS),
        (("report", "absent", "--json"), ExitCode.RELEASE),
        (("audit", "absent", "--json"), None),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_with_json_errors_are_json(
    reported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: Any, code: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    found, out, err = reported(*line)
    content = json.loads(out)
    assert content["exit_code"] == found
    assert content["error"] in err
    assert found == code or (code is None and found not in (ExitCode.OK, ExitCode.INTERNAL))


def test_ctrl_c_has_its_own_code(reported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("moretta.deploy.cli.main.app", interrupted)
    code, _, err = reported("simulate")
    assert code == ExitCode.INTERRUPTED == 130
    assert "Ctrl-C" in err


def test_ctrl_c_inside_a_command_is_reported_in_a_sentence(reported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("moretta.shared.core.reproducibility.versions", stop)
    code, _, err = reported("version")
    assert code == ExitCode.INTERRUPTED and err.strip() == "moretta: ended by Ctrl-C"


@pytest.mark.parametrize("keys", ["n\n", "", KeyboardInterrupt])
def test_a_prompt_without_a_yes_ends_in_a_sentence_that_fits(
    reported: Any, monkeypatch: pytest.MonkeyPatch, keys: str | type[BaseException]
) -> None:
    def typed(_: str) -> str:
        if not isinstance(keys, str):
            raise keys
        if not keys:
            raise EOFError
        return keys.strip()

    monkeypatch.setattr("click.termui.visible_prompt_func", typed)
    monkeypatch.setattr("moretta.shared.core.reproducibility.versions", lambda: typer.confirm("Go on?", abort=True))
    code, _, err = reported("version")
    assert code == ExitCode.INTERRUPTED
    assert (
        err.strip()
        .splitlines()[-1]
        .startswith(
            "moretta: not confirmed, so nothing was done" if isinstance(keys, str) else "moretta: ended by Ctrl-C"
        )
    )


@pytest.mark.parametrize("module", ["attackers.base", "utility.evaluators"])
def test_what_a_study_may_name_is_known_without_torch(module: str) -> None:
    of = "attacker" if module == "attackers.base" else "evaluator"
    code = f"from moretta.shared.audit.{module} import {of}_names; import sys; assert {of}_names()"
    subprocess.run([sys.executable, "-c", f"{code} and not {{'torch', 'sklearn'}} & set(sys.modules)"], check=True)


@pytest.mark.parametrize("command", [["--help"], ["site", "status", "--local"]])
def test_what_is_looked_at_often_loads_nothing_heavy(command: list[str], tmp_path: Path) -> None:
    loaded = f"""
import sys
from moretta.deploy.cli.main import run
assert run({command}) == {0 if command == ["--help"] else int(ExitCode.HOME)}
assert not {{"numpy", "torch", "flwr", "grpc", "asyncio"}} & set(sys.modules), sorted(sys.modules)
"""
    environment = {**os.environ, "MORETTA_SITE": str(tmp_path)}
    subprocess.run([sys.executable, "-c", loaded], check=True, env=environment, stdout=subprocess.DEVNULL)
