"""The risk of single clips: who is easy to recognise stands out, and an attacker that cannot work does not count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from speakers import codes, voices

from moretta.shared.audit.clip_risk import QUICK, clip_risks
from moretta.shared.audit.dataset import ClipSet


def one_exposed(original: ClipSet, hidden: ClipSet) -> ClipSet:
    """Released clips in which the first speaker alone is as in the originals."""
    first = original.clips[0].speaker
    arrays = [original.mfcc(i) if c.speaker == first else hidden.mfcc(i) for i, c in enumerate(original.clips)]
    return ClipSet.from_arrays(original.clips, arrays, modality="voice", form="mfcc")


def test_a_person_whom_the_release_exposes_stands_out_clip_by_clip() -> None:
    original, hidden = voices(clips=8), voices(clips=8, apart=0.0, seed=1)
    released = one_exposed(original, hidden)
    risks = clip_risks([(original, released)])
    assert {a.attacker for a in risks.valid} == set(QUICK["voice"])
    assert {a.scenario for a in risks.valid} == {"ignorant", "semi-informed"}
    assert risks.chance == 1 / 8
    of_clip = {clip.clip: risks.of_clip(clip.clip) for clip in original.clips}
    assert None not in of_clip.values()  # every clip was tried, once by each attack
    exposed = [of_clip[clip.clip] for clip in original.clips if clip.speaker == original.clips[0].speaker]
    others = [of_clip[clip.clip] for clip in original.clips if clip.speaker != original.clips[0].speaker]
    assert np.mean(exposed) > 0.8
    assert np.mean(others) < 0.4
    by_person = {speaker: risks.of_speaker(speaker) or 0.0 for speaker in original.speakers}
    assert max(by_person, key=lambda speaker: by_person[speaker]) == original.clips[0].speaker


def test_attackers_that_cannot_recognise_originals_do_not_count() -> None:
    risks = clip_risks([(voices(apart=0.0, clips=6, speakers=6), voices(apart=0.0, seed=2, clips=6, speakers=6))])
    assert risks.valid == []
    assert {a.reason.partition(":")[0] for a in risks.attacks} == {"it cannot break unprotected data"}
    assert risks.chance is None
    assert risks.of_clip(risks.attacks[0].attacker) is None


def test_of_codes_only_who_makes_own_ones_attacks() -> None:
    risks = clip_risks([(voices(clips=6), codes(clips=6))])
    assert {a.scenario for a in risks.attacks} == {"semi-informed"}
    assert any(a.top1 is not None and a.top1 > 0.5 for a in risks.valid)


def test_who_lies_far_outside_the_others_is_at_full_risk() -> None:
    made = codes(clips=6, apart=0.0)
    arrays = [made.mfcc(i)[0] * (1e6 if i < 6 else 1) for i in range(len(made))]
    far = ClipSet.from_arrays(made.clips, [a.astype(np.float32) for a in arrays], modality="voice", form="code")
    risks = clip_risks([(voices(clips=6), far)])
    assert risks.outlying == {made.clips[0].speaker}
    assert risks.of_clip(made.clips[0].clip) == risks.of_speaker(made.clips[0].speaker) == 1.0
    assert (risks.of_speaker(made.clips[-1].speaker) or 0.0) < 1.0


def test_too_few_speakers_are_a_reason_and_no_error() -> None:
    one = voices(speakers=1, clips=4)
    assert all("1 speakers" in attack.reason for attack in clip_risks([(one, one)]).attacks)
    single = voices(speakers=3, clips=1)
    risks = clip_risks([(single, replace(single))])
    assert risks.valid == [] and all(attack.reason for attack in risks.attacks)
