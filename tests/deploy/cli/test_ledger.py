from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moretta.client.accounting.account import Cohort, Loss
from moretta.client.accounting.budget import BudgetLimits, SiteBudget
from moretta.client.accounting.ledger import Ledger
from moretta.deploy.cli.budget import ledger as command
from moretta.deploy.cli.budget import ledger_facts, ledger_lines
from moretta.shared.core.errors import HomeError, RefusedError
from moretta.shared.privacy.mechanism import Pure, Unbounded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two studies of two speakers; the second trains them for two rounds."""
    path = tmp_path / "clinic" / "ledger.jsonl"
    site_budget = SiteBudget(Ledger(path, clock=lambda: 1_800_000_000.0), "key", BudgetLimits.unlimited())
    everybody = Cohort.of([("ann", "a1"), ("ann", "a2"), ("bob", "b1")])
    once, twice = (Pure(total=1.0),), (Pure(total=2.0, unit="speaker"),)
    for study in ("one", "two"):
        loss = Loss(everybody, ("server",), {"clip": once, "speaker": twice})
        site_budget.spend("release", loss, study=study, anonymizer="mfcc-quantizer")
    for _ in range(2):
        loss = Loss(everybody, ("model",), {"clip": (Pure(total=0.25),), "speaker": (Pure(total=0.5),)})
        site_budget.spend("dp-sgd", loss, study="two", model="voice/statistics")
    return path


def _view(path: Path, **limits: float) -> dict[str, Any]:
    budget = BudgetLimits.unlimited().model_copy(update=limits)
    return ledger_facts(path, site="clinic", ca=None, budget=budget, delta=1e-9)


def test_the_view_composes_all_studies_at_both_units_and_for_both_audiences(path: Path) -> None:
    facts = _view(path, model_clip=8.0)
    assert facts["epsilon"]["server"]["clip"] == pytest.approx(2.0, rel=1e-3)
    assert facts["epsilon"]["server"]["speaker"] == pytest.approx(4.0, rel=1e-3)
    assert facts["epsilon"]["model"]["clip"] == pytest.approx(0.5, rel=1e-3)
    assert (facts["clips"], facts["speakers"], facts["entries"]) == (3, 2, 5)
    assert facts["limits"]["model"] == {"clip": 8.0, "speaker": None}
    assert [(row["study"], row["kind"], row["times"]) for row in facts["spent"]] == [
        ("one", "release", 1),
        ("two", "release", 1),
        ("two", "dp-sgd", 2),
    ]
    json.dumps(facts, allow_nan=False)


def test_the_text_shows_figures_limits_and_whether_the_server_has_signed(path: Path) -> None:
    text = "\n".join(ledger_lines(_view(path, model_clip=8.0)))
    assert "5 entries, the chain is whole" in text
    assert "never: without a server's receipt" in text
    assert "all that left" in text
    assert "mfcc-quantizer" in text
    assert "2027-01-15" in text


def test_what_has_no_guarantee_is_called_unbounded(path: Path) -> None:
    nothing = (Unbounded(why="raw"),)
    SiteBudget(Ledger(path), "key", BudgetLimits.unlimited()).spend(
        "release", Loss(Cohort.of([("ann", "a1")]), ("server",), {"clip": nothing, "speaker": nothing})
    )
    assert "unbounded" in "\n".join(ledger_lines(_view(path)))


def test_the_command_reads_a_ledger_of_a_simulation(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(file=path, as_json=True)
    assert json.loads(capsys.readouterr().out)["site"] == "clinic"
    with pytest.raises(HomeError, match="no privacy ledger"):
        command(file=path.with_name("other.jsonl"))


def test_a_broken_ledger_is_not_shown(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace('"study": "one"', '"study": "eno"'), encoding="utf-8")
    with pytest.raises(RefusedError, match="broken at line 2"):
        command(file=path)
