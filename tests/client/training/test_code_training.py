"""A site's part in training a speaker code: what leaves, how far one clip or one person can move it, what it costs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killing import Action, Killed, kill_at_every_write

from moretta.client.accounting.account import Account
from moretta.client.accounting.budget import RESPONSE_KIND, BudgetLimits
from moretta.client.accounting.ledger import Ledger
from moretta.client.clips.release import make_release
from moretta.client.clips.site_clips import site_corpus
from moretta.client.policy import Policy, PolicyError
from moretta.client.settings import SiteSettings
from moretta.client.training import code_training
from moretta.client.training.data import CODE_KIND, held_out
from moretta.client.training.dp_sgd import Noiseless
from moretta.client.training.rounds import RoundRequest, train_round
from moretta.shared.core.errors import BudgetError, RefusedError, StudyError
from moretta.shared.features.emotion_encoder import CODE, TRAINED, EmotionEncoder, EmotionTraining, first_arrays
from moretta.shared.features.public_speech import synthetic_speakers
from moretta.shared.features.speaker_code import (
    PublicRows,
    SpeakerCode,
    code_along,
    public_rows,
    train_speaker_code,
)
from moretta.shared.release.anonymizer import site_training_of
from moretta.shared.study.schema import Study

DELTA = 1e-5
FEDERATED = {
    "anonymizer": "speaker-normalized",
    "code_training": "federated",
    "code_epsilon": 3.0,
    "code_rounds": 2,
    "codebook_size": 16,
}


@pytest.fixture
def requested(study: Study) -> Study:
    return study.with_changes(voice=FEDERATED)


@cache
def public(*, in_windows: bool = False) -> PublicRows:
    return public_rows(synthetic_speakers(1, voices=4, clips=12), in_windows=in_windows)


@cache
def public_code(*, in_windows: bool = False) -> SpeakerCode:
    return train_speaker_code(public(in_windows=in_windows), size=5, codebook_size=16, seed=1)


@cache
def _first(*, in_windows: bool) -> dict[str, Any]:
    return first_arrays(public(in_windows=in_windows), public_code(in_windows=in_windows))


def first(study: Study) -> dict[str, Any]:
    return dict(_first(in_windows=study.voice.form != "code"))


def taught(site: SiteSettings, study: Study, number: int = 1, **changes: Any) -> dict[str, np.ndarray]:
    weights = {**first(study), **changes}
    return dict(train_round(site, RoundRequest(study, "code", number, weights)).arrays)


def summed(site: SiteSettings, study: Study) -> np.ndarray:
    """The sum of cut gradients in a response, without noise, as one vector."""
    weights = first(study)
    response = train_round(site, RoundRequest(study, "code", 1, weights))
    moved = np.concatenate([(weights[name] - response.arrays[name]).ravel() for name in TRAINED])
    return moved / EmotionTraining.learning_rate * response.metrics["num-examples"]


def entries(site: SiteSettings) -> list[dict[str, Any]]:
    return Ledger(site.ledger).entries(CODE_KIND)


def spent(site: SiteSettings, unit: Any, audience: Any = "server") -> float | None:
    return Account.read(Ledger(site.ledger)).epsilon(unit, audience, delta=DELTA)


@pytest.fixture
def noiseless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_training, "_randomness", lambda *_: Noiseless())


def everybody(simulated: Any, tmp_path: Path, name: str) -> SiteSettings:
    """A site of all four speakers of whom none is held out, in a folder of its own."""
    speakers = ("1001", "1002", "1003", "1004")
    return replace(simulated.site(), speakers=speakers, held_out=frozenset(), home=tmp_path / "homes" / name)


@pytest.mark.parametrize("form", ["code", "code-sequence"])
@pytest.mark.parametrize("unit", ["clip", "speaker"])
def test_without_noise_the_code_moves_down_the_gradient_of_the_sites_own_clips(
    simulated: Any, requested: Study, tmp_path: Path, unit: str, form: str
) -> None:
    """Told by another formula: the loss of all training clips goes down, and the arrays that are public stay."""
    study = requested.with_changes(voice__options__code_epsilon=0.0, voice__options__code_unit=unit, voice__form=form)
    site = everybody(simulated, tmp_path, "all")
    weights = first(study)
    after = taught(site, study)
    assert set(after) == set(weights)
    for name in weights:
        assert np.array_equal(after[name], weights[name]) == (name not in TRAINED)
    again = taught(site, study, 2, **after)
    assert loss(site, study, again) < loss(site, study, after) < loss(site, study, weights)


def loss(site: SiteSettings, study: Study, arrays: dict[str, Any]) -> float:
    encoder = EmotionEncoder(arrays)
    corpus, clips = site_corpus(site, study)
    training = site_training_of(study)
    assert training is not None
    unit, measure = training.plan.unit, training.measure
    examples, _ = code_training._examples(site, study, clips, measure, encoder, unit=unit, speakers=corpus.speakers)
    logits = examples.features.numpy() @ arrays[CODE].T @ arrays["emotion.weight"].T + arrays["emotion.bias"]
    logits = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(logits)), examples.labels.numpy()]).mean())


@pytest.mark.usefixtures("noiseless")
@pytest.mark.parametrize("form", ["code", "code-sequence"])
def test_by_clip_no_clip_moves_the_sum_by_more_than_the_norm(
    simulated: Any, requested: Study, tmp_path: Path, tiny_corpus: Path, form: str
) -> None:
    study = requested.with_changes(voice__options__code_unit="clip", voice__form=form)
    whole = summed(everybody(simulated, tmp_path, "whole"), study)
    for number, gone in enumerate(sorted((tiny_corpus / "AudioWAV").glob("100[13]_*_ANG_*.wav"))):
        content = gone.read_bytes()
        gone.unlink()
        moved = np.linalg.norm(whole - summed(everybody(simulated, tmp_path, str(number)), study))
        assert 0.1 < moved <= 1 + 1e-4
        gone.write_bytes(content)


@pytest.mark.usefixtures("noiseless")
def test_speaker_normalized_one_clip_moves_more_than_the_norm_so_no_clip_is_an_example_then(
    simulated: Any, requested: Study, tmp_path: Path, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks within the speaker under a guarantee for clips: the measure above sees that broken."""
    study = requested.with_changes(voice__options__code_unit="clip")
    reported = EmotionEncoder.normalized
    monkeypatch.setattr(
        EmotionEncoder,
        "normalized",
        lambda self, values, *, unit: reported(self, values, unit="speaker"),
    )
    whole = summed(everybody(simulated, tmp_path, "whole"), study)
    far = []
    for number, gone in enumerate(sorted((tiny_corpus / "AudioWAV").glob("1001_*.wav"))):
        content = gone.read_bytes()
        gone.unlink()
        far.append(np.linalg.norm(whole - summed(everybody(simulated, tmp_path, str(number)), study)))
        gone.write_bytes(content)
    assert max(far) > 1.1


