"""What an attacker knows: which clips it enrols on, which it attacks, which it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ScenarioName = Literal["unprotected", "ignorant", "lazy-informed", "semi-informed", "constant"]
SetName = Literal["original", "released", "constant"]


@dataclass(frozen=True)
class Scenario:
    """One row of the table in the design.

    Encoders used as they are were trained on public data: `train` does not concern them, and semi-informed is not
    theirs to claim. For a closed-set attacker enrolment is training, so it has no lazy-informed scenario.
    """

    name: ScenarioName
    enrol: SetName
    trial: SetName
    train: SetName
    anchor: bool = False
    """Anchors judge the attacker, not the release."""


SCENARIOS = (
    Scenario("unprotected", "original", "original", "original", anchor=True),
    Scenario("ignorant", "original", "released", "original"),
    Scenario("lazy-informed", "released", "released", "original"),
    Scenario("semi-informed", "released", "released", "released"),
    Scenario("constant", "constant", "constant", "constant", anchor=True),
)


def get_scenario(name: ScenarioName) -> Scenario:
    """The scenario of this name."""
    return next(scenario for scenario in SCENARIOS if scenario.name == name)
