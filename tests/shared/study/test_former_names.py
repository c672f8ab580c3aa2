from __future__ import annotations

from typing import Any

import pytest

from moretta.shared.core.errors import StudyError
from moretta.shared.release.release_format import AnonymizerStatement
from moretta.shared.study.former_names import REMOVED, RENAMED_ANONYMIZERS, RENAMED_KEYS, Removed, current_policy
from moretta.shared.study.schema import Study, parse_study


@pytest.mark.parametrize("removed", REMOVED, ids=str)
def test_what_was_removed_is_refused_by_name_and_says_what_to_use_instead(removed: Removed) -> None:
    said: dict[str, Any] = {key: "x" if value is None else value for key, value in removed.keys.items()}
    with pytest.raises(StudyError) as caught:
        parse_study({removed.section: said}, source="the study file old.toml")
    for word in ("old.toml", *removed.keys, "removed", removed.instead):
        assert word in str(caught.value)


@pytest.mark.parametrize("removed", REMOVED, ids=str)
def test_no_study_that_can_be_made_holds_what_was_removed(removed: Removed) -> None:
    assert not removed.is_in(Study().model_dump())


def test_everything_that_was_removed_is_named_at_once() -> None:
    with pytest.raises(StudyError, match=r"code_adversary was removed; voice\.code_adversary_weight"):
        parse_study({"voice": {"code_adversary": "none", "code_adversary_weight": 0.3}})


@pytest.mark.parametrize("section", [None, 3, "text", [1]])
def test_a_section_that_is_no_table_is_left_to_the_schema(section: Any) -> None:
    with pytest.raises(StudyError, match="voice"):
        parse_study({"voice": section})


@pytest.mark.parametrize(("old", "new"), RENAMED_KEYS.items(), ids=str)
def test_a_former_key_is_accepted_with_a_warning_that_names_the_new_one(
    old: tuple[str, str], new: str, caplog: pytest.LogCaptureFixture
) -> None:
    section, key = old
    value = {"labels_from": "public", "label_epsilon": 2.0}.get(new, False)
    caplog.set_level("WARNING", logger="moretta")
    others = {"anonymizer": "emotion-label-rr"} if section == "voice" else {}
    read = parse_study({section: {**others, key: value}}, source="the study file old.toml")
    assert read == parse_study({section: {**others, new: value}})
    found = getattr(read, section)
    assert getattr(found.options if section == "voice" else found, new) == value
    assert f"old.toml: {section}.{key} is called {section}.{new} now" in caplog.text


def test_a_key_by_both_names_is_refused() -> None:
    with pytest.raises(StudyError, match=r"audit\.beyond and audit\.inference"):
        parse_study({"audit": {"beyond": True, "inference": True}})


@pytest.mark.parametrize(("old", "new"), RENAMED_ANONYMIZERS.items())
def test_former_anonymizers_are_known_in_studies_policies_and_statements(
    old: str, new: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", logger="moretta")
    assert parse_study({"voice": {"anonymizer": old}}).voice.anonymizer == new
    assert f"the anonymizer {old} is called {new} now" in caplog.text
    policy = {"anonymizers": [old, "other"], "without_guarantee": [old], "mechanisms": {"max_word_epsilon": 3.0}}
    assert current_policy(policy, source="policy.toml") == {
        "anonymizers": [new, "other"],
        "without_guarantee": [new],
        "mechanisms": {"max_label_epsilon": 3.0},
    }
    stated = AnonymizerStatement.model_validate(
        {
            "modality": "voice",
            "name": old,
            "version": "2",
            "form": "code",
            "parameters": {"word_epsilon": 3.5, "words_from": "site", "kept": 0.5},
            "noise": "system",
        }
    )
    assert stated.name == new
    assert stated.parameters == {"label_epsilon": 3.5, "labels_from": "site", "kept": 0.5}
