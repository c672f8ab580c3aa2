from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from moretta.shared.audit.metrics.scores import Trials
from moretta.shared.audit.report import charts
from moretta.shared.audit.report.page import render_html
from moretta.shared.audit.report.plotting import spread
from moretta.shared.audit.report.report_file import write_report
from moretta.shared.audit.report.report_schema import (
    CorpusPart,
    DropCount,
    EmotionResults,
    GatePart,
    Report,
    RoundRow,
    SiteRow,
)

HOSTILE = "</style></title><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}"
ABSENT = "no video in this corpus"


class _Page(HTMLParser):
    """Collects tags, attributes and visible text, and checks that tags close in order."""

    INVALID = frozenset({"meta", "link", "img", "br", "hr", "input"})

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend(attrs)
        if tag not in self.INVALID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


@pytest.fixture(scope="module")
def page(example: ModuleType) -> str:
    return render_html(example.report())


def hostile_report(example: ModuleType) -> Report:
    rows = tuple(
        row.model_copy(update={"attacker": HOSTILE + row.attacker, "reason": HOSTILE}) for row in example.audit()
    )
    privacy = tuple(
        row.model_copy(update={"site": HOSTILE, "mechanism": HOSTILE + row.mechanism, "note": HOSTILE})
        for row in example.privacy()
    )  # fmt: skip
    report: Report = example.report(
        audit=rows,
        privacy=privacy,
        gate=GatePart(passed=False, broken=(HOSTILE,)),
        emotion=EmotionResults(voice=example.emotion(1, 0.3), absent={"face": HOSTILE, "fused": HOSTILE}),
        corpus=CorpusPart(
            name=HOSTILE, synthetic=True, labels=HOSTILE, clips=1, speakers=1,
            dropped=(DropCount(reason=HOSTILE, count=1),),
        ),
        run=example.run(
            command=HOSTILE, versions={HOSTILE: HOSTILE}, warnings=(HOSTILE,), face_preset=HOSTILE, finished=HOSTILE,
            study={"name": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}, "gate": HOSTILE},
            sites=(SiteRow(site=HOSTILE, speakers=1, clips=1, rounds=1),),
            rounds=(RoundRow(stage=HOSTILE, round=1, sites=1),),
        ),
    )  # fmt: skip
    return report


def _fail(*_: object, **__: object) -> str:
    raise ZeroDivisionError


def test_hostile_text_stays_text(example: ModuleType) -> None:
    source = render_html(hostile_report(example))
    page = _Page(source)
    assert "script" not in page.tags and "img" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert page.tags.count("style") == 1 and not page.open
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7*7 }}" in page.text


def test_page_refers_to_nothing_outside(page: str) -> None:
    assert not re.search(r"(https?:)?//[a-z]", page, re.IGNORECASE)
    assert not re.search(r"url\(|@import|srcset|<script|<link|<iframe|<object", page, re.IGNORECASE)
    anchors = {value for name, value in _Page(page).attributes if name == "href"}
    ids = {f"#{value}" for name, value in _Page(page).attributes if name == "id"}
    assert anchors and anchors <= ids


