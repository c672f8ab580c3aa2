"""The fixed grid, the people it is quoted on, and the rows it makes of results."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from typing import Any

import pytest

from moretta.client.anonymizers.voice_baselines import McAdams
from moretta.deploy.sweep import run_sweep as sweeping
from moretta.deploy.sweep.grid import make_grid
from moretta.deploy.sweep.jobs import Job
from moretta.deploy.sweep.sweep_results import ResultFolder, Spent, Studied
from moretta.deploy.sweep.zoo import GRIDS, run_zoo, system_of, zoo_grid
from moretta.shared.audit.report.zoo_rows import ZooReport, columns_of
from moretta.shared.audit.result import Result
from moretta.shared.core.errors import StudyError
from moretta.shared.release.anonymizer import anonymizer_names
from moretta.shared.study.schema import Study
from tests.conftest import write_tone_corpus

PAGES = Path(__file__).parents[3] / "docs" / "systems"
SEX = {"classes": 2, "able": 0.93, "in_loop": 0.5, "of_originals": 0.7, "fresh_linear": 0.8, "fresh_forest": 0.81}


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return write_tone_corpus(tmp_path / "tones", speakers=12, seconds=0.2, sentences=("IEO",))


def test_every_published_system_that_is_installed_is_in_the_grid_as_published_and_otherwise() -> None:
    published = {page.stem for page in PAGES.glob("*.md")} & set(anonymizer_names("voice"))
    assert "replacement-autoencoder" in published
    grid = zoo_grid(Study())
    systems = [system_of(curve) for curve in grid.curve]
    assert {name for name in published if systems.count(name) >= 2} == published
    assert {"none", "constant", "mcadams", "mfcc-quantizer", "speaker-normalized", "emotion-label-rr"} < set(systems)
    for cell in make_grid(grid).cells:
        assert cell.study.voice.anonymizer == cell.curve.partition(": ")[0]
        assert cell.study.face.enabled is False


def test_a_system_that_is_not_installed_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = '\n[[curve]]\nname = "of-tomorrow: as published"\nset = { voice.anonymizer = "of-tomorrow" }\n'
    (tmp_path / "zoo.toml").write_text(GRIDS["voice"].read_text(encoding="utf-8") + more, encoding="utf-8")
    monkeypatch.setitem(GRIDS, "voice", tmp_path / "zoo.toml")
    assert "of-tomorrow" not in map(system_of, zoo_grid(Study()).curve)
    with pytest.raises(StudyError, match=r"no system of-tomorrow .*replacement-autoencoder"):
        zoo_grid(Study(), ["of-tomorrow"])


def test_an_anonymizer_that_is_not_in_the_grid_is_a_row_where_it_is_named() -> None:
    one, other = make_grid(zoo_grid(Study(), ["none", "prosody-statistics"])).cells
    assert (one.curve, other.curve) == ("none: original recordings", "prosody-statistics: default")
    assert other.study.voice.anonymizer == "prosody-statistics" and not other.study.face.enabled
    options = {"clip_epsilon": 3.5}
    study = Study.model_validate({"seed": 4, "voice": {"anonymizer": "prosody-statistics", "options": options}})
    (cell,) = make_grid(zoo_grid(study, ["prosody-statistics"])).cells
    assert cell.curve == "prosody-statistics: by the study" and cell.study.seed == 4
    assert cell.study.voice.options.model_dump()["clip_epsilon"] == 3.5
    assert "prosody-statistics" not in map(system_of, zoo_grid(study).curve)


def test_a_study_gives_seed_and_audit_and_no_anonymizer() -> None:
    study = Study.model_validate({"seed": 5, "audit": {"bootstrap": 9}, "voice": {"preset": "dp-clip"}})
    cells = make_grid(zoo_grid(study, ["mcadams"])).cells
    assert [(c.study.seed, c.study.audit.bootstrap, c.study.audit.updates) for c in cells] == [(5, 9, False)]
    assert cells[0].study.voice.anonymizer == "mcadams"


def studied(value: float, **changes: Any) -> Studied:
    about: dict[str, Any] = {"modality": "voice", "low": value - 0.1, "high": value + 0.1, "chance": 0.1}
    top1 = Result(attacker="a", scenario="semi-informed", metric="top1", value=value, **about)
    pooled = Result(attacker="a", scenario="semi-informed", metric="top1", value=value, pooled=3, **about)
    emotion = Result(
        attack="utility", target="emotion", attacker="j", kind="trained", scenario="semi-informed", metric="uar",
        value=value, **about,
    )  # fmt: skip
    words = [
        Result(
            attack="utility", target="words", attacker="r", kind="pretrained", scenario=scenario, metric=metric,
            value=figure, **about,
        )
        for scenario, metric, figure in (("unprotected", "wer", 0.01), ("ignorant", "wer", value + 0.2))
    ]  # fmt: skip
    sex = Result(
        attack="attribute", target="sex", attacker="s", scenario="semi-informed", metric="balanced_accuracy",
        invalid=True, reason="too few people", modality="voice",
    )  # fmt: skip
    content: dict[str, Any] = {
        "rows": (top1, pooled), "utility": (emotion, *words), "inference": (sex,), "not_voted": "no table", "clips": 6,
        "parameters": {}, "releases": Spent(clip=2.0, speaker=None), "seconds": {"codebook": 3.0, "release": 2.0},
        "clip_seconds": 100.0,
    }  # fmt: skip
    return Studied(**content | changes)


def run(corpus: Path, out: Path, **changes: Any) -> tuple[ZooReport, sweeping.Worked]:
    options: dict[str, Any] = {
        "public": None,
        "split": True,
        "systems": ["mcadams"],
        "study": Study(),
        "jobs": 1,
        "command": "c",
    }
    return run_zoo(corpus, out, **options | changes, notify=lambda text: None)


def test_rows_are_of_each_half_and_their_mean_and_no_figure_is_blank(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Job] = []

    def do(todo: list[Job], out: Path, **_: Any) -> dict[str, str]:
        seen.extend(todo)
        first, second, *others = todo
        ResultFolder(out).keep(first, studied(0.3, parameters={"sex": {**SEX, "faults": ["weak"]}}))
        ResultFolder(out).keep(second, studied(0.5))
        return {job.key: "the disk is full" for job in others}

    monkeypatch.setattr(sweeping, "_do", do)
    report, worked = run(people, tmp_path / "out", systems=["mcadams", "none"])
    assert [job.kind for job in seen] == ["study"] * 4
    assert len(worked.failed) == 2  # a label names its half
    for job in seen:
        (public,) = job.plan.study.paths.values()
        released = {name.name[:4] for name in job.plan.corpus.rglob("*.wav")}
        assert len(released) == 6
        assert released.isdisjoint(name.name[:4] for name in Path(public).rglob("*.wav"))
    by_half = {(row.system, row.half): row for row in report.rows}
    assert [row.half for row in report.rows] == ["first half", "second half", "mean"] * 2
    full = next(row for row in report.rows if row.figures["sex_able"].value is not None)
    assert full.figures["sex_in_loop"].value == 0.5
    assert full.faults == ("weak",)
    assert full.figures["times_real_time"].value == 50.0
    failed = [row for row in report.rows if row.failed]
    assert failed
    assert all("the disk is full" in row.failed for row in failed)
    for row in report.rows:
        assert list(row.figures) == columns_of("voice")
        assert all(figure.value is not None or figure.why for figure in row.figures.values())
    assert full.figures["sex"].why == "too few people"
    assert (full.figures["wer"].value, full.figures["wer"].by) == (0.5, "r")
    assert full.figures["sentence_read"].why == "it was not measured"
    assert full.figures["uar_vote"].why == "no table"
    assert full.figures["epsilon_speaker"].why
    assert full.figures["top1_30"].why == "no speaker has 30 trial clips"
    lines = list(csv.DictReader(io.StringIO((tmp_path / "out" / "zoo.csv").read_text(encoding="utf-8"))))
    assert len(lines) == len(report.rows) == len(by_half)
    assert lines[0]["sex_why"] == report.rows[0].figures["sex"].why
    page = (tmp_path / "out" / "zoo.html").read_text(encoding="utf-8")
    assert "the disk is full" in page
    assert "no speaker has 30 trial clips" in page
    assert "<script" not in page
    assert "src=" not in page


def met(value: float, metric: str, attacker: str) -> Result:
    return Result(
        attack="utility", target="face", attacker=attacker, kind="pretrained", scenario="ignorant", metric=metric,
        value=value, modality="face",
    )  # fmt: skip


@pytest.fixture
def faces(people: Path) -> Path:
    (people / "VideoFlash").mkdir()
    for sound in (people / "AudioWAV").iterdir():
        (people / "VideoFlash" / f"{sound.stem}.flv").write_bytes(b"")
    return people


@pytest.mark.parametrize("split", [False, True])
def test_systems_of_faces_have_rows_of_their_own_with_columns_of_faces(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, split: bool
) -> None:
    jobs: list[Job] = []
    meters = met(0.07, "landmark_error", "face-mesh"), met(0.9, "identity_cosine", "dlib")

    def do(todo: list[Job], out: Path, **_: Any) -> dict[str, str]:
        jobs.extend(todo)
        for job in todo:
            ResultFolder(out).keep(job, studied(0.3, utility=(*meters, met(0.2, "identity_cosine", "sface"))))
        return {}

    monkeypatch.setattr(sweeping, "_do", do)
    systems = ["none", "unlearnt-gender", "shifted-encoder"]
    report, _ = run(faces, tmp_path / "out", modality="face", systems=systems, split=split)
    settings = [(row.system, row.setting) for row in report.rows if row.half in ("", "mean")]
    assert ("shifted-encoder", "strongest") in settings
    assert len(set(settings)) == len(settings) == 5
    assert {job.plan.study.modalities for job in jobs} == {("face",)}
    trained = {path.name for job in jobs for path in job.plan.study.paths.values()}
    assert trained == ({"first-half", "second-half"} if split else set())
    assert all(job.plan.corpus not in job.plan.study.paths.values() for job in jobs)
    assert len(jobs) == (10 if split else 5)
    for row in report.rows:
        assert list(row.figures) == columns_of("face")
        assert row.figures["landmark_error"].value == 0.07
        assert (row.figures["identity_cosine"].value, row.figures["identity_cosine"].by) == (0.2, "sface")
        assert row.figures["ssim"].why == "it was not measured"
    page = (tmp_path / "out" / "zoo.html").read_text(encoding="utf-8")
    assert "landmark error" in page and "word error rate" not in page


def test_public_people_are_named_once_and_by_faces_need_not_be(faces: Path, tmp_path: Path) -> None:
    for changes in ({"split": False}, {"public": faces}, {"public": faces, "modality": "face"}):
        with pytest.raises(StudyError, match=r"(both|neither) --public (and|nor) --split"):
            run(faces, tmp_path / "out", **changes)


@pytest.mark.parametrize("modality", ["voice", "face"])
def test_public_people_in_no_folder_are_an_error_about_the_folder(faces: Path, tmp_path: Path, modality: str) -> None:
    with pytest.raises(StudyError, match="no folder"):
        run(faces, tmp_path / "out", public=tmp_path / "nowhere", split=False, modality=modality, systems=["none"])


def test_the_mean_of_two_halves_has_the_wider_interval(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def do(todo: list[Job], out: Path, **_: Any) -> dict[str, str]:
        for job, value in zip(todo, (0.3, 0.5), strict=True):
            ResultFolder(out).keep(job, studied(value))
        return {}

    monkeypatch.setattr(sweeping, "_do", do)
    report, worked = run(people, tmp_path / "out")
    assert worked.done == 2
    mean = report.rows[-1]
    figure = mean.figures["top1_semi"]
    assert (figure.value, figure.low, figure.high) == pytest.approx((0.4, 0.2, 0.6))
    assert mean.speakers == 12
    again, worked = run(people, tmp_path / "out")
    assert (worked.done, worked.reused) == (0, 2)
    assert again.rows == report.rows


def sexes(corpus: Path, text: str) -> None:
    table = corpus / "VideoDemographics.csv"
    rows = table.read_text(encoding="utf-8").replace(",Male,", f",{text},")
    table.write_text(rows, encoding="utf-8")


def test_public_people_without_what_an_adversary_needs_are_refused_before_anything_is_computed(
    people: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    few = write_tone_corpus(tmp_path / "few", speakers=10, seconds=0.2, sentences=("IEO",))
    with pytest.raises(StudyError, match=r"5 people \(first half\), of whom 2 female, 3 male; .*at least 3"):
        run(few, out)
    sexes(people, "Female")
    with pytest.raises(StudyError, match="of one sex alone: 6 female, 0 male"):
        run(people, out)
    (people / "VideoDemographics.csv").unlink()
    with pytest.raises(StudyError, match=r"of nobody of whom the sex is known.*VideoDemographics\.csv"):
        run(people, out)
    assert not out.exists()


def test_people_are_never_both_public_and_released(people: Path, tmp_path: Path) -> None:
    public = shutil.copytree(people, tmp_path / "public")
    with pytest.raises(StudyError, match="12 people in both tones"):
        run(people, tmp_path / "out", public=public, split=False)


def test_a_public_network_that_is_absent_is_named_before_anything_is_computed(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = "no weights of ge2e: run `moretta attackers fetch ge2e`"
    monkeypatch.setattr(McAdams, "missing", classmethod(lambda cls, study: why))
    monkeypatch.setattr(sweeping, "_do", lambda *_, **__: pytest.fail("something was computed"))
    with pytest.raises(StudyError, match="mcadams cannot run here: no weights of ge2e: run `moretta attackers fetch"):
        run(people, tmp_path / "out")
