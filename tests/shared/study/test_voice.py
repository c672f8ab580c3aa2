from __future__ import annotations

from typing import Any

import pytest

from moretta.shared.core.errors import StudyError
from moretta.shared.study.schema import Study, parse_study
from moretta.shared.study.voice import VoiceSection


def voice(**content: Any) -> VoiceSection:
    return parse_study({"voice": content}).voice


@pytest.mark.parametrize("preset", ["dp-clip", "dp-speaker"])
def test_a_dp_preset_stands_for_its_anonymizer_and_form(preset: str) -> None:
    found = voice(preset=preset)
    assert (found.anonymizer, found.form, found.budgeted) == ("clip-quantizer", "code", True)
    assert voice(preset=preset, anonymizer="clip-statistics").anonymizer == "clip-statistics"
    assert voice(preset=preset, form="code-tokens").form == "code-tokens"


@pytest.mark.parametrize("name", ["clip-quantizer", "clip-statistics"])
def test_an_anonymizer_with_a_budget_alone_means_a_budget_for_each_clip(name: str) -> None:
    assert voice(anonymizer=name).preset == "dp-clip"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"preset": "dp-clip", "anonymizer": "none"}, "has no preset dp-clip"),
        ({"preset": "bounded", "anonymizer": "clip-quantizer"}, "has no preset bounded"),
        ({"preset": "original", "anonymizer": "clip-statistics"}, "has no preset original"),
        ({"preset": "dp-clip", "form": "waveform"}, "not waveform"),
        ({"preset": "dp-clip", "anonymizer": "clip-statistics", "form": "code-tokens"}, "not code-tokens"),
        ({"preset": "dp-speaker", "codebook": "local"}, "beside the budget"),
        ({"preset": "dp-clip", "released_clips": 4}, "released_clips limits"),
        ({"preset": "dp-everyone"}, "preset"),
        (
            {"anonymizer": "speaker-normalized", "code_encoder": "network", "code_training": "federated"},
            "sites train directions",
        ),
        ({"preset": "dp-clip", "budget_epsilon": 0}, "budget_epsilon"),
        ({"preset": "dp-clip", "budget_epsilon": float("inf")}, "budget_epsilon"),
        ({"preset": "dp-clip", "budget_delta": 0.5}, "budget_delta"),
        ({"preset": "dp-clip", "segments": 0}, "segments"),
        ({"preset": "dp-speaker", "released_clips": 0}, "released_clips"),
        ({"codebook": "federated"}, 'removed.*codebook = "public"'),
        ({"codebook": "federated", "preset": "dp-clip"}, 'removed.*codebook = "public"'),
        ({"codebook_epsilon": 4.0}, "codebook_epsilon was removed"),
        ({"codebook_iterations": 3}, "codebook_iterations was removed"),
        ({"code_training": "federated"}, "mfcc-quantizer has no code that sites could train"),
        ({"anonymizer": "speaker-normalized", "code_epsilon": -1}, "code_epsilon"),
        ({"anonymizer": "speaker-normalized", "code_rounds": 0}, "code_rounds"),
        ({"anonymizer": "speaker-normalized", "code_unit": "site"}, "code_unit"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_named(content: dict[str, Any], named: str) -> None:
    with pytest.raises(StudyError, match=named):
        voice(**content)


@pytest.mark.parametrize(("epsilon", "clips"), [(0.5, 1), (1, 1), (2, 1), (4, 2), (8, 4), (16, 8)])
def test_a_speakers_budget_is_shared_by_so_many_clips_that_each_has_enough(epsilon: float, clips: int) -> None:
    assert voice(preset="dp-speaker", budget_epsilon=epsilon).clip_limit == clips
    assert voice(preset="dp-speaker", budget_epsilon=epsilon, released_clips=3).clip_limit == 3
    assert voice(preset="dp-clip", budget_epsilon=epsilon).clip_limit is None


def test_a_grid_may_go_through_all_presets() -> None:
    study = Study()
    for preset in ("dp-clip", "bounded", "dp-speaker", "original", "bounded"):
        study = study.with_changes(voice__preset=preset)
        budgeted = preset.startswith("dp")
        assert study.voice.anonymizer == ("clip-quantizer" if budgeted else "mfcc-quantizer")
        assert study.voice.form == ("code" if budgeted else "mfcc")
    assert study.digest() == Study().digest()


def test_what_a_preset_stands_for_survives_the_wire() -> None:
    study = parse_study({"voice": {"preset": "dp-speaker", "form": "code-tokens"}})
    assert parse_study(study.model_dump(mode="json")) == study


@pytest.mark.parametrize("aggregation", [{"dp": "central"}, {"dp": "distributed"}, {"secure": True}])
def test_a_code_that_sites_train_goes_with_nothing_that_hides_their_updates(aggregation: dict[str, Any]) -> None:
    said = {
        "voice": {"anonymizer": "speaker-normalized", "code_training": "federated"},
        "aggregation": aggregation,
        "audit": {"updates": False},
    }
    with pytest.raises(StudyError, match="updates that the server sees one by one"):
        parse_study(said)
    parse_study({**said, "aggregation": {}})
