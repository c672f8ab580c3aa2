"""A sex that shows in how people express emotions is read from updates, unless DP-SGD hides it or there is none."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from moretta.client.accounting.planning import TrainingPlan
from moretta.client.training.dp_sgd import SeededRandomness, TrainingExamples, private_steps
from moretta.shared.audit.inference.attack_all import without_figures
from moretta.shared.audit.inference.shadow_sites import ATTACKER, LabelledClips, infer_by_shadows
from moretta.shared.audit.inference.trained_models import Recipe
from moretta.shared.audit.result import Result
from moretta.shared.models.emotion import emotion_model
from moretta.shared.privacy.dp_sgd import SampledGaussian

MODEL = emotion_model("voice", "statistics")
ABOUT = without_figures("updates", "voice", "sex", "updates")
SITES, HELD_OUT, CLIPS, DIMENSIONS = 40, 12, 24, 30
RATE, BATCH = 0.3, 8


def people(apart: float, seed: int = 0) -> LabelledClips:
    """A person a site, and people held out. Emotions have other centres for each sex, so far apart."""
    rng = np.random.default_rng(seed)
    count = SITES + HELD_OUT
    speaker = np.repeat(np.arange(count), CLIPS)
    emotion = np.tile(np.arange(CLIPS) % 6, count)
    common, different = rng.normal(size=(2, 6, DIMENSIONS))
    sign = np.where(speaker % 2, 1, -1)[:, None]
    own = 0.5 * rng.normal(size=(count, DIMENSIONS))
    x = common[emotion] + apart * sign * different[emotion] + own[speaker] + rng.normal(size=(len(speaker), DIMENSIONS))
    return LabelledClips(
        x=x.astype(np.float32),
        y=emotion.astype(np.int64),
        speaker=speaker,
        sex=np.where(speaker % 2, "female", "male"),
        site=np.array([f"site-{s:02d}" for s in speaker]),
        held_out=speaker >= SITES,
    )


Layers = dict[str, np.ndarray]


def trained(clips: LabelledClips, noise: float | None) -> tuple[Layers, dict[str, Layers]]:
    """Global weights, and an update of each site: by plain SGD, or by DP-SGD with this noise multiplier."""
    recipe = Recipe(MODEL, RATE, BATCH, 1)
    members = ~clips.held_out
    start = Recipe(MODEL, RATE, BATCH, 1).network(clips.x[members], clips.y[members], 5).state_dict()
    weights = {name: tensor.numpy() for name, tensor in start.items()}
    updates: dict[str, Layers] = {}
    for number, site in enumerate(np.unique(clips.site[members])):
        rows = clips.site == site
        if noise is None:
            updates[site] = recipe.update(weights, clips.x[rows], clips.y[rows], number)
            continue
        network = MODEL.build((DIMENSIONS,))
        network.load_state_dict(start)
        steps = SampledGaussian(noise_multiplier=noise, rate=BATCH / CLIPS, steps=CLIPS // BATCH)
        plan = TrainingPlan(steps, CLIPS, rounds=1, models=1, most_clips=CLIPS)
        inputs = (torch.from_numpy(part[rows]) for part in (clips.x, clips.y))
        examples = TrainingExamples(*inputs, np.arange(CLIPS))
        chance = SeededRandomness(number)
        private_steps(network, examples, plan, chance, max_grad_norm=1.0, learning_rate=RATE)
        after = dict(network.named_parameters())
        updates[site] = {name: after[name].detach().numpy() - weights[name] for name in after}
    return weights, updates


def attacked(clips: LabelledClips, noise: float | None = None, **changes: object) -> dict[str | None, Result]:
    weights, updates = trained(clips, noise)
    sexes: Mapping[str, str] = dict(zip(clips.site.tolist(), clips.sex.tolist(), strict=True))
    recipe = Recipe(MODEL, RATE, BATCH, 1)

    def local(x: np.ndarray, y: np.ndarray, seed: int) -> Layers:
        return recipe.update(weights, x, y, seed)

    found = infer_by_shadows(updates, sexes, clips, local, about=ABOUT, resamples=100, seed=1)
    return {result.layer: result for result in found}


def test_a_planted_difference_is_read_from_updates_without_noise() -> None:
    found = attacked(people(0.6))
    assert found.keys() == {"2.weight", "2.bias", "all layers"}
    best = found["2.weight"]
    assert best.value is not None and best.value >= 0.9 and best.leaks
    assert best.attacker == ATTACKER and best.speakers == SITES and best.chance == 0.5


def test_strong_noise_of_dp_sgd_hides_it_and_little_noise_does_not() -> None:
    clips = people(0.6)
    little, more, strong = (attacked(clips, noise)["2.weight"] for noise in (0.1, 1.0, 20.0))
    assert little.value is not None and little.value >= 0.9
    assert more.value is not None and more.value < 0.75
    assert strong.low is not None and strong.high is not None and strong.low < 0.5 < strong.high


def test_without_a_planted_difference_the_interval_holds_chance() -> None:
    result = attacked(people(0.0))["2.weight"]
    assert result.low is not None and result.high is not None and result.low < 0.5 < result.high


def test_the_shadows_of_a_site_hold_nobody_of_it() -> None:
    """Features name the person, and nothing else: an attacker who saw the site's own people would be always right."""
    clips = people(0.0)
    own = np.random.default_rng(3).normal(size=(SITES + HELD_OUT, 6, DIMENSIONS))
    by_heart = clips.x + 3 * own[clips.speaker, clips.y].astype(np.float32)
    few = np.isin(clips.speaker, np.arange(SITES))
    described = {name: getattr(clips, name)[few] for name in ("y", "speaker", "sex", "site", "held_out")}
    result = attacked(LabelledClips(x=by_heart[few], **described))["2.weight"]
    assert result.value is not None and result.value < 0.75


@pytest.mark.parametrize("reason", ["two sites of each sex", "other people of each sex"])
def test_too_few_sites_or_people_make_it_invalid(reason: str) -> None:
    clips = people(0.6)
    kept = clips.speaker < (3 if "sites" in reason else 5)
    described = {name: getattr(clips, name)[kept] for name in ("x", "y", "speaker", "sex", "site", "held_out")}
    (result,) = attacked(LabelledClips(**described)).values()
    assert result.invalid and reason in result.reason and result.value is None


def test_shadows_are_trained_by_the_optimizer_of_the_sites() -> None:
    clips = people(0.0)
    start = {name: tensor.numpy() for name, tensor in MODEL.build((DIMENSIONS,)).state_dict().items()}
    change = Recipe(MODEL, 0.001, len(clips.y), 1, "adam").update(start, clips.x, clips.y, 1)
    assert np.abs(change["2.weight"]).mean() == pytest.approx(0.001, rel=0.01)
