import numpy as np
import pytest

from moretta.shared.audit.inference import classes
from moretta.shared.audit.inference.classes import infer_attribute
from moretta.shared.audit.result import Result, strongest

SEX = Result(
    attack="attribute",
    target="sex",
    modality="voice",
    attacker="",
    scenario="semi-informed",
    metric="balanced_accuracy",
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the twelve networks, which have tests of their own."""
    monkeypatch.setattr(classes, "FAMILIES", {})


AGE = SEX.model_copy(update={"target": "age group"})


def clips(
    signal: float, *, speakers: int = 24, each: int = 6, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features with a strong identity, and a sex that shifts them by `signal`."""
    rng = np.random.default_rng(seed)
    speaker = np.repeat(np.arange(speakers), each)
    sex = np.where(speaker % 2 == 0, "female", "male")
    identity = rng.normal(size=(speakers, 12)) * 1.5
    features = identity[speaker] + rng.normal(size=(len(speaker), 12))
    features[:, :4] += signal * (sex == "male")[:, None]
    return features, sex, speaker


def test_a_planted_sex_is_inferred_from_strangers() -> None:
    found = infer_attribute(*clips(4.0), about=SEX, resamples=50)
    assert [leak.attacker for leak in found] == [
        "logistic regression",
        "logistic regression, all clips",
        "random forest",
        "random forest, all clips",
    ]
    assert all(leak.leaks and leak.value is not None and leak.value > 0.8 for leak in found)


def test_identity_alone_does_not_look_like_a_leak_of_sex() -> None:
    # Folds that mix clips of one speaker would score near 1 here.
    worlds = [clips(0.0, speakers=60, each=2, seed=s) for s in range(2)]
    found = [leak for world in worlds for leak in infer_attribute(*world, about=SEX, folds=2, resamples=50)]
    assert sum(leak.leaks for leak in found) <= 2
    assert np.mean([leak.value for leak in found]) == pytest.approx(0.5, abs=0.08)


def test_chance_is_that_of_the_classes_and_not_of_the_largest() -> None:
    features, _, speaker = clips(0.0)
    group = np.where(speaker < 18, "young", np.where(speaker < 21, "middle", "old"))
    found = infer_attribute(features, group, speaker, about=AGE, resamples=50)
    assert {leak.chance for leak in found} == {1 / 3}
    assert all(leak.value is not None and leak.value < 0.55 for leak in found)


@pytest.mark.parametrize(
    ("label", "reason"), [(np.full(144, "female"), "same sex"), (np.where(np.arange(144) < 6, "a", "b"), "1 speaker")]
)
def test_an_attribute_that_cannot_be_inferred_is_invalid_and_never_private(label: np.ndarray, reason: str) -> None:
    features, _, speaker = clips(3.0)
    found = infer_attribute(features, label, speaker, about=SEX, resamples=10)
    assert all(leak.invalid and reason in leak.reason and leak.value is None for leak in found)
    assert strongest(found) is None


def test_the_same_seed_gives_the_same_figures() -> None:
    first, second = (
        infer_attribute(*clips(0.7, speakers=8, each=3), about=SEX, folds=2, resamples=20, seed=4) for _ in range(2)
    )
    assert first == second
