"""Stewards are asked before anything else about a study, waited for, and never passed over."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict
from staging import do, warnings_of

from moretta.server.grid.site_grid import SiteGrid, SiteResponse
from moretta.server.stages.approval import STAGE, not_approved
from moretta.server.stages.run import Run, RunContext
from moretta.server.study import SITE_STAGES
from moretta.shared.core.errors import RunError
from moretta.shared.messages import wire
from moretta.shared.study.public_arrays import approval_digest, described
from moretta.shared.study.run_plan import DeploymentPlan, EnrolledSite
from moretta.shared.study.schema import Study, parse_study

ARRAYS = {"voice/mean": np.zeros(13, np.float32), "voice/codebook": np.ones((64, 13), np.float32)}


class Stewards:
    """Answers by a list of states for each site; the last one stays."""

    def __init__(self, **states: list[Any]) -> None:
        self.states = states
        self.requested: list[tuple[str, bool]] = []

    def __call__(self, node: int, message: Any) -> RecordDict:
        site, content = f"site-{node}", message.content
        assert message.metadata.message_type == wire.OFFER
        assert wire.from_config(content, "approval") == approval_digest(wire.study_of(content), described(ARRAYS))
        self.requested.append((site, wire.ARRAYS in content))
        queue = self.states[f"site_{node}"]
        state = queue.pop(0) if len(queue) > 1 else queue[0]
        values = {"failure": state, "code": 6} if " " in state else {"state": state}
        return RecordDict({wire.CONFIG: wire.json_config(site=site, **values)})


@pytest.fixture
def run(tmp_path: Path, fake_site_grid: Any, hello: Any, hellos: Any) -> Any:
    def make(stewards: Stewards, **changes: Any) -> Run:
        nodes = len(stewards.states)
        site_grid = hellos(fake_site_grid(lambda node, message: hello(node), nodes=nodes), nodes)
        site_grid.grid.response = stewards
        plan = DeploymentPlan(
            corpus_name="c",
            synthetic=False,
            study=parse_study({"face": {"weights": "/nowhere"}, "stages": {"wait_seconds": 60.0}, **changes}),
            command="moretta study run",
            sites=tuple(EnrolledSite(name=f"site-{n}", node=n) for n in range(1, nodes + 1)),
            server_home=tmp_path,
        )
        return Run(RunContext(tmp_path, plan), public=dict(ARRAYS), site_grid=site_grid)

    return make


def test_the_offer_comes_before_anything_else_about_a_study() -> None:
    names = [stage.name for stage in SITE_STAGES]
    assert names.index(STAGE) == 1
    assert names[0] == "codebook"  # made of public data, at the server


def test_a_steward_who_takes_time_is_waited_for_and_reported(run: Any) -> None:
    stewards = Stewards(site_1=["approved"], site_2=["pending", "pending", "pending", "approved"])
    made = run(stewards)
    do(made, STAGE)
    assert made.grid.sites == ["site-1", "site-2"]
    assert stewards.requested == [("site-1", True), ("site-2", True), *[("site-2", False)] * 3]  # arrays travel once
    reported = [json.loads(line) for line in (made.context.folder / "progress.jsonl").read_text().splitlines()]
    (what,) = [
        line["what"] for line in reported if "stewards of site-2" in line.get("what", "")
    ]  # once, not at each turn
    assert f"moretta site approve {made.approval.digest[:16]}" in what


def test_a_study_goes_on_without_those_who_refuse_or_say_nothing(run: Any) -> None:
    rule = "refused by the rule max_pending of the site's policy"
    made = run(Stewards(site_1=["approved"], site_2=["refused"], site_3=["pending"], site_4=[rule], site_5=["unknown"]))
    do(made, STAGE)
    assert made.grid.sites == ["site-1"]
    text = " ".join(warnings_of(made))
    for why in ("site-2 takes no part: its steward has refused", "site-3 takes no part: its steward has not", rule):
        assert why in text
    assert made.grid.clock() == pytest.approx(60.0, abs=10.0)


def test_a_site_that_has_lost_the_offer_is_sent_it_again_and_is_never_taken_for_one_that_approved(run: Any) -> None:
    stewards = Stewards(site_1=["approved"], site_2=["pending", "unknown", "pending", "approved"])
    made = run(stewards)
    do(made, STAGE)
    assert stewards.requested[1:] == [("site-2", True), ("site-2", False), ("site-2", True), ("site-2", False)]
    assert made.grid.sites == ["site-1", "site-2"]

    lost = run(Stewards(site_1=["approved"], site_2=["pending", "unknown"]))
    do(lost, STAGE)
    assert lost.grid.sites == ["site-1"]


def test_a_site_that_is_away_for_a_moment_while_its_steward_decides_gets_the_offer_again(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run(Stewards(site_1=["approved"], site_2=["pending", "approved"], site_3=["approved"]))
    turns, request = itertools.count(), SiteGrid.request

    def away(self: SiteGrid, *args: Any, **kwargs: Any) -> list[SiteResponse]:
        turn, found = next(turns), request(self, *args, **kwargs)
        gone = {0: {"site-3"}, 1: {"site-2"}}.get(turn, set())
        return [
            SiteResponse(each.site, None, "it was lost", lost=True) if each.site in gone else each for each in found
        ]

    monkeypatch.setattr(SiteGrid, "request", away)
    do(made, STAGE)
    assert made.grid.sites == ["site-1", "site-2", "site-3"] and not warnings_of(made)


def test_a_site_that_stays_away_is_waited_for_as_long_as_its_steward_is(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run(Stewards(site_1=["approved"], site_2=["pending"]))
    request = SiteGrid.request

    def away(self: SiteGrid, *args: Any, **kwargs: Any) -> list[SiteResponse]:
        found = request(self, *args, **kwargs)
        return [SiteResponse("site-2", None, "it was lost", lost=True) if a.site == "site-2" else a for a in found]

    monkeypatch.setattr(SiteGrid, "request", away)
    do(made, STAGE)
    assert made.grid.sites == ["site-1"] and any("site-2 takes no part: it was lost" in w for w in warnings_of(made))
    assert made.grid.clock() == pytest.approx(60.0, abs=10.0)


def test_too_few_who_approve_end_the_run(run: Any) -> None:
    made = run(Stewards(site_1=["approved"], site_2=["refused"]), train={"min_sites": 2})
    with pytest.raises(RunError, match="1 of 2 sites finished the stage 'release': site-2: its steward has refused"):
        do(made, STAGE)


def _not_approved(made: Run) -> dict[str, Any]:
    return not_approved(made.public, made.approval)


def test_after_the_offer_only_what_sites_have_trained_travels_again(run: Any) -> None:
    made = run(Stewards(site_1=["approved"]))
    assert next(stage for stage in SITE_STAGES if stage.name == STAGE).wanted(made)
    assert set(_not_approved(made)) == set(ARRAYS)
    do(made, STAGE)
    assert _not_approved(made) == {}
    made.public["voice/codebook"] = made.public["voice/codebook"] + 1
    assert set(_not_approved(made)) == {"voice/codebook"}


def test_one_digest_stands_for_one_study_with_its_arrays() -> None:
    facts = described(ARRAYS)
    digest = approval_digest(Study(), facts)
    assert digest == approval_digest(
        parse_study({"face": {"weights": "/any"}}), described(dict(reversed(ARRAYS.items())))
    )
    others = [ARRAYS | {"voice/mean": ARRAYS["voice/mean"] + 1}, {"voice/mean": ARRAYS["voice/mean"]}]
    others += [ARRAYS | {"voice/mean": ARRAYS["voice/mean"].reshape(1, 13)}]
    digests = {approval_digest(Study(), described(arrays)) for arrays in others}
    digests |= {approval_digest(Study().with_changes(audit__bootstrap=9), facts), digest}
    assert len(digests) == 5
