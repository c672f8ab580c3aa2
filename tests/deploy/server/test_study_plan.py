from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moretta.deploy.server.server_admin import administer
from moretta.deploy.server.study_run import plan_again, plan_deployment
from moretta.server.grid.hello import sites_gone
from moretta.server.home import ServerHome
from moretta.shared.core.errors import MorettaError, StudyError
from moretta.shared.study.run_plan import DeploymentPlan, SimulationPlan, load_plan
from moretta.shared.study.schema import Study, parse_study
from tests.conftest import write_tone_corpus

STUDY = parse_study({"face": {"enabled": False}})


def plan(home: ServerHome, study: Study = STUDY, **more: Any) -> DeploymentPlan:
    return plan_deployment(home, study, command="moretta study run s.toml", **more)


def nodes(made: DeploymentPlan) -> dict[str, int]:
    return {site.name: site.node for site in made.sites}


def test_names_and_nodes_are_those_of_the_registry(home: ServerHome) -> None:
    made = plan(home)
    assert nodes(made) == {"clinic-a": 11, "clinic-b": 22, "clinic-c": 33}
    assert made.corpus_name == "the sites' own"
    assert made.originals() is None


def test_a_plan_comes_back_from_its_file_as_what_it_was(home: ServerHome, tmp_path: Path) -> None:
    made = plan(home)
    made.save(tmp_path)
    assert load_plan(tmp_path) == made
    with pytest.raises(StudyError, match="the plan of a deployment"):
        SimulationPlan.load(tmp_path)


def test_revoked_sites_take_no_part_and_those_chosen_are_checked_by_name(home: ServerHome) -> None:
    with administer(home.root) as admin:
        admin.revoke("clinic-b")
    assert nodes(plan(home)) == {"clinic-a": 11, "clinic-c": 33}
    assert nodes(plan(home, sites=("clinic-c",))) == {"clinic-c": 33}
    with pytest.raises(StudyError, match=r"clinic-b is revoked; expected enrolled ones: clinic-a, clinic-c"):
        plan(home, sites=("clinic-b",))
    with pytest.raises(StudyError, match="clinic-x is unknown"):
        plan(home, sites=("clinic-x",))


def test_a_site_that_flower_does_not_know_yet_is_left_out_with_a_warning(home: ServerHome, enroll: Any) -> None:
    enroll(home, "clinic-d", None)
    made = plan(home)
    assert "clinic-d" not in nodes(made)
    assert made.warnings == ("clinic-d took no part: Flower does not know its node key yet",)


@pytest.mark.parametrize("limits", [{"train": {"min_sites": 4}}, {"stages": {"evaluate": {"min_sites": 4}}}])
def test_fewer_sites_than_any_stage_needs_is_an_error_before_anything_is_spent(
    home: ServerHome, limits: dict[str, Any]
) -> None:
    with pytest.raises(StudyError, match=r"3 enrolled sites .* at least 4"):
        plan(home, parse_study({"face": {"enabled": False}, **limits}))


def test_a_name_that_does_not_exist_is_found_before_the_run(home: ServerHome) -> None:
    with pytest.raises(StudyError, match="no-such"):
        plan(home, parse_study({"audit": {"attackers": ["no-such"]}}))


def test_a_run_goes_on_with_the_nodes_that_its_sites_have_by_now(home: ServerHome, tmp_path: Path, enroll: Any) -> None:
    plan(home).save(tmp_path)
    enroll(home, "clinic-b", 44, reenroll=True)
    enroll(home, "clinic-d", 55)
    assert nodes(plan_again(tmp_path, home, STUDY)) == {"clinic-a": 11, "clinic-b": 44, "clinic-c": 33}
    with pytest.raises(StudyError, match="another study"):
        plan_again(tmp_path, home, STUDY.with_changes(seed=9))


def test_the_registry_shows_during_a_study_which_sites_may_take_part_no_more(home: ServerHome, enroll: Any) -> None:
    gone = sites_gone(plan(home))
    assert gone() == {}
    with administer(home.root) as admin:
        admin.revoke("clinic-b")
        admin.registry.end_site("clinic-a", "left")
    enroll(home, "clinic-c", 77, reenroll=True)
    assert gone() == {
        "clinic-a": "it gave up its enrollment",
        "clinic-b": "its enrollment was revoked",
        "clinic-c": "it was enrolled anew, with another key, while the study ran",
    }


def test_public_people_that_no_model_can_learn_from_are_refused_before_a_site_is_asked(
    home: ServerHome, tmp_path: Path
) -> None:
    for folder, said in ((tmp_path / "absent", "no folder"), (write_tone_corpus(tmp_path / "few"), "4 public people")):
        with pytest.raises(MorettaError, match=said):
            plan(home, STUDY.with_changes(train__public=folder))
