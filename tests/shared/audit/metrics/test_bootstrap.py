import time

import numpy as np
import pytest

from moretta.shared.audit.metrics import (
    Interval,
    Ranking,
    Trials,
    bootstrap_rows,
    bootstrap_trials,
    measure_ranking,
    measure_trials,
)
from moretta.shared.audit.metrics.metric import get_metric, metric
from moretta.shared.audit.metrics.verification import eer
from moretta.shared.core.errors import RunError


def speakers_with_own_ease(speakers: int, clips: int, seed: int) -> Trials:
    """Comparisons of all clips, where how well a speaker is recognised varies more than a clip does."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(speakers), clips)
    i, j = np.triu_indices(len(owner), 1)
    ease = rng.normal(size=speakers)
    mated = owner[i] == owner[j]
    return Trials.of_speakers(rng.normal(size=len(i)) + mated * (1 + ease[owner[i]]), owner[i], owner[j])


def test_fifty_thousand_trials_are_resampled_two_hundred_times_in_two_seconds() -> None:
    rng = np.random.default_rng(0)
    enrol = rng.integers(0, 91, 50_000)
    trial = np.where(rng.random(50_000) < 0.1, enrol, rng.integers(0, 91, 50_000))
    trials = Trials.of_speakers(rng.normal(size=50_000) + (enrol == trial), enrol, trial)
    start = time.process_time()
    assert bootstrap_trials({"eer": eer}, trials)["eer"] is not None
    assert time.process_time() - start < 2


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    truth = eer(speakers_with_own_ease(400, 4, seed=99))
    found = [
        bootstrap_trials({"eer": eer}, speakers_with_own_ease(25, 4, seed), resamples=100)["eer"] for seed in range(40)
    ]
    covered = sum(f is not None and f.low <= truth <= f.high for f in found)
    assert covered >= 33


def test_speakers_not_trials_are_the_unit() -> None:
    # Copies of every trial are no new evidence: an interval over trials would shrink by the root of 10.
    trials = speakers_with_own_ease(20, 4, seed=1)
    copies = trials.subset(np.tile(np.arange(len(trials)), 10))
    assert copies is not None
    one = bootstrap_trials({"eer": eer}, trials)["eer"]
    ten = bootstrap_trials({"eer": eer}, copies)["eer"]
    assert one is not None and ten is not None
    assert (one.low, one.high) == pytest.approx((ten.low, ten.high))


def test_a_resample_counts_a_speaker_on_both_sides_and_never_against_its_copy() -> None:
    seen: list[tuple[int, int]] = []

    def count(trials: Trials) -> float:
        seen.append((int(trials.mated.sum()), int((~trials.mated).sum())))
        return 0.0

    i, j = np.triu_indices(6)
    owner = np.arange(6)  # every speaker with itself once, with every other one once
    bootstrap_trials({"count": count}, Trials.of_speakers(np.zeros(len(i)), owner[i], owner[j]), resamples=50)
    # c_i mated each: 6 in all. Pairs of draws: 15, less those of two copies, so never more.
    assert {mated for mated, _ in seen} == {6}
    assert max(nonmated for _, nonmated in seen) <= 15


def test_a_list_too_small_to_resample_gives_no_interval() -> None:
    two = Trials.of_speakers([1.0, 2.0, 0.0], [1, 2, 1], [1, 2, 2])
    assert bootstrap_trials({"none": lambda _: None}, two)["none"] is None


def test_rows_are_resampled_by_speaker() -> None:
    speaker = np.repeat(np.arange(10), 50)
    values = np.repeat(np.arange(10), 50).astype(float)
    found = bootstrap_rows(lambda rows: float(values[rows].mean()), speaker, resamples=400)
    assert found is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(10), rel=0.2)


def test_one_speaker_has_no_interval_over_speakers() -> None:
    """Every resample of one speaker is the same: it would look like a figure that is known exactly."""
    speaker = np.array([0, 0, 1, 1, 2, 2])
    ranking = Ranking(np.eye(3)[speaker] + np.random.default_rng(1).normal(size=(6, 3)), np.arange(3), speaker)
    found = measure_ranking(ranking, sex_of={0: "male", 1: "female", 2: "female"}, resamples=20)["top1"]
    assert found.by_sex["male"].value is not None and found.by_sex["male"].interval is None
    assert found.by_sex["male"].speakers == (0,) and found.by_sex["female"].speakers == (1, 2)
    assert bootstrap_rows(lambda rows: float(len(rows)), np.zeros(4, np.int64)) is None


def test_every_breakdown_is_measured_and_the_worst_off_speaker_named() -> None:
    trials = speakers_with_own_ease(12, 6, seed=3)
    sexes = {i: "female" if i % 2 else "male" for i in range(12)}
    found = measure_trials(trials, sex_of=sexes, resamples=20)
    assert "cllr" not in found and "cllr" in measure_trials(trials, llr=True, resamples=0)
    rate = found["eer"]
    assert rate.overall.value == eer(trials) and isinstance(rate.overall.interval, Interval)
    assert set(rate.by_sex) == {"female", "male"}
    assert rate.worst_speaker is not None and rate.worst.value == min(rate.per_speaker.values())
    assert found["d_sys"].worst.value == max(found["d_sys"].per_speaker.values())


def test_identification_is_measured_in_every_breakdown() -> None:
    speaker = np.repeat(np.arange(8), 10)
    scores = np.random.default_rng(0).normal(size=(80, 8)) + 2 * np.eye(8)[speaker]
    ranking = Ranking(scores, np.arange(8), speaker)
    found = measure_ranking(ranking, sex_of={i: "FM"[i % 2] for i in range(8)}, resamples=50)["top1"]
    assert found.chance == 1 / 8
    assert found.overall.value == pytest.approx(np.mean(list(found.per_speaker.values())))
    assert found.overall.interval is not None
    assert found.overall.interval.low < found.overall.value < found.overall.interval.high  # type: ignore[operator]
    assert found.worst.value == max(found.per_speaker.values())


def test_two_metrics_of_one_name_are_a_defect() -> None:
    with pytest.raises(ValueError, match="two metrics are called 'eer'"):
        metric("eer", unit="rate", chance=0.5, private="high")(eer)


def test_an_unknown_metric_lists_the_known_ones() -> None:
    with pytest.raises(RunError, match="min_cllr"):
        get_metric("err")
