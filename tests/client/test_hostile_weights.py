"""Weights of a hostile coordinator: training reveals a clip only under noise, whatever they are.

The attack as it was found: weights, or a standardisation, that make the gradient of some clips NaN. Norm cuts and noise
pass NaN on, so whether a clip is one of them was revealed exactly, at any epsilon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.client.accounting.planning import TrainingPlan
from moretta.client.training import evaluation, local_training
from moretta.client.training.dp_sgd import TrainingExamples, private_steps
from moretta.client.training.local_training import noisy_update
from moretta.client.training.rounds import RoundRequest, train_round
from moretta.shared.core.errors import RefusedError, StudyError
from moretta.shared.core.terms import Modality
from moretta.shared.features.emotion_encoder import EmotionEncoder
from moretta.shared.features.federated_encoder import FederatedEncoder
from moretta.shared.features.mfcc import MELS
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.models.adversarial_embedding import EmbeddingNet
from moretta.shared.models.emotion import checked_weights, emotion_model, initial_weights
from moretta.shared.models.federated_embedding import PEOPLE, PUBLIC_CENTER, PUBLIC_DEVIATION, EmbeddingEncoder
from moretta.shared.models.federated_replacement import CENTER, DEVIATION, DONORS, ReplacementEncoder
from moretta.shared.models.federated_unlearnt import CENTER as BANDS_CENTER
from moretta.shared.models.federated_unlearnt import DEVIATION as BANDS_DEVIATION
from moretta.shared.models.federated_unlearnt import UnlearntEncoder
from moretta.shared.models.fusion_gate import first_gate
from moretta.shared.models.network_arrays import array_shapes
from moretta.shared.models.replacement_autoencoder import weight_shapes
from moretta.shared.models.unlearnt_gender import SIZES, UnlearntNet
from moretta.shared.privacy.dp_sgd import SampledGaussian
from moretta.shared.study.schema import Study, parse_study

SHAPES: dict[tuple[Any, str], tuple[int, ...]] = {
    ("voice", "statistics"): (12,),
    ("voice", "layered"): (12,),
    ("voice", "cnn"): (4, 256),
    ("voice", "crnn"): (4, 32),
    ("face", "gradients"): (24,),
    ("face", "cnn"): (3, 48, 48),
    ("face", "sequence"): (24, 16),
    ("fusion", "gate"): (14,),
}
CLIPS, NORM = 6, 0.7
BAD = (np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e30, 1e-45, 0.0)
VALUES = st.sampled_from(BAD)


@dataclass
class Recorded:
    """Everybody in every batch; remembers what noise would be added to, and adds none."""

    sums: list[np.ndarray] = field(default_factory=list)

    def chosen(self, units: int, rate: float) -> torch.Tensor:
        del rate
        return torch.ones(units, dtype=torch.bool)

    def noisy(self, gradients: Sequence[torch.Tensor], scale: float) -> list[torch.Tensor]:
        del scale
        self.sums += [each.detach().double().numpy().ravel() for each in gradients]
        return list(gradients)

    def order(self, size: int) -> torch.Tensor:
        return torch.arange(size)


def weights_of(model: tuple[Any, str]) -> dict[str, np.ndarray]:
    if model[0] == "fusion":
        return {name: np.asarray(tensor) for name, tensor in first_gate(0.6).items()}
    inputs = np.random.default_rng(1).normal(size=(4, *SHAPES[model])).astype(np.float32)
    return {n: np.asarray(t) for n, t in initial_weights(emotion_model(*model), inputs, seed=1).items()}


def spoiled(weights: dict[str, np.ndarray], data: st.DataObject) -> dict[str, np.ndarray]:
    """With some values, or whole arrays, that no training comes to."""
    made = {name: array.copy() for name, array in weights.items()}
    for name in data.draw(st.lists(st.sampled_from(sorted(made)), min_size=1, max_size=3, unique=True)):
        flat = made[name].reshape(-1)
        if data.draw(st.booleans()):
            flat[:] = np.float32(data.draw(VALUES))
        else:
            flat[data.draw(st.integers(0, len(flat) - 1))] = np.float32(data.draw(VALUES))
    return made


def before_noise(
    model: tuple[Any, str], weights: dict[str, np.ndarray], features: np.ndarray, *, speakers: bool
) -> np.ndarray:
    """The sum of clipped gradients of the first step, flat."""
    network = emotion_model(*model).build(SHAPES[model])
    network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
    network.train()
    owners = np.repeat(np.arange(CLIPS // 2), 2) if speakers else np.arange(CLIPS)
    claim = SampledGaussian(noise_multiplier=1.0, rate=1.0, steps=1, unit="speaker" if speakers else "clip")
    recorded = Recorded()
    private_steps(
        network,
        TrainingExamples(torch.from_numpy(features), torch.arange(CLIPS) % 6, owners),
        TrainingPlan(claim, int(owners.max()) + 1, rounds=1, models=1, most_clips=2),
        recorded,
        max_grad_norm=NORM,
        learning_rate=0.1,
        after_step=lambda: None,
    )
    return np.concatenate(recorded.sums)


@pytest.mark.parametrize("unit", ["clip", "speaker"])
@pytest.mark.parametrize("model", SHAPES, ids="/".join)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_whatever_the_weights_are_one_unit_moves_the_sum_by_its_clipping_norms(
    model: tuple[Any, str], unit: str, data: st.DataObject
) -> None:
    weights = spoiled(weights_of(model), data)
    one = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(CLIPS, *SHAPES[model])).astype(np.float32)
    one[:, -2:] = 1.0 if model[0] == "fusion" else one[:, -2:]
    other = one.copy()
    other[0] = data.draw(st.sampled_from([0.0, 1.0, -30.0, 1e30]))
    first, second = (before_noise(model, weights, features, speakers=unit == "speaker") for features in (one, other))
    assert np.isfinite(first).all()
    assert np.isfinite(second).all()
    assert np.linalg.norm(first - second) <= 2 * NORM * (1 + 1e-5)


def test_an_infinite_deviation_revealed_exactly_whether_a_clip_equals_a_guess() -> None:
    """As it was found: x - mean is 0 for the clip that was guessed alone, and 0 over a deviation of 0 is NaN."""
    model = ("voice", "statistics")
    features = np.random.default_rng(3).normal(size=(CLIPS, 12)).astype(np.float32)
    hostile = {**weights_of(model), "0.mean": features[2].copy(), "0.std": np.zeros(12, np.float32)}
    with_guess = before_noise(model, hostile, features, speakers=False)
    features[2] += 1
    without = before_noise(model, hostile, features, speakers=False)
    assert np.isfinite(with_guess).all()
    assert np.linalg.norm(with_guess - without) <= NORM * (1 + 1e-5)  # the one clip, there or not
    with pytest.raises(RefusedError, match=r"0\.std"):
        checked_weights(emotion_model(*model), hostile)


@pytest.mark.parametrize("model", SHAPES, ids="/".join)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_weights_are_refused_by_themselves_or_give_finite_opinions(model: tuple[Any, str], data: st.DataObject) -> None:
    from moretta.shared.models.outputs import log_probabilities

    weights = spoiled(weights_of(model), data)
    try:
        checked_weights(emotion_model(*model), weights)
    except RefusedError:
        return
    features = np.random.default_rng(1).normal(scale=30, size=(5, *SHAPES[model])).astype(np.float32)
    found = log_probabilities(emotion_model(*model), weights, features)
    assert np.isfinite(found).all()
    assert (found <= 0).all()


@pytest.mark.parametrize(
    "change",
    [
        {"0.std": np.full(12, 5e-324)},
        {"0.std": np.ones(13, np.float32)},
        {"0.mean": np.ones((), np.float32)},
        {"2.weight": None},
        {"more": np.zeros(1, np.float32)},
        {"2.weight": np.zeros((6, 12), np.int64)},
        {"2.bias": np.array(["x"] * 6)},
    ],
    ids=str,
)
def test_weights_of_other_names_types_or_shapes_are_refused(change: dict[str, Any]) -> None:
    weights = {n: a for n, a in {**weights_of(("voice", "statistics")), **change}.items() if a is not None}
    with pytest.raises(RefusedError):
        checked_weights(emotion_model("voice", "statistics"), weights)


def nobody_reads(*_: Any, **__: Any) -> Any:
    raise AssertionError("a clip was looked at")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3.4e38], ids=str)
def test_a_round_with_weights_that_cannot_be_is_refused_before_a_clip_is_looked_at(
    simulated: Any, study: Study, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    site, weights = simulated.site(), weights_of(("voice", "statistics"))
    monkeypatch.setattr(local_training, "training_set", nobody_reads)
    monkeypatch.setattr(evaluation, "released_features", nobody_reads)
    hostile = {**weights, "2.bias": np.full(6, bad, np.float32)}
    with pytest.raises(RefusedError, match=r"2\.bias"):
        train_round(site, RoundRequest(study, "voice", 1, hostile))
    with pytest.raises(RefusedError, match=r"2\.bias"):
        evaluation.evaluate_site(site, study, {"voice": hostile})
    with pytest.raises(RefusedError, match="proximal"):
        train_round(site, RoundRequest(study, "voice", 1, weights, proximal=bad))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3.4e38, 1e-45], ids=str)
def test_a_code_in_training_that_cannot_be_is_refused(bad: float) -> None:
    width = len(MEASUREMENTS)
    shapes = {"code.weight": (5, width), "emotion.weight": (6, 5), "emotion.bias": (6,)}
    shapes |= dict.fromkeys(("public.spread", "public.center", "public.deviation"), (width,))
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    EmotionEncoder.from_arrays(arrays, size=5)
    for name in shapes if bad != 1e-45 else ("public.spread", "public.deviation"):
        with pytest.raises(StudyError):
            EmotionEncoder.from_arrays({**arrays, name: np.full(shapes[name], bad, np.float32)}, size=5)
    with pytest.raises(StudyError):
        EmotionEncoder.from_arrays({**arrays, "emotion.bias": np.zeros(6, np.float64)}, size=5)


@pytest.mark.parametrize("aggregation", [{"dp": "distributed"}, {"dp": "distributed", "secure": True}], ids=str)
@given(bad=VALUES)
@settings(max_examples=8, deadline=None)
def test_an_update_that_is_not_finite_leaves_as_noise_alone(aggregation: dict[str, Any], bad: float) -> None:
    """Plain training may overflow; to refuse the round, or to send NaN, would tell of the site without noise."""
    study = parse_study({"aggregation": aggregation, "audit": {"updates": False}, "face": {"enabled": False}})
    sent = weights_of(("voice", "statistics"))
    update = {**sent, "2.bias": np.full(6, bad, np.float32)}
    settings_of = type("Site", (), {"simulated_seed": 1, "name": "site"})()
    left = noisy_update(settings_of, study, "voice", sent, update, round_number=1)
    alone = noisy_update(settings_of, study, "voice", sent, sent, round_number=1)
    assert all(np.isfinite(array).all() for array in left.values())
    if not np.isfinite(bad):
        assert all(np.array_equal(left[name], alone[name]) for name in left)


@pytest.mark.parametrize(
    "content",
    [{"privacy": {"max_grad_norm": 1e38}}, {"privacy": {"max_grad_norm": 1e-40}}, {"train": {"learning_rate": 1e30}}]
    + [{"aggregation": {"clipping_norm": value}} for value in (1e-40, 1e38)],
    ids=str,
)
def test_numbers_of_a_study_that_gradients_cannot_be_computed_with_are_refused(content: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match=r"max_grad_norm|learning_rate|clipping_norm"):
        parse_study(content)


def test_a_round_of_code_is_refused_before_a_clip_is_looked_at(simulated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from moretta.client.training import code_training

    voice = {"anonymizer": "speaker-normalized", "code_training": "federated"}
    study = simulated.study.with_changes(**{f"voice__{k}": v for k, v in voice.items()}, voice__form="code")
    monkeypatch.setattr(code_training, "site_corpus", nobody_reads)
    with pytest.raises(StudyError, match="public array"):
        train_round(simulated.site(), RoundRequest(study, "code", 1, {"x": np.zeros(1, np.float32)}))


CODE_SHAPES: dict[str, tuple[int, ...]] = {
    "code.weight": (5, len(MEASUREMENTS)),
    "emotion.weight": (6, 5),
    "emotion.bias": (6,),
    **dict.fromkeys(("public.spread", "public.center", "public.deviation"), (len(MEASUREMENTS),)),
}


REPLACEMENT_SHAPES: dict[str, tuple[int, ...]] = {
    **weight_shapes(),
    **dict.fromkeys((CENTER, DEVIATION), (len(MEASUREMENTS),)),
    **dict.fromkeys(DONORS, (3, len(MEASUREMENTS))),
}


def of_emotion(arrays: dict[str, np.ndarray]) -> FederatedEncoder:
    return EmotionEncoder.from_arrays(arrays, size=5)


def of_replacement(arrays: dict[str, np.ndarray]) -> FederatedEncoder:
    return ReplacementEncoder.from_arrays(arrays, sensitive=2, strength=2.0, number=1)


EMBEDDING_WIDTH = 24
EMBEDDING_SHAPES: dict[str, tuple[int, ...]] = {
    **array_shapes(partial(EmbeddingNet, EMBEDDING_WIDTH, 3)),
    **dict.fromkeys((PUBLIC_CENTER, PUBLIC_DEVIATION), (EMBEDDING_WIDTH,)),
    PEOPLE: (3, EMBEDDING_WIDTH),
}


def of_embedding(arrays: dict[str, np.ndarray]) -> FederatedEncoder:
    return EmbeddingEncoder.from_arrays(arrays, width=EMBEDDING_WIDTH, strength=2.0)


def unlearnt(*modalities: Modality) -> tuple[dict[str, tuple[int, ...]], Callable[[Any], FederatedEncoder], int]:
    shapes = dict(array_shapes(partial(UnlearntNet, modalities, is_folded=True)))
    shapes |= dict.fromkeys((BANDS_CENTER, BANDS_DEVIATION), (MELS,)) if "voice" in modalities else {}
    width = sum(SIZES[modality] for modality in modalities)
    return shapes, partial(UnlearntEncoder.from_arrays, modalities=modalities, strength=2.0), width


ENCODERS: dict[str, tuple[dict[str, tuple[int, ...]], Callable[[Any], FederatedEncoder], int]] = {
    "emotion": (CODE_SHAPES, of_emotion, len(MEASUREMENTS)),
    "replacement": (REPLACEMENT_SHAPES, of_replacement, len(MEASUREMENTS)),
    "embedding": (EMBEDDING_SHAPES, of_embedding, EMBEDDING_WIDTH),
    "unlearnt-voice": unlearnt("voice"),
    "unlearnt-face": unlearnt("face"),
}


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, 3.4e38, -3.4e38], ids=str)
def test_an_encoder_in_training_that_cannot_be_is_refused(bad: float, kind: str) -> None:
    shapes, checked, _ = ENCODERS[kind]
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    checked(arrays)
    for name, shape in shapes.items():
        for changed in (np.full(shape, bad, np.float32), np.ones((*shape, 2), np.float32), np.ones(shape)):
            with pytest.raises(StudyError):
                checked({**arrays, name: changed})
        with pytest.raises(StudyError):
            checked({other: array for other, array in arrays.items() if other != name})
        if name.endswith(("deviation", "spread")):
            with pytest.raises(StudyError):
                checked({**arrays, name: np.zeros(shape, np.float32)})
    with pytest.raises(StudyError):
        checked({**arrays, "more": np.zeros(1, np.float32)})


def test_public_donors_and_people_are_at_least_one_and_as_many_as_the_head_reads() -> None:
    arrays = {name: np.ones(shape, np.float32) for name, shape in REPLACEMENT_SHAPES.items()}
    with pytest.raises(StudyError):
        of_replacement({**arrays, DONORS[0]: np.ones((0, len(MEASUREMENTS)), np.float32)})
    arrays = {name: np.ones(shape, np.float32) for name, shape in EMBEDDING_SHAPES.items()}
    for people in (0, 2, 4):
        with pytest.raises(StudyError):
            of_embedding({**arrays, PEOPLE: np.ones((people, EMBEDDING_WIDTH), np.float32)})


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("unit", ["clip", "speaker"])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_a_code_in_training_is_refused_or_one_unit_moves_the_sum_by_its_clipping_norms(
    unit: Any, kind: str, data: st.DataObject
) -> None:
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    shapes, checked, width = ENCODERS[kind]
    arrays = {name: np.abs(generator.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
    for name in data.draw(st.lists(st.sampled_from(sorted(arrays)), min_size=1, max_size=4, unique=True)):
        arrays[name][...] = np.float32(data.draw(st.sampled_from([*BAD, 1e6, -1e6, 1e3, -1e3, 5.1e-4])))
    try:
        code = checked(arrays)
    except StudyError:
        return
    one = generator.normal(size=(CLIPS, width)).astype(np.float32)
    other = one.copy()
    other[0] = data.draw(st.sampled_from([0.0, 1e6, -1e6]))
    labels, sexes = np.arange(CLIPS) % 6, ["female", "male"] * (CLIPS // 2)
    labels[0] = 2  # the clip that is replaced
    sums = []
    for values in (one, other):
        recorded, owners = Recorded(), np.arange(CLIPS) if unit == "clip" else np.zeros(CLIPS, np.int64)
        normalized = code.normalized(values, unit=unit)
        private_steps(
            code.network().train(),
            TrainingExamples(torch.from_numpy(normalized), code.targets(normalized, labels, sexes), owners),
            TrainingPlan(
                SampledGaussian(noise_multiplier=1.0, rate=1.0, steps=1, unit=unit), int(owners.max()) + 1, 1, 1, 1
            ),
            recorded,
            max_grad_norm=1.0,
            learning_rate=0.5,
            losses=code.losses,
        )
        sums.append(np.concatenate(recorded.sums))
    assert all(np.isfinite(found).all() for found in sums)
    assert np.linalg.norm(sums[0] - sums[1]) <= 2 * (1 + 1e-5)
