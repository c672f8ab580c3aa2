"""The documents hold together: every page is in the site, links resolve, commands parse, and the site builds."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import moretta
from moretta.deploy.cli.main import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [*sorted(ROOT.glob("*.md")), *PAGES]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))

_FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_COMMANDS = typer.main.get_command(app)


def _prose(page: Path) -> str:
    return re.sub(r"`[^`\n]*`", "`code`", _FENCE.sub("", page.read_text("utf-8")))


def _anchors(page: Path) -> set[str]:
    """The anchors of a page, by GitHub's rule: lower case, punctuation dropped, blanks to hyphens."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def _nav(entries: Any) -> Iterator[str]:
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            if isinstance(value, list):
                yield from _nav(value)
            else:
                yield value


def test_every_page_is_in_the_site_once() -> None:
    nav = list(_nav(SITE["nav"]))
    assert sorted(nav) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_anchors_resolve(page: Path) -> None:
    wrong = []
    for target in _LINK.findall(_prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists() or (anchor and linked.suffix == ".md" and anchor not in _anchors(linked)):
            wrong.append(target)
        elif page in PAGES and not linked.is_relative_to(DOCS):
            wrong.append(f"{target}: the site has no such page")
    assert not wrong


def _shell_lines() -> Iterator[tuple[str, str]]:
    """Every line of a code block that calls `moretta`, with the page that it stands on."""
    for page in TEXTS:
        for block in _FENCE.finditer(page.read_text("utf-8")):
            joined = block.group().replace("\\\n", " ")
            for line in joined.splitlines():
                if line.strip().startswith("moretta "):
                    yield str(page.relative_to(ROOT)), line.strip()


@pytest.mark.parametrize(("page", "line"), sorted(set(_shell_lines())))
def test_commands_parse(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    words = words[: next((i for i, word in enumerate(words) if word in ("<", ">", "|", "&&", ";")), len(words))]
    command, context = _COMMANDS, None
    while True:
        context = command.make_context("moretta", words, parent=context)  # raises on an unknown option or value
        if not hasattr(command, "commands"):
            return
        rest = [*context._protected_args, *context.args]
        _, command, words = command.resolve_command(context, rest)


def _options(command: Any) -> set[str]:
    below = [_options(each) for each in getattr(command, "commands", {}).values()]
    return {option for each in command.params for option in each.opts}.union({"-h", "--help"}, *below)


def test_commands_in_running_text_exist() -> None:
    wrong = []
    for page in TEXTS:
        for text in re.findall(r"`moretta ([^`]+)`", _FENCE.sub("", page.read_text("utf-8"))):
            command: Any = _COMMANDS
            words = text.split()
            for word in words:
                if word not in getattr(command, "commands", {}):
                    break
                command = command.commands[word]
            unknown = {word for word in words if word.startswith("--")} - _options(command)
            if unknown or (command is _COMMANDS and re.match(r"[a-z]", words[0])):
                wrong.append(f"{page.name}: moretta {text}")
    assert not wrong


def test_every_command_is_in_the_list_by_task() -> None:
    listed = (DOCS / "reference" / "README.md").read_text("utf-8").split("## Commands by task", 1)[1]
    assert set(_COMMANDS.commands) - {"version"} <= set(re.findall(r"`moretta ([a-z-]+)", listed))


def test_every_public_name_is_on_the_page_of_the_python_api() -> None:
    page = (DOCS / "reference" / "python.md").read_text("utf-8")
    named = set(re.findall(r"moretta\.(\w+)", page))
    assert set(moretta.__all__) - {"__version__"} <= named


def test_the_checklist_of_an_ethics_board_names_parts_that_the_report_has() -> None:
    checklist = (DOCS / "law.md").read_text("utf-8").split("## Checklist", 1)[1]
    report = ROOT / "shared" / "audit" / "report"
    shown = "".join(page.read_text("utf-8") for page in [*report.glob("*.html"), report / "verdict.py"])
    named = set(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", checklist))
    assert len(named) > 5
    assert not [part for part in named if not re.search(rf"<h[2-4]>{part}|\"{part}: ", shown)]


def test_the_readme_quotes_no_figure_that_the_results_do_not_have() -> None:
    quoted = (ROOT / "README.md").read_text("utf-8").split("## Results", 1)[1].split("\n## ", 1)[0]
    found = "".join(page.read_text("utf-8") for page in (DOCS / "results").glob("*.md"))
    rows = [row for row in quoted.splitlines() if row.startswith("|")]
    assert not set(re.findall(r"\d+\.\d+|\d+,\d+", "".join(rows))) - set(re.findall(r"\d+\.\d+|\d+,\d+", found))


@pytest.mark.skipif(importlib.util.find_spec("material") is None, reason="the extra `docs` is not installed")
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    (ROOT / "build").mkdir(exist_ok=True)
    words = [sys.executable, "-m", "typer", "moretta.deploy.cli.main", "utils", "docs", "--name", "moretta"]
    commands = subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    (ROOT / "build" / "commands.md").write_text(commands.split("\n", 1)[1], encoding="utf-8")
    made = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert made.returncode == 0, made.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(PAGES) - 1
    for page in pages:
        loaded = re.findall(
            r'<(?:script|img|iframe)[^>]*src="([^"]+)"|<link[^>]*href="([^"]+)"', page.read_text("utf-8")
        )
        assert not [address for pair in loaded for address in pair if "//" in address], page
