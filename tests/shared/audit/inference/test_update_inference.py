import numpy as np
import pytest

from moretta.shared.audit.inference.classes import ALL_LAYERS, infer_from_updates, project
from moretta.shared.audit.result import Result

Update = dict[str, np.ndarray]


def about(target: str) -> Result:
    return Result(
        attack="updates",
        target=target,
        modality="voice",
        attacker="logistic regression",
        scenario="updates",
        metric="balanced_accuracy",
    )


def updates(signal: float, *, speakers: int = 20, rounds: int = 5, seed: int = 0) -> tuple[list[Update], ...]:
    """Updates of two layers, of which only the second carries sex and speaker."""
    rng = np.random.default_rng(seed)
    speaker, round_ = np.repeat(np.arange(speakers), rounds), np.tile(np.arange(rounds), speakers)
    sex_direction, own = rng.normal(size=(30, 20)), rng.normal(size=(speakers, 30, 20))
    made = [
        {
            "first": rng.normal(size=(10, 30)),
            "last": rng.normal(size=(30, 20)) + signal * (sex_direction * (1 if s % 2 else -1) + own[s]),
        }
        for s in speaker
    ]
    return made, speaker, round_  # type: ignore[return-value]


def test_a_planted_sex_is_found_in_its_layer_and_in_no_other() -> None:
    made, speaker, _ = updates(0.5, speakers=14, rounds=3)
    found = {
        leak.layer: leak
        for leak in infer_from_updates(made, np.asarray(speaker) % 2, speaker, about=about("sex"), resamples=100)
    }
    assert found["last"].leaks and found[ALL_LAYERS].leaks
    assert not found["first"].leaks
    assert found["last"].value is not None and found["last"].value > 0.8


def test_a_planted_speaker_is_found_across_rounds() -> None:
    made, speaker, round_ = updates(0.5, speakers=10)
    found = {
        leak.layer: leak
        for leak in infer_from_updates(made, speaker, round_, about=about("speaker"), speakers=speaker, resamples=50)
    }
    assert found["last"].leaks and found["last"].value is not None and found["last"].value > 0.8
    assert found["last"].chance == 1 / 10
    assert not found["first"].leaks


@pytest.mark.parametrize("target", ["sex", "speaker"])
def test_nothing_is_found_in_noise(target: str) -> None:
    leaking = 0
    for seed in range(3):
        made, speaker, round_ = updates(0.0, speakers=12, rounds=3, seed=seed)
        label, group = (np.asarray(speaker) % 2, speaker) if target == "sex" else (speaker, round_)
        found = infer_from_updates(made, label, group, about=about(target), speakers=speaker, resamples=50)
        leaking += sum(leak.leaks for leak in found)
    assert leaking <= 2


def test_projection_keeps_distances_and_depends_on_seed_and_layer_only() -> None:
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=(50, 101)) for _ in range(6)]
    small = project(layers, "layer", 400, seed=1)
    assert small.shape == (6, 400)
    before = np.array([np.linalg.norm(a - layers[0]) for a in layers[1:]])
    assert np.linalg.norm(small[1:] - small[0], axis=1) == pytest.approx(before, rel=0.15)
    assert np.array_equal(small, project(layers, "layer", 400, seed=1))
    assert not np.allclose(small, project(layers, "other", 400, seed=1))


def test_small_layers_are_kept_whole() -> None:
    assert project([np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])], "bias", 8, seed=0).tolist() == [[1, 2], [3, 4]]


def test_a_class_that_vanishes_when_left_out_makes_the_attack_invalid() -> None:
    made, speaker, _ = updates(1.0, speakers=3)
    found = infer_from_updates(made, np.asarray(speaker) == 0, speaker, about=about("sex"))
    assert all(leak.invalid and leak.value is None for leak in found)
