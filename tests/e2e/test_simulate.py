"""Whole studies through the installed command, with real processes. Runs are shared by the tests of this file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from commands import moretta_here, one_cpu
from ledgers import assert_ledgers

from moretta.deploy.runtime import processes
from moretta.shared.core.errors import ExitCode
from tests.conftest import write_tone_corpus

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

MORETTA = Path(sys.executable).parent / "moretta"
STUDY = """
sites = 2
[voice.options]
codebook_size = 16
[face]
enabled = false
[train]
rounds = 2
[split]
folds = 2
[audit]
attackers = ["voice-logistic", "voice-wccn"]
bootstrap = 20
"""


CLIP = 8.0
"""The budget of each clip, as preset."""
BUDGETED = STUDY.replace(
    "[voice.options]",
    '[voice]\nanonymizer = "clip-quantizer"\nform = "code-tokens"\n[voice.options]\npreset = "dp-clip"',
)


@dataclass
class Command:
    """A `moretta` process, all its output, and the environment of its children."""

    process: subprocess.Popen[str]
    out: Path
    stdout: str = ""
    stderr: str = ""
    marks: set[str] = field(default_factory=set)
    scratch: set[Path] = field(default_factory=set)
    threads: list[threading.Thread] = field(default_factory=list)

    @classmethod
    def start(cls, arguments: list[str], out: Path, cache: Path) -> Command:
        environment = {**os.environ, "MORETTA_CACHE": str(cache), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        process = subprocess.Popen(
            [str(MORETTA), *arguments, "--out", str(out)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        command = cls(process, out)
        for work in (command._read_stderr, command._read_stdout, command._watch_children):
            command.threads.append(threading.Thread(target=work, daemon=True))
            command.threads[-1].start()
        return command

    def wait(self) -> int:
        code = self.process.wait()
        for thread in self.threads:
            thread.join()
        return code

    def wait_for(self, text: str) -> None:
        while text not in self.stderr:
            assert self.process.poll() is None, self.stderr
            time.sleep(0.05)

    def left_behind(self) -> list[str]:
        """Command lines of living processes that belong to this run."""
        left = {p.pid: p for mark in self.marks for p in processes.marked_processes(mark)}
        words = [str(self.out), *map(str, self.scratch)]
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and any(w in part for part in process.cmdline() for w in words):
                    left[process.pid] = process
            except psutil.Error:
                continue
        return [f"{p.pid} {p.name()}" for p in left.values() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.stderr += line

    def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.stdout += line

    def _watch_children(self) -> None:
        parent = psutil.Process(self.process.pid)
        while self.process.poll() is None:
            with contextlib.suppress(psutil.Error):
                for child in parent.children():
                    self._look_at(child)
            time.sleep(0.05)

    def _look_at(self, child: psutil.Process) -> None:
        with contextlib.suppress(psutil.Error):  # a child that has ended says nothing, and hides none of its siblings
            environment = child.environ()
            if processes.MARK in environment:
                self.marks.add(environment[processes.MARK])
            if "FLWR_HOME" in environment:
                self.scratch.add(Path(environment["FLWR_HOME"]).parent)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def start(home: Path) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def run(
        name: str, study: str, corpus: Path, *more: str, command: str = "simulate", all_cpus: bool = False
    ) -> Command:
        path = home / f"{name}.toml"
        path.write_text(study, encoding="utf-8")
        arguments = [command, "--corpus", str(corpus), "--study", str(path), *more]
        with contextlib.nullcontext() if all_cpus else one_cpu():
            started.append(Command.start(arguments, home / name, home / "cache"))
        return started[-1]

    yield run
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        for mark in each.marks:
            processes.end_marked(mark)


@pytest.fixture(scope="module")
def corpus(home: Path) -> Path:
    return write_tone_corpus(home / "tones")


@pytest.fixture(scope="module")
def finished(start: Any, corpus: Path) -> Command:
    command: Command = start("finished", BUDGETED, corpus, "--json", all_cpus=True)
    assert command.wait() == ExitCode.OK, command.stderr
    return command


BAD = (
    STUDY.replace("rounds = 2", "rounds = 1")
    .replace("enabled = false", 'anonymizer = "pixelate"')
    .replace('"voice-wccn"', '"face-logistic"')
    .replace("bootstrap = 20", "bootstrap = 0\ninference = false\nutility = false")
    + "[gate]\nmax_top1 = 0.0\n"
)
"""Voice and face, and a gate that no release passes."""


@pytest.fixture(scope="module")
def gated(start: Any, home: Path) -> Command:
    """A corpus with bad files of every kind."""
    command: Command = start("bad-files", BAD, _bad_corpus(home / "bad"))
    assert command.wait() == ExitCode.GATE, command.stderr
    return command


def _bad_corpus(root: Path) -> Path:
    import soundfile

    from moretta.shared.data.media import write_video

    bad = write_tone_corpus(root)
    audio, video = bad / "AudioWAV", bad / "VideoFlash"
    noise = np.random.default_rng(5)
    (audio / "1001_IEO_ANG_XX.wav").write_bytes(b"RIFF, and then nothing of the kind")
    tone = 0.3 * np.sin(np.arange(30_000) / 20)
    soundfile.write(audio / "1001_IEO_DIS_XX.wav", np.stack([tone, tone], axis=1), 44_100)
    soundfile.write(audio / "1001_IEO_FEA_XX.wav", np.zeros(9_600, np.float32), 16_000)
    (audio / "1001_IEO_HAP_XX.wav").write_bytes(b"")
    (audio / "1001_ieo_neu_xx.wav").write_bytes(b"two files of one name")
    (audio / "holiday.wav").write_bytes(b"not a clip")
    for speaker in ("1001", "1002", "1003", "1004"):
        for emotion in ("ANG", "SAD"):
            for sentence in ("IEO", "TIE"):
                frames = list(noise.integers(0, 255, (4, 48, 64, 3), np.uint8))  # no face anywhere
                write_video(video / f"{speaker}_{sentence}_{emotion}_XX.flv", frames, 10.0, None)
    (video / "1002_IEO_HAP_XX.flv").write_bytes(b"not a video")
    return bad


def report(command: Command) -> Any:
    return json.loads((command.out / "report.json").read_text(encoding="utf-8"))


def outcome(command: Command) -> Any:
    return json.loads((command.out / "outcome.json").read_text(encoding="utf-8"))


def test_a_study_ends_with_a_report_in_the_names_agreed_on(finished: Command) -> None:
    found = report(finished)
    voice = found["emotion"]["voice"]
    assert {"accuracy", "uar", "classes", "per_class", "confusion", "clips", "speakers"} <= set(voice)
    assert len(voice["classes"]) == len(voice["confusion"]) == 6
    assert np.sum(voice["confusion"]) == voice["clips"] == 24  # two held-out speakers of 12 clips
    assert voice["three_class"]["clips"] == 12
    assert found["emotion"]["face"] is None
    assert found["emotion"]["absent"]["face"] == "the study does not ask for it"
    row = {
        "modality",
        "attacker",
        "kind",
        "scenario",
        "metric",
        "value",
        "low",
        "high",
        "chance",
        "speakers",
        "invalid",
    }
    assert all(row <= set(r) for r in found["audit"])
    assert {r["attacker"] for r in found["audit"]} == {"voice-logistic", "voice-wccn"}
    scenarios = {r["scenario"] for r in found["audit"]}
    assert scenarios == {"unprotected", "ignorant", "lazy-informed", "semi-informed", "constant"}
    assert all({"site", "mechanism", "unit", "epsilon", "delta", "nominal"} <= set(r) for r in found["privacy"])
    assert {"name", "synthetic", "clips", "speakers", "dropped"} <= set(found["corpus"])
    assert (found["corpus"]["clips"], found["corpus"]["speakers"], found["corpus"]["synthetic"]) == (48, 4, False)
    assert {"seed", "versions", "command", "seconds"} <= set(found["run"])
    assert found["run"]["command"].startswith("moretta simulate --corpus")
    assert found["run"]["seeded_noise"] is True
    assert found["run"]["peak_memory_bytes"] > 0
    assert (finished.out / "report.html").stat().st_size > 10_000


def test_the_outcome_is_reported_as_json_and_says_that_all_went_well(finished: Command) -> None:
    reported = json.loads(finished.stdout)
    assert (reported["exit_code"], reported["cause"]) == (0, "")
    assert reported["out"] == str(finished.out)
    assert outcome(finished)["status"] == "completed"


def test_epsilon_grows_over_rounds_and_stays_within_the_budget(finished: Command) -> None:
    rows = [r for r in report(finished)["privacy"] if r["mechanism"] == "dp-sgd" and r["unit"] == "clip"]
    for site in {r["site"] for r in rows}:
        epsilons = [r["epsilon"] for r in sorted(rows, key=lambda r: r["round"]) if r["site"] == site]
        assert len(epsilons) == 2
        assert 0 < epsilons[0] < epsilons[1] <= 8.0
    ledgers = [(finished.out / "sites" / r["site"] / "ledger.jsonl").read_text(encoding="utf-8") for r in rows]
    assert all(text.count('"kind": "dp-sgd"') == 2 and text.count('"kind": "release"') == 1 for text in ledgers)


def test_the_report_states_at_both_units_what_the_ledgers_hold_of_a_budget_for_each_clip(finished: Command) -> None:
    assert_ledgers(finished.out, sites=2, clips=48, spent={"clip": CLIP, "speaker": 12 * CLIP})


def test_no_process_and_no_scratch_folder_is_left(finished: Command, gated: Command) -> None:
    for command in (finished, gated):
        assert command.marks
        assert command.scratch
        assert command.left_behind() == []
        assert not [path for path in command.scratch if path.exists()]


def test_a_broken_gate_ends_with_its_own_code_and_a_report_that_names_the_limit(gated: Command) -> None:
    found = report(gated)
    assert found["gate"]["passed"] is False
    assert found["gate"]["broken"][0].startswith("voice: strongest Top-1")
    assert outcome(gated)["status"] == "gate-broken"
    assert "broke a limit" in gated.stderr
    assert (gated.out / "report.html").exists()


def test_a_cell_of_a_sweep_has_the_very_figures_of_a_simulation(finished: Command, corpus: Path, home: Path) -> None:
    """The same seed gives the same figures: these are the same stages, exchange and sites, without Flower's runtime, on
    a release that was made for another study.
    """
    from moretta.deploy.sweep.grid import GridFile, make_grid
    from moretta.deploy.sweep.jobs import plan_sweep
    from moretta.deploy.sweep.sweep_results import CellAudit, ResultFolder, Trained, collect
    from moretta.deploy.sweep.work import do

    (home / "base.toml").write_text(BUDGETED, encoding="utf-8")
    plan, out = plan_sweep(make_grid(GridFile(study=home / "base.toml")), [corpus], "c"), home / "cell"
    for job in plan.jobs:
        do(job, out)
    shelf, cell, simulated = ResultFolder(out), plan.cells[0], report(finished)
    assert cell.audit is not None
    trained, audited = shelf.get(cell.training[0], Trained), shelf.get(cell.audit, CellAudit)
    assert trained is not None
    assert audited is not None
    assert trained.emotion["voice"].model_dump(mode="json") == simulated["emotion"]["voice"]
    assert [row.model_dump(mode="json") for row in trained.privacy] == simulated["privacy"]
    assert [row.model_dump(mode="json") for row in audited.rows] == simulated["audit"]
    assert [row.model_dump(mode="json") for row in audited.utility] == simulated["utility"]
    (row,) = collect(plan, shelf, {})
    emotion, figures = simulated["emotion"]["voice"], simulated["headline"][0]["figures"]
    assert (row.uar, row.uar_low, row.uar_high) == (emotion["uar"], emotion["uar_low"], emotion["uar_high"])
    assert (row.top1, row.eer) == tuple(figure["value"] for figure in figures)
    spent = [r for r in simulated["privacy"] if r["mechanism"] == "dp-sgd"]
    # the report goes by the study's accountant, the ledger by the smallest of several proofs
    assert 0 < (row.model_clip or 0) <= max(r["epsilon"] for r in spent if r["unit"] == "clip")
    assert row.model_speaker == max(r["epsilon"] for r in spent if r["unit"] == "speaker")


def test_nothing_that_a_site_released_names_a_speaker(finished: Command) -> None:
    releases = finished.out / "server" / "releases"
    content = b"".join(p.read_bytes() for p in releases.rglob("*") if p.is_file())
    assert len(list(releases.iterdir())) == 2
    for text in (b"_ANG_XX", b"1001_IEO", b"AudioWAV", b"tones"):
        assert text not in content


@pytest.mark.parametrize(
    ("number", "when"), [(signal.SIGINT, "release ..."), (signal.SIGTERM, "Starting Flower's simulation runtime")]
)
def test_an_interrupt_leaves_no_process_and_no_half_of_a_report(
    start: Any, corpus: Path, number: signal.Signals, when: str
) -> None:
    command = start(f"interrupted-{number.name}", STUDY, corpus)
    command.wait_for(when)
    command.process.send_signal(number)
    time.sleep(0.3)
    if command.process.poll() is None:
        command.process.send_signal(number)  # the impatient press twice
    assert command.wait() == ExitCode.INTERRUPTED
    assert command.marks
    assert command.left_behind() == []
    assert not [path for path in command.scratch if path.exists()]
    assert not list(command.out.rglob("*report.*"))
    assert not (command.out / "outcome.json").exists()
    assert f"ended by {number.name}" in command.stderr


def test_a_run_whose_command_was_killed_ends_by_itself(start: Any, corpus: Path) -> None:
    command = start("killed", STUDY.replace("rounds = 2", "rounds = 3000"), corpus)
    command.wait_for("train voice: 1/")
    command.process.kill()
    command.wait()
    assert command.marks
    end = time.monotonic() + 30
    while command.left_behind():
        assert time.monotonic() < end
        time.sleep(0.2)
    assert not (command.out / "outcome.json").exists()


def test_a_run_whose_sites_all_fail_says_why(start: Any, home: Path) -> None:
    broken = write_tone_corpus(home / "broken", speakers=3)
    for path in (broken / "AudioWAV").iterdir():
        path.write_bytes(b"not a sound")
    command = start("all-fail", STUDY, broken)
    assert command.wait() == ExitCode.RUN_FAILED
    found = outcome(command)
    assert (found["status"], found["exit_code"]) == ("failed", int(ExitCode.RUN_FAILED))
    assert found["stage"] == "in the stage 'release'"
    for text in (found["cause"], command.stderr):
        assert "0 of 2 sites finished the stage 'release'" in text
        assert "voice-unreadable" in text
    assert not (command.out / "report.json").exists()
    assert command.left_behind() == []


def test_bad_files_of_every_kind_are_counted_and_the_study_finishes(gated: Command) -> None:
    found = report(gated)
    dropped = {d["reason"]: d["count"] for d in found["corpus"]["dropped"]}
    assert dropped == {
        "bad-name": 1,
        "duplicate": 1,
        "voice-unreadable": 1,
        "voice-silent": 1,
        "voice-empty": 1,
        "clip-without-release": 2,  # the silent and the empty one; the broken one has its video
        "face-missing": 31,
        "face-unreadable": 1,
    }
    assert found["corpus"]["clips"] == 46
    assert all(found["emotion"][output] for output in ("voice", "face", "fused"))
    assert any("no face was found" in warning for warning in found["run"]["warnings"])
    assert {r["modality"] for r in found["audit"]} == {"voice", "face"}


def test_anonymized_clips_can_be_played_and_audited(start: Any, corpus: Path, home: Path) -> None:
    made = start("anonymized", STUDY, corpus, "--media", "--json", command="anonymize")
    assert made.wait() == ExitCode.OK, made.stderr
    statement = json.loads(made.stdout)
    assert (statement["clips"], statement["speakers"]) == (48, 4)
    assert statement["anonymizers"][0]["noise"] == "system"
    media = sorted((made.out / "release" / "media").glob("*.wav"))
    assert len(media) == 48
    assert not [path for path in made.out.rglob("*") if "100" in path.name and "_" in path.name]
    arguments = ["--corpus", corpus, "--attackers", "voice-logistic", "--bootstrap", "0", "--workers", "1", "--json"]
    code, _, errors = moretta_here("audit", made.out, *arguments, "--out", home / "audited", cache=home / "cache")
    assert code == ExitCode.OK, errors
    rows = json.loads((home / "audited" / "audit.json").read_text(encoding="utf-8"))["audit"]
    assert {"unprotected", "semi-informed"} <= {row["scenario"] for row in rows}