@pytest.mark.usefixtures("noiseless")
@pytest.mark.parametrize("form", ["code", "code-sequence"])
def test_by_speaker_nobody_moves_the_sum_by_more_than_the_norm_and_no_clip_by_more_than_twice_that(
    simulated: Any, requested: Study, tmp_path: Path, tiny_corpus: Path, form: str
) -> None:
    study = requested.with_changes(voice__form=form)
    whole = summed(everybody(simulated, tmp_path, "whole"), study)
    for speaker in ("1001", "1003"):
        site = everybody(simulated, tmp_path, f"without {speaker}")
        others = replace(site, speakers=tuple(n for n in site.speakers if n != speaker))
        assert 0.1 < np.linalg.norm(whole - summed(others, study)) <= 1 + 1e-4
    for gone in (tiny_corpus / "AudioWAV").glob("1001_*_ANG_*.wav"):
        gone.unlink()
    assert 0 < np.linalg.norm(whole - summed(everybody(simulated, tmp_path, "fewer"), study)) <= 2 + 1e-4


@pytest.mark.parametrize("unit", ["clip", "speaker"])
def test_the_noise_of_a_response_is_what_the_study_requires(simulated: Any, requested: Study, unit: str) -> None:
    """Half of the noise is caught: system noise, over all values of the response."""
    study = requested.with_changes(voice__options__code_unit=unit)
    quiet = summed(
        replace(simulated.site(), home=simulated.folder / "quiet"), study.with_changes(voice__options__code_epsilon=0.0)
    )
    noisy = summed(replace(simulated.site(), simulated_seed=None, home=simulated.folder / "noisy"), study)
    claim = code_training.training_step(study.site_training)
    assert claim is not None
    assert (noisy - quiet).std() == pytest.approx(claim.noise_multiplier, rel=0.15)


