from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from releasing import STUDY, Site, Spoil
from staging import do, warnings_of

from moretta.server.stages.report import privacy_rows
from moretta.server.stages.run import Run, RunContext
from moretta.shared.core.errors import RunError
from moretta.shared.core.labels import Emotion
from moretta.shared.core.terms import PrivacyStatement
from moretta.shared.data.corpora.cremad import Level
from moretta.shared.messages import wire
from moretta.shared.release import AnonymizerStatement, ReleasedClip, ReleaseWriter
from moretta.shared.study.run_plan import DeploymentPlan, EnrolledSite, PlannedSite, SimulationPlan


@pytest.fixture
def sites(tmp_path: Path) -> dict[int, Site]:
    return {n: Site(tmp_path / f"at-site-{n}", n) for n in (1, 2)}


@pytest.fixture
def run(tmp_path: Path, fake_site_grid: Any, hello: Any, hellos: Any, sites: dict[int, Site]) -> Run:
    site_grid = hellos(fake_site_grid(lambda node, message: hello(node), nodes=2), 2)
    site_grid.grid.response = lambda node, message: sites[node](message)
    plan = SimulationPlan(
        corpus=tmp_path,
        corpus_name="c",
        synthetic=False,
        study=STUDY,
        sites=(PlannedSite(name="site-1", speakers=(1,)), PlannedSite(name="site-2", speakers=(2,))),
        folds=((1,), (2,)),
        command="moretta simulate",
    )
    return Run(RunContext(tmp_path / "run", plan), site_grid=site_grid)


def test_every_site_s_release_is_kept_whole_on_disk(run: Run, sites: dict[int, Site], monkeypatch: Any) -> None:
    monkeypatch.setattr(wire, "CHUNK_BYTES", 100)
    do(run, "release")
    assert sorted(run.releases.kept) == ["site-1", "site-2"]
    assert sites[1].fetches > 10
    for site in sites.values():
        kept = run.context.folder / "server" / "releases" / site.name
        assert {p.name: p.read_bytes() for p in kept.iterdir()} == {
            p.name: p.read_bytes() for p in site.folder.iterdir()
        }
    record = run.releases.facts["site-1"]
    assert (record.clips, record.speakers, record.dropped, record.training) == (3, 1, {"voice-silent": 1}, {"voice": 2})
    assert run.absent["face"] == "the study does not ask for it"


def test_small_files_travel_together(run: Run, sites: dict[int, Site]) -> None:
    do(run, "release")
    assert [site.fetches for site in sites.values()] == [1, 1]


def _set(*path: str, value: Any) -> Spoil:
    def spoil(values: dict[str, Any]) -> None:
        for key in path[:-1]:
            values = values[key]
        values[path[-1]] = value

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        _set("files", "../../escape.safetensors", value=10),
        _set("files", "/etc/passwd", value=10),
        _set("files", "public.safetensors", value=10),
        _set("files", "voice-00000.safetensors", value=2**40),
        _set("files", "voice-00000.safetensors", value=-1),
        _set("files", value=["statement.json"]),
        _set("files", value={f"voice-{n:05d}.safetensors": 1 for n in range(10_001)}),
        _set("statement", value={"site": "x"}),
        _set("statement", "names", value=["1001"]),
        _set("training", value=[1]),
        _set("training", value={"voice": "many"}),
    ],
)
def test_a_site_that_announces_what_no_release_has_is_left_out(run: Run, sites: dict[int, Site], spoil: Spoil) -> None:
    sites[1].spoil_release = spoil
    do(run, "release")
    assert sorted(run.releases.kept) == ["site-2"]
    assert any("site-1 released nothing" in warning for warning in warnings_of(run))
    assert not list(run.context.folder.parent.rglob("escape*"))


@pytest.mark.parametrize(
    "spoil",
    [
        _set("chunk", value=b"forged"),
        _set("chunk", value="text"),
        _set("sha256", value="0" * 64),
        lambda values: values.pop("chunk"),
        lambda values: values.update(chunk=values["chunk"] + b"more"),
        _set("failure", value="ReleaseError"),
    ],
)
def test_a_chunk_that_was_changed_on_the_way_is_refused(run: Run, sites: dict[int, Site], spoil: Spoil) -> None:
    sites[1].spoil_chunk = spoil
    do(run, "release")
    assert sorted(run.releases.kept) == ["site-2"]


