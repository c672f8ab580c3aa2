from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from speakers import KEY, describe, faces, voices

from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.inference import attack_all, classes, inversion
from moretta.shared.audit.inference.attack_all import attack_clips, attack_crossmodal, checked_by_originals, thinned
from moretta.shared.audit.result import Result


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pretrained encoder, whatever this machine has, one attacker of attributes, and one decoder."""
    logistic = {"logistic regression": classes.ATTACKERS["logistic regression"]}
    monkeypatch.setattr(classes, "ATTACKERS", logistic)
    monkeypatch.setattr(classes, "FAMILIES", {})
    monkeypatch.setattr(inversion, "ENCODERS", {"voice": (), "face": ()})
    monkeypatch.setitem(inversion.MAX_ROWS, "voice", 1500)
    monkeypatch.setitem(inversion.DECODERS_OF, "voice", ("ridge",))  # type: ignore[attr-defined]


def mixed(clips: ClipSet) -> ClipSet:
    """Released unreadable, and yet reversible: coefficients in other places, some turned around."""
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(13, 13)))[0].astype(np.float32)
    arrays = [(clips.mfcc(i) @ turn).astype(np.float32) for i in range(len(clips))]
    return ClipSet.from_arrays(clips.clips, arrays, modality="voice", form="mfcc")


def constant(clips: ClipSet) -> ClipSet:
    return ClipSet.from_arrays(clips.clips, [clips.mfcc(0)] * len(clips), modality="voice", form="mfcc")


def sexed(*, planted: bool) -> ClipSet:
    """12 speakers; `planted` moves the voices of one sex."""
    clips = voices(speakers=12, clips=6, apart=0.5)
    moved = [clips.mfcc(i) + 2 * (planted and c.sex == "female") for i, c in enumerate(clips.clips)]
    return ClipSet.from_arrays(clips.clips, [np.asarray(m, np.float32) for m in moved], modality="voice", form="mfcc")


def pick(found: list[Result], **wanted: object) -> list[Result]:
    return [f for f in found if all(getattr(f, key) == value for key, value in wanted.items())]


def test_a_planted_sex_is_found_in_the_release_with_its_anchor() -> None:
    found = attack_clips(sexed(planted=True), sexed(planted=True), bootstrap=40)
    sex = pick(found, attack="attribute", target="sex")
    assert {f.scenario for f in sex} == {"unprotected", "semi-informed"}
    assert all(f.leaks and f.chance == 0.5 and f.speakers == 12 for f in sex)
    age = pick(found, target="age group")
    assert age and all(f.invalid and "none stated" in f.reason for f in age)


def test_an_attacker_that_cannot_infer_from_the_unprotected_is_invalid_not_private() -> None:
    found = attack_clips(sexed(planted=False), sexed(planted=False), bootstrap=40)
    released = pick(found, attack="attribute", target="sex", scenario="semi-informed")
    assert released and all(f.invalid and "unprotected" in f.reason for f in released)


def test_few_people_of_a_class_are_invalid() -> None:
    found = attack_clips(None, voices(speakers=6, clips=4), bootstrap=10)
    assert all("3 female, 3 male" in f.reason for f in pick(found, target="sex"))


def test_a_reversible_release_is_undone_and_a_constant_one_is_not() -> None:
    original = voices(speakers=12, clips=12, apart=2.0)

    def eers(released: ClipSet) -> dict[str, float | None]:
        found = pick(attack_clips(original, released, bootstrap=20), attack="inversion", metric="eer")
        assert not any(f.invalid for f in found)
        return {f.scenario: f.value for f in found}

    undone = eers(mixed(original))
    assert undone["unprotected"] < 0.2 and undone["decoded"] < 0.2 < undone["ignorant"]  # type: ignore[operator]
    assert eers(constant(original))["decoded"] == pytest.approx(0.5, abs=0.02)


def test_a_recogniser_that_cannot_read_originals_is_invalid() -> None:
    hidden = voices(speakers=8, clips=8, apart=0.0)
    found = pick(attack_clips(hidden, hidden, bootstrap=10), attack="inversion", metric="eer")
    assert found and all(f.invalid and "cannot tell unprotected clips apart" in f.reason for f in found)


def test_faces_are_decoded_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(inversion.MAX_ROWS, "face", 60)
    quick_decoder = {"conv": lambda seed: inversion.ConvDecoder(seed, steps=20, width=8)}
    monkeypatch.setattr(inversion, "DECODERS", quick_decoder)
    original = faces(speakers=6, clips=4)
    inverted = [255 - original.frames(i) for i in range(len(original))]
    released = ClipSet.from_arrays(original.clips, inverted, modality="face", form="frames")
    found = pick(attack_clips(original, released, bootstrap=10), attack="inversion")
    assert {f.scenario for f in pick(found, metric="eer")} == {"unprotected", "ignorant", "decoded"}
    assert all("64 x 64" in f.note for f in found)


def test_without_originals_inversion_is_invalid_and_attributes_are_not() -> None:
    found = attack_clips(None, sexed(planted=True), bootstrap=20)
    assert all(f.invalid and "no originals" in f.reason for f in pick(found, attack="inversion"))
    assert pick(found, attack="attribute", target="sex", invalid=False)


def test_an_attack_that_fails_is_an_invalid_result_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of order\nand a second line")

    monkeypatch.setattr(attack_all, "invert_with", lambda *_, **__: broken())
    found = attack_clips(sexed(planted=True), sexed(planted=True), bootstrap=20)
    failed = pick(found, attack="inversion")
    assert [f.reason for f in failed] == ["it failed: RuntimeError: out of order"] and failed[0].invalid
    assert any(f.leaks for f in pick(found, attack="attribute", scenario="semi-informed"))
    monkeypatch.setattr(attack_all, "prepare_pair", broken)
    assert [f.invalid for f in attack_clips(None, sexed(planted=True))] == [True]


def test_clips_that_only_one_side_has_are_left_out() -> None:
    whole = sexed(planted=True)
    found = attack_clips(whole.subset(range(0, len(whole), 2)), whole, bootstrap=10)
    assert {f.clips for f in pick(found, attack="attribute", target="sex")} == {len(whole) // 2}


def test_cost_is_bounded_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = voices(speakers=10, clips=12)
    few = thinned(clips, 40, seed=1)
    assert len(few) == 40 and len(few.speakers) == 10
    assert few.clips == thinned(clips.subset(reversed(range(len(clips)))), 40, seed=1).clips
    assert len(thinned(clips, 8, seed=1).speakers) == 2
    monkeypatch.setitem(attack_all.MAX_CLIPS, "voice", 60)
    found = attack_clips(None, sexed(planted=True), bootstrap=10)
    assert any("60 of 72 clips" in f.note for f in pick(found, target="sex"))


def test_the_same_seed_gives_the_same_findings() -> None:
    clips = voices(speakers=8, clips=6)
    assert attack_clips(clips, mixed(clips), seed=4, bootstrap=20) == attack_clips(
        clips, mixed(clips), seed=4, bootstrap=20
    )


def linked(*, shared: bool) -> tuple[ClipSet, ClipSet]:
    """Voices and faces of 18 people that follow the same hidden numbers, or not."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(18, 3))
    other = hidden if shared else rng.normal(size=(18, 3))
    to_voice, to_face = rng.normal(size=(3, 13)), rng.normal(size=(3, 6, 6, 3))
    meta = [describe(person, number) for person in range(18) for number in range(5)]
    rows = np.repeat(np.arange(18), 5)
    sound = [(2 * hidden[p] @ to_voice + rng.normal(size=(30, 13))).astype(np.float32) for p in rows]
    patterns = np.kron(np.tensordot(other, to_face, 1), np.ones((1, 8, 8, 1)))
    pictures = [
        np.clip(128 + 25 * patterns[p] + 5 * rng.normal(size=(2, 48, 48, 3)), 0, 255).astype(np.uint8) for p in rows
    ]
    return (
        ClipSet.from_arrays(meta, sound, modality="voice", form="mfcc"),
        ClipSet.from_arrays(meta, pictures, modality="face", form="frames"),
    )


