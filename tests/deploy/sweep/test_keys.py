"""The key of a result covers its dependencies: with more nothing would be used again, with less stale figures would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moretta.deploy.sweep import jobs as keys
from moretta.deploy.sweep.grid import GridFile, make_grid
from moretta.deploy.sweep.jobs import Kind, SweepPlan, plan_sweep
from moretta.shared.study.schema import Study


def plan(corpus: Path, *, folds: Any = "one", axes: dict[str, Any] | None = None, **base: Any) -> SweepPlan:
    content = {"sites": 2, "face": {"enabled": False}, "split": {"folds": 2}, **base}
    return plan_sweep(make_grid(GridFile(base=content, axes=axes or {}, folds=folds)), [corpus], "c")


def count(made: SweepPlan) -> dict[Kind, int]:
    kinds: tuple[Kind, ...] = ("release", "audit", "train")
    return {kind: sum(job.kind == kind for job in made.jobs) for kind in kinds}


def test_what_training_varies_shares_one_release_and_one_audit(tiny_corpus: Path) -> None:
    axes = {"privacy.epsilon": [1, 2, 4, 8, "inf"], "privacy.unit": ["clip", "speaker"]}
    made = plan(tiny_corpus, folds="all", axes=axes)
    assert len(made.cells) == 10
    assert count(made) == {"release": 1, "audit": 1, "train": 9 * 2}  # without DP-SGD the unit is never looked at


def test_what_anonymizes_makes_another_release(tiny_corpus: Path) -> None:
    assert count(plan(tiny_corpus, axes={"voice.options.codebook_size": [16, 32], "privacy.epsilon": [1, 2]})) == {
        "release": 2, "audit": 2, "train": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"train": {"rounds": 3}}, {"release": True, "audit": True, "train": False}),
        ({"train": {"learning_rate": 0.1}}, {"release": True, "audit": True, "train": False}),
        ({"privacy": {"delta": 1e-4}}, {"release": True, "audit": True, "train": False}),
        ({"split": {"folds": 3}}, {"release": True, "audit": True, "train": False}),
        ({"aggregation": {"dp": "central", "min_sites": 2}}, {"release": True, "audit": True, "train": False}),
        ({"audit": {"bootstrap": 7}}, {"release": True, "audit": False, "train": True}),
        ({"audit": {"attackers": ["voice-svm"]}}, {"release": True, "audit": False, "train": True}),
        ({"audit": {"attributes": False}}, {"release": False, "audit": False, "train": False}),
        ({"voice": {"preset": "original"}}, {"release": False, "audit": False, "train": False}),
        ({"seed": 2}, {"release": False, "audit": False, "train": False}),
        ({"sites": 4}, {"release": False, "audit": False, "train": False}),
        ({"name": "another", "gate": {"max_top1": 0.5}}, {"release": True, "audit": True, "train": True}),
        ({"audit": {"inference": False}}, {"release": True, "audit": True, "train": True}),
    ],
)
def test_each_key_of_a_study_changes_what_depends_on_it(
    tiny_corpus: Path, change: dict[str, Any], same: dict[Kind, bool]
) -> None:
    split = {"folds": 4}  # one speaker is held out, so both sites have clips to train on
    before, after = plan(tiny_corpus, split=split), plan(tiny_corpus, **{"split": split, **change})
    for kind, expected in same.items():
        keys_of = [{job.key for job in made.jobs if job.kind == kind} for made in (before, after)]
        assert (keys_of[0] == keys_of[1]) is expected, kind


def test_a_changed_clip_or_list_of_people_changes_everything(tiny_corpus: Path) -> None:
    found = [{job.key for job in plan(tiny_corpus).jobs}]
    clip = sorted((tiny_corpus / "AudioWAV").iterdir())[0]
    clip.write_bytes(clip.read_bytes()[:-2] + b"\x01\x02")
    found.append({job.key for job in plan(tiny_corpus).jobs})
    people = tiny_corpus / "VideoDemographics.csv"
    people.write_text(people.read_text().replace("1001,21,Male", "1001,61,Male"), encoding="utf-8")
    found.append({job.key for job in plan(tiny_corpus).jobs})
    assert not found[0] & found[1]
    assert not found[1] & found[2]


def test_other_code_and_other_versions_change_everything(tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {job.key for job in plan(tiny_corpus).jobs}
    for name, value in (("code_digest", "0" * 64), ("versions", {"torch": "0"})):
        with monkeypatch.context() as patch:
            keys.environment_digest.cache_clear()
            patch.setattr(keys, name, lambda value=value: value)
            assert not before & {job.key for job in plan(tiny_corpus).jobs}
        keys.environment_digest.cache_clear()
    assert before == {job.key for job in plan(tiny_corpus).jobs}


def test_an_attacker_whose_weights_were_fetched_since_is_run(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moretta.shared.audit.attackers.base import get_attacker

    before = plan(tiny_corpus).jobs
    monkeypatch.setattr(get_attacker("voice-svm"), "missing", classmethod(lambda cls: "no weights"))
    after = plan(tiny_corpus).jobs
    assert [a.key == b.key for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_speech_that_a_study_names_counts_by_its_content(tmp_path: Path) -> None:
    folder = tmp_path / "speech"
    folder.mkdir()
    (folder / "a.wav").write_bytes(b"one")
    study = Study().with_changes(voice__options__public_speech=folder)
    before = keys.key_of("release", study, "corpus")
    (folder / "a.wav").write_bytes(b"two")
    keys.named_digest.cache_clear()
    assert keys.key_of("release", study, "corpus") != before
