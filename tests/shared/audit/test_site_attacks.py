"""A trained attacker is sent as arrays, and a site's scores come back as counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moretta.shared.audit import site_attacks
from moretta.shared.audit.attackers.base import get_embedder
from moretta.shared.audit.attackers.open_set import WithinClassEmbedder
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.metrics.scores import METRICS, Trials
from moretta.shared.audit.protocol import make_plan
from moretta.shared.audit.report.page import render_audit
from moretta.shared.audit.report.summary import headlines
from moretta.shared.audit.report.verdict import check_gate
from moretta.shared.audit.scoring import cosines
from moretta.shared.core.errors import AttackersError, ReleaseError, StudyError
from moretta.shared.core.pseudonym import PseudonymKey
from moretta.shared.data.reader import read_corpus
from moretta.shared.messages.wire import LEVELS, MAX_TRIALS
from moretta.shared.release import ReleasedClip
from moretta.shared.study.public_arrays import OF_ATTACKER
from moretta.shared.study.schema import Study, parse_study
from moretta.shared.study.sections import GateSection
from tests.conftest import write_tone_corpus

EER = METRICS.get("eer").function


def tones(folder: Path, speakers: int) -> ClipSet:
    corpus = read_corpus(write_tone_corpus(folder, speakers=speakers))
    return ClipSet.from_corpus(corpus, "voice", PseudonymKey.seeded(1, "here"), classes=None)


def study_with(*attackers: str, public: Path | None = None) -> Study:
    return parse_study({"face": {"enabled": False}, "audit": {"at_sites": attackers, "public": public}})


@pytest.fixture
def learned(tmp_path: Path) -> tuple[Study, dict[str, Any]]:
    study = study_with("voice-wccn", public=write_tone_corpus(tmp_path / "public", speakers=6))
    return study, site_attacks.learn(study)


def test_an_attacker_made_of_its_arrays_sees_what_the_trained_one_sees(
    learned: tuple[Study, dict[str, Any]], tmp_path: Path
) -> None:
    study, arrays = learned
    clips = tones(tmp_path / "site", 4).with_views(tmp_path / "views")
    public = read_corpus(study.audit.public or Path())
    key = PseudonymKey.seeded(1, "public people")
    trained = get_embedder("voice-wccn")()
    trained.fit(ClipSet.from_corpus(public, "voice", key).with_views(tmp_path / "more"), seed=1)
    sent = site_attacks.attacker_of("voice-wccn", arrays)
    ours, theirs = (cosines(model.embed(clips), model.embed(clips)) for model in (sent, trained))
    assert np.allclose(ours, theirs, atol=2e-3)
    assert np.ptp(ours) > 0.5
    again = site_attacks.learn(study)
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)  # a run that goes on offers the same


def test_a_principal_component_attacker_is_a_linear_map_too() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(5, 3, (40, 12)), np.repeat(np.arange(8), 5)

    class Clips:
        labels, speakers = y, tuple(map(str, range(8)))

    class Reduced(WithinClassEmbedder):
        features = staticmethod(lambda *_: lambda clips: x)
        components, scaled = 5, True

    trained, sent = Reduced(), Reduced()
    trained.fit(Clips(), seed=1)  # type: ignore[arg-type]
    arrays = trained.learned()
    assert arrays["map"].shape == (12, 5)
    sent.take(arrays)
    assert np.allclose(trained.embed(Clips()), sent.embed(Clips()), atol=1e-3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["voice-logistic", "voice-tdnn", "face-motion-wccn"])
def test_what_no_array_can_hold_is_not_sent(name: str) -> None:
    with pytest.raises(StudyError, match=f"at_sites names {name}"):
        site_attacks.learned_rules(study_with(name))


def test_an_attacker_that_learns_needs_public_people_and_an_encoder_needs_none() -> None:
    with pytest.raises(StudyError, match="public"):
        site_attacks.check_trainable(study_with("voice-wccn"))
    site_attacks.check_trainable(study_with("campplus", "sface"))
    assert site_attacks.learn(study_with("campplus")) == {}
    with pytest.raises(AttackersError):
        site_attacks.sendable("nobody")


def test_the_path_of_public_people_stays_with_the_coordinator(tmp_path: Path) -> None:
    study = study_with("voice-wccn", public=tmp_path)
    assert study.paths == {"audit.public": tmp_path}
    assert str(tmp_path) not in str(study.for_sites())
    assert study.digest() == study_with("voice-wccn").digest() != study_with().digest()


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("map", lambda a: a[:, :0]),
        ("map", lambda a: a[:-1]),
        ("map", lambda a: a.astype(np.float64)),
        ("map", lambda a: np.where(a == a[0, 0], np.nan, a)),
        ("middle", lambda a: a + np.float32(1e7)),
        ("middle", lambda a: a[None]),
        ("extra", lambda _: np.zeros(3, np.float32)),
    ],
)
def test_arrays_of_another_name_type_shape_or_range_are_refused(
    learned: tuple[Study, dict[str, Any]], part: str, change: Any
) -> None:
    study, arrays = learned
    site_attacks.check_learned(study, arrays | {"voice/mean": np.zeros(3)})
    name = f"{OF_ATTACKER}voice-wccn/{part}"
    with pytest.raises(StudyError):
        site_attacks.check_learned(study, arrays | {name: change(arrays.get(name))})
    with pytest.raises(StudyError):
        site_attacks.check_learned(study_with(), arrays)  # the study names no attacker


def test_scores_are_bounded_counts_that_keep_the_figure(learned: tuple[Study, dict[str, Any]], tmp_path: Path) -> None:
    _, arrays = learned
    model, original = site_attacks.attacker_of("voice-wccn", arrays), tones(tmp_path / "site", 12)
    found, people = site_attacks.score(model, original, original, seed=3)
    assert len(people) == 12 and people <= set(original.speakers)
    assert found["ignorant"] == found["unprotected"]  # nothing was anonymized
    for counts in found["ignorant"]:
        assert len(counts) == LEVELS and 0 < sum(counts) <= MAX_TRIALS
    assert EER(found["ignorant"].trials) < 0.35
    other, _ = site_attacks.score(model, original, original, seed=4)
    assert other["ignorant"] != found["ignorant"]  # which clips are compared is the site's choice


def test_counting_rounds_and_forgets_the_order() -> None:
    rng = np.random.default_rng(2)
    mated, nonmated = np.clip(rng.normal(0.5, 0.2, 150), -1, 1), np.clip(rng.normal(0, 0.2, 200), -1, 1)
    counts = site_attacks.SiteScores(site_attacks.counted(mated), site_attacks.counted(nonmated))
    assert counts == site_attacks.SiteScores(*map(site_attacks.counted, (np.sort(mated), rng.permutation(nonmated))))
    exact = Trials(np.concatenate([mated, nonmated]), np.zeros(350), np.repeat([0, 1], [150, 200]))
    assert EER(counts.trials) == pytest.approx(EER(exact), abs=0.02)
    ends = site_attacks.counted(np.array([-1.0, 1.0, 1.0000001]))
    assert (ends[0], ends[-1], sum(ends)) == (1, 2, 3)


def test_counts_are_not_those_of_the_one_person_with_most_clips() -> None:
    """As at a site where nine people have two clips each, and a tenth has sixty: these would be the tenth's scores."""
    clips = [
        ReleasedClip(clip=f"{100 * person + n:016x}", speaker=f"{person:016x}", emotion="NEU", sentence="", level="")
        for person in range(10)
        for n in range(60 if person == 9 else 2)
    ]
    speaker_of = {clip.clip: clip.speaker for clip in clips}
    plan = make_plan(clips, seed=1)
    chosen = list(site_attacks._chosen(plan, speaker_of, np.random.default_rng(1)))
    assert len(set(chosen)) == len(chosen) and set(chosen) <= set(plan.pairs)
    for is_mated in (True, False):
        for side in (0, 1):  # enrolled, tried
            of = Counter(speaker_of[pair[side]] for pair in chosen if _is_mated(pair, speaker_of) == is_mated)
            assert len(of) == 10 and max(of.values()) <= 0.2 * sum(of.values())


