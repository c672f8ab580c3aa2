"""The plan of a run, written before it starts: what is studied, and which sites take part.

A simulation and a deployment are planned differently, and read alike by `load_plan`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import StudyError
from moretta.shared.core.labels import SpeakerId
from moretta.shared.core.pseudonym import PseudonymKey
from moretta.shared.study.schema import Study

PLAN_FILE = "plan.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PlannedSite(_Part):
    """One virtual site."""

    name: str
    speakers: tuple[SpeakerId, ...]


class EnrolledSite(_Part):
    """One real site, as the registry knows it."""

    name: str
    node: int
    """The id under which Flower addresses it."""


@dataclass(frozen=True, slots=True)
class Originals:
    """The raw clips, which only a simulation has in one place, and the pseudonym key of each speaker's site."""

    corpus: Path
    keys: dict[SpeakerId, PseudonymKey]


class _Plan(_Part):
    corpus_name: str
    synthetic: bool
    study: Study
    command: str
    absent: dict[str, str] = Field(default_factory=dict)
    """Modalities that the study wanted and the corpus has not, with the reason."""
    dropped: dict[str, int] = Field(default_factory=dict)
    """Files of the corpus that cannot be used and belong to no site's speakers, counted by reason."""
    warnings: tuple[str, ...] = ()

    def save(self, run_folder: Path) -> None:
        """Write the plan, readable by its owner only."""
        write_atomic(run_folder / PLAN_FILE, self.model_dump_json(indent=1))


class SimulationPlan(_Plan):
    """Plan of a simulation, which its server and its sites read. It names speakers, so it stays on this machine."""

    kind: Literal["simulation"] = "simulation"
    corpus: Path
    sites: tuple[PlannedSite, ...]
    folds: tuple[tuple[SpeakerId, ...], ...]
    """Speakers of each fold; `study.split.test_fold` says which is held out."""

    @property
    def test_speakers(self) -> frozenset[SpeakerId]:
        """Speakers held out of training everywhere."""
        return frozenset(self.folds[self.study.split.test_fold])

    def pseudonym_keys(self) -> dict[SpeakerId, PseudonymKey]:
        """The key of each speaker's virtual site, which anybody can derive from the seed."""
        return {n: PseudonymKey.seeded(self.study.seed, site.name) for site in self.sites for n in site.speakers}

    def held_out_pseudonyms(self, announced: Iterable[Collection[str]] = ()) -> frozenset[str]:
        """Pseudonyms of the speakers who are held out of training, whatever the sites announced."""
        del announced
        keys = self.pseudonym_keys()
        return frozenset(keys[number].speaker(number) for number in self.test_speakers)

    def originals(self) -> Originals | None:
        """The raw clips, for the audit's anchors."""
        return Originals(self.corpus, self.pseudonym_keys())

    @classmethod
    def load(cls, run_folder: Path) -> SimulationPlan:
        """Read the plan of a simulation; where there is none, or it cannot be read, that is a StudyError."""
        plan = load_plan(run_folder)
        if not isinstance(plan, cls):
            raise StudyError(f"the plan of a {plan.kind} in {run_folder}", expected="that of a simulation")
        return plan


class DeploymentPlan(_Plan):
    """Plan of a study over real sites, for the server: names and nodes of the sites, and nothing of their speakers."""

    kind: Literal["deployment"] = "deployment"
    sites: tuple[EnrolledSite, ...]
    server_home: Path
    """Home of the server over which the study runs; its registry says which sites are revoked."""

    def held_out_pseudonyms(self, announced: Iterable[Collection[str]] = ()) -> frozenset[str]:
        """Pseudonyms of the speakers who are held out of training, as each site announced with its release."""
        return frozenset(pseudonym for site in announced for pseudonym in site)

    def originals(self) -> Originals | None:
        """None: raw clips never leave their site."""
        return None


Plan = SimulationPlan | DeploymentPlan
_READER: TypeAdapter[Plan] = TypeAdapter(Annotated[Plan, Field(discriminator="kind")])


def load_plan(run_folder: Path) -> Plan:
    """Read the plan of a run; where there is none, or it cannot be read, that is a StudyError."""
    try:
        return _READER.validate_json((run_folder / PLAN_FILE).read_bytes())
    except FileNotFoundError as error:
        raise StudyError(
            f"no {PLAN_FILE} in {run_folder}",
            expected="the whole folder of a run, as `moretta simulate` or `moretta study run` made it",
            fix="name that folder; a copy of its report is not enough",
        ) from error
    except (OSError, ValidationError) as error:
        raise StudyError(
            f"no usable plan in {run_folder}: {error}",
            expected=PLAN_FILE,
            fix="start the run with `moretta simulate` or `moretta study run`",
        ) from error