def test_arrays_of_another_size_cost_that_site_and_not_the_run(
    run: Run, sites: dict[int, Site], tmp_path: Path
) -> None:
    sites[1] = Site(tmp_path / "odd", 1, coefficients=20)
    do(run, "release")
    assert sorted(run.releases.kept) == ["site-2"]
    assert any("the size of the study" in warning for warning in warnings_of(run))


def test_a_release_for_another_study_or_under_another_name_is_refused(
    run: Run, sites: dict[int, Site], tmp_path: Path
) -> None:
    sites[1] = Site(tmp_path / "odd", 1, study=STUDY.with_changes(seed=9))
    do(run, "release")
    assert sorted(run.releases.kept) == ["site-2"]
    sites[1] = Site(tmp_path / "odder", 7)
    run.releases.kept.clear()
    do(run, "release")
    assert sorted(run.releases.kept) == ["site-2"]


def test_arrays_that_are_damaged_are_counted_on_arrival(run: Run, sites: dict[int, Site]) -> None:
    shard = sites[1].folder / "voice-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-50])
    do(run, "release")
    assert run.releases.facts["site-1"].dropped == {"voice-silent": 1, "voice-damaged": 3}
    assert any("3 arrays that cannot be used" in warning for warning in warnings_of(run))


def test_what_a_site_says_of_itself_is_counted_again(run: Run, sites: dict[int, Site]) -> None:
    path = sites[1].folder / "statement.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"clips": 10**9, "speakers": 10**6}))
    do(run, "release")
    assert (run.releases.facts["site-1"].clips, run.releases.facts["site-1"].speakers) == (3, 1)


def test_no_site_left_ends_the_run_with_the_causes(run: Run, sites: dict[int, Site]) -> None:
    for site in sites.values():
        site.spoil_release = lambda values: (values.clear(), values.update(failure="CorpusError"))[0]
    with pytest.raises(RunError, match=r"0 of 2 sites finished the stage 'release': site-1: CorpusError") as caught:
        do(run, "release")
    assert "at least 1" in caught.value.message


def _deployed(run: Run, tmp_path: Path) -> None:
    """The same sites as real ones, which tell whom they hold out."""
    sites = tuple(EnrolledSite(name=f"site-{n}", node=n) for n in (1, 2))
    plan = DeploymentPlan(corpus_name="c", synthetic=False, study=STUDY, command="c", sites=sites, server_home=tmp_path)
    run.context = replace(run.context, plan=plan)


def _table(value: Any = 3) -> list[list[Any]]:
    """Of three clips, all of the last emotion, as were released."""
    return [*([[0] * 6] * 5), [0, 0, 0, 0, 0, value]]


@pytest.mark.parametrize(
    "counts",
    [
        {"voice": {f"{2:016x}": _table()}},
        {"voice": {"1001": _table()}},
        {"voice": {f"{1:016x}": _table(-1)}},
        {"voice": {f"{1:016x}": _table(0.5)}},
        {"voice": {f"{1:016x}": _table(4)}},
        {"voice": {f"{1:016x}": _table(10**12)}},
        {"voice": {f"{1:016x}": _table(2**63)}},
        {"voice": {f"{1:016x}": _table()[:5]}},
        {"voice/3": {f"{1:016x}": _table()}},
        {"identity": {f"{1:016x}": _table()}},
        {"voice": [1]},
        [1],
        None,
    ],
)
def test_counts_that_a_site_cannot_have_are_left_out(
    run: Run, sites: dict[int, Site], counts: Any, tmp_path: Path
) -> None:
    _deployed(run, tmp_path)
    for number, site in sites.items():
        site.spoil_release = _set("held_out", value=[f"{number:016x}"])
    do(run, "release")
    sites[1].counts = counts
    sites[2].counts = {"voice": {f"{2:016x}": _table()}, "voice/3": {f"{2:016x}": [[0] * 3, [0] * 3, [0, 0, 3]]}}
    do(run, "evaluate")
    assert np.array_equal(run.evaluation.emotion["voice"].confusion, np.array(_table()))
    assert any("site-1 did not evaluate" in warning for warning in warnings_of(run))


@pytest.mark.parametrize(
    "parameters", [{"epsilon": 0.1}, {"preset": "original"}, {"coefficients": 20}, {"sensitivity": None}]
)
def test_a_release_that_was_made_otherwise_than_the_study_says_is_refused(
    run: Run, sites: dict[int, Site], tmp_path: Path, parameters: dict[str, Any]
) -> None:
    sites[1] = Site(tmp_path / "odd", 1, parameters=parameters)
    do(run, "release")
    assert sorted(run.releases.kept) == ["site-2"]
    assert any("as the study says" in warning for warning in warnings_of(run))