def test_held_out_speakers_have_no_part_in_the_code(simulated: Any, requested: Study) -> None:
    """1001 is held out everywhere: the code of tested models was not trained on tested people."""
    site = simulated.site()
    taught(site, requested)
    [cohort] = Ledger(site.ledger).entries("cohort")
    assert [speaker for speaker, _ in cohort["speakers"]] == [site.pseudonyms().speaker("1002")]


def test_speakers_who_trained_the_code_are_not_held_out_though_the_rule_would_choose_anew(
    simulated: Any, requested: Study, tiny_corpus: Path, tmp_path: Path
) -> None:
    """By the keyed rule, among three where one had no clip in the end."""
    site = replace(everybody(simulated, tmp_path, "rule"), held_out=None, speakers=())
    taught(site, requested)
    teachers = {speaker for cohort in Ledger(site.ledger).entries("cohort") for speaker, _ in cohort["speakers"]}
    assert len(teachers) == 2
    for number in ("1001", "1002", "1003", "1004"):
        if site.pseudonyms().speaker(number) not in teachers:
            for path in (tiny_corpus / "AudioWAV").glob(f"{number}_*.wav"):
                path.unlink()
            break
    make_release(site, requested, public_code().to_arrays())
    assert not held_out(site, requested) & teachers


@pytest.mark.parametrize("unit", ["clip", "speaker"])
def test_all_rounds_together_cost_the_budget_for_models_too(simulated: Any, requested: Study, unit: str) -> None:
    site, study = simulated.site(), requested.with_changes(voice__options__code_unit=unit)
    for number in (1, 2):
        taught(site, study, number)
    assert spent(site, unit) == spent(site, unit, "model")
    assert 2.5 < (spent(site, unit) or 0) <= 3.0
    other = spent(site, "speaker" if unit == "clip" else "clip")
    assert other is not None
    assert other > 3.0  # twelve clips at once; or a clip that moves its speaker's others
    assert len(entries(site)) == 2


def test_without_noise_nothing_finite_is_claimed(simulated: Any, requested: Study) -> None:
    site, study = simulated.site(), requested.with_changes(voice__options__code_epsilon=0.0)
    taught(site, study)
    assert spent(site, "clip") is spent(site, "speaker") is spent(site, "speaker", "model") is None


def test_a_round_requested_again_gets_the_same_response_and_is_paid_once(simulated: Any, requested: Study) -> None:
    site = replace(simulated.site(), simulated_seed=None)  # system noise: drawn again, it would differ
    responses = [taught(site, requested, number) for number in (1, 2)]
    for number, response in enumerate(responses, start=1):
        np.testing.assert_array_equal(taught(site, requested, number)[CODE], response[CODE])
    assert len(entries(site)) == len(Ledger(site.ledger).entries(RESPONSE_KIND)) == 2


def test_a_round_requested_with_other_weights_is_refused(simulated: Any, requested: Study) -> None:
    """Else a server could ask as often as it likes."""
    site = simulated.site()
    taught(site, requested)
    with pytest.raises(RefusedError, match="other arrays"):
        taught(site, requested, **{CODE: first(requested)[CODE] + 1})
    assert len(entries(site)) == 1


@pytest.mark.parametrize("number", [0, 3])
def test_more_rounds_than_the_study_has_are_refused(simulated: Any, requested: Study, number: int) -> None:
    with pytest.raises(RefusedError, match="1 to 2 of a federated"):
        taught(simulated.site(), requested, number)


def test_a_study_whose_code_is_public_trains_none(simulated: Any, requested: Study) -> None:
    with pytest.raises(RefusedError, match="of a code in training; expected 1 to"):
        taught(simulated.site(), requested.with_changes(voice__options__code_training="public"))


@pytest.mark.parametrize(
    "bad",
    [
        {CODE: np.zeros((4, 95), np.float32)},
        {CODE: np.full((5, 95), np.nan, np.float32)},
        {CODE: np.full((5, 95), 1e30, np.float32)},
        {"public.spread": np.zeros(95, np.float32)},
        {"more": np.zeros(1, np.float32)},
    ],
    ids=["shape", "not finite", "huge", "no spread", "more"],
)
def test_arrays_that_cannot_be_are_refused_before_anything_is_spent(
    simulated: Any, requested: Study, bad: dict[str, Any]
) -> None:
    site = simulated.site()
    with pytest.raises(StudyError, match="public array"):
        taught(site, requested, **bad)
    assert Ledger(site.ledger).length == 0


