"""A real browser shows the report: styled under its own policy, wide enough, nothing fetched."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from moretta.shared.audit.report.report_file import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
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
    write_report(_example().report(), folder)
    return folder / "report.html"


def _example() -> ModuleType:
    path = Path(__file__).parents[1] / "shared" / "audit" / "report" / "example.py"
    spec = importlib.util.spec_from_file_location("report_example", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _browse(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


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
    assert len(content) > 20_000
