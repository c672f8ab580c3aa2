"""A site's part in a federated codebook: what leaves, what it costs, and that it is paid once."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killing import Action, Killed, kill_at_every_write

from moretta.client.account import Account
from moretta.client.answered import ANSWERED_KIND
from moretta.client.budget import Budget
from moretta.client.codebook import LEDGER_KIND, RADIUS, codebook_sums
from moretta.client.ledger import Ledger
from moretta.client.policy import Policy, PolicyError
from moretta.client.release import make_release
from moretta.client.settings import SiteSettings
from moretta.shared.errors import BudgetError, RefusedError, StudyError
from moretta.shared.features.codebook import nearest
from moretta.shared.features.mfcc import mfcc
from moretta.shared.features.public_voice import PublicVoice
from moretta.shared.privacy.lloyd_sums import contribution_norm
from moretta.shared.study import Study

sys.path.insert(0, str(Path(__file__).parent / "anonymize"))
from budgeted import public_of

DELTA = 1e-5
FEDERATED = {"voice__codebook": "federated", "voice__codebook_epsilon": 3.0, "voice__codebook_iterations": 2}


@pytest.fixture
def asked(study: Study) -> Study:
    return study.with_changes(**FEDERATED)


def shared_of(simulated: Any, study: Study) -> dict[str, Any]:
    public = public_of(study) if study.voice.budgeted else simulated.public
    return {**public, RADIUS: np.array([1.0], np.float32)}


def sums(simulated: Any, site: SiteSettings, study: Study, iteration: int = 1, **changes: Any) -> np.ndarray:
    answer = codebook_sums(site, study, {**shared_of(simulated, study), **changes}, iteration=iteration)
    return np.asarray(answer.arrays["sums"])


def spent(site: SiteSettings, unit: Any, audience: Any = "server") -> float | None:
    return Account.read(Ledger(site.ledger)).epsilon(unit, audience, delta=DELTA)


def entries(site: SiteSettings) -> list[dict[str, Any]]:
    return Ledger(site.ledger).entries(LEDGER_KIND)


def test_without_noise_the_sums_are_those_of_the_sites_own_frames(
    simulated: Any, asked: Study, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted by hand: each clip's share of frames at each word, averaged over a speaker's clips, cut, added up."""
    import soundfile

    from moretta.client import codebook

    monkeypatch.setattr(codebook, "lloyd_noise", lambda _: 1e-9)
    found = sums(simulated, simulated.site(), asked)
    public = PublicVoice.from_arrays(simulated.public)
    expected = np.zeros(16)
    for speaker in (1001, 1002):
        shares = []
        for path in sorted((tiny_corpus / "AudioWAV").glob(f"{speaker}_*.wav")):
            frames = np.clip(public.standardise(mfcc(soundfile.read(path, dtype="float32")[0])), -3, 3)
            shares.append(np.bincount(nearest(frames, public.codebook), minlength=16) / len(frames))
        expected += np.mean(shares, axis=0)
    counted = found[:, 0] * contribution_norm(16) / 0.5
    assert counted.sum() <= 2 + 1e-6  # each speaker counts for one at most
    np.testing.assert_allclose(counted / counted.sum(), expected / expected.sum(), atol=0.02)


@pytest.mark.parametrize("preset", ["bounded", "dp-clip", "dp-speaker"])
def test_what_leaves_is_one_array_of_the_codebooks_size(simulated: Any, asked: Study, preset: str) -> None:
    study = asked.with_changes(voice__preset=preset)
    answer = codebook_sums(simulated.site(), study, shared_of(simulated, study), iteration=1)
    assert set(answer.arrays) == {"sums"}
    assert answer.metrics == {}
    words = 16 if preset != "dp-speaker" else 5
    assert answer.arrays["sums"].shape == (words, 14 if preset == "bounded" else 6)
    assert answer.arrays["sums"].dtype == np.float32


def test_all_iterations_together_cost_a_speaker_the_budget_and_models_may_tell_it_too(
    simulated: Any, asked: Study
) -> None:
    site = simulated.site()
    for iteration in (1, 2):
        sums(simulated, site, asked, iteration)
    assert spent(site, "speaker") == spent(site, "speaker", "model") == pytest.approx(3.0, rel=1e-3)
    assert 0 < (spent(site, "clip") or 0) < 3.0  # twelve clips each: one moves little of its speaker's mean
    assert len(entries(site)) == 2


@pytest.mark.parametrize("preset", ["dp-clip", "dp-speaker"])
def test_the_codebook_and_the_release_add_up_on_the_ledger(simulated: Any, asked: Study, preset: str) -> None:
    site, study = simulated.site(), asked.with_changes(voice__preset=preset, voice__budget_epsilon=8.0)
    for iteration in (1, 2):
        sums(simulated, site, study, iteration)
    statement = make_release(site, study, shared_of(simulated, study)).anonymizer("voice")
    assert statement is not None
    stated = {(row.mechanism[:7], row.unit): row.epsilon or 0.0 for row in statement.privacy}
    for unit in ("clip", "speaker"):
        parts = stated["random", unit] if ("random", unit) in stated else stated["randomi", unit]
        assert spent(site, unit) == pytest.approx(parts + stated["DP Lloy"[:7], unit], rel=0.1)
    assert stated["DP Lloy"[:7], "speaker"] == pytest.approx(3.0, rel=1e-4)


