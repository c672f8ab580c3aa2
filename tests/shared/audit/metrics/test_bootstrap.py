import dataclasses
import time

import numpy as np
import pytest

from moretta.shared.audit.measure import Measurement
from moretta.shared.audit.metrics import Ranking, Trials
from moretta.shared.audit.metrics.identification import EACH_TRIAL
from moretta.shared.audit.metrics.intervals import bootstrap_rows, bootstrap_trials, bootstrap_values
from moretta.shared.audit.metrics.scores import METRICS, Metric, metric, metrics_of
from moretta.shared.audit.metrics.verification import eer
from moretta.shared.audit.result import Result
from moretta.shared.core.errors import RunError


def speakers_with_own_ease(speakers: int, clips: int, seed: int) -> Trials:
    """Comparisons of all clips, where how well a speaker is recognised varies more than a clip does."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(speakers), clips)
    i, j = np.triu_indices(len(owner), 1)
    ease = rng.normal(size=speakers)
    mated = owner[i] == owner[j]
    return Trials(rng.normal(size=len(i)) + mated * (1 + ease[owner[i]]), owner[i], owner[j])


def test_fifty_thousand_trials_are_resampled_two_hundred_times_in_two_seconds() -> None:
    rng = np.random.default_rng(0)
    enrol = rng.integers(0, 91, 50_000)
    trial = np.where(rng.random(50_000) < 0.1, enrol, rng.integers(0, 91, 50_000))
    trials = Trials(rng.normal(size=50_000) + (enrol == trial), enrol, trial)
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
    bootstrap_trials({"count": count}, Trials(np.zeros(len(i)), owner[i], owner[j]), resamples=50)
    # c_i mated each: 6 in all. Pairs of draws: 15, less those of two copies, so never more.
    assert {mated for mated, _ in seen} == {6}
    assert max(nonmated for _, nonmated in seen) <= 15


def test_a_list_too_small_to_resample_gives_no_interval() -> None:
    two = Trials([1.0, 2.0, 0.0], [1, 2, 1], [1, 2, 2])
    assert bootstrap_trials({"none": lambda _: None}, two)["none"] is None


@pytest.mark.parametrize("within_speaker", [False, True])
@pytest.mark.parametrize("decimals", [0, 6])  # with many ties, and with few
def test_resamples_measured_at_once_are_those_measured_one_by_one(decimals: int, within_speaker: bool) -> None:
    drawn = speakers_with_own_ease(9, 6, seed=decimals)
    trials = Trials(drawn.scores.round(decimals), drawn.enrol_speaker, drawn.trial_speaker)
    part = trials.of_speaker(4) if within_speaker else trials
    assert part is not None
    for m in metrics_of("trials"):
        one_by_one = lambda trials, m=m: m.function(trials)  # noqa: E731 - another function than the registered one
        options = {"resamples": 60, "within_speaker": within_speaker}
        found = bootstrap_trials({"at once": m.function, "one by one": one_by_one}, part, **options)
        assert found["at once"] == pytest.approx(found["one by one"], abs=1e-12), m.name


@pytest.mark.parametrize("m", metrics_of("ranking"), ids=lambda m: m.name)
def test_values_of_rows_are_resampled_as_the_rows_are(m: Metric) -> None:
    speaker = np.repeat(np.arange(8), 6)
    scores = np.random.default_rng(2).normal(size=(48, 8)).round(1) + np.eye(8)[speaker]
    ranking = Ranking(scores, np.arange(8), speaker)
    values, middle = EACH_TRIAL[m.function]
    by_rows = bootstrap_rows(lambda rows: m.function(ranking.rows(rows)), speaker)
    assert bootstrap_values(values(ranking), speaker, middle=middle) == pytest.approx(by_rows, abs=1e-12)


def test_rows_are_resampled_by_speaker() -> None:
    speaker = np.repeat(np.arange(10), 50)
    values = np.repeat(np.arange(10), 50).astype(float)
    found = bootstrap_rows(lambda rows: float(values[rows].mean()), speaker, resamples=400)
    assert found is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(10), rel=0.2)


def measured(results: list[Result], metric: str, pooled: int = 1) -> dict[str, Result]:
    """Results of one metric by subset."""
    return {r.subset: r for r in results if (r.metric, r.pooled) == (metric, pooled)}


def measurement(sexes: dict[int, str], *, resamples: int) -> Measurement:
    people = len(sexes)
    names, halves = tuple(f"p{n}" for n in range(people)), {n: n % 2 for n in range(people)}
    return Measurement(names, sexes, halves, dict.fromkeys(range(people), 2), resamples)


ABOUT = Result(modality="voice", attacker="a", scenario="semi-informed", metric="", speakers=3, clips=6)


def test_one_speaker_has_no_interval_over_speakers() -> None:
    """Every resample of one speaker is the same: it would look like a figure that is known exactly."""
    speaker = np.array([0, 0, 1, 1, 2, 2])
    ranking = Ranking(np.eye(3)[speaker] + np.random.default_rng(1).normal(size=(6, 3)), np.arange(3), speaker)
    sexes = {0: "male", 1: "female", 2: "female"}
    found = measured(measurement(sexes, resamples=20).of_ranking(ABOUT, ranking), "top1")
    assert found["male"].value is not None and found["male"].low is None
    assert (found["male"].speakers, found["male"].clips) == (1, 2)
    assert (found["female"].speakers, found["female"].clips) == (2, 4) and found["female"].low is not None
    assert bootstrap_rows(lambda rows: float(len(rows)), np.zeros(4, np.int64)) is None


def test_age_groups_are_measured_by_top1_and_still_choose_among_all_who_are_enrolled() -> None:
    speaker = np.array([0, 0, 1, 1, 2, 2])
    scores = np.eye(3)[speaker]
    scores[4] = (1.0, 0.0, 0.0)  # one clip of the only old person is taken for another
    ages = {0: "young", 1: "young", 2: "old"}
    aged = dataclasses.replace(measurement(dict.fromkeys(ages, "male"), resamples=20), age_of=ages)
    found = measured(aged.of_ranking(ABOUT, Ranking(scores, np.arange(3), speaker)), "top1")
    assert (found["young"].value, found["old"].value) == (1.0, 0.5)
    assert (found["young"].speakers, found["old"].speakers) == (2, 1)
    assert found["old"].chance == found["all"].chance == pytest.approx(1 / 3)


def test_every_breakdown_is_measured_and_the_worst_off_speaker_named() -> None:
    trials = speakers_with_own_ease(12, 6, seed=3)
    sexes = {i: "female" if i % 2 else "male" for i in range(12)}
    results = measurement(sexes, resamples=20).of_trials(ABOUT, trials)
    rate, linkability = measured(results, "eer"), measured(results, "d_sys")
    assert rate["all"].value == eer(trials) and rate["all"].low is not None
    people = {f"p{n}" for n in range(1, 12)}  # of the first, only mated trials are in the list
    assert set(rate) == {"all", "female", "male", "worst"} | people
    assert rate["worst"].value == min(rate[name].value for name in people)  # type: ignore[type-var]
    assert set(linkability["all"].by_speaker) == people and not rate["all"].by_speaker
    assert linkability["worst"].value == max(linkability["all"].by_speaker.values())
    assert measured(results, "cllr")["all"].value is not None, "measured on calibrated scores"


def test_identification_is_measured_in_every_breakdown() -> None:
    speaker = np.repeat(np.arange(8), 10)
    scores = np.random.default_rng(0).normal(size=(80, 8)) + 2 * np.eye(8)[speaker]
    ranking = Ranking(scores, np.arange(8), speaker)
    results = measurement({i: "FM"[i % 2] for i in range(8)}, resamples=50).of_ranking(ABOUT, ranking)
    found = measured(results, "top1")
    own = [found[f"p{n}"].value for n in range(8)]
    assert found["all"].chance == 1 / 8
    assert found["all"].value == pytest.approx(np.mean(own))  # type: ignore[arg-type]
    assert found["all"].low < found["all"].value < found["all"].high  # type: ignore[operator]
    assert found["worst"].value == max(own)  # type: ignore[type-var]
    assert set(measured(results, "top1", pooled=3)) == {"all", "F", "M", "worst"}


def test_two_metrics_of_one_name_are_a_defect() -> None:
    with pytest.raises(ValueError, match="two metrics are called 'eer'"):
        metric("eer", unit="rate", chance=0.5, private="high")(eer)


def test_an_unknown_metric_lists_the_known_ones() -> None:
    with pytest.raises(RunError, match="min_cllr"):
        METRICS.get("err")
