"""Sites train the encoder of a published system together, over a network as in simulation."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from network import StudyRun
from safetensors.numpy import load_file

from moretta.client.accounting.account import Account
from moretta.client.accounting.ledger import Ledger
from moretta.client.training.data import CODE_KIND

VALUES = {"replacement-autoencoder": (95,), "unlearnt-gender": (32,)}
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def released(run: StudyRun, site: str) -> dict[str, np.ndarray]:
    return load_file(run.out / "server" / "releases" / site / "voice-00000.safetensors")


def statement(run: StudyRun, site: str) -> Any:
    text = (run.out / "server" / "releases" / site / "statement.json").read_text(encoding="utf-8")
    [voice] = json.loads(text)["anonymizers"]
    return voice


def test_a_deployment_releases_by_the_same_encoder_as_the_simulation(encoders: Any) -> None:
    for site in encoders.sites:
        one, other = (released(run, site.name) for run in (encoders.simulated, encoders.deployed))
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)
        assert {array.shape for array in one.values()} == {VALUES[encoders.system]}
    assert encoders.simulated.weights() == encoders.deployed.weights()


def test_the_rounds_of_the_encoder_are_on_every_ledger_and_in_every_statement(encoders: Any) -> None:
    for site in encoders.sites:
        entries = site.ledger(CODE_KIND, encoders.deployed.digest())
        assert [entry["round"] for entry in entries] == [1, 2]
        stated = statement(encoders.deployed, site.name)
        assert stated["parameters"]["code_rounds"] == 2
        readers = stated["parameters"].get("readers", stated["parameters"])
        assert {"able", "in_loop", "fresh_linear", "faults"} <= readers["sex"].keys()
        [clip] = [p for p in stated["privacy"] if "federated code" in p["mechanism"] and p["unit"] == "clip"]
        assert 0 < clip["epsilon"] <= 8.0
        assert (
            Account.read(Ledger(site.home / "ledger.jsonl")).epsilon("clip", "server", delta=1e-5) is None
        )  # no noise
