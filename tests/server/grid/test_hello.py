from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from flwr.app import RecordDict

from moretta.server.grid.hello import hello_enrolled, hello_virtual
from moretta.server.stages.run import PROGRESS_FILE, Run, RunContext
from moretta.shared.core.errors import RunError
from moretta.shared.messages import wire
from moretta.shared.study.run_plan import DeploymentPlan, EnrolledSite
from moretta.shared.study.schema import parse_study

ENROLLED = {1: "site-1", 2: "site-2", 3: "site-3"}


def test_virtual_sites_are_known_by_the_names_they_give(fake_site_grid: Any, hello: Any) -> None:
    site_grid = fake_site_grid(lambda node, message: hello(node))
    assert sorted(hello_virtual(site_grid, 3)) == site_grid.sites == ["site-1", "site-2", "site-3"]
    assert site_grid.nodes == {1: "site-1", 2: "site-2", 3: "site-3"}


def _arriving(site_grid: Any, after_seconds: float) -> None:
    sleep = site_grid.sleep

    def sleeping(seconds: float) -> None:
        sleep(seconds)
        if site_grid.clock() > after_seconds:
            site_grid.grid.nodes = [1, 2, 3]

    site_grid.sleep = sleeping


def test_the_greeting_waits_for_late_sites(fake_site_grid: Any, hello: Any) -> None:
    site_grid = fake_site_grid(lambda node, message: hello(node), nodes=1)
    _arriving(site_grid, 30.0)
    assert sorted(hello_virtual(site_grid, 3)) == ["site-1", "site-2", "site-3"]


def test_the_greeting_ends_at_the_deadline(fake_site_grid: Any, hello: Any) -> None:
    site_grid = fake_site_grid(lambda node, message: hello(node), nodes=2, deadline=5.0)
    with pytest.raises(RunError, match=r"2 sites came within 5 s; expected 3; to fix it: start the missing"):
        hello_virtual(site_grid, 3)
    assert 5.0 < site_grid.clock() < 6.0


def test_a_virtual_site_that_does_not_greet_back_ends_the_run_with_its_cause(fake_site_grid: Any, hello: Any) -> None:
    site_grid = fake_site_grid(lambda node, message: hello(node) if node != 2 else "out of memory")
    with pytest.raises(RunError, match=r"1 of 3 sites did not respond to the first request: .*out of memory"):
        hello_virtual(site_grid, 3)


def test_two_sites_of_one_name_are_refused(fake_site_grid: Any, hello: Any) -> None:
    site_grid = fake_site_grid(lambda node, message: hello(1))
    with pytest.raises(RunError, match="two sites have one name"):
        hello_virtual(site_grid, 3)


@pytest.mark.parametrize("name", [["site-1"], "../site", "", None, "a" * 200, 7])
def test_a_name_that_could_be_no_folder_is_refused(fake_site_grid: Any, name: Any) -> None:
    content = RecordDict({wire.CONFIG: wire.json_config(site=name, versions={}, digest="0" * 64)})
    site_grid = fake_site_grid(lambda node, message: content, nodes=1)
    with pytest.raises(RunError, match=r"no Hello: site: (String should match|Input should be a valid string)"):
        hello_virtual(site_grid, 1)


class Hellos:
    """Result of greeting enrolled sites."""

    def __init__(self, site_grid: Any, *, min_sites: int = 1, wait_seconds: float = 60.0) -> None:
        study = parse_study({"train": {"min_sites": min_sites}, "stages": {"wait_seconds": wait_seconds}})
        sites = tuple(EnrolledSite(name=name, node=node) for node, name in ENROLLED.items())
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            plan = DeploymentPlan(
                corpus_name="c", synthetic=False, study=study, command="c", sites=sites, server_home=folder
            )
            run = Run(RunContext(folder, plan), site_grid=site_grid)
            self.responses = hello_enrolled(run.context, site_grid, ENROLLED)
            events = [json.loads(line) for line in (folder / PROGRESS_FILE).read_text(encoding="utf-8").splitlines()]
        self.seen = [(event["done"], event["total"]) for event in events]
        self.out = {site: missed[0].why for site, missed in run.context.progress.missed.items()}


def test_enrolled_sites_have_the_names_of_the_registry(fake_site_grid: Any, hello: Any) -> None:
    site_grid = fake_site_grid(lambda node, message: hello(node))
    hellos = Hellos(site_grid)
    assert sorted(hellos.responses) == site_grid.sites == ["site-1", "site-2", "site-3"]
    assert hellos.out == {}


def test_a_site_that_takes_another_s_name_is_left_out_and_named(fake_site_grid: Any, hello: Any) -> None:
    site_grid = fake_site_grid(lambda node, message: hello(1))
    hellos = Hellos(site_grid)
    assert list(hellos.responses) == site_grid.sites == ["site-1"]
    assert hellos.out == {"site-2": "it calls itself 'site-1'", "site-3": "it calls itself 'site-1'"}


def test_a_node_that_is_not_planned_is_not_greeted(fake_site_grid: Any, hello: Any) -> None:
    site_grid = fake_site_grid(lambda node, message: hello(node), nodes=5)
    Hellos(site_grid)
    assert sorted(m.metadata.dst_node_id for m in site_grid.grid.sent) == [1, 2, 3]


def test_the_study_starts_as_soon_as_all_enrolled_sites_are_there(fake_site_grid: Any, hello: Any) -> None:
    site_grid = fake_site_grid(lambda node, message: hello(node), nodes=2)
    _arriving(site_grid, 20.0)
    hellos = Hellos(site_grid)
    assert len(hellos.responses) == 3
    assert site_grid.clock() < 23.0
    assert hellos.seen == [(2, 3), (3, 3)]


def test_a_site_that_stays_away_is_left_out_when_the_wait_is_over(fake_site_grid: Any, hello: Any) -> None:
    site_grid = fake_site_grid(lambda node, message: hello(node), nodes=2)
    hellos = Hellos(site_grid, wait_seconds=30.0)
    assert hellos.out == {"site-3": "it was not there within 30 s"}
    assert 30.0 < site_grid.clock() < 32.0


def test_a_site_that_is_lost_while_it_is_greeted_is_greeted_again(fake_site_grid: Any, hello: Any, reply: Any) -> None:
    site_grid = fake_site_grid(lambda node, message: reply(1, "Node Unavailable", code=5) if node == 1 else hello(node))
    sleep = site_grid.sleep

    def sleeping(seconds: float) -> None:
        sleep(seconds)
        site_grid.grid.response = lambda node, message: hello(node)

    site_grid.sleep = sleeping
    assert len(Hellos(site_grid).responses) == 3


def test_a_revoked_site_is_not_waited_for(fake_site_grid: Any, hello: Any) -> None:
    site_grid = fake_site_grid(lambda node, message: hello(node), nodes=2)
    site_grid.gone = lambda: {"site-3": "its enrollment was revoked"}
    hellos = Hellos(site_grid)
    assert hellos.out == {"site-3": "its enrollment was revoked"}
    assert site_grid.clock() < 2.0


def test_too_few_sites_end_the_run_and_say_why_each_is_missing(fake_site_grid: Any, hello: Any) -> None:
    site_grid = fake_site_grid(lambda node, message: hello(node, failure="RefusedError"), nodes=2)
    with pytest.raises(RunError, match=r"0 of 3 enrolled sites take part .*site-1: RefusedError") as caught:
        Hellos(site_grid, min_sites=2, wait_seconds=5.0)
    assert "site-3: it was not there within 5 s" in caught.value.message
