"""Each site chooses its own device: no study can set a site's device, or make a site fail by naming one."""

from pathlib import Path

import pytest

from moretta.client.settings import deployed_site, simulated_site
from moretta.shared.core.errors import HomeError
from moretta.shared.messages import wire
from moretta.shared.study.run_plan import PlannedSite, SimulationPlan
from moretta.shared.study.schema import Study
from tests.client.enrolled import enrolled


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
def test_the_device_comes_from_the_sites_own_file_and_is_the_cpu_by_default(tmp_path: Path, tiny_corpus: Path) -> None:
    assert deployed_site(enrolled(tmp_path / "a", tiny_corpus).root).device == "cpu"
    assert deployed_site(enrolled(tmp_path / "b", tiny_corpus, device="auto").root).device == "auto"


@pytest.mark.usefixtures("no_gpu")
def test_absent_device_in_the_sites_file_is_named_with_the_file(tmp_path: Path, tiny_corpus: Path) -> None:
    home = enrolled(tmp_path, tiny_corpus, device="cuda")
    with pytest.raises(HomeError, match=r"site.toml names the device cuda, but .*cpu; to fix it: .*auto"):
        deployed_site(home.root)


def test_device_of_a_study_never_reaches_a_site() -> None:
    from flwr.app import RecordDict

    content = RecordDict({wire.CONFIG: wire.study_config(Study().with_changes(run__device="cuda"))})
    assert wire.study_of(content).run.device == "cpu"


def test_virtual_sites_compute_where_the_study_says(tmp_path: Path) -> None:
    SimulationPlan(
        corpus_name="c",
        synthetic=True,
        study=Study().with_changes(run__device="auto"),
        command="",
        corpus=tmp_path,
        sites=(PlannedSite(name="site-1", speakers=("1001", "1002")),),
        folds=(("1001",), ("1002",), (), (), ()),
    ).save(tmp_path)
    assert simulated_site(tmp_path, 0).device == "auto"