def test_a_planted_link_of_voice_and_face_is_found_and_none_is_not() -> None:
    found = attack_crossmodal(*linked(shared=True), bootstrap=40)
    assert {f.metric for f in found} == {"top1", "one_of_two"}
    assert {f.target for f in found} == {"face of the voice", "face of the voice within group"}
    assert any(f.leaks for f in pick(found, metric="one_of_two"))
    strangers = pick(attack_crossmodal(*linked(shared=False), bootstrap=40), metric="one_of_two")
    assert all(abs((f.value or 0) - 0.5) < 0.25 for f in strangers)


def test_voices_and_faces_of_different_people_are_invalid() -> None:
    voice, face = linked(shared=True)
    others = tuple(c.model_copy(update={"speaker": KEY.speaker(100 + i)}) for i, c in enumerate(face.clips))
    found = attack_crossmodal(voice, replace(face, clips=others), bootstrap=10)
    assert [f.invalid for f in found] == [True]


def finding(**changes: object) -> Result:
    content = {
        "attack": "attribute", "modality": "voice", "target": "sex", "attacker": "a", "scenario": "semi-informed",
        "metric": "balanced_accuracy", "value": 0.9, "low": 0.8, "high": 0.95, "chance": 0.5, "speakers": 12,
    }  # fmt: skip
    return Result.model_validate(content | changes)


def test_an_anchor_checks_its_own_attacker_only() -> None:
    rows = [finding(scenario="unprotected", attacker="a", low=0.3), finding(attacker="a"), finding(attacker="b")]
    assert [f.invalid for f in checked_by_originals(rows)] == [False, True, False]
