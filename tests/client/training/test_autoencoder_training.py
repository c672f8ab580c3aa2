"""Sites train the replacement autoencoder by the one path of training: sensitivity, ledger, and what is released."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import planted_people

from moretta.client.accounting.account import Account
from moretta.client.accounting.ledger import Ledger
from moretta.client.clips.release import make_release
from moretta.client.settings import SiteSettings
from moretta.client.training import code_training
from moretta.client.training.data import CODE_KIND
from moretta.client.training.dp_sgd import Noiseless
from moretta.client.training.rounds import RoundRequest, train_round
from moretta.shared.core.errors import RefusedError
from moretta.shared.features import speaker_code
from moretta.shared.models.federated_replacement import DONORS
from moretta.shared.models.replacement_autoencoder import FIGURES, ROUNDS, ReplacementAutoencoder, weight_shapes
from moretta.shared.release.anonymizer import prepare_public, site_training_of
from moretta.shared.study.schema import Study

DELTA = 1e-5
OPTIONS = {
    "code_training": "federated",
    "code_epsilon": 3.0,
    "code_rounds": 2,
    "epochs": 20,
}


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = planted_people()
    monkeypatch.setattr(speaker_code, "_measured_public_speech", lambda *_: rows)


@pytest.fixture
def requested(study: Study) -> Study:
    return study.with_changes(voice__anonymizer="replacement-autoencoder", voice__form="code", voice__options=OPTIONS)


@pytest.fixture
def public(requested: Study) -> dict[str, Any]:
    return prepare_public(requested)


def first(study: Study, public: dict[str, Any]) -> dict[str, Any]:
    training = site_training_of(study)
    assert training is not None
    return training.first_arrays(public)


def trained(site: SiteSettings, study: Study, arrays: dict[str, Any], number: int = 1) -> dict[str, Any]:
    return dict(train_round(site, RoundRequest(study, "code", number, arrays)).arrays)


def everybody(simulated: Any, home: Path) -> SiteSettings:
    speakers = ("1001", "1002", "1003", "1004")
    return replace(simulated.site(), speakers=speakers, held_out=frozenset(), home=home)


def summed(site: SiteSettings, study: Study, arrays: dict[str, Any]) -> np.ndarray:
    """The sum of clipped gradients that a response holds where no noise is added."""
    training = site_training_of(study)
    assert training is not None
    response = train_round(site, RoundRequest(study, "code", 1, arrays))
    moved = np.concatenate([(arrays[name] - response.arrays[name]).ravel() for name in weight_shapes()])
    return moved / training.learning_rate * response.metrics["num-examples"]


def test_a_round_moves_the_weights_and_nothing_that_is_public(
    simulated: Any, requested: Study, public: dict[str, Any], tmp_path: Path
) -> None:
    study = requested.with_changes(voice__options__code_epsilon=0.0)
    arrays = first(study, public)
    assert {len(arrays[name]) for name in DONORS} == {24}
    after = trained(everybody(simulated, tmp_path / "home"), study, arrays)
    assert set(after) == set(arrays)
    for name in arrays:
        assert np.array_equal(after[name], arrays[name]) == (name not in weight_shapes()), name


@pytest.fixture
def noiseless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_training, "_randomness", lambda *_: Noiseless())


@pytest.mark.usefixtures("noiseless")
@pytest.mark.parametrize("unit", ["clip", "speaker"])
def test_no_unit_moves_the_sum_by_more_than_the_norm(
    simulated: Any, requested: Study, public: dict[str, Any], tmp_path: Path, unit: str
) -> None:
    """Clips of the sensitive emotion, too: the donor of one does not depend on what other clips there are."""
    study = requested.with_changes(voice__options__code_unit=unit)
    arrays = first(study, public)
    whole = summed(everybody(simulated, tmp_path / "whole"), study, arrays)
    for number, gone in enumerate(("1001_*_FEA_*", "1003_*_ANG_*") if unit == "clip" else ("1001_*", "1004_*")):
        paths = sorted((simulated.site().corpus / "AudioWAV").glob(f"{gone}.wav"))[: 1 if unit == "clip" else None]
        contents = {path: path.read_bytes() for path in paths}
        for path in paths:
            path.unlink()
        moved = np.linalg.norm(whole - summed(everybody(simulated, tmp_path / str(number)), study, arrays))
        assert 0.1 < moved <= 1 + 1e-4
        for path, content in contents.items():
            path.write_bytes(content)


@pytest.mark.parametrize("unit", ["clip", "speaker"])
def test_all_rounds_together_cost_the_budget_on_the_ledger_for_models_too(
    simulated: Any, requested: Study, public: dict[str, Any], unit: Any
) -> None:
    site, study = simulated.site(), requested.with_changes(voice__options__code_unit=unit)
    arrays = first(study, public)
    for number in (1, 2):
        trained(site, study, arrays, number)
    account = Account.read(Ledger(site.ledger))
    spent = account.epsilon(unit, "server", delta=DELTA)
    assert spent == account.epsilon(unit, "model", delta=DELTA)
    assert spent is not None and 2.5 < spent <= 3.0
    assert len(Ledger(site.ledger).entries(CODE_KIND)) == 2


def test_speakers_of_unknown_sex_have_no_part_and_a_site_without_others_refuses(
    simulated: Any, requested: Study, public: dict[str, Any], tmp_path: Path
) -> None:
    table, arrays = simulated.site().corpus / "VideoDemographics.csv", first(requested, public)
    table.write_text(table.read_text().replace("1001,", "9001,"), encoding="utf-8")
    site = everybody(simulated, tmp_path / "home")
    trained(site, requested, arrays)
    [cohort] = Ledger(site.ledger).entries("cohort")
    assert len(cohort["speakers"]) == 3
    table.unlink()
    with pytest.raises(RefusedError, match="of known sex"):
        trained(everybody(simulated, tmp_path / "other"), requested, arrays)


def test_what_sites_trained_is_released_with_figures_of_public_people(
    simulated: Any, requested: Study, public: dict[str, Any]
) -> None:
    training, study = site_training_of(requested), requested
    assert training is not None
    arrays = first(study, public)
    for number in (1, 2):
        arrays = trained(simulated.site(), study, arrays, number)
    after = public | training.public_after(public, arrays)
    made = ReplacementAutoencoder.from_arrays(after)
    assert made.rounds == 2
    assert made.figures.able == ReplacementAutoencoder.from_arrays(public).figures.able
    assert all(training.may_become(name, public.get(name), array) for name, array in after.items())
    assert not training.may_become(ROUNDS, public[ROUNDS], np.array([7], np.int64))
    center = next(name for name in public if name.endswith("center"))
    assert not training.may_become(center, public[center], public[center] + 1)
    statement = make_release(simulated.site(), study, after).anonymizer("voice")
    assert statement is not None and statement.parameters["code_rounds"] == 2
    assert {p.unit for p in statement.privacy if "federated code" in p.mechanism} == {"clip", "speaker"}
    unchanged = training.public_after(public, None)
    assert set(unchanged) == {ROUNDS} and FIGURES not in unchanged
