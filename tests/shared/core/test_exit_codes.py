from __future__ import annotations

import re
from pathlib import Path

from moretta.shared.core import errors
from moretta.shared.core.errors import ExitCode

PAGE = Path(__file__).parents[3] / "docs" / "exit-codes.md"


def test_every_exit_code_has_a_row_on_its_page_and_no_other_has() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert rows == {str(int(code)): code.name for code in ExitCode}


def test_every_error_of_the_tree_but_its_base_has_an_exit_code_of_its_own_kind() -> None:
    tree = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.MorettaError)]
    assert len(tree) > 8
    assert all(c.exit_code not in (ExitCode.OK, ExitCode.INTERNAL, ExitCode.USAGE) for c in tree[1:])
    roots = [c for c in tree if c.__base__ is errors.MorettaError]
    assert len({c.exit_code for c in roots}) == len(roots)


def test_an_error_says_what_was_found_what_was_expected_and_what_to_do() -> None:
    error = errors.StudyError("sites = 0", expected="at least 1", fix="raise it")
    assert str(error) == "sites = 0; expected at least 1; to fix it: raise it"
