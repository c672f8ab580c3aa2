import io
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from moretta.deploy.cli.console import heartbeat, progress, show, show_table
from moretta.deploy.runtime import run_folder as monitoring


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_at_each_tenth() -> None:
    log = io.StringIO()
    with progress("Rendering", 200, stream=log) as step:
        for _ in range(200):
            step()
    lines = log.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("Rendering: 20/200") and lines[-1].startswith("Rendering: 200/200")


def test_few_steps_get_a_line_each() -> None:
    log = io.StringIO()
    with progress("Rendering", 3, stream=log) as step:
        for _ in range(3):
            step()
    assert len(log.getvalue().splitlines()) == 3


def test_rate_and_time_left_are_those_of_the_work_that_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 100.0, 100.0, 110.0, 120.0])  # started, gone on twice, and two steps of ten seconds
    monkeypatch.setattr("moretta.deploy.cli.console.time", SimpleNamespace(monotonic=lambda: next(now)))
    log = io.StringIO()
    with progress("Training", 1000, unit="images", stream=log) as step:
        step(500)
        step(600)
        step(700)
    assert log.getvalue().splitlines()[1:] == [
        "Training: 600/1000 (10 s, 10 images/s, 40 s left)",
        "Training: 700/1000 (20 s, 10 images/s, 30 s left)",
    ]


def test_a_terminal_gets_a_bar() -> None:
    terminal = Terminal()
    with progress("Rendering", 3, stream=terminal) as step:
        step()
    assert "\x1b[" in terminal.getvalue() or "Rendering" in terminal.getvalue()


def test_long_jobs_are_reported_to_be_alive() -> None:
    beats = threading.Semaphore(0)
    with heartbeat(beats.release, seconds=0.001):
        assert beats.acquire(timeout=10) and beats.acquire(timeout=10)
    assert threading.active_count() >= 1


def test_a_stage_without_progress_is_reported_to_be_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(monitoring.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(monitoring.time, "sleep", lambda seconds: None)
    lines: list[str] = []
    monitor = monitoring.ProgressMonitor(tmp_path, lines.append)
    (tmp_path / "progress.jsonl").write_text('{"stage": "release", "state": "started"}\n')
    for seconds in (1.0, 20.0, 40.0, 41.0, 80.0):
        clock[0] = seconds
        monitor.look(None)
    assert lines == ["release ...", "release: at work for 39 s", "release: at work for 79 s"]


def test_a_line_that_a_killed_server_left_ends_nobody_who_follows_a_run(tmp_path: Path) -> None:
    lines: list[str] = []
    monitor = monitoring.ProgressMonitor(tmp_path, lines.append)
    glued = '{"stage": "rele{"stage": "release", "state": "started"}\n[1]\n{"stage": "audit", "state": "started"}\n'
    (tmp_path / "progress.jsonl").write_text(glued)
    monitor.look(None)
    assert lines == ["audit ..."]


def test_a_table_shows_text_from_elsewhere_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("site", "why"), [("clinic-a", "[red]all is well[/red] [link=http://x]\x1b[2J\nclinic-b")], fold=["why"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert r"[red]all is well[/red] [link=http://x]\x1b[2J\nclinic-b" in lines[1]


def test_headings_of_a_table_are_from_elsewhere_too(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("clip", "a\x1b[2J\nb"), [("c", "0.1")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and r"a\x1b[2J\nb" in lines[0]


def test_what_is_no_json_is_not_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="JSON"):
        show({"value": float("nan")}, (), as_json=True)
    assert capsys.readouterr().out == ""


def test_work_that_counts_itself_is_shown_as_it_goes() -> None:
    log = io.StringIO()
    with progress("Anonymizing", stream=log) as step:
        step(1, 2)
        step(2, 2)
    assert [line.split(" (")[0] for line in log.getvalue().splitlines()] == ["Anonymizing: 1/2", "Anonymizing: 2/2"]
