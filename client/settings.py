"""The settings of a site: where its clips, its home and its secrets are, and its names for clips and speakers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from moretta.client.accounting.account import cohorts_of
from moretta.client.accounting.budget import BudgetLimits, SiteBudget
from moretta.client.accounting.ledger import Ledger, opened
from moretta.client.clips.site_clips import NOBODY, Withdrawn
from moretta.client.policy import Policy
from moretta.client.site_home import SiteHome
from moretta.client.transport.identity import Identity
from moretta.shared.core.device import DeviceName
from moretta.shared.core.errors import RefusedError, StudyError
from moretta.shared.core.labels import SpeakerId
from moretta.shared.core.pseudonym import PseudonymKey
from moretta.shared.core.reproducibility import code_digest
from moretta.shared.study.run_plan import SimulationPlan
from moretta.shared.study.schema import Study


@dataclass(frozen=True, slots=True)
class StudyPseudonyms:
    """The names of clips and speakers in one study at one site.

    The ledger adds up what a clip and a speaker lose in all studies, so it has one name for each. With one name in
    every release a coordinator could do the same: what one study reveals of a clip could be joined with the next. So
    every study has names of its own, which nobody joins without the site's key, unless study and policy ask for it.
    """

    key: PseudonymKey
    """The site's key."""
    study: str | None
    """Digest of the study; None where its names are the site's own: by linkage, and in simulation, whose key anybody
    can derive."""

    def released(self, own: str) -> str:
        """The name that a release has for a clip or a speaker whom the ledger calls `own`: 16 hexadecimal digits."""
        return own if self.study is None else self.key.renamed(own, self.study)

    def as_own(self, released: tuple[str, ...], ledger: Ledger) -> tuple[str, ...]:
        """The ledger's names of names in a release, which are on the ledger, whatever became of the corpus since."""
        if self.study is None:
            return released
        known = {name for c in cohorts_of(ledger).values() for name in (*c.members("speaker"), *c.members("clip"))}
        own = {self.released(name): name for name in known}
        if missing := sum(name not in own for name in released):
            raise RefusedError(
                f"{missing} names in a release that the privacy ledger does not know",
                expected="everything that was released, under this site's key",
                fix="restore pseudonym.key and ledger.jsonl from one copy: they belong together",
            )
        return tuple(own[name] for name in released)


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """One site."""

    name: str
    home: Path
    corpus: Path
    speakers: tuple[SpeakerId, ...]
    """Speakers of this site; empty means everybody in the corpus."""
    held_out: frozenset[SpeakerId] | None
    """Speakers who are never trained on; None lets the keyed rule choose (moretta.client.training.data)."""
    simulated_seed: int | None
    """Every random choice of the site derives from it in simulation; None in deployment."""
    policy: Policy | None = None
    """The site's policy; None where the operator holds the clips: in simulation, and in `moretta anonymize`."""
    withdrawn: Withdrawn = NOBODY
    """People whose clips are not read any more."""
    server: tuple[str, str] = ("", "")
    """Address of the server this site is enrolled at, and the fingerprint of its authority."""
    device: DeviceName = "cpu"
    """Device of local training."""

    @property
    def releases(self) -> Path:
        """Releases of this site, by study."""
        return self.home / "release"

    def release_of(self, study: Study) -> Path:
        """The folder of its release for a study."""
        return self.releases / study.digest()[:16]

    @property
    def remembered(self) -> Path:
        """Facts about this site's speakers that anonymizers need at the next release."""
        return self.home / "speakers"

    @property
    def updates(self) -> Path:
        """The last update of each model, by study."""
        return self.home / "updates"

    def updates_of(self, study: Study) -> Path:
        """The folder of its updates for a study."""
        return self.updates / study.digest()[:16]

    @property
    def audits(self) -> Path:
        """Audits of its own releases, by study; they never leave."""
        return self.home / "audits"

    def audits_of(self, study: Study) -> Path:
        """The folder of its audit for a study."""
        return self.audits / study.digest()[:16]

    @property
    def attacks(self) -> Path:
        """Responses to requests for attacks on originals, by study: the same request gets the same one."""
        return self.home / "attacks"

    @property
    def ledger(self) -> Path:
        """The site's privacy ledger."""
        return self.home / "ledger.jsonl"

    def site_budget(self) -> SiteBudget:
        """The site's ledger with the limits of its policy."""
        ledger, key = opened(self.ledger), self.pseudonyms().fingerprint
        if self.policy is None:
            return SiteBudget(ledger, key, BudgetLimits.unlimited())
        return SiteBudget(ledger, key, self.policy.budget, self.policy.without_guarantee)

    def names(self, study: Study) -> StudyPseudonyms:
        """The names of clips and speakers in a release for this study."""
        own = self.simulated_seed is not None or study.linkage == "site"
        return StudyPseudonyms(self.pseudonyms(), None if own else study.digest())

    def pseudonyms(self) -> PseudonymKey:
        """The site's pseudonym key: from its own disk in deployment, from the seed in simulation."""
        if self.simulated_seed is not None:
            return PseudonymKey.seeded(self.simulated_seed, self.name)
        return PseudonymKey.load_or_create(self.home / "pseudonym.key")


def deployed_site(folder: Path) -> SiteSettings:
    """The settings of an enrolled site, from its own folder."""
    home = SiteHome(folder)
    identity, policy = Identity.load(home.identity_file), Policy.load(home.policy_file)
    policy.check_pinned("server_fingerprint", identity.ca_fingerprint)
    policy.check_pinned("code_digest", code_digest())
    policy.check_noise(seeded=home.read().simulated_seed is not None)
    home.check_device()
    return of_folder(home, name=identity.site, policy=policy, server=(identity.address, identity.ca_fingerprint))


def of_folder(home: SiteHome, *, name: str, policy: Policy | None, server: tuple[str, str] = ("", "")) -> SiteSettings:
    """The settings that a site's folder gives, under any name."""
    file = home.read()
    held_out = None if file.held_out is None else frozenset(file.held_out)
    settings = SiteSettings(
        *(name, home.root, file.corpus, file.speakers, held_out, file.simulated_seed, policy),
        server=server,
        device=file.device,
    )
    return replace(settings, withdrawn=Withdrawn.load(home.root, settings.pseudonyms))


def simulated_site(run_folder: Path, partition: int) -> SiteSettings:
    """The settings of one virtual site, from the plan that the simulation wrote."""
    plan = SimulationPlan.load(run_folder)
    if not 0 <= partition < len(plan.sites):
        raise StudyError(f"virtual site {partition}", expected=f"one of the plan's {len(plan.sites)}")
    site = plan.sites[partition]
    home = run_folder / "sites" / site.name
    study = plan.study
    return SiteSettings(
        site.name, home, plan.corpus, site.speakers, plan.test_speakers, study.seed, device=study.run.device
    )
