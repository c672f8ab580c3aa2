from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from speakers import voices

from moretta.shared.audit.protocol import make_plan


def test_enrolment_and_trial_share_no_sentence_and_pairs_differ_in_emotion() -> None:
    clips = {clip.clip: clip for clip in voices().clips}
    plan = make_plan(list(clips.values()), seed=1)
    assert plan.cross_sentence
    assert plan.cross_emotion == 1.0
    assert not {clips[c].sentence for c in plan.enrol} & {clips[c].sentence for c in plan.trial}
    assert all(clips[a].emotion != clips[b].emotion for a, b in plan.pairs)


def test_every_speaker_has_as_many_mated_pairs_and_halves_are_disjoint() -> None:
    clips = {clip.clip: clip for clip in voices().clips}
    plan = make_plan(list(clips.values()), seed=1)
    mated = [clips[a].speaker for a, b in plan.pairs if clips[a].speaker == clips[b].speaker]
    assert len({mated.count(speaker) for speaker in set(mated)}) == 1
    assert not set(plan.halves[0]) & set(plan.halves[1])
    assert set(plan.halves[0]) | set(plan.halves[1]) == set(mated)


def test_a_plan_is_the_same_for_one_seed_whatever_the_order_and_another_for_another() -> None:
    clips = voices().clips
    assert make_plan(clips, seed=1) == make_plan(clips[::-1], seed=1)
    assert make_plan(clips, seed=1) != make_plan(clips, seed=2)


def test_one_sentence_only_is_split_by_clips_and_says_so() -> None:
    clips = [clip.model_copy(update={"sentence": "IEO"}) for clip in voices().clips]
    plan = make_plan(clips, seed=1)
    assert not plan.cross_sentence
    assert plan.enrol and plan.trial
    assert not set(plan.enrol) & set(plan.trial)


def test_a_saved_plan_is_complete_json(tmp_path: Path) -> None:
    plan = make_plan(voices().clips, seed=1)
    plan.save(tmp_path / "trials.json")
    assert json.loads((tmp_path / "trials.json").read_text()) == json.loads(json.dumps(asdict(plan)))
