"""The plan of one simulated run: which virtual site has which speakers, and who is held out. Written before the run."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moretta.shared.atomic import write_atomic
from moretta.shared.errors import StudyError
from moretta.shared.release.pseudonym import PseudonymKey
from moretta.shared.study import Study

PLAN_FILE = "plan.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PlannedSite(_Part):
    """One virtual site."""

    name: str
    speakers: tuple[int, ...]


class SimulationPlan(_Part):
    """What both sides of a simulation read. It names speakers, so it stays on this machine."""

    corpus: Path
    corpus_name: str
    synthetic: bool
    study: Study
    sites: tuple[PlannedSite, ...]
    folds: tuple[tuple[int, ...], ...]
    """Speakers of each fold; `study.split.test_fold` says which is held out."""
    command: str
    absent: dict[str, str] = Field(default_factory=dict)
    """Modalities that the study wanted and the corpus has not, with the reason."""
    dropped: dict[str, int] = Field(default_factory=dict)
    """Files of the corpus that cannot be used and belong to no site's speakers, counted by reason."""
    warnings: tuple[str, ...] = ()

    @property
    def test_speakers(self) -> frozenset[int]:
        """Speakers held out of training everywhere."""
        return frozenset(self.folds[self.study.split.test_fold])

    def pseudonym_keys(self) -> dict[int, PseudonymKey]:
        """The key of each speaker's virtual site, which anybody can derive from the seed."""
        return {n: PseudonymKey.seeded(self.study.seed, site.name) for site in self.sites for n in site.speakers}

    def held_out_pseudonyms(self) -> frozenset[str]:
        """Pseudonyms of the speakers who are held out of training."""
        keys = self.pseudonym_keys()
        return frozenset(keys[number].speaker(number) for number in self.test_speakers)

    def save(self, run_folder: Path) -> None:
        """Write the plan, readable by its owner only."""
        write_atomic(run_folder / PLAN_FILE, self.model_dump_json(indent=1), mode=0o600)

    @classmethod
    def load(cls, run_folder: Path) -> SimulationPlan:
        """Read the plan of a run.

        Raises:
            StudyError: there is none, or it cannot be read.
        """
        try:
            return cls.model_validate_json((run_folder / PLAN_FILE).read_bytes())
        except (OSError, ValidationError) as error:
            raise StudyError(
                f"no usable plan in {run_folder}: {error}",
                expected=PLAN_FILE,
                fix="start the run with `moretta simulate`",
            ) from error
