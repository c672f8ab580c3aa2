"""Presets with a budget for a clip or a speaker, from a site's clips to its release and its ledger."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moretta.client.accounting.account import Account
from moretta.client.accounting.budget import BudgetLimits
from moretta.client.accounting.ledger import Ledger
from moretta.client.clips.release import make_release
from moretta.client.policy import Policy, PolicyError
from moretta.client.settings import SiteSettings
from moretta.shared.core.errors import BudgetError
from moretta.shared.release import Release
from moretta.shared.study.schema import Study

sys.path.insert(0, str(Path(__file__).parents[1] / "anonymizers"))
from budgeted import public_of

PER_SPEAKER = 12
"""Clips that each of the site's two speakers has."""


def study_with(study: Study, **voice: Any) -> Study:
    return study.with_changes(**{f"voice__{key}": value for key, value in voice.items()})


def released(site: SiteSettings, study: Study) -> Release:
    return make_release(site, study, public_of(study))


def spent(site: SiteSettings, unit: Any, delta: float = 0.0) -> float | None:
    return Account.read(Ledger(site.ledger)).epsilon(unit, "server", delta=delta)


def test_a_release_by_clip_costs_each_clip_its_budget_and_a_speaker_all_of_them(simulated: Any, study: Study) -> None:
    site = simulated.site()
    release = released(site, study_with(study, preset="dp-clip", budget_epsilon=3.0))
    assert release.statement.clips == 2 * PER_SPEAKER
    assert spent(site, "clip") == pytest.approx(3.0)
    assert spent(site, "speaker") == pytest.approx(3.0 * PER_SPEAKER)


def test_a_release_by_speaker_costs_a_speaker_its_budget_and_drops_the_other_clips(
    simulated: Any, study: Study
) -> None:
    site = simulated.site()
    release = released(site, study_with(study, preset="dp-speaker", budget_epsilon=8.0))
    assert release.statement.clips == 2 * 4
    over = 2 * (PER_SPEAKER - 4)
    assert release.statement.dropped == {"voice-over-budget": over, "clip-without-release": over}
    assert spent(site, "speaker") == spent(site, "clip") == pytest.approx(8.0)


def test_clips_that_are_not_released_but_moved_what_is_are_on_the_ledger(simulated: Any, study: Study) -> None:
    site = simulated.site()
    released(site, study_with(study, preset="dp-speaker"))
    [cohort] = Ledger(site.ledger).entries("cohort")
    assert sorted(len(clips) for _, clips in cohort["speakers"]) == [PER_SPEAKER, PER_SPEAKER]


def test_clips_that_an_anonymizer_never_looked_at_are_not(simulated: Any, study: Study, tiny_corpus: Path) -> None:
    (tiny_corpus / "AudioWAV" / "1001_IEO_ANG_XX.wav").write_bytes(b"not a sound")
    site = simulated.site()
    released(site, study_with(study, preset="dp-speaker"))
    [cohort] = Ledger(site.ledger).entries("cohort")
    assert sorted(len(clips) for _, clips in cohort["speakers"]) == [PER_SPEAKER - 1, PER_SPEAKER]


def test_a_local_codebook_costs_all_clips_that_it_was_fitted_on(simulated: Any, study: Study) -> None:
    site = simulated.site()
    make_release(site, study_with(study, codebook="local"), simulated.public)
    [cohort] = Ledger(site.ledger).entries("cohort")
    assert sum(len(clips) for _, clips in cohort["speakers"]) == 2 * PER_SPEAKER


@pytest.mark.parametrize("name", ["clip-quantizer", "clip-statistics"])
def test_budgets_add_up_over_studies(simulated: Any, study: Study, name: str) -> None:
    """Also where another few of a speaker's clips are chosen: the speaker is the same."""
    site = replace(simulated.site(), simulated_seed=None)
    for number in range(3):
        requested = study_with(study, preset="dp-speaker", anonymizer=name, budget_epsilon=2.0)
        released(site, requested.with_changes(name=f"study {number}"))
    once, delta = 2.0, 0.0 if name == "clip-quantizer" else 1e-5
    total = spent(site, "speaker", delta)
    if name == "clip-quantizer":
        assert total == pytest.approx(3 * once)
    else:
        assert once * 3**0.5 < (total or 0) < 3 * once  # Gaussians add up by their root


def test_a_second_study_is_refused_where_the_steward_has_limited_what_a_speaker_may_lose(
    simulated: Any, study: Study
) -> None:
    policy = Policy(
        budget=BudgetLimits(server_speaker=10.0), allow_seeded_noise=True, min_clips=1, max_training_epsilon=1e9
    )
    site = replace(simulated.site(), policy=policy)
    requested = study_with(study, preset="dp-speaker", budget_epsilon=8.0)
    released(site, requested)
    with pytest.raises(BudgetError, match="a speaker would lose"):
        released(site, requested.with_changes(name="again"))
    assert len(Ledger(site.ledger).entries("release")) == 1


def test_a_release_at_a_larger_delta_than_the_policy_allows_is_refused(simulated: Any, study: Study) -> None:
    site = replace(simulated.site(), policy=Policy(max_delta=1e-4, allow_seeded_noise=True, min_clips=1))
    small = study_with(study.with_changes(privacy__delta=1e-5), preset="dp-clip", anonymizer="clip-statistics")
    with pytest.raises(PolicyError, match="max_delta"):
        released(site, study_with(small, budget_delta=1e-3))
    assert Ledger(site.ledger).length == 0
    released(site, small)


def test_a_limit_on_epsilon_per_clip_lets_a_budget_within_it_pass(simulated: Any, study: Study) -> None:
    site = replace(simulated.site(), policy=Policy(max_release_epsilon=4.0, allow_seeded_noise=True, min_clips=1))
    with pytest.raises(PolicyError, match="max_release_epsilon"):
        released(site, study_with(study, preset="dp-clip", budget_epsilon=5.0))
    released(site, study_with(study, preset="dp-clip", budget_epsilon=4.0))


@pytest.mark.parametrize("preset", ["dp-clip", "dp-speaker"])
@pytest.mark.parametrize("form", ["code", "code-tokens"])
def test_nothing_that_is_released_is_as_long_as_its_clip(
    simulated: Any, study: Study, tiny_corpus: Path, preset: str, form: str
) -> None:
    import soundfile

    path = tiny_corpus / "AudioWAV" / "1001_IEO_ANG_XX.wav"
    samples, rate = soundfile.read(path)
    soundfile.write(path, np.tile(samples, 5), rate)
    release = released(simulated.site(), study_with(study, preset=preset, form=form))
    assert len({(array.shape, array.dtype) for _, array in release.arrays("voice")}) == 1
    words = public_of(study_with(study, preset=preset, form=form))["voice/codes/codewords"]
    if form == "code":  # and nothing but public words is released
        assert {array.tobytes() for _, array in release.arrays("voice")} <= {word.tobytes() for word in words}


def test_a_release_of_the_same_study_is_made_once(simulated: Any, study: Study) -> None:
    site = replace(simulated.site(), simulated_seed=None)  # system noise, and another choice of clips, each time
    requested = study_with(study, preset="dp-speaker")
    first = {c.clip for c in released(site, requested).clips}
    assert {c.clip for c in released(site, requested).clips} == first
    assert len(Ledger(site.ledger).entries("release")) == 1
