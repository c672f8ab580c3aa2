from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from speakers import faces, run_audit, voices

from moretta.shared.audit.attackers import (
    Embedder,
    Identifier,
    NotConvergedError,
    PoolIdentifier,
    attacker,
    attacker_names,
)
from moretta.shared.audit.attackers.base import ATTACKERS
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.metrics.verification import zebra_tag
from moretta.shared.audit.result import Result, strongest, strongest_of_each
from moretta.shared.core.array_types import Float32, Int64
from moretta.shared.core.errors import AttackersError, RunError

QUICK = ("voice-logistic", "voice-wccn")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the attackers that a test registers after it."""
    ATTACKERS.load()
    monkeypatch.setattr(ATTACKERS, "_items", dict(ATTACKERS._items))


def audit(original: ClipSet | None, released: ClipSet, *names: str, workers: int = 1, seed: int = 3) -> list[Result]:
    return run_audit(original, released, attackers=names or QUICK, seed=seed, bootstrap=30, workers=workers)


def pick(rows: list[Result], attacker: str, scenario: str, metric: str) -> Result:
    found = [
        row
        for row in rows
        if (row.attacker, row.scenario, row.metric, row.subset, row.pooled) == (attacker, scenario, metric, "all", 1)
    ]
    assert len(found) == 1
    return found[0]


def value(row: Result) -> float:
    assert row.value is not None
    return row.value


def test_identity_that_is_there_is_found_in_every_scenario() -> None:
    rows = audit(voices(), voices())
    for scenario in ("unprotected", "ignorant", "semi-informed"):
        for name in QUICK:
            assert value(pick(rows, name, scenario, "top1")) > 0.9
            assert value(pick(rows, name, scenario, "eer")) < 0.15
            assert not pick(rows, name, scenario, "eer").invalid
    assert value(pick(rows, "voice-wccn", "lazy-informed", "eer")) < 0.15


def test_identity_that_is_hidden_is_at_chance_and_not_invalid() -> None:
    rows = audit(voices(), voices(apart=0.0, seed=9))
    for name in QUICK:
        eer = pick(rows, name, "semi-informed", "eer")
        assert not eer.invalid
        assert 0.35 < value(eer) < 0.65
        assert value(pick(rows, name, "semi-informed", "top1")) < 0.4


def test_a_constant_release_is_at_chance_for_every_attacker_of_voices() -> None:
    names = tuple(attacker_names("voice", "adaptive"))
    names = tuple(name for name in names if "+" not in name)
    small = voices(speakers=4, clips=8)
    rows = run_audit(None, ClipSet.constant(small), attackers=names, seed=1, bootstrap=0, workers=1)
    assert len(names) >= 12
    for row in rows:
        if row.scenario == "constant" and row.metric == "eer" and row.subset == "all" and row.pooled == 1:
            assert row.value == pytest.approx(0.5, abs=0.05), row
    assert all(value(row) <= 0.26 for row in strongest_of_each(rows) if row.metric == "top1")


def test_every_attacker_of_faces_recognises_faces() -> None:
    names = [name for name in attacker_names("face", "adaptive") if "+" not in name and "variation" not in name]
    rows = run_audit(None, faces(speakers=4, clips=6), attackers=names, seed=1, bootstrap=0, workers=1)
    assert len(names) >= 7
    for name in names:
        assert value(pick(rows, name, "semi-informed", "top1")) > 0.8, name


def test_an_attacker_with_random_weights_is_invalid_and_never_the_headline(registry: None) -> None:
    @attacker("random-weights", modality="voice")
    class RandomWeights(Embedder):
        def fit(self, clips: ClipSet, *, seed: int) -> None:
            del clips
            self.rng = np.random.default_rng(seed)

        def embed(self, clips: ClipSet) -> Float32:
            return self.rng.normal(size=(len(clips), 8)).astype(np.float32)

    rows = audit(voices(), voices(), "random-weights")
    assert all(row.invalid for row in rows)
    assert "cannot break unprotected data" in pick(rows, "random-weights", "semi-informed", "eer").reason
    assert strongest_of_each(rows) == []


def test_an_attacker_that_fails_or_does_not_converge_is_invalid_and_the_others_go_on(registry: None) -> None:
    @attacker("fails", modality="voice")
    class Fails(Identifier):
        def fit(self, clips: ClipSet, *, seed: int) -> None:
            raise NotConvergedError(f"a loss of 7 on {len(clips)} clips with seed {seed}")

        def scores(self, clips: ClipSet) -> Float32:
            raise AssertionError(clips)

    rows = audit(voices(), voices(), "fails", "voice-logistic")
    failed = [row for row in rows if row.attacker == "fails"]
    assert failed
    assert all(row.invalid and row.value is None and "a loss of 7" in row.reason for row in failed)
    assert not pick(rows, "voice-logistic", "semi-informed", "top1").invalid


def test_an_attacker_that_finds_identity_in_constant_data_is_invalid(registry: None) -> None:
    @attacker("cheats", modality="voice")
    class Cheats(Embedder):
        trainable = False

        def embed(self, clips: ClipSet) -> Float32:
            return np.array([[int(c.speaker[i], 16) for i in range(16)] for c in clips.clips], np.float32) - 7.5

    rows = run_audit(voices(), voices(), attackers=["cheats"], seed=1, bootstrap=30, workers=1)
    # Embeddings of untrained encoders are computed once for equal clips: here only a bug could tell them apart.
    constant = pick(rows, "cheats", "constant", "eer")
    assert value(constant) == pytest.approx(0.5)

    @attacker("cheats-trained", modality="voice")
    class CheatsTrained(Cheats):
        trainable = True

    rows = audit(voices(), voices(), "cheats-trained")
    assert all(row.invalid for row in rows)
    assert "constant data" in pick(rows, "cheats-trained", "semi-informed", "top1").reason


class OfPools(PoolIdentifier):
    """Nearest centre to the mean of a pool."""

    met: ClassVar[list[tuple[Int64, Int64]]] = []

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        self.speakers, self.rng = clips.speakers, np.random.default_rng(seed)
        self.centres = np.stack([self.means(clips)[clips.labels == s].mean(0) for s in range(len(self.speakers))])

    def pool_scores(self, clips: ClipSet, pools: Int64) -> Float32:
        self.met.append((pools, clips.labels[pools]))
        means = self.means(clips)[pools].mean(axis=1)
        return np.asarray(-((means[:, None] - self.centres) ** 2).sum(2), np.float32)

    @staticmethod
    def means(clips: ClipSet) -> np.ndarray:
        return np.stack([clips.mfcc(i).mean(0) for i in range(len(clips))])


def test_an_attacker_of_pools_has_figures_of_pools_alone_and_each_pool_is_of_one_person(registry: None) -> None:
    attacker("pools", modality="voice")(OfPools)
    OfPools.met.clear()
    rows = [row for row in audit(voices(), voices(), "pools") if row.scenario == "semi-informed"]
    assert {row.pooled for row in rows} == {3, 10, 30}
    whole = {(row.metric, row.pooled): row for row in rows if row.subset == "all"}
    assert value(whole["top1", 3]) > 0.9 and value(whole["eer", 3]) < 0.1
    assert not whole["top1", 3].invalid and not whole["eer", 3].invalid
    assert whole["top1", 10].value is None and "no speaker has 10" in whole["top1", 10].reason
    assert OfPools.met
    for pools, people in OfPools.met:
        assert all(len(set(pool)) == 3 for pool in pools.tolist())
        assert (people == people[:, :1]).all()


def test_controls_of_an_attacker_of_pools_are_pools(registry: None) -> None:
    @attacker("pools-at-random", modality="voice")
    class AtRandom(OfPools):
        def pool_scores(self, clips: ClipSet, pools: Int64) -> Float32:
            return np.asarray(self.rng.normal(size=(len(pools), len(self.speakers))), np.float32)

    @attacker("pools-cheats", modality="voice")
    class Cheats(OfPools):
        def pool_scores(self, clips: ClipSet, pools: Int64) -> Float32:
            names = [clips.clips[pool[0]].speaker for pool in pools]
            return np.array([[name == speaker for speaker in self.speakers] for name in names], np.float32)

    for name, reason in (("pools-at-random", "cannot break unprotected"), ("pools-cheats", "constant data")):
        rows = audit(voices(), voices(), name)
        measured = [row for row in rows if row.value is not None]
        assert measured and all(row.invalid and reason in row.reason for row in measured), name


def test_without_originals_rows_say_that_the_anchor_is_missing() -> None:
    rows = audit(None, voices())
    assert {row.scenario for row in rows} == {"semi-informed", "constant"}
    row = pick(rows, "voice-wccn", "semi-informed", "eer")
    assert not row.invalid
    assert "no originals" in row.reason


def test_too_few_speakers_are_invalid_for_an_embedder_and_enough_for_an_identifier() -> None:
    rows = audit(voices(speakers=3), voices(speakers=3))
    assert pick(rows, "voice-wccn", "semi-informed", "eer").invalid
    assert "at least 4" in pick(rows, "voice-wccn", "semi-informed", "eer").reason
    assert not pick(rows, "voice-logistic", "semi-informed", "top1").invalid


def test_same_seed_same_rows_with_one_worker_and_with_two() -> None:
    original, released = voices(), voices(apart=0.5)
    names = ("voice-logistic", "voice-mlp1")
    alone = audit(original, released, *names)
    assert audit(original, released, *names) == alone
    assert audit(original, released, *names, workers=2) == alone
    assert audit(original, released, *names, seed=4) != alone


def test_the_order_of_clips_does_not_matter() -> None:
    clips = voices()
    shuffled = clips.subset(np.random.default_rng(0).permutation(len(clips)))
    assert audit(clips, shuffled, "voice-logistic") == audit(shuffled, clips, "voice-logistic")


def test_rows_cover_pools_sexes_speakers_and_the_worst_speaker() -> None:
    rows = audit(voices(), voices(apart=0.4), "voice-logistic")
    mine = [row for row in rows if row.scenario == "semi-informed" and row.metric == "top1"]
    people = set(voices().speakers)
    assert {row.subset for row in mine} == {"all", "female", "male", "worst"} | people
    assert {row.pooled for row in mine} == {1, 3, 10, 30}
    inference = next(row for row in mine if row.pooled == 30)
    assert inference.invalid and "no speaker has 30" in inference.reason
    by_speaker = [value(row) for row in mine if row.subset in people]
    assert value(next(row for row in mine if row.subset == "worst")) == max(by_speaker)


def test_rows_of_a_subset_count_its_own_speakers_and_trial_clips() -> None:
    clips = voices(speakers=5, clips=8)  # three men, two women
    rows = [row for row in audit(clips, voices(speakers=5, clips=8, apart=0.4), "voice-logistic") if not row.invalid]
    for metric in ("top1", "eer", "d_sys", "mean_rank"):
        mine = [r for r in rows if (r.scenario, r.metric, r.pooled) == ("semi-informed", metric, 1)]
        found = {row.subset: (row.speakers, row.clips) for row in mine}
        whole, each = found.pop("all"), next(row for row in mine if row.subset == "all").clips // 5
        assert whole == (5, 5 * each)
        assert found.pop("male") == (3, 3 * each)
        assert found.pop("female") == (2, 2 * each)
        assert set(found.values()) == {(1, each)}, "the worst-off speaker, and each speaker alone"
    chances = {row.chance for row in rows if row.metric == "top1"}
    assert chances == {1 / 5}, "everybody who is enrolled can be named, whoever is tried"


def test_pooled_rows_come_by_sex_and_name_every_speakers_figure() -> None:
    rows = audit(voices(), voices(apart=0.4), "voice-logistic")
    mine = [r for r in rows if (r.scenario, r.metric, r.pooled) == ("semi-informed", "top1", 3)]
    assert {row.subset for row in mine} == {"all", "female", "male", "worst"}
    whole = next(row for row in mine if row.subset == "all")
    assert set(whole.by_speaker) == set(voices().speakers)
    assert value(next(row for row in mine if row.subset == "worst")) == max(whole.by_speaker.values())


def test_every_speaker_has_a_figure_of_every_metric() -> None:
    rows = audit(voices(), voices(apart=0.4), "voice-logistic")
    people = set(voices().speakers)
    for metric in ("d_sys", "min_cllr", "zebra_worst", "top5"):
        whole = pick(rows, "voice-logistic", "semi-informed", metric)
        assert set(whole.by_speaker) == people, metric


def test_worst_disclosures_carry_their_zebra_tag() -> None:
    rows = audit(voices(), voices(), "voice-logistic")
    found = pick(rows, "voice-logistic", "semi-informed", "zebra_worst")
    assert found.tag == zebra_tag(value(found))
    assert found.tag in "BCDEF"
    assert pick(rows, "voice-logistic", "constant", "zebra_worst").tag == "0"
    assert pick(rows, "voice-logistic", "semi-informed", "eer").tag == ""


def test_an_encoder_used_as_it_is_measures_how_distinct_voices_still_are(registry: None) -> None:
    @attacker("voice-means", modality="voice", kind="pretrained")
    class Means(Embedder):
        trainable = False

        def embed(self, clips: ClipSet) -> Float32:
            return np.stack([clips.mfcc(i).mean(0) for i in range(len(clips))])

    del Means
    same, hidden = (audit(voices(), released, "voice-means") for released in (voices(), voices(apart=0.0, seed=5)))
    assert value(pick(same, "voice-means", "lazy-informed", "voice_distinctiveness_gain")) == pytest.approx(0)
    assert value(pick(same, "voice-means", "ignorant", "deidentification")) == pytest.approx(0)
    assert value(pick(hidden, "voice-means", "lazy-informed", "voice_distinctiveness_gain")) < -10
    assert value(pick(hidden, "voice-means", "ignorant", "deidentification")) > 0.9


def test_unknown_attacker_is_refused_with_the_known_ones() -> None:
    with pytest.raises(AttackersError, match="voice-logistic"):
        audit(voices(), voices(), "voice-nothing")


def test_originals_of_other_speakers_are_refused() -> None:
    released = voices()
    foreign = ClipSet.from_arrays(
        [clip.model_copy(update={"clip": clip.clip[::-1]}) for clip in released.clips],
        [released.arrays[i].read() for i in range(len(released))],
        modality="voice",
        form="mfcc",
    )
    with pytest.raises(RunError, match="pseudonym"):
        audit(foreign, released)


def test_two_attackers_of_one_name_are_a_defect(registry: None) -> None:
    with pytest.raises(ValueError, match="voice-logistic"):
        attacker("voice-logistic", modality="voice")(type("Twice", (Identifier,), {}))


def test_every_part_of_an_audit_reports_its_progress(tmp_path: Path) -> None:
    reported: list[tuple[str, int, int]] = []
    run_audit(
        voices(speakers=4, clips=4),
        voices(speakers=4, clips=4),
        attackers=("voice-logistic",),
        bootstrap=0,
        workers=1,
        progress=lambda *event: reported.append(event),
    )
    parts = {what.partition(",")[0] for what, _, _ in reported}
    assert {"released voice clips read", "original voice clips read", "attackers done"} <= parts
    assert all(0 <= done <= total for _, done, total in reported)
    assert reported[0][1] == 0, "from the very start"


def test_embeddings_are_computed_once_and_kept_by_content(registry: None, tmp_path: Path) -> None:
    requested: list[int] = []

    @attacker("counts", modality="face", kind="pretrained")
    class Counts(Embedder):
        trainable = False

        def embed(self, clips: ClipSet) -> Float32:
            requested.append(len(clips))
            return np.stack([clips.frames(i)[:, ::8, ::8].mean(axis=(0, 3)).ravel() for i in range(len(clips))])

    clips = faces(speakers=4, clips=4)
    options = {"attackers": ["counts", "counts+head"], "seed": 1, "bootstrap": 0, "workers": 1}
    first = run_audit(clips, clips, cache_dir=tmp_path, **options)
    assert sum(requested) <= 2 * len(clips) + 1  # originals, releases, and one constant clip
    requested.clear()
    assert run_audit(clips, clips, cache_dir=tmp_path, **options) == first
    assert requested == []
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.rglob("*.npy"))


def result(**changes: object) -> Result:
    content = {
        "attack": "attribute", "modality": "voice", "target": "sex", "attacker": "a", "scenario": "semi-informed",
        "metric": "balanced_accuracy", "value": 0.9, "low": 0.8, "high": 0.95, "chance": 0.5, "speakers": 12,
    }  # fmt: skip
    return Result.model_validate(content | changes)


def test_the_strongest_is_by_direction_and_never_invalid_or_an_anchor() -> None:
    rows = [
        result(value=0.7),
        result(attacker="b", value=0.8),
        result(attacker="invalid", value=0.99, invalid=True, reason="x"),
        result(attacker="anchor", value=0.99, scenario="unprotected"),
        result(attacker="part", value=0.99, subset="female"),
        result(attacker="pooled", value=0.99, pooled=3),
        result(attacker="none", value=None),
    ]
    assert [r.attacker for r in strongest_of_each(rows)] == ["b"]
    eers = [result(attacker=str(v), metric="eer", attack="inversion", value=v) for v in (0.4, 0.2, 0.3)]
    assert strongest_of_each(eers)[0].value == 0.2
    farther = result(attacker="c", value=0.55, chance=0.2)
    assert strongest([*rows[:2], farther]) is farther
    assert strongest([rows[2], rows[-1]]) is None


def test_a_leak_needs_its_interval_and_more_than_luck() -> None:
    assert result().leaks and not result(low=0.45).leaks and not result(low=None).leaks
    assert not result(invalid=True, reason="x").leaks
    assert result(p_value=0.01).leaks and not result(p_value=0.2).leaks
    assert result(metric="eer", low=0.1, high=0.3).leaks and not result(metric="eer", low=0.3, high=0.55).leaks
