from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moretta.deploy.cli.main import app, run

STUDY = """
face = { enabled = false }
train = { rounds = 3 }
privacy = { unit = "speaker", epsilon = 6.0 }
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY, encoding="utf-8")
    return path


def _json(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["budget", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.output)
    return found


def test_the_plan_names_noise_steps_and_what_they_cost_at_both_units(study: Path) -> None:
    found = _json(str(study), "--clips", "40", "--speakers", "4")
    training = found["training"]
    assert training["unit"] == "speaker"
    assert training["expected_batch"] == pytest.approx(4 * training["sampling_rate"])
    assert training["steps"] == 3 * training["steps_per_round"]
    assert 0 < training["epsilon"]["speaker"][0] < training["epsilon"]["speaker"][1] <= 6.0
    assert training["epsilon"]["clip"][1] > training["epsilon"]["speaker"][1]
    assert found["releases"]["voice"]["speaker"] > 9 * found["releases"]["voice"]["clip"]
    assert found["composed"]["server"] == {u: found["releases"]["voice"][u] for u in ("clip", "speaker")}


def test_more_speakers_buy_less_noise_for_the_same_epsilon(study: Path) -> None:
    few, many = (_json(str(study), "--clips", "400", "--speakers", n)["training"] for n in ("4", "40"))
    assert many["noise_on_mean_gradient"] < 0.8 * few["noise_on_mean_gradient"]


def test_the_text_has_the_same_figures(study: Path) -> None:
    figures = _json(str(study), "--clips", "40", "--speakers", "4")
    text = CliRunner().invoke(app, ["budget", str(study), "--clips", "40", "--speakers", "4"]).output
    assert f"noise multiplier     {figures['training']['noise_multiplier']:.3f}" in text
    assert f"{figures['releases']['voice']['clip']:,.2f}" in text
    assert "each speaker one example" in text


def test_fewer_clips_than_speakers_and_bad_studies_are_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["budget", str(study), "--clips", "3", "--speakers", "4"]) == 3
    assert "3 clips of 4 speakers" in capsys.readouterr().err
    study.write_text("[privacy]\nunit = 'family'\n", encoding="utf-8")
    assert run(["budget", str(study)]) == 3
    assert "privacy.unit" in capsys.readouterr().err


def test_noise_on_the_aggregate_is_planned_for_a_whole_site(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY + 'aggregation = { dp = "distributed", min_sites = 9, epsilon = 2.0 }\n', encoding="utf-8")
    found = _json(str(path))["aggregation"]
    assert found["epsilon"] == pytest.approx(2.0, rel=1e-6)
    assert found["share"] == pytest.approx(found["noise_multiplier"] / 8**0.5)
    assert found["epsilon_of_share"] > 2 * found["epsilon"]
    text = CliRunner().invoke(app, ["budget", str(path)]).output
    assert f"the mean of 9 updates carries noise of {found['noise_multiplier'] / 9:.3f} norms" in text
    assert "epsilon per site     2.00" in text


def test_without_it_nothing_is_said_of_sites(study: Path) -> None:
    assert _json(str(study))["aggregation"] is None
    assert "Aggregation" not in CliRunner().invoke(app, ["budget", str(study)]).output


def test_a_code_that_sites_train_is_planned_with_its_noise(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    voice = '{ anonymizer = "speaker-normalized", code_training = "federated", code_epsilon = 3.0 }'
    path.write_text(f"{STUDY}voice = {voice}", encoding="utf-8")
    found = _json(str(path), "--clips", "40", "--speakers", "4")["code"]
    assert found["epsilon"]["speaker"] <= 3.0 < found["epsilon"]["clip"]
    assert found["noise_on_mean_gradient"] == pytest.approx(found["noise_multiplier"] / 4)
    text = CliRunner().invoke(app, ["budget", str(path), "--clips", "40", "--speakers", "4"]).output
    assert "voice, for the federated code: 20 rounds, each speaker one example" in text
    assert f"noise multiplier {found['noise_multiplier']:.3f}: {found['noise_on_mean_gradient']:.3f}" in text


def test_a_fusion_on_clips_of_its_own_is_planned_beside_the_two_models(tmp_path: Path) -> None:
    path = tmp_path / "fusion.toml"
    path.write_text('[fusion]\nkind = "learned"\nheld_back = 0.2\n[privacy]\nepsilon = 4.0\n', encoding="utf-8")
    training = _json(str(path), "--clips", "400", "--speakers", "10")["training"]
    assert training["models"] == 2
    assert training["fusion"]["clips"] == 80
    assert 3.3 < training["epsilon"]["clip"][1] <= 4.05
    assert training["epsilon"]["speaker"][1] > 10  # a speaker has clips on both sides
    text = CliRunner().invoke(app, ["budget", str(path), "--clips", "400", "--speakers", "10"]).output
    assert "steps on 80 clips held back for it" in text
    path.write_text('[fusion]\nkind = "learned"\nheld_back = 0\n', encoding="utf-8")
    shared = _json(str(path), "--clips", "400", "--speakers", "10")["training"]
    assert (shared["models"], shared["fusion"]) == (3, None)
