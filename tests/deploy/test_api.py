"""`import moretta`: the names, their types and what they give."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import moretta
from moretta.deploy.runtime import audit_folder
from moretta.deploy.runtime.audit_sets import Audited

ROOT = Path(moretta.__file__).resolve()


def test_every_name_that_is_exported_is_there_and_typed() -> None:
    typed = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(ROOT.read_text("utf-8")))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for found in node.body
        if isinstance(found, ast.ImportFrom)
        for alias in found.names
    }
    assert typed | {"__version__"} == set(moretta.__all__) == set(dir(moretta))
    assert sorted(moretta.__all__) == list(moretta.__all__)
    for name in moretta.__all__:
        assert getattr(moretta, name) is not None
    with pytest.raises(AttributeError, match="load_corpus"):
        _ = moretta.load_corpsu  # type: ignore[attr-defined]


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import moretta, sys; assert not {'torch', 'flwr', 'sklearn', 'cv2'} & set(sys.modules); moretta.__version__"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_corpus_and_a_budget_are_records(tiny_corpus: Path) -> None:
    rows = moretta.records(moretta.load_corpus(tiny_corpus, classes=("ANG", "SAD")))
    assert len(rows) == 16 and {row["label"] for row in rows} == {"ANG", "SAD"}
    assert {row["speaker"] for row in rows} == {"1001", "1002", "1003", "1004"} and rows[0]["video"] is None
    planned = moretta.budget({"face": {"enabled": False}}, clips=100, speakers=10)
    assert {(row["what"], row["unit"]) for row in planned} >= {("release", "clip"), ("training", "speaker")}
    assert all(row.keys() == planned[0].keys() for row in planned)
    with pytest.raises(moretta.MorettaError, match="2 clips of 3 speakers"):
        moretta.budget(clips=2, speakers=3)


def test_an_audit_takes_parallel_speech_and_sentences_as_the_command_does(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    def attacked(_: Path, **how: Any) -> Audited:
        given.append(how)
        return Audited(("voice",), 0)

    monkeypatch.setattr(audit_folder, "audit_folder", attacked)
    moretta.audit(tiny_corpus)
    moretta.audit(tiny_corpus, parallel=str(tiny_corpus), sentences={"S1": "a text of my own"})
    assert [(how["parallel"], how["sentences"]) for how in given] == [
        (None, None),
        (tiny_corpus, {"S1": "a text of my own"}),
    ]
    wrong: list[Any] = [{"no code": "text"}, ["text"], "text", {"S1": 3}]
    for sentences in wrong:
        with pytest.raises(moretta.MorettaError, match="sentences"):
            moretta.audit(tiny_corpus, sentences=sentences)


def test_a_study_is_checked_from_content_and_file(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text('classes = ["calm", "bored"]\n', "utf-8")
    assert moretta.load_study(path) == moretta.load_study({"classes": ["calm", "bored"]})
    with pytest.raises(moretta.MorettaError, match="classes"):
        moretta.load_study({"classes": ["calm", "Calm"]})
