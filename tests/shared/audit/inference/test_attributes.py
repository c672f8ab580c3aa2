"""A public network as an attacker of sex and age group: a planted attribute is found as often as it is there."""

from __future__ import annotations

import numpy as np
import pytest
from speakers import describe

from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.inference import attack_all, attributes, classes
from moretta.shared.audit.inference.attack_all import attack_clips, without_figures
from moretta.shared.audit.inference.attributes import read_off_faces
from moretta.shared.audit.pretrained.face_network import AgeSexReader
from moretta.shared.audit.result import Result

ABOUT = without_figures("attribute", "face", "sex and age group", "ignorant")
YEARS = {"young": 22.0, "middle": 40.0, "old": 66.0}


class FakeReader:
    """Reads the red of a clip as its age, and the green, from 0 to 255, as the probability of a man."""

    name = AgeSexReader.name

    @classmethod
    def missing(cls) -> None:
        return None

    @classmethod
    def load(cls) -> FakeReader:
        return cls()

    def read(self, clips: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        red, green = np.array([clip.reshape(-1, 3).mean(axis=0)[:2] for clip in clips]).T
        return red, np.stack([green / 255, 1 - green / 255], axis=1)


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "AgeSexReader", FakeReader)


def painted(right: float, *, ages: bool = True, speakers: int = 24, each: int = 10) -> ClipSet:
    """Faces whose colours tell the sex, and the age, in this share of the clips."""
    rng = np.random.default_rng(0)
    meta, frames = [], []
    for person in range(speakers):
        group = tuple(YEARS)[person % 3]
        for number in range(each):
            clip = describe(person, number)
            meta.append(clip.model_copy(update={"age_group": group} if ages else {}))
            man, true = clip.sex == "male", rng.random() < right
            years = YEARS[group if true else tuple(YEARS)[(person + 1) % 3]]
            colour = np.array([years, 200 if man == true else 50, 0], np.uint8)
            frames.append(np.broadcast_to(colour, (2, 8, 8, 3)).copy())
    return ClipSet.from_arrays(meta, frames, modality="face", form="frames")


def figures(clips: ClipSet) -> dict[tuple[str, str], Result]:
    return {(r.target, r.attacker): r for r in read_off_faces(clips, ABOUT, seed=0, bootstrap=100)}


def test_a_planted_answer_is_found_as_often_as_it_is_there() -> None:
    found = figures(painted(0.8))
    for target, chance in (("sex", 1 / 2), ("age group", 1 / 3)):
        single = found[target, AgeSexReader.name]
        assert single.value == pytest.approx(0.8, abs=0.07) and single.chance == pytest.approx(chance)
        assert single.leaks and single.kind == "pretrained" and single.scenario == "ignorant" and single.clips == 240
        together = found[target, f"{AgeSexReader.name}, all clips"]
        assert (together.value or 0) > (single.value or 1)


def test_without_a_planted_answer_the_interval_holds_chance() -> None:
    single = figures(painted(0.5))["sex", AgeSexReader.name]
    assert single.low is not None and single.high is not None and single.low < 0.5 < single.high


def test_a_group_that_nobody_has_is_a_wrong_answer() -> None:
    clips = painted(1.0)
    old = [i for i, clip in enumerate(clips.clips) if clip.age_group == "old"]
    young = clips.subset(i for i in range(len(clips)) if i not in old)
    frames = [np.full((2, 8, 8, 3), 80, np.uint8)] * len(young)
    aged = ClipSet.from_arrays(young.clips, frames, modality="face", form="frames")
    assert figures(aged)["age group", AgeSexReader.name].value == 0


def test_people_who_state_no_age_leave_the_sex_to_be_read() -> None:
    found = figures(painted(1.0, ages=False))
    assert found["sex", AgeSexReader.name].value == 1
    assert "none stated" in found["age group", AgeSexReader.name].reason


def test_it_is_an_attack_on_faces_and_an_anchor_on_their_originals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "ATTACKERS", {})
    monkeypatch.setattr(classes, "FAMILIES", {})
    monkeypatch.setattr(attack_all, "_inversion_tasks", lambda *_, **__: [])
    clips, hidden = painted(1.0, each=2), painted(0.0, each=2)
    found = [r for r in attack_clips(clips, hidden, bootstrap=50) if r.target == "sex" and r.kind == "pretrained"]
    values = {(r.scenario, r.attacker): r.value for r in found}
    assert values["unprotected", AgeSexReader.name] == 1 and values["ignorant", AgeSexReader.name] == 0
    assert not any(r.invalid for r in found)
    blind = [r for r in attack_clips(hidden, clips, bootstrap=50) if r.target == "sex" and r.scenario == "ignorant"]
    assert blind and all(r.invalid and "unprotected" in r.reason for r in blind)


def test_without_its_weights_the_row_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "AgeSexReader", AgeSexReader)
    found = read_off_faces(painted(1.0, each=2), ABOUT, seed=0, bootstrap=10)
    assert [r.target for r in found] == ["sex", "age group"]
    assert all(r.invalid and "moretta attackers fetch" in r.reason for r in found)
