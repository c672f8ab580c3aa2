"""Text from other machines moves no cursor and forges no line, wherever it is shown."""

from __future__ import annotations

import csv
import io
import logging
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.deploy.runtime.run_folder import as_text
from moretta.server.stages.lifecycle import concluding
from moretta.shared.audit.report.page import _environment
from moretta.shared.audit.report.plotting import Chart
from moretta.shared.core.errors import RefusedError, RunError
from moretta.shared.core.printable import PrintableRecord, log_printable, printable, to_csv

HOSTILE = "site-a\x1b[2J\x1b]0;owned\x07\r\n2026-01-01 INFO all is well\u202egnp\u2066\x9b31m\x00\ud800"


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters()), st.booleans())
def test_nothing_but_visible_characters_is_left(text: str, lines: bool) -> None:
    made = printable(text, lines=lines)
    left = {unicodedata.category(c) for c in made if not (lines and c in "\n\t")}
    assert not left & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert printable(made, lines=lines) == made
    made.encode()
    if text.isprintable():
        assert made == text


def test_no_cell_of_a_table_is_a_formula_or_a_control_character() -> None:
    starts = ("=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\r=1", "\uff1d1", "\x1b[2J", "a=b", "")
    text = to_csv([starts[0], "number"], [(start, -0.5) for start in starts])
    head, *rows = csv.reader(io.StringIO(text))
    assert head == ["'=1+1", "number"] and {row[1] for row in rows} == {"-0.5"}
    shown = ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "' =1", r"\t=1", r"\r=1", "'\uff1d1", r"\x1b[2J", "a=b", ""]
    assert [row[0] for row in rows] == shown


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    factory, stream = logging.getLogRecordFactory(), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("moretta.test", "flwr.test")]
    log_printable()
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    yield stream
    logging.setLogRecordFactory(factory)
    for logger in loggers:
        logger.removeHandler(handler)
        logger.propagate = True


def _is_clean(text: str, lines: int) -> bool:
    return len(text.splitlines()) == lines and all(c.isprintable() or c in "\n\t" for c in text)


@pytest.mark.parametrize("name", ["moretta.test", "flwr.test"])
def test_a_log_line_with_text_from_elsewhere_stays_one_line(log: io.StringIO, name: str) -> None:
    logging.getLogger(name).warning("%s said %s after %d s", HOSTILE, [HOSTILE], 3)
    logging.getLogger(name).warning("%(site)s refused", {"site": HOSTILE})
    assert _is_clean(log.getvalue(), 2)
    assert "after 3 s" in log.getvalue()
    assert r"\n2026-01-01 INFO all is well" in log.getvalue()


def test_text_put_into_a_message_of_our_own_stays_one_line(log: io.StringIO) -> None:
    logging.getLogger("moretta.test").warning(f"{HOSTILE} refused")
    assert _is_clean(log.getvalue(), 1)


def test_flower_s_banners_keep_their_lines(log: io.StringIO) -> None:
    logging.getLogger("flwr.test").warning("one\ntwo")
    assert log.getvalue() == "WARNING one\ntwo\n"


def test_an_error_that_says_hostile_things_begins_no_line_of_its_own_in_its_traceback(log: io.StringIO) -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger("moretta.test").exception("failed")
    first, *rest = log.getvalue().splitlines()
    assert first == "ERROR failed"
    assert all(line.startswith("  | ") for line in rest)
    assert _is_clean(log.getvalue(), len(rest) + 1)
    assert isinstance(logging.makeLogRecord({}), PrintableRecord)


def test_errors_and_progress_are_printable_lines() -> None:
    assert _is_clean(RefusedError(HOSTILE, expected=HOSTILE, fix="x").message, 1)
    assert _is_clean(as_text({"state": "note", "what": HOSTILE}), 1)
    assert _is_clean(as_text({"state": "running", "stage": HOSTILE, "done": 1, "total": 2, "what": HOSTILE}), 1)


@pytest.mark.parametrize("error", [RunError(HOSTILE), ValueError(HOSTILE)])
def test_the_cause_of_a_failed_run_is_one_printable_line(
    tmp_path_factory: pytest.TempPathFactory, error: Exception
) -> None:
    import json

    folder = tmp_path_factory.mktemp("run")
    with concluding(folder):
        raise error
    assert _is_clean(json.loads((folder / "outcome.json").read_text())["cause"], 1)
    log = (folder / "server" / "server.log").read_text()
    assert all(line.startswith("  | ") for line in log.splitlines())
    assert _is_clean(log, len(log.splitlines()))


def test_pages_and_figures_show_no_mark_that_turns_text_around() -> None:
    page = _environment().from_string("<p>{{ text }}</p>{{ 3 }}").render(text="a\u202eb\x1b<")
    assert page == r"<p>a\u202eb\x1b&lt;</p>3"
    chart = Chart("a\u202eb", 100, 100)
    chart.tip(chart.figure.text(0, 0, "x"), "b\u202ec")
    assert r"a\u202eb" in chart.inline("x")
    assert r"b\u202ec" in chart.inline("x")


def test_a_corpus_check_shows_a_hostile_file_name_as_escapes(tiny_corpus: Path) -> None:
    from typer.testing import CliRunner

    from moretta.deploy.cli.main import app

    (tiny_corpus / "AudioWAV" / "1001_\x1b[2J\nfault: none_XX.wav").write_bytes(b"")
    said = CliRunner().invoke(app, ["corpus", "check", str(tiny_corpus)]).output
    assert r"\x1b[2J\nfault" in said
    assert "\x1b" not in said
    assert "\nfault: none_XX" not in said
