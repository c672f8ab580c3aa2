"""What a site knows of itself: where its clips, its home and its secrets are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moretta.shared.errors import StudyError
from moretta.shared.plan import SimulationPlan
from moretta.shared.release.pseudonym import PseudonymKey


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """One site.

    `simulated_seed` is None in deployment; in simulation every random choice of the site derives from it.
    """

    name: str
    home: Path
    corpus: Path
    speakers: tuple[int, ...]
    test_speakers: frozenset[int]
    simulated_seed: int | None

    @property
    def releases(self) -> Path:
        """Where this site keeps what it released."""
        return self.home / "release"

    @property
    def ledger(self) -> Path:
        """The site's privacy ledger."""
        return self.home / "ledger.jsonl"

    def pseudonyms(self) -> PseudonymKey:
        """The site's pseudonym key: from its own disk in deployment, from the seed in simulation."""
        if self.simulated_seed is not None:
            return PseudonymKey.seeded(self.simulated_seed, self.name)
        return PseudonymKey.load_or_create(self.home / "pseudonym.key")


def simulated_site(run_folder: Path, partition: int) -> SiteSettings:
    """The settings of one virtual site, from the plan that the simulation wrote.

    Raises:
        StudyError: the plan is missing or has no such site.
    """
    plan = SimulationPlan.load(run_folder)
    if not 0 <= partition < len(plan.sites):
        raise StudyError(f"virtual site {partition}", expected=f"one of the plan's {len(plan.sites)}")
    site = plan.sites[partition]
    return SiteSettings(
        name=site.name,
        home=run_folder / "sites" / site.name,
        corpus=plan.corpus,
        speakers=site.speakers,
        test_speakers=plan.test_speakers,
        simulated_seed=plan.study.seed,
    )