def test_a_site_that_releases_another_s_people_is_left_out_and_both_are_named(
    run: Run, sites: dict[int, Site], tmp_path: Path
) -> None:
    sites[2] = Site(tmp_path / "copy", 2, people=1)
    do(run, "release")
    assert sorted(run.releases.kept) == ["site-1"]
    assert any("site-2" in w and "pseudonyms that site-1 has released" in w for w in warnings_of(run))


def test_more_training_clips_than_were_released_weigh_no_more_and_are_named(run: Run, sites: dict[int, Site]) -> None:
    sites[1].spoil_release = _set("training", value={"voice": 10**7})
    do(run, "release")
    assert run.releases.facts["site-1"].training == {"voice": 3}
    assert any("site-1 states 10000000 training clips of voice and released 3" in w for w in warnings_of(run))


def test_a_site_that_weighed_more_in_the_code_than_it_released_is_left_out(run: Run, sites: dict[int, Site]) -> None:
    run.code_units = {"site-1": 10**6, "site-2": 1}
    do(run, "release")
    assert sorted(run.releases.kept) == ["site-2"]
    assert any("site-1 released nothing: 1000000 speakers in training the code" in w for w in warnings_of(run))


@pytest.mark.parametrize("held_out", [[], [f"{n:08x}{0:08x}" for n in range(4)]], ids=["nobody", "everybody"])
def test_a_site_that_chooses_its_own_part_of_the_test_is_named(
    run: Run, sites: dict[int, Site], tmp_path: Path, held_out: list[str]
) -> None:
    _deployed(run, tmp_path)
    writer = ReleaseWriter(tmp_path / "four", forms={"voice": "mfcc"})
    for n in range(4):
        clip = ReleasedClip(
            clip=f"{n:016x}", speaker=f"{n:08x}{0:08x}", emotion=Emotion.SAD, sentence="IEO", level=Level.XX
        )
        writer.add(clip, {"voice": np.zeros((20, 13), np.float32)})
    sites[1].statement = writer.finish(site="site-1", study=STUDY.digest(), anonymizers=sites[1].statement.anonymizers)
    sites[1].folder = tmp_path / "four"
    sites[1].spoil_release = _set("held_out", value=held_out)
    do(run, "release")
    assert any(f"site-1 holds out {len(held_out)} of its 4 speakers" in w for w in warnings_of(run))


def test_a_release_that_the_disk_has_no_room_for_costs_no_other_site(
    run: Run, sites: dict[int, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = SimpleNamespace(free=10 * 2**20)
    monkeypatch.setattr("moretta.server.stages.release.shutil.disk_usage", lambda _: free)
    sites[1].spoil_release = _set("files", "voice-00001.safetensors", value=100 * 2**20)
    do(run, "release")
    assert sorted(run.releases.kept) == ["site-2"]
    assert any("disk has room for" in w for w in warnings_of(run))


@pytest.mark.parametrize(("stated", "named"), [(0.1, True), (None, False), (9.0, False), (12.0, False)])
def test_an_epsilon_that_a_site_states_too_small_is_named_and_the_computed_one_is_reported(
    run: Run, sites: dict[int, Site], monkeypatch: pytest.MonkeyPatch, stated: float | None, named: bool
) -> None:
    made = sites[1].statement.anonymizers[0]

    def statement(epsilon: float | None) -> AnonymizerStatement:
        row = PrivacyStatement(mechanism="noise", unit="clip", epsilon=epsilon)
        return made.model_copy(update={"privacy": (row,)})

    monkeypatch.setattr("moretta.server.stages.statement_checks.recomputed_statement", lambda *_: statement(9.0))
    reported = sites[1].statement.model_copy(update={"anonymizers": (statement(stated),)})
    (sites[1].folder / "statement.json").write_text(reported.model_dump_json())
    do(run, "release")
    rows = [row for row in privacy_rows(run.context, run.releases, run.training) if row.site == "site-1"]
    assert [row.epsilon for row in rows] == [9.0 if named else stated]
    assert any("site-1 states epsilon 0.1 of a clip for noise" in w for w in warnings_of(run)) == named
    assert ("the site states 0.1" in rows[0].note) == named
    (silent,) = [row for row in privacy_rows(run.context, run.releases, run.training) if row.site == "site-2"]
    assert (silent.epsilon, silent.note) == (9.0, "the site states nothing")
