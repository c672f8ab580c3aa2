"""Twelve dense networks that infer a class of people they never met, chosen on the people they were trained on.

Jaiswal and Provost, "Privacy Enhanced Multimodal Neural Representations for Emotion Recognition", AAAI 2020, attack a
representation by twelve networks. Their list could not be had. Ours is depth 1, 2, 3 times width 16, 32, 64, 128.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from moretta.shared.audit.crossval import stratified_speaker_folds
from moretta.shared.core.array_types import Array, Float32, Float64, Int64, Integers
from moretta.shared.core.device import computing_device

if TYPE_CHECKING:
    import torch

SHAPES = tuple((depth, width) for depth in (1, 2, 3) for width in (16, 32, 64, 128))
"""Hidden layers and units of each."""
NAMES = tuple(f"network {depth} x {width}" for depth, width in SHAPES)
CHOSEN = "best of twelve networks"
"""Name of the network with the least loss on people held out of training, chosen without the attacked people."""
PARTS = 3
"""Parts of the training people; each copy of a network is trained on all but one, and stopped by that one."""
LEAST_PEOPLE = 2
"""Training people of a class: one to train on, and one to choose by."""
DIMENSIONS = 256
"""Principal components of the training clips that networks see, at most."""
STEPS, BATCH, LOOK_EVERY = 80, 64, 10
"""Gradient steps, clips of each, and after how many steps the held-out loss is looked at."""
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1.0


class Inferred(NamedTuple):
    """Predictions of the twelve networks for unknown clips."""

    probability: Float64
    """[n, 12, classes], in the order of `NAMES`."""
    best: int
    """Index of the network that was chosen on the training people."""


def infer_by_twelve(known: Array, label: Int64, speaker: Integers, unknown: Array, *, seed: int) -> Inferred:
    """Train all twelve on `known` [m, d] with classes `label` [m] from 0 on, and apply them to `unknown` [n, d].

    Three copies of each are trained, each without another third of the people. Those stop it where their loss is least.
    A network's output is the mean over its copies. All copies are trained in one loop.

    Raises:
        ValueError: a class with one person, who cannot be both trained on and held out.
    """
    import torch
    from torch.nn.functional import cross_entropy

    people, first = np.unique(speaker, return_index=True)
    fewest = int(np.bincount(label[first]).min())
    if fewest < LEAST_PEOPLE:
        raise ValueError(f"a class has {fewest} of {len(people)} people: two are needed, to train and to choose by")
    held_out = [test for _, test in stratified_speaker_folds(label, speaker, min(PARTS, fewest), seed)]
    device, classes, rng = computing_device(), int(label.max()) + 1, np.random.default_rng(seed)
    x, asked = (torch.from_numpy(part).to(device) for part in _components(known, unknown))
    truth = torch.from_numpy(label).to(device)
    unseen = torch.from_numpy(_weights(held_out, label)).to(device)  # [copies, m]
    networks = _networks(x.shape[1], classes, copies=len(held_out), seed=seed, device=device)
    parameters = [weight for network in networks for layer in network for weight in layer]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=device.type == "cpu")
    least = torch.full((len(networks), len(held_out)), torch.inf, device=device)
    outputs = torch.zeros(len(networks), len(held_out), len(asked), classes, device=device)
    for step in range(1, STEPS + 1):
        rows = torch.from_numpy(_even_draw(held_out, label, rng)).to(device)  # [copies, BATCH]
        wanted = truth[rows].flatten()
        losses = [cross_entropy(_logits(network, x[rows]).flatten(0, 1), wanted) for network in networks]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % LOOK_EVERY == 0:
            with torch.no_grad():
                for place, network in enumerate(networks):
                    own = torch.log_softmax(_logits(network, x.expand(len(held_out), -1, -1)), 2)
                    loss = -(own[:, torch.arange(len(x), device=device), truth] * unseen).sum(1)  # [copies]
                    better = loss < least[place]
                    least[place] = torch.minimum(loss, least[place])
                    if better.any():
                        now = torch.softmax(_logits(network, asked.expand(len(held_out), -1, -1)), 2)
                        outputs[place] = torch.where(better[:, None, None], now, outputs[place])
    mean = outputs.mean(1).transpose(0, 1)  # [n, 12, classes]
    return Inferred(mean.double().cpu().numpy(), int(least.mean(1).argmin()))


def _weights(held_out: Sequence[Int64], label: Int64) -> Float32:
    """Weights [copies, m] of the clips that a copy did not see, 0 for the others: every class weighs the same."""
    weights = np.zeros((len(held_out), len(label)), np.float32)
    for copy, rows in enumerate(held_out):
        count = np.bincount(label[rows])
        weights[copy, rows] = 1 / count[label[rows]] / (count > 0).sum()
    return weights


def _even_draw(held_out: Sequence[Int64], label: Int64, rng: np.random.Generator) -> Int64:
    """Rows [copies, BATCH] that a copy is trained on next: of every class as many, none of those held out of it."""
    drawn = []
    for rows in held_out:
        seen = np.setdiff1d(np.arange(len(label)), rows)
        wanted = np.resize(np.unique(label[seen]), BATCH)
        by_class = [rng.choice(seen[label[seen] == one], int((wanted == one).sum())) for one in np.unique(wanted)]
        drawn.append(np.concatenate(by_class))
    return np.stack(drawn)


def _components(known: Array, unknown: Array) -> tuple[Float32, Float32]:
    """Principal components of standardized clips, of mean variance 1; mean, scale and axes are those of `known`."""
    exact = np.asarray(known, np.float64)
    centre, scale = exact.mean(0), exact.std(0)
    scale[scale == 0] = 1.0
    standard = (exact - centre) / scale
    _, deviation, directions = np.linalg.svd(standard, full_matrices=False)
    kept = min(DIMENSIONS, max(1, int((deviation > 1e-6 * max(deviation[0], 1e-12)).sum())))
    spread = max(float(np.sqrt((deviation[:kept] ** 2).mean() / len(exact))), 1e-12)
    turn = directions[:kept].T / spread
    return (standard @ turn).astype(np.float32), ((unknown - centre) / scale @ turn).astype(np.float32)


Layers = list[tuple["torch.Tensor", "torch.Tensor"]]
"""Weights [copies, inputs, outputs] and biases [copies, 1, outputs] of each layer."""


def _networks(inputs: int, classes: int, *, copies: int, seed: int, device: torch.device) -> list[Layers]:
    """All twelve, with weights by He et al., ICCV 2015. A copy's weights do not depend on the other networks."""
    import torch

    made: list[Layers] = []
    for number, (depth, width) in enumerate(SHAPES):
        random = torch.Generator().manual_seed(seed * len(SHAPES) + number)
        sizes = [inputs, *[width] * depth, classes]
        layers: Layers = []
        for before, after in pairwise(sizes):
            weight = torch.randn(copies, before, after, generator=random) * (2 / before) ** 0.5
            bias = torch.zeros(copies, 1, after)
            layers.append((weight.to(device).requires_grad_(), bias.to(device).requires_grad_()))
        made.append(layers)
    return made


def _logits(layers: Layers, x: torch.Tensor) -> torch.Tensor:
    """[copies, n, classes] for clips [copies, n, inputs]."""
    import torch

    hidden = x
    for weight, bias in layers[:-1]:
        hidden = torch.relu(torch.baddbmm(bias, hidden, weight))
    weight, bias = layers[-1]
    return torch.baddbmm(bias, hidden, weight)
