"""A step of DP-SGD, one thread, batches of the default size: against the same step without privacy, and against Opacus.

Opacus' side is its hooks mode with its own optimizer, noise and data as its documentation has them, Poisson batches
included. Noise of the operating system, as a site draws it, and seeded noise, as simulations do, are rows of their own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from moretta.client.accounting.planning import TrainingPlan
from moretta.client.training.dp_sgd import Randomness, SeededRandomness, TrainingExamples, private_steps
from moretta.client.training.local_training import _plain_epochs
from moretta.shared.core.workers import limit_threads
from moretta.shared.models.emotion import emotion_model
from moretta.shared.privacy.dp_sgd import SampledGaussian
from moretta.shared.study.schema import Study
from tests.benchmarks.figures import paired, quick

MODELS: dict[tuple[Any, str], tuple[int, ...]] = {
    ("voice", "statistics"): (78,),
    ("voice", "layered"): (78,),
    ("voice", "cnn"): (13, 256),
    ("voice", "crnn"): (48, 128),
    ("face", "gradients"): (576,),
    ("face", "cnn"): (3, 48, 48),
    ("face", "sequence"): (288, 16),
}
CLIPS, BATCH, CLASSES, RATE, NORM = 256, 16, 6, 0.1, 1.0
SOURCES: dict[str, Callable[[], Randomness]] = {"seeded": lambda: SeededRandomness(1), "system": Randomness}


def main() -> None:
    """Rows for each model: with either noise, against training without privacy and against Opacus."""
    limit_threads(1)
    warnings.simplefilter("ignore")  # Opacus warns of its own non-cryptographic generator
    generator = np.random.default_rng(1)
    for (modality, name), shape in MODELS.items():
        epochs = 1 if name in ("cnn", "crnn", "sequence") else 2 if quick() else 6
        steps = epochs * CLIPS // BATCH
        features = generator.standard_normal((CLIPS, *shape)).astype(np.float32)
        labels = torch.from_numpy(generator.integers(0, CLASSES, CLIPS))
        examples = TrainingExamples(torch.from_numpy(features), labels, np.arange(CLIPS))
        claim = SampledGaussian(noise_multiplier=1.0, rate=BATCH / CLIPS, steps=steps)
        plan = TrainingPlan(claim, CLIPS, rounds=1, models=1, most_clips=1)
        study = Study().with_changes(train__batch_size=BATCH, train__local_epochs=epochs, train__learning_rate=RATE)
        network = emotion_model(modality, name).build(shape)

        def plain(network: Any = network, examples: Any = examples, study: Any = study) -> None:
            _plain_epochs(network, examples, study, SeededRandomness(1), lambda: None)

        def opacus(network: Any = network, examples: Any = examples, steps: int = steps) -> None:
            opacus_steps(network, examples, steps)

        for kind, source in SOURCES.items():

            def private(
                source: Any = source, network: Any = network, examples: Any = examples, plan: Any = plan
            ) -> None:
                private_steps(network, examples, plan, source(), max_grad_norm=NORM, learning_rate=RATE)

            what = f"DP-SGD step, {modality} {name}, {kind} noise"
            paired(f"dp-{modality}-{name}-{kind}", what, "without privacy", private, plain, target=1.5, better="lower")
            if kind == "seeded":
                paired(f"opacus-{modality}-{name}", what, "Opacus hooks", private, opacus, target=2, better="higher")


def opacus_steps(network: torch.nn.Module, examples: TrainingExamples, steps: int) -> None:
    """The same steps by Opacus."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    private = GradSampleModule(network)
    optimizer = DPOptimizer(
        torch.optim.SGD(network.parameters(), lr=RATE),
        noise_multiplier=1.0,
        max_grad_norm=NORM,
        expected_batch_size=BATCH,
        generator=torch.Generator().manual_seed(1),
    )
    chances = torch.Generator().manual_seed(1)
    for _ in range(steps):
        batch = torch.rand(len(examples.labels), generator=chances) < BATCH / CLIPS
        optimizer.zero_grad()
        cross_entropy(private(examples.features[batch]), examples.labels[batch]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    private.to_standard_module()


if __name__ == "__main__":
    main()
