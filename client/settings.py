"""What a site knows of itself: where its clips, its home and its secrets are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from moretta.client.accounting.budget import BudgetLimits, SiteBudget
from moretta.client.accounting.ledger import Ledger
from moretta.client.clips.study_pseudonyms import StudyPseudonyms
from moretta.client.clips.withdrawn import NOBODY, Withdrawn
from moretta.client.policy import Policy
from moretta.client.site_home import SiteHome
from moretta.client.transport.identity import Identity
from moretta.shared.core.errors import StudyError
from moretta.shared.core.labels import SpeakerId
from moretta.shared.core.pseudonym import PseudonymKey
from moretta.shared.core.reproducibility import code_digest
from moretta.shared.study.run_plan import SimulationPlan
from moretta.shared.study.schema import Study


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """One site.

    `simulated_seed` is None in deployment; in simulation every random choice of the site derives from it.
    """

    name: str
    home: Path
    corpus: Path
    speakers: tuple[SpeakerId, ...]
    """Empty means everybody in the corpus."""
    held_out: frozenset[SpeakerId] | None
    """Speakers who are never trained on; None lets the keyed rule choose (moretta.client.training.data)."""
    simulated_seed: int | None
    policy: Policy | None = None
    """None where whoever runs the study holds the clips: in simulation, and in `moretta anonymize`."""
    withdrawn: Withdrawn = NOBODY
    """People whose clips are not read any more."""
    server: tuple[str, str] = ("", "")
    """Address of the server this site is enrolled at, and the fingerprint of its authority."""

    @property
    def releases(self) -> Path:
        """Where this site keeps what it released."""
        return self.home / "release"

    @property
    def remembered(self) -> Path:
        """Where anonymizers keep what they must know of this site's speakers at the next release."""
        return self.home / "speakers"

    @property
    def updates(self) -> Path:
        """Where this site keeps the last update of each model."""
        return self.home / "updates"

    @property
    def ledger(self) -> Path:
        """The site's privacy ledger."""
        return self.home / "ledger.jsonl"

    def site_budget(self) -> SiteBudget:
        """The site's ledger with the limits of its policy.

        Raises:
            RefusedError: the ledger is broken, or older than the server knows.
        """
        ledger, key = Ledger(self.ledger), self.pseudonyms().fingerprint
        if self.policy is None:
            return SiteBudget(ledger, key, BudgetLimits.unlimited())
        return SiteBudget(ledger, key, self.policy.budget, self.policy.without_guarantee)

    def names(self, study: Study) -> StudyPseudonyms:
        """What a release for this study calls clips and speakers."""
        own = self.simulated_seed is not None or study.linkage == "site"
        return StudyPseudonyms(self.pseudonyms(), None if own else study.digest())

    def pseudonyms(self) -> PseudonymKey:
        """The site's pseudonym key: from its own disk in deployment, from the seed in simulation."""
        if self.simulated_seed is not None:
            return PseudonymKey.seeded(self.simulated_seed, self.name)
        return PseudonymKey.load_or_create(self.home / "pseudonym.key")


def deployed_site(folder: Path) -> SiteSettings:
    """The settings of an enrolled site, from its own folder.

    Raises:
        HomeError: the folder, its identity or its policy cannot be used.
        PolicyError: the policy refuses the server, the installed code, or noise from a seed.
    """
    home = SiteHome(folder)
    identity = Identity.load(home.identity_file)
    said, policy = home.read(), Policy.load(home.policy_file)
    policy.check_server(identity.ca_fingerprint)
    policy.check_code(code_digest())
    policy.check_noise(seeded=said.simulated_seed is not None)
    return of_folder(home, name=identity.site, policy=policy, server=(identity.address, identity.ca_fingerprint))


def of_folder(home: SiteHome, *, name: str, policy: Policy | None, server: tuple[str, str] = ("", "")) -> SiteSettings:
    """What a site's folder says of its clips, whoever the site is.

    Raises:
        HomeError: `site.toml` or the list of people who have withdrawn cannot be used.
    """
    said = home.read()
    settings = SiteSettings(
        name=name,
        home=home.root,
        corpus=said.corpus,
        speakers=said.speakers,
        held_out=None if said.held_out is None else frozenset(said.held_out),
        simulated_seed=said.simulated_seed,
        policy=policy,
        server=server,
    )
    return replace(settings, withdrawn=Withdrawn.load(home.root, settings.pseudonyms))


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
        held_out=plan.test_speakers,
        simulated_seed=plan.study.seed,
    )
