from __future__ import annotations

from typing import Any

import pytest

from moretta.shared.core.errors import StudyError
from moretta.shared.study.removed import REMOVED, Removed
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
