"""Pieces of work, done in this process."""

from __future__ import annotations

from pathlib import Path

from moretta.deploy.sweep.grid import GridFile, make_grid
from moretta.deploy.sweep.jobs import folder_of, is_made, plan_sweep
from moretta.deploy.sweep.sweep_results import CellAudit, Released, ResultFolder
from moretta.deploy.sweep.work import do


def test_who_is_released_by_one_clip_cannot_be_attacked_and_the_result_says_so(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    base = {
        "sites": 2,
        "face": {"enabled": False},
        "split": {"folds": 2},
        "voice": {"preset": "dp-speaker", "budget_epsilon": 1.0},
    }
    plan, out = plan_sweep(make_grid(GridFile(base=base)), [tiny_corpus], "c"), tmp_path / "out"
    shelf = ResultFolder(out)
    release, audit = plan.cells[0].release, plan.cells[0].audit
    assert audit is not None
    assert not is_made(audit, out)
    do(release, out)
    do(audit, out)
    assert is_made(audit, out)
    made, found = shelf.get(release, Released), shelf.get(audit, CellAudit)
    assert made is not None
    assert len({row.site for row in made.privacy}) == 2
    assert found is not None
    assert found.rows == ()
    assert "nothing to compare" in found.not_run["voice"]
    assert folder_of(out, release).exists()
    assert not folder_of(out, audit).exists()


def test_a_result_that_was_damaged_is_made_again(tiny_corpus: Path, tmp_path: Path) -> None:
    plan = plan_sweep(make_grid(GridFile(base={"sites": 2, "face": {"enabled": False}})), [tiny_corpus], "c")
    release, shelf = plan.cells[0].release, ResultFolder(tmp_path)
    shelf.keep(release, Released(privacy=()))
    assert shelf.find(release) is not None
    (path,) = (tmp_path / "done").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(path.read_bytes()[:-9])
    assert shelf.find(release) is None