def _is_mated(pair: tuple[str, str], speaker_of: dict[str, str]) -> bool:
    return speaker_of[pair[0]] == speaker_of[pair[1]]


def test_codes_and_single_people_have_no_scores(learned: tuple[Study, dict[str, Any]], tmp_path: Path) -> None:
    model, one = site_attacks.attacker_of("voice-wccn", learned[1]), tones(tmp_path / "one", 1)
    with pytest.raises(ReleaseError, match="fewer than two people"):
        site_attacks.score(model, one, one, seed=1)


def test_rows_say_whose_word_they_are_and_fall_with_the_attacker() -> None:
    def scores(mated: float, nonmated: float) -> site_attacks.SiteScores:
        return site_attacks.SiteScores(*(site_attacks.counted(np.full(50, value)) for value in (mated, nonmated)))

    leaks, hides = scores(0.8, 0.1), scores(0.3, 0.3)
    sites = {"a": {"unprotected": leaks, "ignorant": hides}, "b": {"unprotected": leaks, "ignorant": leaks}}
    eer, *_ = rows = site_attacks.rows_of("campplus", sites, speakers=24)
    assert {row.scenario for row in rows} == {"ignorant"}
    assert (eer.metric, eer.speakers, eer.low, eer.invalid) == ("eer", 24, None, False)
    assert 0 < eer.value < 0.5  # type: ignore[operator]
    assert "scored at the sites" in eer.note and "a 0.500, b 0.000" in eer.note
    broken = {"a": {"unprotected": hides, "ignorant": hides}}
    assert all(row.invalid for row in site_attacks.rows_of("campplus", broken, speakers=12))


def test_the_page_marks_the_rows_and_good_scores_of_sites_make_no_verdict_pass() -> None:
    half, full = (site_attacks.SiteScores(*(site_attacks.counted(np.full(50, v)) for v in pair)) for pair in _PAIRS)
    rows = site_attacks.rows_of("campplus", {"a": {"unprotected": full, "ignorant": half}}, speakers=24)
    gate = check_gate(GateSection(), headlines(rows, None), released=("voice",), resamples=200)
    assert gate.verdict == "inconclusive"
    page = render_audit(rows, [], [], gate=gate, name="x", seed=1, command="c")
    assert site_attacks.SCORED_AT_SITES in page


_PAIRS = ((0.3, 0.3), (0.8, 0.1))
