"""Pseudonyms of one study say nothing in the next, while the ledger adds up what both tell of a clip."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from moretta.client.accounting.account import Account
from moretta.client.accounting.ledger import Ledger
from moretta.client.clips.release import make_release
from moretta.client.policy import Policy, PolicyError
from moretta.client.settings import SiteSettings
from moretta.client.training.data import held_out, training_set, whole_cohorts
from moretta.shared.core.errors import RefusedError
from moretta.shared.release import Release
from moretta.shared.study.schema import Study


@pytest.fixture
def site(simulated: Any) -> SiteSettings:
    """A site as it is in deployment: its key is its own."""
    settings: SiteSettings = replace(simulated.site(), simulated_seed=None, held_out=None)
    return settings


def _names(release: Release) -> set[str]:
    return {name for clip in release.clips for name in (clip.clip, clip.speaker)}


def test_what_two_studies_reveal_of_a_clip_cannot_be_joined_and_is_added_up_all_the_same(
    site: SiteSettings, study: Study, simulated: Any
) -> None:
    """As found: one name in every study, so a bit about a clip in one is joined with a bit in the next."""
    one, two = (make_release(site, study.with_changes(name=name), simulated.public) for name in ("one", "two"))
    assert len(_names(one)) == len(_names(two)) == 24 + 2
    assert not _names(one) & _names(two)
    ledger = Ledger(site.ledger)
    assert len({entry["cohort"] for entry in ledger.entries("release")}) == 1
    first, both = (Account(Account.read(ledger)._losses[:n]).epsilon("clip", "server", delta=1e-3) for n in (1, 2))
    assert first is not None
    assert both is not None
    assert both > 1.9 * first
    assert not _names(one) & {
        name for entry in ledger.entries("cohort") for s, c in entry["speakers"] for name in (s, *c)
    }


def test_the_same_study_has_the_same_names_and_another_site_has_others(
    site: SiteSettings, study: Study, simulated: Any
) -> None:
    names, other = site.names(study), replace(site, home=site.home / "other").names(study)
    own = site.pseudonyms().speaker("1001")
    assert names.released(own) == site.names(study.with_changes()).released(own)
    assert names.released(own) not in (own, other.released(own))


def test_studies_are_linked_where_they_request_it_and_the_policy_lets_them(
    site: SiteSettings, study: Study, simulated: Any
) -> None:
    linked = [study.with_changes(name=name, linkage="site") for name in ("one", "two")]
    one, two = (make_release(site, each, simulated.public) for each in linked)
    assert _names(one) == _names(two)
    named = Policy(without_guarantee=("mfcc-quantizer",))
    with pytest.raises(PolicyError, match="allow_linkage"):
        named.check_study(linked[0])
    named.model_copy(update={"allow_linkage": True}).check_study(linked[0])
    named.check_study(study)


def test_training_and_testing_know_their_people_by_the_ledger_s_names(
    site: SiteSettings, study: Study, simulated: Any
) -> None:
    release = make_release(site, study, simulated.public)
    key, tested = site.pseudonyms(), held_out(site, study)
    everybody = {key.speaker("1001"), key.speaker("1002")}
    assert tested < everybody
    assert set(training_set(site, study, "voice").speakers) == everybody - tested
    assert whole_cohorts(site, study)["voice"].clips == 12
    assert {site.names(study).released(speaker) for speaker in everybody} == {clip.speaker for clip in release.clips}
    other = study.with_changes(name="other")
    make_release(site, other, simulated.public)
    assert held_out(site, other) == tested  # over the folds of a study each is held out once


def test_a_release_of_which_the_ledger_knows_nothing_is_trained_on_by_nobody(
    site: SiteSettings, study: Study, simulated: Any
) -> None:
    make_release(site, study, simulated.public)
    site.ledger.unlink()
    with pytest.raises(RefusedError, match="the privacy ledger does not know"):
        held_out(site, study)
