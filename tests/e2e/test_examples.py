"""The examples run, on small corpora: one of them a manifest with other labels and speakers than CREMA-D's."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

EXAMPLES = Path(__file__).parents[2] / "examples"
CLASSES = ("calm", "bored", "overjoyed")
SPEAKERS = {"Zoë (3)": "north", "P-07/b": "north", "anna": "south", "1001": "south"}
STUDY = """
[voice.options]
codebook_size = 16
[face]
enabled = false
[train]
rounds = 1
[audit]
attackers = ["voice-logistic", "voice-wccn", "voice-given-emotion"]
bootstrap = 0
inference = false
"""


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def own_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people at two sites who say two sentences under three labels, twice: tones that differ by both."""
    root, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(3)
    time = np.arange(9_600) / 16_000
    rows = ["audio,speaker,label,sentence,sex,age,site,split,mood of the room"]
    for person, (speaker, site) in enumerate(SPEAKERS.items()):
        for number, label in enumerate(CLASSES):
            for sentence in ("q1", "q2"):
                for take in range(2):
                    tone = np.sin(2 * np.pi * (140 + 40 * person + 15 * number) * time)
                    samples = (0.3 * tone + 0.05 * rng.standard_normal(len(time))).astype(np.float32)
                    name = f"{site}/{person}-{label}-{sentence}-{take}.{'wav' if take else 'flac'}"
                    (root / site).mkdir(exist_ok=True)
                    soundfile.write(root / name, samples, 16_000)
                    split = "test" if speaker in ("anna", "P-07/b") else "train"
                    rows.append(
                        f"{name},{speaker},{label.upper()},{sentence},{'mf'[person % 2]},{30 + person},{site},{split},x"
                    )
    rows += ["north/0-calm-q1-0.wav,nobody,furious,,,,north,,", "../../etc/passwd,nobody,calm,,,,north,,"]
    (root / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def test_a_manifest_of_other_labels_and_speakers_runs_a_whole_study_and_its_audit(
    own_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.toml").write_text(STUDY, encoding="utf-8")
    command = [
        str(own_corpus),
        "--classes",
        *CLASSES,
        "--out",
        str(tmp_path / "out"),
        "--study",
        str(tmp_path / "study.toml"),
    ]
    report: Any = example("two_sites").main(command)
    voice = report.emotion.voice
    assert voice.classes == CLASSES and sum(map(sum, voice.confusion)) == 24 and voice.three_class is None
    assert [site.site for site in report.run.sites] == ["north", "south"]
    assert {drop.reason for drop in report.corpus.dropped} >= {"missing", "outside"}
    reported = {row.attacker for row in report.audit if row.value is not None}
    assert reported == {"voice-logistic", "voice-wccn", "voice-given-emotion"}
    assert {row.speakers for row in report.audit if row.subset == "all" and row.metric == "top1"} == {4}
    assert all(row.value is not None for row in report.utility if row.attacker in ("voice-forest", "voice-logistic"))
    assert "UAR" in capsys.readouterr().out
    for name in SPEAKERS:
        assert name not in (tmp_path / "out" / "report.json").read_text() or name == "1001"


def test_files_of_another_tool_are_attacked_under_the_names_of_their_originals(
    own_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    released = tmp_path / "released"
    for path in (*own_corpus.rglob("*.wav"), *own_corpus.rglob("*.flac")):
        samples, rate = soundfile.read(path)
        target = released / path.relative_to(own_corpus).with_suffix(".wav")
        target.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(target, np.clip(samples[::-1] * 0.9, -1, 1), rate)
    command = [str(own_corpus), str(released), "--out", str(tmp_path / "audit"), "--attackers", "voice-logistic"]
    rows = example("audit_another_tool").main(command)
    assert {row["attacker"] for row in rows} == {"voice-logistic"}
    assert {"semi-informed", "unprotected"} <= {row["scenario"] for row in rows}
    assert (tmp_path / "audit" / "audit.html").exists() and "voice-logistic" in capsys.readouterr().out


def test_an_anonymizer_is_a_class(tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(tiny_corpus), "--out", str(tmp_path / "muffled"), "--attackers", "voice-logistic"]
    rows = example("write_an_anonymizer").main(command)
    assert {row["scenario"] for row in rows} >= {"ignorant", "semi-informed"}
    assert "where chance is 25.0%" in capsys.readouterr().out