def test_policy_allows_only_the_style_sheet_of_the_page(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert policy and style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    directives = policy[1].replace("&#39;", "'")
    assert directives.startswith("default-src 'none'")
    assert f"'sha256-{digest}'" in directives
    assert "unsafe" not in directives
    assert not any(name == "style" for name, _ in _Page(page).attributes)


def test_ids_are_unique_and_every_figure_is_described(page: str) -> None:
    parsed = _Page(page)
    ids = [value for name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 5  # three confusion matrices, epsilon, trade-off
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)  # noqa: S314 - our own drawing
        assert root.get("role") == "img"
        assert root.findtext("title") and root.findtext("desc")


def test_synthetic_input_is_the_first_line(example: ModuleType, page: str) -> None:
    assert _Page(page.split("<body>")[1].removesuffix("</body>\n</html>")).text.lstrip().startswith("SYNTHETIC INPUT:")
    real = example.report(corpus=CorpusPart(name="CREMA-D", synthetic=False, labels="vote", clips=9, speakers=3))
    assert "SYNTHETIC" not in render_html(real)


def test_the_first_screen_says_in_counts_of_people_what_an_attacker_does(page: str) -> None:
    text = _Page(page.partition('id="identity"')[0]).text
    assert "Verdict: fails" in text
    assert "would re-identify 6 from one clip (95 % interval: 5 to 6). From 10 clips of each person: 8." in text
    assert "Guessing finds 1; unprotected recordings give away 10." in text
    assert "picks the right one 6 of 10 times; guessing, 5 of 10." in text
    assert "weak or none" in text and "Not tested" in text


def test_the_verdict_is_the_same_on_the_page_and_in_the_json(example: ModuleType, tmp_path: Path) -> None:
    write_report(example.report(), tmp_path)
    gate = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["gate"]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert gate["verdict"] == "fails" and 'class="verdict fails"' in text
    rows = re.findall(r"<strong>(fails|inconclusive|passes)</strong>", text)
    assert rows == [criterion["state"] for criterion in gate["criteria"]]


def test_nothing_is_green_without_a_criterion_that_holds(example: ModuleType) -> None:
    page = render_html(example.report(audit=(), gate=GatePart(passed=True)))
    assert 'class="verdict inconclusive"' in page and "verdict passes" not in page


def test_an_invalid_figure_is_marked_in_its_own_cell(page: str) -> None:
    heat = page.partition('<table class="heat">')[2].partition("</table>")[0]
    (row,) = (row for row in heat.split("<tr>") if ">mlp-3<" in row)
    cells = re.findall(r"<td.*?</td>", row)
    assert ["invalid" in cell for cell in cells] == [True, False, False, True, False]
    assert all('class="heat-0"' in cell for cell in cells if "invalid" in cell)  # no shade: it is no leakage


def test_curves_are_drawn_where_there_are_scores(example: ModuleType, page: str) -> None:
    scores = {("voice", "semi-informed", "logistic-regression"): Trials([0.1, 0.2, 0.9], [0, 1, 0], [1, 0, 0])}
    assert "DET curves" not in page
    assert "DET curves, Voice" in render_html(example.report(), scores)


def test_people_are_shown_by_risk_the_worst_off_first(example: ModuleType) -> None:
    best = next(r for r in example.audit() if r.scenario == "semi-informed")
    people = [
        best.model_copy(update={"subset": f"{index:016x}", "value": value})
        for index, value in enumerate((0.1, 0.9, 0.6))
    ]
    text = _Page(render_html(example.report(audit=(*example.audit(), *people)))).text
    assert "re-identifies 2 of 3 people from at least half of their clips" in text
    assert "worst-off person is re-identified from 90.0 % of their clips" in text


def test_seeded_noise_is_announced(example: ModuleType, page: str) -> None:
    assert "Seeded noise:" in page
    assert "Seeded noise:" not in render_html(example.report(run=example.run(seeded_noise=False)))


def test_a_study_over_real_sites_says_so_and_where_its_noise_came_from(example: ModuleType, page: str) -> None:
    assert "The sites were simulated on one machine" in page
    real = render_html(example.report().model_copy(update={"run": example.run(deployment=True, seeded_noise=False)}))
    assert "ran over the network with 6 enrolled sites" in real
    assert "the operating system&#39;s generator at each site" in real
    assert "No site was lost." in real
    assert "simulated on one machine" not in real
    assert ">Missed<" not in real


def test_each_site_has_its_time_and_bytes_where_they_were_counted(example: ModuleType, page: str) -> None:
    assert '<td class="num">1 min 35 s</td><td class="num">2 MiB</td><td class="num">0.7 KiB</td>' in page
    uncounted = example.run().sites[0].model_copy(update={"seconds": None})
    assert "From it" not in render_html(example.report().model_copy(update={"run": example.run(sites=(uncounted,))}))


def test_lost_sites_are_named_in_the_first_paragraph_with_what_they_missed(example: ModuleType) -> None:
    lost = example.run(deployment=True).sites[0].model_copy(update={"missed": ("rounds 2-4 of train voice",)})
    page = render_html(example.report().model_copy(update={"run": example.run(deployment=True, sites=(lost,))}))
    assert page.count("rounds 2-4 of train voice") == 2  # in words, and in the table of sites
    assert f"{lost.site} missed rounds 2-4 of train voice" in page


def test_without_originals_no_attacker_is_said_to_have_failed_on_them(example: ModuleType) -> None:
    headline = [h.model_copy(update={"figures": tuple(f.model_copy(update={"unprotected": None}) for f in h.figures)})
               for h in example.report().headline]  # fmt: skip
    report = example.report().model_copy(update={"headline": tuple(headline), "run": example.run(deployment=True)})
    page = render_html(report)
    assert "this proves little" not in page
    assert "Attacks on original recordings: they never left the sites." in page


def test_missing_modality_is_reported_absent_with_its_reason(example: ModuleType) -> None:
    emotion = EmotionResults(voice=example.emotion(1, 0.3), absent={"face": ABSENT, "fused": "needs both"})
    source = render_html(example.report(emotion=emotion, audit=tuple(example.audit(("voice",)))))
    assert f"Absent: {ABSENT}" in source
    assert "confusion-face" not in source


def test_nothing_at_all_is_still_a_report(example: ModuleType, tmp_path: Path) -> None:
    emotion = EmotionResults(absent=dict.fromkeys(("voice", "face", "fused"), "no clip was held out"))
    bare = example.report(
        emotion=emotion, emotion_central=None, audit=(), privacy=(),
        run=example.run(stages=(), sites=(), rounds=(), warnings=(), study={}, peak_memory_bytes=None),
    )  # fmt: skip
    write_report(bare, tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "nothing is known about re-identification" in text
    assert "Read this as no guarantee" in text


def test_one_speaker_and_one_emotion_render(example: ModuleType) -> None:
    lone = example.emotion(1, 0.5, speakers=1, clips=6, classes=1)
    source = render_html(example.report(emotion=EmotionResults(voice=lone, face=lone, fused=lone)))
    assert "nan" not in _Page(source).text.lower().replace("resonan", "")


def test_all_invalid_is_said_not_to_be_privacy(example: ModuleType) -> None:
    rows = tuple(row.model_copy(update={"invalid": True, "reason": "did not converge"}) for row in example.audit())
    text = _Page(render_html(example.report(audit=rows))).text
    assert "no evidence of privacy" in text
    assert "would re-identify" not in text and "Verdict: inconclusive" in text


def test_absent_attacker_is_listed_with_the_command_that_gets_it(page: str) -> None:
    text = _Page(page).text
    assert "attackers that were not there." in text
    assert "moretta attackers fetch ge2e" in text


def test_privacy_without_guarantee_is_never_a_number(page: str) -> None:
    table = page.partition("Meaning of the epsilons")[2].partition("</table>")[0]
    rows = [re.findall(r"<td[^>]*>([^<]*)", row) for row in table.split("<tr>")]
    assert ["clip", "none", "no guarantee", "all"] in rows
    assert ["clip", "2,704", "weak or none", "all"] in rows


def test_report_that_cannot_be_rendered_leaves_the_old_one(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(example.report(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(charts, "confusion_matrix", _fail)
    with pytest.raises(ZeroDivisionError):
        write_report(example.report(gate=GatePart(passed=False, broken=("x",))), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_labels_keep_their_distance_inside_the_figure() -> None:
    placed = spread([99, 99, 98, 5], gap=10, low=0, high=100)
    ordered = sorted(placed)
    assert all(b - a >= 10 for a, b in pairwise(ordered))
    assert ordered[-1] <= 100
