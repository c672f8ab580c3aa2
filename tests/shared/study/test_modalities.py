from __future__ import annotations

import logging
from typing import Any

import pytest

from moretta.client.anonymizers.clip_budget import ClipBudgetOptions
from moretta.shared.core.errors import StudyError
from moretta.shared.study.options import VoiceSection
from moretta.shared.study.schema import Study, parse_study


def voice(anonymizer: str = "mfcc-quantizer", *, form: str = "", **options: Any) -> VoiceSection:
    return parse_study({"voice": {"anonymizer": anonymizer, "form": form, "options": options}}).voice


@pytest.mark.parametrize(
    ("name", "form"),
    [("mfcc-quantizer", "mfcc"), ("clip-quantizer", "code"), ("speaker-normalized", "code"), ("none", "mfcc")],
)
def test_an_anonymizer_has_a_form_of_its_own_where_the_study_names_none(name: str, form: str) -> None:
    assert voice(name).form == form


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"anonymizer": "nobody"}, "voice.anonymizer: .*unknown; expected one of: adversarial-embedding"),
        ({"anonymizer": "none", "preset": "dp-clip"}, "voice.options.preset: no such key"),
        ({"anonymizer": "clip-quantizer", "preset": "bounded"}, "voice.options.preset"),
        ({"anonymizer": "clip-quantizer", "form": "waveform"}, "not waveform"),
        ({"anonymizer": "clip-statistics", "form": "code-tokens"}, "not code-tokens"),
        ({"anonymizer": "mcadams", "form": "tokens"}, "mcadams releases the form mfcc or waveform, not tokens"),
        ({"anonymizer": "clip-quantizer", "codebook": "local"}, "voice.options.codebook: no such key"),
        ({"anonymizer": "clip-quantizer", "released_clips": 4}, "released_clips limits"),
        (
            {"anonymizer": "speaker-normalized", "code_encoder": "network", "code_training": "federated"},
            "sites train directions",
        ),
        ({"anonymizer": "clip-quantizer", "budget_epsilon": 0}, "budget_epsilon"),
        ({"anonymizer": "clip-quantizer", "budget_epsilon": float("inf")}, "budget_epsilon"),
        ({"anonymizer": "clip-quantizer", "budget_delta": 0.5}, "budget_delta"),
        ({"anonymizer": "clip-quantizer", "segments": 0}, "segments"),
        ({"anonymizer": "clip-quantizer", "preset": "dp-speaker", "released_clips": 0}, "released_clips"),
        ({"codebook": "federated"}, 'removed.*codebook = "public"'),
        ({"codebook_epsilon": 4.0}, "codebook_epsilon was removed"),
        ({"codebook_iterations": 3}, "codebook_iterations was removed"),
        ({"code_training": "federated"}, "voice.options.code_training: no such key"),
        ({"anonymizer": "speaker-normalized", "code_epsilon": -1}, "code_epsilon"),
        ({"anonymizer": "speaker-normalized", "code_rounds": 0}, "code_rounds"),
        ({"anonymizer": "speaker-normalized", "code_unit": "site"}, "code_unit"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_named(content: dict[str, Any], named: str) -> None:
    with pytest.raises(StudyError, match=named):
        voice(**content)


def test_all_problems_of_both_modalities_options_stand_in_one_message() -> None:
    content = {"voice": {"options": {"epsilon": -1, "colour": 1}}, "face": {"options": {"noise": 2}}, "sites": 0}
    with pytest.raises(StudyError) as caught:
        parse_study(content)
    for part in ("voice.options.epsilon", "voice.options.colour", "face.options.noise", "sites"):
        assert part in caught.value.message


@pytest.mark.parametrize(("epsilon", "clips"), [(0.5, 1), (1, 1), (2, 1), (4, 2), (8, 4), (16, 8)])
def test_a_speakers_budget_is_shared_by_so_many_clips_that_each_has_enough(epsilon: float, clips: int) -> None:
    assert ClipBudgetOptions(preset="dp-speaker", budget_epsilon=epsilon).clip_limit == clips
    assert ClipBudgetOptions(preset="dp-speaker", budget_epsilon=epsilon, released_clips=3).clip_limit == 3
    assert ClipBudgetOptions(preset="dp-clip", budget_epsilon=epsilon).clip_limit is None


def test_another_anonymizer_takes_over_the_options_that_it_has_and_no_other() -> None:
    study = Study().with_changes(voice__options={"coefficients": 20, "epsilon": 0.1}, voice__form="tokens")
    budgeted = study.with_changes(voice__anonymizer="clip-quantizer", voice__options__budget_epsilon=2.0)
    assert budgeted.voice.options == ClipBudgetOptions(coefficients=20, budget_epsilon=2.0)
    assert budgeted.voice.form == "code"
    back = budgeted.with_changes(voice__anonymizer="mfcc-quantizer")
    assert back.voice == voice(coefficients=20)


def test_a_grid_may_go_through_all_anonymizers_and_come_back() -> None:
    study = Study()
    for name in ("clip-quantizer", "none", "speaker-normalized", "emotion-label-rr", "mfcc-quantizer"):
        study = study.with_changes(voice__anonymizer=name)
    assert study.digest() == Study().digest()


def test_what_an_option_stands_for_survives_the_wire() -> None:
    study = parse_study({"voice": {"anonymizer": "clip-quantizer", "options": {"preset": "dp-speaker"}}})
    assert parse_study(study.model_dump(mode="json")) == study


@pytest.mark.parametrize("aggregation", [{"dp": "central"}, {"dp": "distributed"}, {"secure": True}])
def test_an_encoder_that_sites_train_goes_with_nothing_that_hides_their_updates(aggregation: dict[str, Any]) -> None:
    content = {
        "voice": {"anonymizer": "speaker-normalized", "options": {"code_training": "federated"}},
        "aggregation": aggregation,
        "audit": {"updates": False},
    }
    with pytest.raises(StudyError, match="updates that the server sees one by one"):
        parse_study(content)
    parse_study({**content, "aggregation": {}})


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"epsilon": 0.5}, {"options": {"epsilon": 0.5}}),
        ({"preset": "dp-speaker", "budget_epsilon": 4.0}, {"anonymizer": "clip-quantizer",
         "options": {"preset": "dp-speaker", "budget_epsilon": 4.0}}),
        ({"preset": "dp-clip", "anonymizer": "clip-statistics"}, {"anonymizer": "clip-statistics"}),
        ({"anonymizer": "emotion-words", "words_from": "public", "word_epsilon": 2.0}, {
         "anonymizer": "emotion-label-rr", "options": {"labels_from": "public", "label_epsilon": 2.0}}),
        ({"anonymizer": "speaker-normalised", "form": "mfcc", "code_noise": 0.1, "epsilon": 0.8},
         {"anonymizer": "speaker-normalized", "options": {"code_noise": 0.1}}),
    ],
)  # fmt: skip
def test_keys_of_the_version_before_are_read_with_a_warning_that_names_the_new_place(
    before: dict[str, Any], now: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert parse_study({"voice": before}) == parse_study({"voice": now})
    assert "[voice.options]" in caplog.text or "is now" in caplog.text


def test_a_key_of_before_that_the_anonymizer_has_not_is_refused_unless_it_says_nothing() -> None:
    assert parse_study({"voice": {"anonymizer": "none", "epsilon": 0.8}}).voice == voice("none")
    with pytest.raises(StudyError, match=r"voice\.epsilon: no such key"):
        parse_study({"voice": {"anonymizer": "none", "epsilon": 0.5}})


def test_a_plan_of_the_version_before_is_read() -> None:
    flat = {"enabled": True, "anonymizer": "clip-quantizer", "preset": "dp-clip", "form": "code", "epsilon": 0.8,
            "sensitivity": 0.5, "bound": 3.0, "budget_epsilon": 8.0, "budget_delta": 1e-5, "segments": 1,
            "released_clips": None, "codebook": "public", "codebook_size": 64, "coefficients": 13, "code_size": 5,
            "public_speech": None, "model": "statistics", "weight": 0.6}  # fmt: skip
    assert Study.model_validate({"voice": flat}).voice == voice("clip-quantizer")
