"""A site releases only clips that its steward approved: no excluded clip, no clip that came or changed later."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from enrolled import approve, enrolled
from flwr.app import RecordDict
from requested import CHANGED, POLICY, RequestStage
from speaker_names import names_speaker

from moretta.client.clips import release as releasing
from moretta.client.clips.provenance import Provenance
from moretta.client.clips.site_clips import labelled_corpus, site_corpus
from moretta.client.offers import Offers
from moretta.client.settings import SiteSettings, deployed_site
from moretta.shared.data.clips import Clip, Corpus
from moretta.shared.messages import wire
from moretta.shared.release import open_release
from moretta.shared.study.schema import Study


@pytest.fixture
def site(tmp_path: Path, tiny_corpus: Path, simulated: Any) -> RequestStage:
    home = enrolled(tmp_path / "site", tiny_corpus, policy=POLICY, held_out=("1001",))
    return RequestStage(home, tiny_corpus, simulated.public)


def decide(site: RequestStage, *excluded: str) -> str:
    """Approve the study without the clips whose names begin so."""
    offers, settings, study = Offers(site.home.root), deployed_site(site.home.root), site.study
    offer = offers.keep(study.without_paths(), site.public)
    corpus, clips = labelled_corpus(settings, study.labels, study.classes)
    there = Provenance.take(settings, study, corpus, clips, study.modalities)
    left = there.without({name for name in there.clips if name.startswith(excluded)}) if excluded else there
    offers.decide(offer, "approved", "steward", clips=left, excluded=len(there.clips) - len(left.clips))
    return offer.digest


def release(site: RequestStage, digest: str) -> dict[str, Any]:
    config = wire.study_config(site.study, approval=digest)
    return site.call(wire.RELEASE, RecordDict({wire.CONFIG: config}))


def released(site: RequestStage) -> set[str]:
    """Names of the clips in the stored release."""
    settings = deployed_site(site.home.root)
    names, clips = settings.names(site.study), labelled_corpus(settings, "intended")[1]
    by_name = {names.released(names.key.clip(clip.name)): clip.name for clip in clips}
    return {by_name[clip.clip] for clip in open_release(site.folder).clips}


def names_in(corpus: Path) -> set[str]:
    return {path.stem for path in (corpus / "AudioWAV").glob("*.wav")}


def test_excluded_clips_are_in_nothing_that_leaves_and_in_no_count(site: RequestStage) -> None:
    (site.corpus / "AudioWAV" / "1004_IEO_ANG_XX.wav").write_bytes(b"broken")
    (site.corpus / "AudioWAV" / "1004_IEO_JOY_XX.wav").write_bytes(b"of an unknown emotion, which is counted at once")
    statement = release(site, decide(site, "1004", "1002_IEO_SAD"))["statement"]
    assert (statement["clips"], statement["speakers"], statement["dropped"]) == (35, 3, {})
    excluded = {name for name in names_in(site.corpus) if name.startswith(("1004", "1002_IEO_SAD"))}
    assert released(site) == names_in(site.corpus) - excluded
    assert site.train()["round"] == 1
    (record,) = (site.home.root / "sent").glob("*.jsonl")
    assert not names_speaker(record.read_text("utf-8"), "1004")


def test_a_clip_that_came_after_the_approval_stays_home_until_it_is_approved(site: RequestStage) -> None:
    digest = decide(site)
    shutil.copy(site.corpus / "AudioWAV" / "1003_IEO_HAP_XX.wav", site.corpus / "AudioWAV" / "1003_WSI_HAP_XX.wav")
    assert release(site, digest)["statement"]["clips"] == 48
    assert "1003_WSI_HAP_XX" not in released(site)
    decide(site)
    shutil.rmtree(site.folder)
    site.run = 2
    assert release(site, digest)["statement"]["clips"] == 49


def test_a_clip_that_was_changed_after_the_approval_stays_home(site: RequestStage) -> None:
    digest, audio = decide(site), site.corpus / "AudioWAV"
    shutil.copy(audio / "1003_IEO_HAP_XX.wav", audio / "1003_IEO_SAD_XX.wav")
    release(site, digest)
    assert released(site) == names_in(site.corpus) - {"1003_IEO_SAD_XX"}


def test_what_is_excluded_later_ends_the_use_of_the_release(site: RequestStage) -> None:
    digest = decide(site)
    release(site, digest)
    decide(site, "1002")
    assert site.train()["failure"] == CHANGED
    assert not site.folder.exists()
    site.run = 2
    assert release(site, digest)["statement"]["speakers"] == 3


def test_what_is_refused_while_it_is_made_does_not_leave(site: RequestStage, monkeypatch: pytest.MonkeyPatch) -> None:
    digest, offers = decide(site, "1004"), Offers(site.home.root)

    def refused_meanwhile(settings: SiteSettings, study: Study) -> tuple[Corpus, tuple[Clip, ...]]:
        offer = offers.find(digest)
        assert offer is not None
        offers.decide(offer, "refused", "steward")
        return site_corpus(settings, study)

    monkeypatch.setattr(releasing, "site_corpus", refused_meanwhile)
    assert "has not approved" in release(site, digest)["failure"]
    assert "has not approved" in site.fetch()["failure"]


def test_two_approvals_of_one_study_release_what_both_approve(site: RequestStage) -> None:
    decide(site, "1002")
    site.public = {name: array * 1.01 if name == "voice/std" else array for name, array in site.public.items()}
    assert release(site, decide(site, "1003"))["statement"]["speakers"] == 2


def test_nothing_is_released_where_the_list_is_gone_or_nothing_of_it_is_left(site: RequestStage) -> None:
    digest = decide(site, "1001", "1002", "1003")
    site.delete("1004")
    assert release(site, digest)["failure"] == "CorpusError"
    (site.home.root / "approvals" / digest / "origin.json").unlink()
    assert release(site, digest)["failure"] == "HomeError"
    assert not site.folder.exists()


def test_decisions_are_logged_with_their_counts_and_without_names(site: RequestStage) -> None:
    decide(site, "1004")
    approve(site.home, site.study, site.public)
    first, second = map(json.loads, (site.home.root / "approvals.jsonl").read_text("utf-8").splitlines())
    assert (first["clips"], first["excluded"], first["by"] != "") == (36, 12, True)
    assert (second["clips"], second["excluded"]) == (None, 0)
    assert "100" not in json.dumps({key: first[key] for key in first.keys() - {"digest", "study", "at"}})
    assert release(site, second["digest"])["statement"]["clips"] == 48
    for path in (site.home.root / "approvals").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