def test_clips_that_cannot_be_read_have_no_part_and_a_site_without_any_refuses(
    simulated: Any, requested: Study, tiny_corpus: Path
) -> None:
    clips = sorted((tiny_corpus / "AudioWAV").glob("1002_*.wav"))
    clips[0].write_bytes(b"not a sound")
    site = simulated.site()
    taught(site, requested)
    [cohort] = Ledger(site.ledger).entries("cohort")
    assert sum(len(each) for _, each in cohort["speakers"]) == len(clips) - 1
    for path in clips:
        path.write_bytes(b"not a sound")
    with pytest.raises(RefusedError, match="no clip"):
        taught(replace(site, home=site.home / "other"), requested)


def test_rounds_that_would_lead_beyond_the_budget_are_refused_at_the_first(simulated: Any, requested: Study) -> None:
    """The first alone would keep within it."""
    policy = Policy(budget=BudgetLimits(server_speaker=2.5, delta=DELTA), allow_seeded_noise=True, min_clips=1)
    site = replace(simulated.site(), policy=policy)
    with pytest.raises(BudgetError, match="a speaker would lose"):
        taught(site, requested)
    assert Ledger(site.ledger).length == 0


@pytest.mark.parametrize(
    ("rule", "value"), [("max_training_epsilon", 2.0), ("max_delta", 1e-6), ("min_clips", 13), ("min_speakers", 2)]
)
def test_the_policy_holds_for_a_code(simulated: Any, requested: Study, rule: str, value: float) -> None:
    study = requested.with_changes(privacy__epsilon=1.0)
    site = replace(simulated.site(), policy=Policy.model_validate({"allow_seeded_noise": True, rule: value}))
    with pytest.raises(PolicyError, match=rule):
        taught(site, study)
    assert Ledger(site.ledger).length == 0


def test_the_default_policy_refuses_a_code_that_is_trained_without_noise(simulated: Any, requested: Study) -> None:
    site = replace(simulated.site(), policy=Policy(allow_seeded_noise=True))
    with pytest.raises(PolicyError, match="max_training_epsilon"):
        taught(site, requested.with_changes(voice__options__code_epsilon=0.0))


def test_the_release_says_how_the_code_was_trained_and_what_it_cost(simulated: Any, requested: Study) -> None:
    site = simulated.site()
    for number in (1, 2):
        taught(site, requested, number)
    code = code_along(public(), first(requested)[CODE].T, codebook_size=16, seed=1, rounds=2)
    statement = make_release(site, requested, code.to_arrays()).anonymizer("voice")
    assert statement is not None
    assert statement.parameters["code_rounds"] == 2
    [by_speaker] = [p for p in statement.privacy if "federated code" in p.mechanism and p.unit == "speaker"]
    assert by_speaker.nominal == 3.0
    assert by_speaker.epsilon == pytest.approx(spent_by_code(site), rel=1e-6)


def spent_by_code(site: SiteSettings) -> float | None:
    from moretta.shared.privacy.accounting import composed_epsilon
    from moretta.shared.privacy.mechanism import from_record

    losses = [from_record(record) for entry in entries(site) for record in entry["losses"]["speaker"]]
    return composed_epsilon(losses, delta=DELTA)


def test_killed_at_any_write_no_response_is_missing_on_the_ledger_and_it_is_paid_once(
    simulated: Any, requested: Study, tmp_path: Path, tiny_corpus: Path
) -> None:
    homes = (tmp_path / "homes" / str(number) for number in range(1000))

    def prepare() -> tuple[Action, Any]:
        site = replace(simulated.site(), home=next(homes))

        def response(done: Any) -> None:
            for number in (1, 2):
                taught(site, requested, number)
                done()

        def check(outcome: Killed) -> None:
            assert outcome.done <= len(entries(site)) <= outcome.done + 1
            for number in (1, 2):
                taught(site, requested, number)
            assert len(entries(site)) == 2

        return response, check

    assert kill_at_every_write(prepare) >= 20
