"""Total loss of clips and speakers: over rounds, studies and anonymizers, and where a site stops."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killing import Action, Killed, forked, kill_at_every_write

from moretta.client.accounting.account import Account, Cohort, Loss
from moretta.client.accounting.budget import BudgetLimits, SiteBudget
from moretta.client.accounting.ledger import Ledger
from moretta.client.clips.release import make_release
from moretta.client.policy import Policy
from moretta.client.settings import SiteSettings
from moretta.client.training.rounds import RoundRequest, train_round
from moretta.shared.core.errors import BudgetError, RefusedError
from moretta.shared.privacy.gaussian import Gaussian
from moretta.shared.privacy.mechanism import Mechanism, Pure, Unbounded
from moretta.shared.study.schema import Study

DELTA = 1e-3
ALL = Cohort.of([("ann", "a1"), ("ann", "a2"), ("bob", "b1")])
ANN = Cohort.of([("ann", "a1"), ("ann", "a2")])
BOB = Cohort.of([("bob", "b1")])


def site_budget(path: Path, key: str = "key", **limits: float) -> SiteBudget:
    return SiteBudget(Ledger(path), key, BudgetLimits.unlimited().model_copy(update=limits))


def each(cohort: Cohort, audiences: Any, clip: Mechanism, speaker: Mechanism) -> Loss:
    return Loss(cohort, audiences, {"clip": (clip,), "speaker": (speaker,)})


def released(cohort: Cohort, epsilon: float) -> Loss:
    """Each clip by itself, so a speaker loses as often as it has clips."""
    return each(cohort, ("server",), Pure(total=epsilon), Pure(total=epsilon * cohort.most_clips, unit="speaker"))


def lost(path: Path, unit: Any, audience: Any = "server") -> float | None:
    return Account.read(Ledger(path)).epsilon(unit, audience, delta=DELTA)


def test_the_same_clips_in_two_studies_lose_twice_and_other_clips_do_not_add(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    site_budget(path).spend("release", released(ANN, 0.5), study="one")
    site_budget(path).spend("release", released(BOB, 0.7), study="one")
    assert lost(path, "clip") == pytest.approx(0.7, rel=0.01)
    assert lost(path, "speaker") == pytest.approx(2 * 0.5, rel=0.01)
    site_budget(path).spend("release", released(ALL, 0.5), study="two")
    assert lost(path, "clip") == pytest.approx(0.5 + 0.7, rel=0.01)
    assert lost(path, "speaker") == pytest.approx(2 * 2 * 0.5, rel=0.01)


def test_losses_of_different_anonymizers_compose_by_mechanism_and_not_by_their_epsilons(tmp_path: Path) -> None:
    path, gaussian = tmp_path / "ledger.jsonl", Gaussian(sigma=4.0, distance=1.0)
    for modality in ("voice", "face", "voice", "face"):
        site_budget(path).spend("release", each(BOB, ("server",), gaussian, gaussian), modality=modality)
    assert lost(path, "clip") == pytest.approx(Gaussian(sigma=4.0, distance=2.0).epsilon(DELTA))
    assert (lost(path, "clip") or 0) < 4 * (gaussian.epsilon(DELTA) or 0)


def test_training_on_a_release_costs_whoever_sees_models_and_not_whoever_has_the_release(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    site_budget(path).spend("release", released(BOB, 2.0))
    site_budget(path).spend("dp-sgd", each(BOB, ("model",), Pure(total=0.3), Pure(total=0.4)))
    assert lost(path, "clip", "server") == pytest.approx(2.0, rel=0.01)
    assert lost(path, "clip", "model") == pytest.approx(0.3, rel=0.01)
    assert lost(path, "speaker", "model") == pytest.approx(0.4, rel=0.01)


def test_one_release_without_a_guarantee_leaves_no_figure(tmp_path: Path) -> None:
    path, nothing = tmp_path / "ledger.jsonl", Unbounded(why="raw")
    site_budget(path).spend("release", each(BOB, ("server",), nothing, nothing))
    site_budget(path).spend("release", released(ALL, 0.1))
    assert lost(path, "clip") is None
    assert lost(path, "clip", "model") == 0.0


def test_a_cohort_is_written_once_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    for _ in range(3):
        site_budget(path).spend("release", released(ALL, 0.1))
    assert len(Ledger(path).entries("cohort")) == 1
    assert Account.read(Ledger(path)).members("clip") == 3
    assert Account.read(Ledger(path)).members("speaker") == 2


@pytest.mark.parametrize("limit", ["server_clip", "server_speaker", "model_clip", "model_speaker"])
def test_a_loss_beyond_a_limit_is_refused_with_the_figures_and_nothing_is_written(tmp_path: Path, limit: str) -> None:
    path = tmp_path / "ledger.jsonl"
    loss = each(BOB, ("server", "model"), Pure(total=0.6), Pure(total=0.6))
    site_budget(path, **{limit: 1.0}).spend("release", loss)
    before = path.read_bytes()
    audience, unit = limit.split("_")
    with pytest.raises(BudgetError) as caught:
        site_budget(path, **{limit: 1.0}).spend("release", loss)
    assert caught.value.found == f"a {unit} would lose epsilon 1.198 to the {audience}, after epsilon 0.598 so far"
    assert caught.value.expected == f"at most 1 at delta 0.001 (budget.{limit})"
    assert path.read_bytes() == before
    site_budget(path, **{limit: 1.2}).spend("release", loss)


def test_a_limit_refuses_what_has_no_finite_guarantee(tmp_path: Path) -> None:
    nothing = Unbounded(why="raw")
    with pytest.raises(BudgetError, match="more than any epsilon"):
        site_budget(tmp_path / "l", server_clip=1e9).spend("release", each(BOB, ("server",), nothing, nothing))


def test_a_limit_on_models_leaves_releases_alone(tmp_path: Path) -> None:
    site_budget(tmp_path / "l", model_clip=0.1).spend("release", released(BOB, 5.0))


def test_processes_that_spend_at_once_do_not_pass_the_limit_together(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    loss = each(BOB, ("server",), Pure(total=1.0), Pure(total=1.0))
    lost(path, "clip")  # what is imported before the fork is there at once

    def race() -> None:
        with pytest.raises(BudgetError):
            while True:
                site_budget(path, server_clip=5.0, delta=1e-12).spend("release", loss)

    racing = [forked(race) for _ in range(3)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in racing] == [0, 0, 0]
    assert len(Ledger(path).entries("release")) == 5


def test_a_ledger_goes_on_only_under_the_key_it_was_written_under(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    site_budget(path).spend("release", released(ALL, 0.1))
    with pytest.raises(RefusedError, match="a pseudonym key that is not the one"):
        site_budget(path, key="other").spend("release", released(BOB, 0.1))
    assert lost(path, "clip") == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(
    "bad",
    [
        {"losses": {"clip": [], "speaker": []}, "cohort": "unknown", "audiences": ["server"]},
        {"losses": {"clip": [{"kind": "of the future"}], "speaker": []}, "cohort": ALL.digest, "audiences": []},
        {"losses": {"clip": []}, "cohort": ALL.digest, "audiences": []},
    ],
)
def test_an_entry_that_cannot_be_understood_is_not_passed_over(tmp_path: Path, bad: dict[str, Any]) -> None:
    path = tmp_path / "ledger.jsonl"
    site_budget(path).spend("release", released(ALL, 0.1))
    Ledger(path).spend("release", **bad)
    with pytest.raises(RefusedError, match="entry 3 of the privacy ledger cannot be understood"):
        Account.read(Ledger(path))


def _limited(site: SiteSettings, **limits: float) -> SiteSettings:
    budget = BudgetLimits.unlimited().model_copy(update=limits)
    policy = Policy(budget=budget, allow_seeded_noise=True, min_clips=1, max_release_epsilon=math.inf)
    return replace(site, policy=policy)


def test_a_study_beyond_the_budget_is_refused_before_anything_leaves(simulated: Any, study: Study) -> None:
    """Released or planned: the training that would follow counts, too."""
    site = simulated.site()
    for limits, loss in (
        ({"server_clip": 100.0}, "to the server"),
        ({"server_speaker": 1e4}, "to the server"),
        ({"model_clip": 6.5}, "to the model"),
        ({"model_speaker": 8.5}, "to the model"),
    ):
        with pytest.raises(BudgetError, match=loss):
            make_release(_limited(site, **limits), study, simulated.public)
        assert not (site.releases / study.digest()[:16] / "statement.json").exists()
        assert Ledger(site.ledger).length == 0
    make_release(_limited(site, server_clip=1e5, model_clip=8.0), study, simulated.public)


def test_a_second_study_of_the_same_clips_finds_the_budget_spent(simulated: Any, study: Study) -> None:
    site = _limited(simulated.site(), server_clip=1.1e4)
    make_release(site, study, simulated.public)
    first = Account.read(Ledger(site.ledger)).epsilon("clip", "server", delta=DELTA)
    assert first is not None
    assert 0.55e4 < first < 1.1e4
    with pytest.raises(BudgetError, match=f"after epsilon {first:.3f} so far"):
        make_release(site, study.with_changes(name="again"), simulated.public)


def _weights(site: SiteSettings, study: Study) -> dict[str, np.ndarray]:
    from moretta.client.training.data import training_set
    from moretta.shared.models.emotion import emotion_model

    features = training_set(site, study, "voice").features
    return {
        n: np.asarray(t) for n, t in emotion_model("voice", "statistics").build(features.shape[1:]).state_dict().items()
    }


def test_a_round_beyond_the_budget_is_refused_before_it_is_trained(simulated: Any, study: Study) -> None:
    open_site = simulated.site()
    make_release(open_site, study, simulated.public)
    weights = _weights(open_site, study)
    train_round(open_site, RoundRequest(study, "voice", 1, weights))
    spent = Account.read(Ledger(open_site.ledger)).epsilon("clip", "model", delta=DELTA)
    tight = _limited(open_site, model_clip=1.01 * (spent or 0))
    with pytest.raises(BudgetError, match="to the model"):
        train_round(tight, RoundRequest(study, "voice", 2, weights))
    assert len(Ledger(open_site.ledger).entries("dp-sgd")) == 1


def test_speaker_and_clip_level_figures_of_a_whole_study_are_those_of_its_mechanisms(
    simulated: Any, study: Study
) -> None:
    site = simulated.site()
    make_release(site, study, simulated.public)
    account = Account.read(Ledger(site.ledger))
    voice = study.voice
    frames = 61  # 0.6 s
    per_value = 2 * voice.options.bound * voice.options.epsilon / voice.options.sensitivity
    assert account.epsilon("clip", "server", delta=0.0) == pytest.approx(13 * frames * per_value)
    assert account.epsilon("speaker", "server", delta=0.0) == pytest.approx(12 * 13 * frames * per_value)


def test_killed_at_any_write_of_a_release_nothing_can_be_opened_that_is_not_on_the_ledger(
    simulated: Any, study: Study, tmp_path: Path, tiny_corpus: Path
) -> None:
    homes = (tmp_path / "homes" / str(number) for number in range(1000))
    for path in (tiny_corpus / "AudioWAV").glob("*_IEO_*"):
        path.unlink()

    def prepare() -> tuple[Action, Any]:
        site = replace(simulated.site(), home=next(homes), speakers=("1001",))

        def release(done: Any) -> None:
            make_release(site, study, simulated.public)
            done()

        def check(outcome: Killed) -> None:
            opened = (site.releases / study.digest()[:16] / "statement.json").exists()
            assert opened or not outcome.done
            spent = Ledger(site.ledger).entries("release")
            assert len(spent) >= int(opened)
            make_release(site, study, simulated.public)  # and it goes on
            assert Account.read(Ledger(site.ledger)).epsilon("clip", "server", delta=0.0)

        return release, check

    assert kill_at_every_write(prepare) >= 10


def test_killed_at_any_write_of_a_round_no_response_is_missing_on_the_ledger(
    simulated: Any, study: Study, tmp_path: Path
) -> None:
    import shutil

    first = simulated.site()
    make_release(first, study, simulated.public)
    weights = _weights(first, study)
    homes = (tmp_path / "homes" / str(number) for number in range(1000))

    def prepare() -> tuple[Action, Any]:
        site = replace(first, home=next(homes))
        shutil.copytree(first.home, site.home)

        def train(done: Any) -> None:
            for number in (1, 2):
                train_round(site, RoundRequest(study, "voice", number, weights))
                done()

        def check(outcome: Killed) -> None:
            rounds = Ledger(site.ledger).entries("dp-sgd")
            assert outcome.done <= len(rounds) <= outcome.done + 1

        return train, check

    assert kill_at_every_write(prepare) >= 2 * 2 * 5


def test_releases_without_a_guarantee_are_counted_and_not_added_up(tmp_path: Path) -> None:
    """With an epsilon of their own none would pass a finite budget; uncounted, studies with other seeds have no end."""
    path, nothing = tmp_path / "ledger.jsonl", (Unbounded(unit="clip", why="measured"),)
    site = SiteBudget(Ledger(path), "key", BudgetLimits(unguaranteed=2), ("track",))

    def release(cohort: Cohort, modality: str = "face", name: str = "track") -> None:
        loss = Loss(cohort, ("server", "model"), {"clip": nothing, "speaker": nothing}, (modality, name))
        site.check([loss])
        site.spend("release", loss, modality=modality, anonymizer=name)

    release(ANN)
    release(ALL)
    release(BOB)
    release(ALL, "voice")
    for cohort in (ANN, ALL):
        with pytest.raises(BudgetError, match=r"released 3 times without a guarantee, after 2 .*budget.unguaranteed"):
            release(cohort)
    with pytest.raises(BudgetError, match="server_clip"):
        release(BOB, name="of no list")
    site.spend("release", released(BOB, 1.0))


def test_the_default_budget_is_finite_and_lets_a_usual_study_through(tmp_path: Path) -> None:
    default = BudgetLimits()
    assert all(default.limit(unit, who) < math.inf for unit in ("clip", "speaker") for who in ("server", "model"))
    many = Cohort.of([("ann", f"a{clip}") for clip in range(82)])
    site = SiteBudget(Ledger(tmp_path / "ledger.jsonl"), "key", default)
    site.spend("release", released(many, 8.0))
    with pytest.raises(BudgetError, match="server_speaker"):
        site.spend("release", released(many, 8.0))


def test_the_policy_reads_its_budget_and_refuses_limits_that_cannot_be(tmp_path: Path) -> None:
    from moretta.client.policy import default_policy
    from moretta.shared.core.errors import HomeError

    path = tmp_path / "policy.toml"
    path.write_text(default_policy("a" * 64), encoding="utf-8")
    assert Policy.load(path).budget == BudgetLimits()
    path.write_text("[budget]\nmodel_clip = 8.0\ndelta = 1e-5\n", encoding="utf-8")
    assert Policy.load(path).budget == BudgetLimits(model_clip=8.0, delta=1e-5)
    for bad in ("model_clip = 0.0", "model_clip = -1.0", "delta = 0.0", "delta = 1.0", "clips = 3"):
        path.write_text(f"[budget]\n{bad}\n", encoding="utf-8")
        with pytest.raises(HomeError, match=f"budget.{bad.split()[0]}"):
            Policy.load(path)


def test_mechanisms_are_what_they_were_when_read_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    kinds: tuple[Mechanism, ...] = (Pure(total=0.5), Gaussian(sigma=3.0, distance=1.0))
    site_budget(path).spend("release", Loss(ALL, ("server",), {"clip": kinds, "speaker": kinds}))
    (read,) = Account.read(Ledger(path))._losses
    assert read.mechanisms["clip"] == kinds
    assert read.cohort == ALL
