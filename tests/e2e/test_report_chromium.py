"""A real browser shows the report: styled under its own policy, wide enough, nothing fetched."""

from __future__ import annotations

import html
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from chromium import CHROMIUM, Chromium

from moretta.deploy.server.study_status import SiteStatus, StudyStatus
from moretta.shared.audit.metrics.scores import Trials
from moretta.shared.audit.report.page import render_audit, render_html, render_page
from moretta.shared.audit.report.report_file import write_report
from moretta.shared.audit.report.sweep_page import render_sweep
from moretta.shared.audit.report.zoo_page import render_zoo
from moretta.shared.audit.report.zoo_rows import COLUMNS, ZooFigure, ZooReport, ZooRow

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: install it to check the report's look"),
]
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(_made("example").report(), folder)
    return folder / "report.html"


def _made(name: str, *folder: str) -> ModuleType:
    """A module of the tests of pages, which has records with made-up figures."""
    path = Path(__file__).parents[1].joinpath(*(folder or ("shared", "audit", "report")), f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"report_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _browse(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)


@pytest.mark.parametrize("width", [1280, 800])
def test_page_is_drawn_with_its_style_and_refuses_nothing(page: Path, tmp_path: Path, width: int) -> None:
    shot = tmp_path / "page.png"
    result = _browse(page, tmp_path / "profile", f"--screenshot={shot}", f"--window-size={width},3000")
    assert not re.search(r"Refused to|violates the following|ERR_", result.stderr)
    image = cv2.imread(str(shot))
    assert image is not None and image.shape[:2] == (3000, width)
    banner = image[10, width // 2].astype(int)  # BGR; the banner's brown, which only the style sheet gives
    assert np.abs(banner - (0, 0x5A, 0x8A)).max() < 12
    packed = image.astype(np.uint32) @ np.array([1, 256, 65536], dtype=np.uint32)
    assert len(np.unique(packed)) > 200  # confusion shades, text, plots


def test_page_prints_to_pdf(page: Path, tmp_path: Path) -> None:
    printed = tmp_path / "page.pdf"
    _browse(page, tmp_path / "profile", f"--print-to-pdf={printed}", "--no-pdf-header-footer")
    content = printed.read_bytes()
    assert content.startswith(b"%PDF")
    assert 1 < len(re.findall(rb"/Type\s*/Page\b", content)) <= 12


def test_the_keyboard_alone_reaches_and_opens_everything_and_nothing_is_fetched(page: Path, tmp_path: Path) -> None:
    browser = Chromium(tmp_path / "profile")
    try:
        browser.size(1280, 900)
        browser.open(page.as_uri())
        wanted = browser.evaluate("""
            [...document.querySelectorAll("a[href], summary, [tabindex='0']")]
                .filter(e => e.checkVisibility()).map((e, i) => (e.dataset.place = i)).length
        """)
        reached = set()
        for _ in range(wanted + 5):
            browser.press("Tab")
            reached.add(browser.evaluate("document.activeElement.dataset.place || ''"))
            focused = browser.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert "" in reached or focused != "none", "what has the focus can be seen"
        assert wanted > 20 and reached - {""} == {str(place) for place in range(wanted)}
        closed = browser.evaluate("document.querySelectorAll('details:not([open])').length")
        browser.evaluate("document.querySelector('details:not([open]) > summary').focus()")
        browser.press("Enter", "\r")
        assert browser.evaluate("document.querySelectorAll('details:not([open])').length") == closed - 1
        assert browser.problems == []
        assert browser.addresses == [page.as_uri()]
    finally:
        browser.close()


def _pages() -> dict[str, str]:
    """Every kind of page, with synthetic people, invalid figures and missing ones."""
    report, sweep = _made("example").report(), _made("test_sweep_page").report(synthetic=True)
    scores = {("voice", "semi-informed", "logistic-regression"): Trials([0.1, 0.2, 0.9], [0, 1, 0], [1, 0, 0])}
    about: dict[str, Any] = {"gate": report.gate, "name": "releases", "seed": 1, "command": "moretta audit releases"}
    row = ZooRow(system="a", setting="b", figures={name: ZooFigure(why="not measured") for name in COLUMNS})
    zoo = {"name": "zoo", "synthetic": True, "rows": (row,), "people": ("6 people.",)}
    run = {"command": "moretta zoo", "versions": {"moretta": "0"}, "finished": "2026", "seconds": 1.0}
    return {
        "report": render_html(report, scores),
        "audit": render_audit(report.audit, report.inference, report.utility, synthetic=True, **about),
        "choice": _made("choices", "deploy", "sweep").page(),
        "live": _live(),
        "sweep": render_sweep(sweep),
        "demo": _made("test_demo_page").rendered(_made("example")),
        "zoo": render_zoo(ZooReport.model_validate(zoo | run)),
    }


def _live() -> str:
    site = SiteStatus("clinic-a", 48, 3, ("rounds 2-4 of train voice",), 2.5, 95.0, 2**21, 700, 1)
    status = StudyStatus(
        "at work", "train voice", ("release",), 3, 10, 2, None, "", (site, SiteStatus("clinic-b")), "pilot", 99.0, 60.0,
        8.0, True, ("clinic-b was lost",),
    )  # fmt: skip
    return render_page(
        "live.html", kind="study, live", name="pilot", synthetic=True, s=status, ago={"clinic-a": 4.0}, refresh=5
    )


WIDTHS = (390, 820, 1280)
CHECK = """
document.querySelectorAll("details").forEach(part => part.open = true);
axe.run().then(found => {
  const problems = found.violations.flatMap(v => v.nodes.map(n => v.id + ": " + n.html.slice(0, 120)));
  if (document.documentElement.scrollWidth > innerWidth) problems.push("wider than the window");
  const list = parent.document.createElement("pre");
  list.textContent = NAME + " checked " + found.passes.length + "\\n" + problems.join("\\n");
  parent.document.body.append(list);
});
"""


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_axe_finds_nothing_on_any_page_at_three_widths(tmp_path: Path, scheme: str) -> None:
    axe = pytest.importorskip("axe_core_python", reason="install the dev extra: it has axe-core")
    script = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    frames, names = "", []
    for name, source in _pages().items():
        open_to_scripts = re.sub(r"<meta http-equiv=[^>]*>", "", source)
        assert open_to_scripts != source
        for width in WIDTHS:
            names.append(f"{name} {width}")
            check = f"<script>{script}</script><script>{CHECK.replace('NAME', repr(names[-1]))}</script></body>"
            inner = html.escape(open_to_scripts.replace("</body>", check))
            frames += f'<iframe width="{width}" height="900" srcdoc="{inner}"></iframe>'
    head = '<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
    (tmp_path / "all.html").write_text(f"{head}<body>{frames}</body>", encoding="utf-8")
    preferred = f"--blink-settings=preferredColorScheme={('dark', 'light').index(scheme)}"
    options = (preferred, "--virtual-time-budget=60000", "--dump-dom")
    dumped = _browse(tmp_path / "all.html", tmp_path / "profile", *options).stdout
    lists = [text.partition("\n") for text in re.findall(r"<pre>([^<]*)</pre>", dumped) if " checked " in text]
    checked = {first.partition(" checked ")[0]: problems for first, _, problems in lists}
    assert sorted(checked) == sorted(names)
    assert {name: problems for name, problems in checked.items() if problems} == {}