def test_an_iteration_asked_again_is_answered_alike_and_paid_once(simulated: Any, asked: Study) -> None:
    site = replace(simulated.site(), simulated_seed=None)  # system noise: drawn again, it would differ
    first, second = sums(simulated, site, asked, 1), sums(simulated, site, asked, 2)
    np.testing.assert_array_equal(sums(simulated, site, asked, 1), first)
    np.testing.assert_array_equal(sums(simulated, site, asked, 2), second)
    assert len(entries(site)) == 2
    assert len(Ledger(site.ledger).entries(ANSWERED_KIND)) == 2


def test_an_iteration_asked_with_other_words_is_refused(simulated: Any, asked: Study) -> None:
    """Else a server could ask as often as it likes."""
    site = simulated.site()
    sums(simulated, site, asked)
    with pytest.raises(RefusedError, match="other arrays"):
        sums(simulated, site, asked, **{"voice/codebook": simulated.public["voice/codebook"] + 1})
    assert len(entries(site)) == 1


@pytest.mark.parametrize("iteration", [0, 3])
def test_more_iterations_than_the_study_has_are_refused(simulated: Any, asked: Study, iteration: int) -> None:
    with pytest.raises(RefusedError, match="1 to 2 of a federated"):
        sums(simulated, simulated.site(), asked, iteration)


def test_a_study_without_a_federated_codebook_gets_no_sums(simulated: Any, study: Study) -> None:
    with pytest.raises(RefusedError, match="of a public codebook"):
        sums(simulated, simulated.site(), study)


@pytest.mark.parametrize("radius", [np.array([0.0]), np.array([np.nan]), np.array(1.0), np.array([1.0, 1.0])])
def test_a_radius_that_cannot_be_is_refused_before_anything_is_spent(
    simulated: Any, asked: Study, radius: np.ndarray
) -> None:
    site = simulated.site()
    with pytest.raises(StudyError, match="radius"):
        sums(simulated, site, asked, **{RADIUS: radius.astype(np.float32)})
    assert Ledger(site.ledger).length == 0


def test_clips_that_cannot_be_read_have_no_part_and_a_site_without_any_refuses(
    simulated: Any, asked: Study, tiny_corpus: Path
) -> None:
    clips = sorted((tiny_corpus / "AudioWAV").glob("100[12]_*.wav"))
    clips[0].write_bytes(b"not a sound")
    site = simulated.site()
    sums(simulated, site, asked)
    [cohort] = Ledger(site.ledger).entries("cohort")
    assert sum(len(each) for _, each in cohort["speakers"]) == len(clips) - 1
    for path in clips:
        path.write_bytes(b"not a sound")
    with pytest.raises(RefusedError, match="no clip"):
        sums(simulated, replace(site, home=site.home / "other"), asked)


def test_iterations_that_would_lead_beyond_the_budget_are_refused_at_the_first(simulated: Any, asked: Study) -> None:
    """The first alone would keep within it."""
    policy = Policy(budget=Budget(server_speaker=2.5, delta=DELTA), allow_seeded_noise=True, min_clips=1)
    site = replace(simulated.site(), policy=policy)
    with pytest.raises(BudgetError, match="a speaker would lose"):
        sums(simulated, site, asked)
    assert Ledger(site.ledger).length == 0


@pytest.mark.parametrize(
    ("rule", "value"), [("max_release_epsilon", 0.1), ("max_delta", 1e-6), ("min_clips", 25), ("min_speakers", 3)]
)
def test_the_policy_holds_for_a_codebook_as_for_a_release(
    simulated: Any, asked: Study, rule: str, value: float
) -> None:
    site = replace(simulated.site(), policy=Policy.model_validate({"allow_seeded_noise": True, rule: value}))
    with pytest.raises(PolicyError, match=rule):
        sums(simulated, site, asked)
    assert Ledger(site.ledger).length == 0


def test_killed_at_any_write_nothing_is_answered_that_is_not_on_the_ledger_and_it_is_paid_once(
    simulated: Any, asked: Study, tmp_path: Path, tiny_corpus: Path
) -> None:
    for path in (tiny_corpus / "AudioWAV").glob("*_IEO_*"):
        path.unlink()
    homes = (tmp_path / "homes" / str(number) for number in range(1000))

    def prepare() -> tuple[Action, Any]:
        site = replace(simulated.site(), home=next(homes), speakers=(1001,))

        def answer(done: Any) -> None:
            for iteration in (1, 2):
                sums(simulated, site, asked, iteration)
                done()

        def check(outcome: Killed) -> None:
            assert outcome.done <= len(entries(site)) <= outcome.done + 1
            for iteration in (1, 2):
                sums(simulated, site, asked, iteration)
            assert len(entries(site)) == 2

        return answer, check

    assert kill_at_every_write(prepare) >= 20
