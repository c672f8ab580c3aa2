"""Rounds over fake sites: what is lost is named, and a run that stops anywhere comes out as if it had not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import MetricRecord, RecordDict
from staging import warnings_of

from moretta.server.stages.run import Run, RunContext, SiteFacts
from moretta.server.stages.state import RESUME_FILE, load_progress, save_state
from moretta.server.stages.train import sites_not_in
from moretta.server.study import SITE_STAGES, run_stages
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.data.corpora.cremad import Level
from moretta.shared.messages import wire
from moretta.shared.release import AnonymizerStatement, ReleasedClip, ReleaseWriter, open_release
from moretta.shared.study.run_plan import DeploymentPlan, EnrolledSite, Plan, SimulationPlan
from moretta.shared.study.schema import Study, parse_study

ROUNDS = 4
STUDY = {"face": {"enabled": False}, "train": {"rounds": ROUNDS, "strategy": "FedAdam"}}
NODES = {1: "site-1", 2: "site-2", 3: "site-3"}


class Killed(BaseException):
    """The process is gone: nothing catches it."""


def _answer(node: int, message: Any) -> RecordDict:
    number = int(wire.number_of(message.content, "server-round"))
    generator = np.random.default_rng(100 * node + number)
    moved = {
        name: (0.9 * array + 0.1 * generator.standard_normal(array.shape)).astype(array.dtype)
        for name, array in wire.arrays_of(message.content).items()
    }
    aggregation = wire.study_of(message.content).aggregation
    hidden = aggregation.secure or aggregation.dp == "distributed"  # as the client says it
    metrics = MetricRecord({"num-examples": 1 if hidden else node, "epsilon": float(number)})
    return RecordDict(
        {wire.ARRAYS: wire.arrays_to_record(moved), wire.METRICS: metrics, wire.CONFIG: wire.json_config(site="x")}
    )


@pytest.fixture
def start(tmp_path: Path, fake_site_grid: Any) -> Callable[..., Run]:
    """A run whose three sites have released; each speaker 1 is trained on and each speaker 2 held out."""

    def release(folder: Path, number: int, study: Study) -> Any:
        writer = ReleaseWriter(folder, forms={"voice": "mfcc"})
        rng = np.random.default_rng(number)
        for clip in range(6):
            meta = ReleasedClip(
                clip=f"{number:08x}{clip:08x}",
                speaker=f"{number:015x}{1 + clip % 2}",
                emotion=EMOTIONS[clip],
                sentence="IEO",
                level=Level.XX,
            )
            writer.add(meta, {"voice": rng.normal(size=(20, 13)).astype(np.float32)})
        form = AnonymizerStatement(modality="voice", name="n", version="1", form="mfcc", parameters={}, noise="none")
        writer.finish(site=f"site-{number}", study=study.digest(), anonymizers=(form,))
        return open_release(folder)

    def make(name: str = "run", *, simulated: bool = False, **changes: Any) -> Run:
        study = parse_study(STUDY).with_changes(**changes)
        site_grid = fake_site_grid(_answer, nodes=3)
        site_grid.nodes = dict(NODES)
        site_grid.on_lost_site = study.stages.on_lost_site
        sites = tuple(EnrolledSite(name=site, node=node) for node, site in NODES.items())
        plan: Plan = DeploymentPlan(
            corpus_name="c", synthetic=False, study=study, command="c", sites=sites, server_home=tmp_path
        )
        if simulated:
            plan = SimulationPlan(
                corpus_name="c", synthetic=False, study=study, command="c", sites=(), corpus=tmp_path, folds=((),)
            )
        run = Run(RunContext(tmp_path / name, plan), site_grid=site_grid)
        plan.save(run.context.folder)
        releases = run.releases
        for number, site in NODES.items():
            releases.kept[site] = release(run.context.folder / "server" / "releases" / site, number, study)
            held_out = (f"{number:015x}2",)
            releases.facts[site] = SiteFacts(clips=6, speakers=2, training={"voice": 3}, held_out=held_out)
        run.public |= {"voice/mean": np.zeros(13, np.float32), "voice/std": np.ones(13, np.float32)}
        save_state(run, RESUME_FILE)
        return run

    return make


def _train(run: Run) -> Run:
    run_stages(run, [stage for stage in SITE_STAGES if stage.name == "train voice"])
    return run


def _again(run: Run) -> Run:
    """The same run in a new process."""
    saved = load_progress(run.context.folder)
    assert saved is not None
    saved.site_grid = run.grid
    return saved


def _figures(run: Run) -> Any:
    rounds = [row.model_copy(update={"seconds": None}) for row in run.training.rounds]
    weights = {n: a.tobytes() for n, a in run.models["voice"].items()}
    return weights, run.releases.facts, run.training.spent, run.context.progress.missed, rounds


@pytest.mark.parametrize("question", range(1, 3 * ROUNDS + 1))
@pytest.mark.parametrize("dp", ["none", "central"])
def test_a_server_that_is_killed_in_the_middle_of_any_round_ends_with_the_same_bits(
    start: Callable[..., Run], question: int, dp: str
) -> None:
    changes = {"aggregation__dp": dp, "simulated": dp == "central"}
    assert _figures(_killed(start, question, **changes)) == _figures(_train(start("undisturbed", **changes)))


@pytest.mark.parametrize("question", range(1, 2 * ROUNDS + 1))
def test_after_a_kill_a_round_is_sent_to_the_same_share_of_the_sites(start: Callable[..., Run], question: int) -> None:
    again = _killed(start, question, train__fraction_train=0.7)
    assert _figures(again) == _figures(_train(start("undisturbed", train__fraction_train=0.7)))


def _killed(start: Callable[..., Run], question: int, **changes: Any) -> Run:
    """A run that was killed over this request and went on in a new process."""
    killed = start("killed", **changes)
    requested = 0

    def response(node: int, message: Any) -> RecordDict:
        nonlocal requested
        requested += 1
        if requested == question:
            raise Killed
        return _answer(node, message)

    grid: Any = killed.grid.grid
    grid.response = response
    with pytest.raises(Killed):
        _train(killed)
    return _train(_again(killed))


def test_held_out_speakers_are_those_that_the_sites_stated(start: Callable[..., Run]) -> None:
    run = start()
    assert run.releases.held_out(run.context.plan) == {f"{n:015x}2" for n in NODES}


def test_a_lost_site_is_named_once_with_the_rounds_it_missed_and_why(start: Callable[..., Run]) -> None:
    run = start()
    grid: Any = run.grid.grid

    def response(node: int, message: Any) -> RecordDict:
        grid.away = {2} if wire.number_of(message.content, "server-round") < 3 else set()
        return _answer(node, message)

    grid.away, grid.response = {2}, response
    _train(run)
    assert warnings_of(run) == ["site-2 missed rounds 1-2 of training voice: it was lost (Node Unavailable)"]
    assert [row.sites for row in run.training.rounds] == [2, 2, 3, 3]
    assert [row.failed for row in run.training.rounds] == [1, 1, 0, 0]
    assert (run.training.spent["site-2"].rounds, run.training.spent["site-1"].rounds) == (2, 4)


def test_a_site_that_is_revoked_during_a_round_is_done_without_and_named(start: Callable[..., Run]) -> None:
    run = start(stages__on_lost_site="retry")
    run.grid.gone = lambda: {"site-3": "its enrollment was revoked"} if len(run.training.rounds) >= 1 else {}
    _train(run)
    assert warnings_of(run) == ["site-3 missed rounds 2-4 of training voice: its enrollment was revoked"]
    assert [row.sites for row in run.training.rounds] == [3, 2, 2, 2]


def test_a_stage_with_its_own_minimum_fails_when_a_lost_site_leaves_too_few(start: Callable[..., Run]) -> None:
    from moretta.shared.core.errors import RunError

    run = start(stages__train={"min_sites": 3})
    grid: Any = run.grid.grid
    grid.away = {2}
    with pytest.raises(RunError, match=r"2 usable updates in round 1 .*site-2: it was lost.*at least 3"):
        _train(run)


def test_a_redone_round_is_spent_once_and_a_site_pays_for_the_rounds_it_was_in(start: Callable[..., Run]) -> None:
    from moretta.server.stages.report import privacy_rows
    from moretta.shared.privacy.site_updates import plan_site_level

    run = start(aggregation={"dp": "central", "min_sites": 2}, simulated=True)
    plan = plan_site_level(run.context.study)
    assert plan is not None
    grid: Any = run.grid.grid

    def response(node: int, message: Any) -> RecordDict:
        number = wire.number_of(message.content, "server-round")
        if number == 3 and node == 1 and not grid.started:
            grid.started = {1: "again"}
            raise Killed
        grid.away = {2} if number < 2 else set()
        return _answer(node, message)

    grid.away, grid.response = {2}, response
    with pytest.raises(Killed):
        _train(run)
    again = _train(_again(run))
    rows = {row.site: row for row in privacy_rows(again.context, again.releases, again.training) if row.unit == "site"}
    assert {site: row.epsilon for site, row in rows.items()} == {
        "site-1": plan.loss(4).epsilon(1e-3),
        "site-2": plan.loss(3).epsilon(1e-3),
        "site-3": plan.loss(4).epsilon(1e-3),
    }
    assert rows["site-1"].epsilon == pytest.approx(8.0, rel=1e-6)
    assert "server sees every update" in rows["site-1"].note


def test_in_deployment_the_servers_noise_is_the_systems_and_in_a_simulation_the_seeds(
    start: Callable[..., Run],
) -> None:
    """Two runs of the same study: with noise that nobody can replay they differ."""

    def weights(name: str, *, simulated: bool) -> bytes:
        run = start(name, aggregation__dp="central", simulated=simulated)
        _train(run)
        return run.models["voice"]["2.weight"].tobytes()

    assert weights("a", simulated=True) == weights("b", simulated=True)
    assert weights("c", simulated=False) != weights("d", simulated=False)


def _asked(run: Run) -> list[set[int]]:
    """Nodes that got a request, by round."""
    found = [set[int]() for _ in range(ROUNDS)]
    for message in run.grid.grid.sent:  # type: ignore[attr-defined]
        found[int(wire.number_of(message.content, "server-round")) - 1].add(message.metadata.dst_node_id)
    return found


def test_each_round_is_sent_to_its_share_of_the_sites_which_the_seed_draws(start: Callable[..., Run]) -> None:
    run = start(train__fraction_train=0.7, train__min_sites=3)  # no more than are asked, where few have a modality
    _train(run)
    asked = _asked(run)
    assert {len(nodes) for nodes in asked} == {2}
    assert len(set(map(frozenset, asked))) > 1
    assert run.context.progress.missed == {}  # whoever is not asked misses nothing
    assert [row.sites for row in run.training.rounds] == [2] * ROUNDS
    again, other = (
        start(name, train__fraction_train=0.7, train__min_sites=3, seed=seed)
        for name, seed in (("again", 1), ("other", 7))
    )
    assert _asked(_train(again)) == asked != _asked(_train(other))


def test_in_place_of_a_site_that_is_gone_another_is_drawn(start: Callable[..., Run]) -> None:
    """As found: a run could never go on where a round was for sites alone that had given up their enrollment."""
    whole, left = start("whole", train__fraction_train=0.4), start("left", train__fraction_train=0.4)
    before = _asked(_train(whole))
    gone = next(iter(before[0]))
    del left.grid.nodes[gone]
    after = _asked(_train(left))
    assert all(len(nodes) == 1 and gone not in nodes for nodes in after)
    assert all(new == old for new, old in zip(after, before, strict=True) if gone not in old)
    names = {NODES[node] for nodes in after for node in nodes}
    assert set(left.context.progress.learned_from["voice"]) == names
    assert sites_not_in(left.context, left.releases, "voice") == set(NODES.values()) - names


def test_a_site_pays_in_full_for_each_round_that_it_was_asked_in(start: Callable[..., Run]) -> None:
    from moretta.shared.audit.report.tables import site_level_rows

    run = start(train__fraction_train=0.7, aggregation={"dp": "central", "min_sites": 2})
    asked = _asked(_train(run))
    for node, site in NODES.items():
        rounds = sum(node in nodes for nodes in asked)
        assert run.training.spent[site].rounds == rounds
        (row,) = site_level_rows(run.context.study, site, rounds)
        alone = run.context.study.with_changes(train__fraction_train=1.0)
        assert row.epsilon == site_level_rows(alone, site, rounds)[0].epsilon


def test_a_share_of_the_sites_that_is_below_their_minimum_gets_no_request(start: Callable[..., Run]) -> None:
    from moretta.shared.core.errors import RunError

    run = start(train__fraction_train=0.7, aggregation__dp="central")
    with pytest.raises(RunError, match="3 sites with training clips of voice, of which 2 take part in a round"):
        _train(run)
    assert not run.grid.grid.sent  # type: ignore[attr-defined]


def test_with_site_level_noise_too_few_sites_get_no_request(start: Callable[..., Run]) -> None:
    from moretta.shared.core.errors import RunError

    run = start(aggregation={"dp": "central", "min_sites": 4})
    with pytest.raises(RunError, match="3 sites with training clips of voice; expected at least 4"):
        _train(run)
    assert not run.grid.grid.sent  # type: ignore[attr-defined]


def test_with_site_level_noise_a_round_that_lost_too_many_ends_the_run_before_anything_is_released(
    start: Callable[..., Run],
) -> None:
    from moretta.shared.core.errors import RunError

    run = start(aggregation__dp="central")
    grid: Any = run.grid.grid
    grid.away = {2}
    with pytest.raises(RunError, match=r"2 usable updates in round 1.*at least 3"):
        _train(run)
    assert not run.training.rounds


def test_with_site_level_noise_neither_a_loss_nor_a_standardization_is_released(start: Callable[..., Run]) -> None:
    def response(node: int, message: Any) -> RecordDict:
        content = _answer(node, message)
        content[wire.METRICS]["loss"] = 0.5
        return content

    seen = {}
    for dp in ("none", "central"):
        run = start(dp, aggregation__dp=dp)
        run.grid.grid.response = response  # type: ignore[attr-defined]
        _train(run)
        first = wire.arrays_of(run.grid.grid.sent[0].content)  # type: ignore[attr-defined]
        seen[dp] = ({row.loss for row in run.training.rounds}, bool(np.all(first["0.mean"] == 0)))
    assert seen == {"none": ({0.5}, False), "central": ({None}, True)}


@pytest.mark.parametrize("reported", [10**7, 4])
def test_an_update_that_weighs_more_than_was_released_is_refused_by_name(
    start: Callable[..., Run], reported: int
) -> None:
    run = start()

    def response(node: int, message: Any) -> RecordDict:
        content = _answer(node, message)
        if node == 2:
            content[wire.METRICS] = MetricRecord({"num-examples": reported})
        return content

    grid: Any = run.grid.grid
    grid.response = response
    _train(run)
    assert [row.sites for row in run.training.rounds] == [2] * ROUNDS
    assert any(
        w.startswith("site-2 was left out of round 1") and "at most 3, as released" in w for w in warnings_of(run)
    )


def test_an_update_far_outside_the_others_is_named_once_with_its_round(start: Callable[..., Run]) -> None:
    run = start()

    def response(node: int, message: Any) -> RecordDict:
        content = _answer(node, message)
        if node == 2 and wire.number_of(message.content, "server-round") > 1:
            sent, moved = wire.arrays_of(message.content), wire.arrays_of(content)
            far = {name: (sent[name] - 500 * (array - sent[name])).astype(array.dtype) for name, array in moved.items()}
            content[wire.ARRAYS] = wire.arrays_to_record(far)
        return content

    grid: Any = run.grid.grid
    grid.response = response
    _train(run)
    (named,) = [w for w in warnings_of(run) if "lie far outside" in w]
    assert named.startswith("site-2's updates of the voice model lie far outside those of the others, first in round 2")
