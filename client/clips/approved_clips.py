"""The clips that a steward has approved for a study: no other is read for it, whatever lies in the corpus later.

Beside a decision, `approvals/DIGEST/origin.json` lists them as the record of a release does: by name, speaker, label
and content. A clip that came after the review, or was changed since, is in no list.
"""

from __future__ import annotations

from pathlib import Path

from moretta.client.clips.provenance import Provenance
from moretta.client.offers import Offers
from moretta.client.settings import SiteSettings
from moretta.shared.core.errors import HomeError
from moretta.shared.data.clips import Clip, Corpus


def approved_lists(settings: SiteSettings, study: str) -> list[Provenance]:
    """The lists of every approval of a study, by its digest; a clip must be in all of them.

    None where no steward decides: in simulation, and where the policy approves by itself. An approval whose list is
    gone is a HomeError, for without it nobody knows what was approved.
    """
    if settings.policy is None:
        return []
    found: list[Provenance] = []
    for decision in Offers(settings.home).approvals(study):
        if decision.clips is not None:
            folder = list_folder(settings.home, decision.digest)
            if (listed := Provenance.load(folder)) is None:
                raise HomeError(
                    f"the list of the {decision.clips} clips that were approved is not in {folder}",
                    expected="the file that the approval wrote",
                    fix=f"moretta site review {decision.digest[:16]}, and decide again",
                )
            found.append(listed)
    return found


def approved_names(settings: SiteSettings, study: str) -> frozenset[str] | None:
    """The names of these clips; None means all."""
    lists = approved_lists(settings, study)
    return frozenset.intersection(*(frozenset(listed.clips) for listed in lists)) if lists else None


def approved(settings: SiteSettings, study: str, corpus: Corpus, clips: tuple[Clip, ...]) -> tuple[Clip, ...]:
    """Clips that were approved for a study and have not changed since."""
    lists = approved_lists(settings, study)
    return tuple(clip for clip in clips if all(listed.holds(settings, corpus, clip) for listed in lists))


def list_folder(home: Path, digest: str) -> Path:
    """Where the list of an approval lies, by the digest of the offer."""
    return home / "approvals" / digest
