"""The review desk in a real browser: a whole review by keyboard alone, at three widths, and axe finds nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import CHROMIUM, Chromium

sys.path.insert(0, str(Path(__file__).parents[1] / "client"))  # `enrolled`

from enrolled import enrolled

from moretta.client.clips.provenance import Provenance
from moretta.client.offers import Decision, Offers
from moretta.client.site_home import SiteHome
from moretta.deploy.cli.review import _reviewed
from moretta.deploy.site import desk as desk_module
from moretta.deploy.site.approvals import offer_facts
from moretta.deploy.site.desk import Desk
from moretta.deploy.site.desk_pages import serve
from moretta.shared.features.public_speech import PublicVoice
from moretta.shared.study.schema import parse_study

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: install it to try the review desk"),
]
STUDY = {"name": "two clinics", "face": {"enabled": False}, "voice": {"options": {"codebook_size": 16}}}
PUBLIC = PublicVoice(
    mean=np.zeros(13, np.float32),
    std=np.full(13, 20, np.float32),
    codebook=np.random.default_rng(1).standard_normal((16, 13)).astype(np.float32),
).to_arrays()
FOCUSED = (
    "(e => (e.getAttribute('aria-label') || e.innerText || e.name + e.value || '').trim())(document.activeElement)"
)
AXE = """
axe.run().then(found => {
  const problems = found.violations.flatMap(v => v.nodes.map(n => v.id + ": " + n.html.slice(0, 120)));
  if (document.documentElement.scrollWidth > innerWidth) problems.push("wider than the window");
  return problems;
})
"""


@pytest.fixture
def home(tmp_path: Path, tiny_corpus: Path) -> SiteHome:
    return enrolled(tmp_path / "site", tiny_corpus)


@pytest.fixture
def decisions() -> list[Decision | None]:
    return []


@pytest.fixture
def link(home: SiteHome, decisions: list[Decision | None], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(desk_module, "_LAST_SECONDS", 2.0)
    offer = Offers(home.root).keep(parse_study(STUDY), PUBLIC)
    with _reviewed(home, offer) as (made, choice):
        desk = Desk(offer, offer_facts(home, offer), made, choice, made.release.folder.parent)
        links: list[str] = []
        ready = threading.Event()

        def opened(found: str) -> None:
            links.append(found)
            ready.set()

        thread = threading.Thread(target=lambda: decisions.append(serve(desk, ready=opened)), daemon=True)
        thread.start()
        assert ready.wait(20)
        yield links[0]
        desk.at_end()
        thread.join(timeout=20)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    made = Chromium(tmp_path / "profile")
    made.size(1280, 900)
    yield made
    made.close()


def tab_to(browser: Chromium, wanted: str) -> None:
    """Go on with the Tab key until something with this name has the focus."""
    for _ in range(400):
        browser.press("Tab")
        if browser.evaluate(FOCUSED).startswith(wanted):
            return
    raise AssertionError(f"the keyboard does not reach {wanted!r}")


def enter(browser: Chromium, wanted: str) -> None:
    tab_to(browser, wanted)
    browser.after_load(lambda: browser.press("Enter", "\r"))


def test_a_whole_review_by_keyboard_alone(
    home: SiteHome, link: str, browser: Chromium, decisions: list[Decision | None]
) -> None:
    browser.open(link)
    assert browser.evaluate("document.title") == "Review: two clinics"
    tab_to(browser, "exclude")  # the box of the first clip that is shown, the riskiest
    first = browser.evaluate("document.activeElement.labels[0].innerText.trim().split(' ')[1]")
    browser.press(" ", " ")
    browser.after_load(lambda: browser.press("Enter", "\r"))  # Enter decides nothing, and loses no tick
    assert browser.evaluate("document.querySelector('.bar strong').innerText") == "47 of 48 clips"
    enter(browser, "Exclude all clips of 1002")
    left = browser.evaluate("document.querySelector('.bar strong').innerText")
    tab_to(browser, "Page 2")
    browser.after_load(lambda: browser.press("Enter", "\r"))
    assert browser.evaluate("document.querySelector('[aria-current]').innerText") == "2"
    assert browser.evaluate("document.querySelector('.bar strong').innerText") == left
    enter(browser, "Approve")
    assert browser.evaluate("document.querySelector('h1').innerText") == "Approve this study?"
    enter(browser, "Approve")
    assert "You can close this page" in browser.evaluate("document.body.innerText")
    end = time.monotonic() + 20
    while not decisions and time.monotonic() < end:
        time.sleep(0.1)
    (decision,) = decisions
    assert decision is not None and decision.decision == "approved"
    listed = Provenance.load(home.root / "approvals" / decision.digest)
    assert listed is not None and len(listed.clips) == int(left.split()[0])
    assert first not in listed.clips and not any(name.startswith("1002") for name in listed.clips)
    assert browser.problems == []
    own = link.partition("/enter")[0]
    assert [address for address in browser.addresses if not address.startswith((own, "data:"))] == []


def test_a_player_plays_and_pictures_come(link: str, browser: Chromium) -> None:
    browser.open(link)
    script = "new Promise(r => { const a = document.querySelector('audio'); a.onerror = () => r('error');"
    script += " a.oncanplay = () => { a.currentTime = 0.3; a.onseeked = () => r([a.duration, a.currentTime]) };"
    duration, place = browser.evaluate(script + " a.load(); a.preload = 'auto' })")
    assert duration == pytest.approx(0.6, abs=0.05) and place == pytest.approx(0.3, abs=0.05)
    loaded = "[...document.images].map(i => { i.loading = 'eager'; return i.decode().then(() => i.naturalWidth) })"
    assert min(browser.evaluate(f"Promise.all({loaded})")) > 0
    assert browser.problems == []


def test_axe_finds_nothing_at_three_widths_in_the_dark_and_in_the_light(link: str, browser: Chromium) -> None:
    axe = pytest.importorskip("axe_core_python", reason="install the dev extra: it has axe-core")
    script = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    browser.open(link)
    base = browser.evaluate("location.href")
    for name in ("", "confirm", "confirm?refuse=1"):
        browser.open(base + name)
        browser.evaluate(script + "; 0")
        for width in (390, 820, 1280):
            for dark in (True, False):
                browser.size(width, 900, dark=dark)
                assert browser.evaluate(AXE) == [], (name, width, dark)
