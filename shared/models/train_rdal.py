"""Training of RDAL: an adversary that is replaced, every few epochs, by a verifier that was trained afresh.

Luong et al. 2023 (arXiv 2308.04960). An encoder can beat the one adversary that it is trained against and hide nothing
from others. So a verifier is trained to the end on codes as they are now; its weights become the adversary's. Training
stops where fresh verifiers find least: not where the adversary in the loop does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from moretta.shared.core.array_types import Float32, Int64
from moretta.shared.core.workers import seeded
from moretta.shared.models.adversaries import (
    Labelled,
    balance,
    batches,
    cross_entropies,
    recall,
    strength_at,
    train_fresh,
)
from moretta.shared.models.rdal import CodeNet, RdalNet, verifier

WARM_UP = 0.2
"""Share of the training before the reversal begins."""
_STEEPNESS = 20.0
"""The reversal comes to 99 in 100 of its strength after another fifth of the training."""
_FULL, _MOST_LOST, _KEPT = 0.99, 2.0, 0.9
_RATE, READER_RATE, _LARGEST_STEP = 1e-3, 3e-3, 1.0
_CHECKED_BATCH = 128

Labels = Int64


@dataclass(frozen=True, slots=True, kw_only=True)
class RdalTask:
    """How strongly an adversary is trained against, and how often it is replaced."""

    strength: float
    """Strength of the reversal at its end; 0 reverses nothing."""
    epochs: int
    """Most epochs of training."""
    replaced_every: int = 5
    """Epochs, from the end of the warm-up on; 0 never replaces the adversary: plain gradient reversal."""
    patience: int = 4
    """Verifiers in a row that may find no less than the best before training stops."""
    batch: int = 64
    """Clips in a step: 32 pairs, as published. A corpus of few hundred clips needs smaller ones."""


class Examples(NamedTuple):
    """Clips with both labels."""

    places: Tensor
    """[n, 64, t], mel bands in public standard deviations."""
    kept: Labels
    """Labels of the kept attribute, [n], from 0 on."""
    hidden: Labels
    """Labels of the hidden attribute, [n], from 0 on."""


class Check(NamedTuple):
    """Figures of a fresh verifier after an epoch."""

    epoch: int
    loss: float
    """See `Fresh`."""
    recall: float
    kept: float
    """Balanced accuracy of the classifier then."""


class Fitted(NamedTuple):
    """A network, and how it was chosen."""

    network: RdalNet
    epoch: int
    """Epoch after which its weights were taken."""
    checks: tuple[Check, ...] = ()
    """Figures of all verifiers."""


def fitted(known: Examples, checked: Examples, task: RdalTask, *, seed: int) -> Fitted:
    """Train on known examples; verifiers are trained on them too, and tested on the checked ones.

    Both losses of a row count alike. Each check has a network, and the one with the largest loss is chosen. Checks
    count where the reversal is at its full strength, and the classifier reads at least nine tenths of its best figure:
    an empty code would hide best. If there is none, the check that keeps most is chosen; without checks, the last
    network.
    """
    with seeded(seed):
        network = RdalNet(*(1 + int(max(a.max(), b.max())) for a, b in zip(known[1:], checked[1:], strict=True)))
        trunk = [*network.encoder.parameters(), *network.classifier.parameters()]
        groups: list[dict[str, Any]] = [
            {"params": trunk},
            {"params": network.adversary.parameters(), "lr": READER_RATE},
        ]
        optimizer = torch.optim.Adam(groups, lr=_RATE, fused=True)
        checks: list[Check] = []
        best, chosen, state = (False, -1.0), task.epochs, network.state_dict()
        warm_up, most_kept = round(WARM_UP * task.epochs), 0.0
        for epoch in range(task.epochs):
            network.strength = strength_at(
                epoch / task.epochs, most=task.strength, warm_up=WARM_UP, steepness=_STEEPNESS
            )
            _train_once(network, known, optimizer, task.batch)
            past = epoch + 1 - warm_up
            if not (task.strength and task.replaced_every and past > 0 and past % task.replaced_every == 0):
                continue
            codes, others = (Labelled(codes_of(network.encoder, one.places), one.hidden) for one in (known, checked))
            fresh = train_fresh(lambda: verifier(network.classes[1]), codes, others, seed=seed + epoch)
            checks.append(Check(epoch + 1, fresh.loss, fresh.recall, in_loop(network, checked)[0]))
            most_kept = max(most_kept, checks[-1].kept)
            if network.strength >= _FULL * task.strength:
                is_kept = checks[-1].kept >= _KEPT * most_kept
                if (rank := (is_kept, fresh.loss if is_kept else checks[-1].kept)) > best:
                    best, chosen = rank, epoch + 1
                    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
                elif epoch + 1 - chosen >= task.patience * task.replaced_every:
                    break
            network.adversary.replace(fresh)
        network.load_state_dict(state)
        return Fitted(network.eval(), chosen, tuple(checks))


def _train_once(network: RdalNet, known: Examples, optimizer: torch.optim.Optimizer, size: int) -> None:
    """One pass. The adversary's gradients are cut to +- 1, as published."""
    kept, hidden = torch.from_numpy(known.kept), torch.from_numpy(known.hidden)
    fair = [balance(label, count) for label, count in zip(known[1:], network.classes, strict=True)]
    network.train()
    for batch in batches(len(kept), size):
        optimizer.zero_grad()
        code = network.encoder(known.places[batch])
        of_kept, of_hidden = network.classifier(code), network.adversary(code, _gain(network, code, hidden[batch]))
        lost = cross_entropies(of_kept, kept[batch], fair[0]) + cross_entropies(of_hidden, hidden[batch], fair[1])
        lost.mean().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_value_(network.adversary.parameters(), _LARGEST_STEP)
        optimizer.step()


@torch.no_grad()
def _gain(network: RdalNet, code: Tensor, hidden: Tensor) -> Tensor:
    """[n, 1], the strength of the reversal; 0 for rows that the adversary already gets worse than twice a guess.

    After a replacement an encoder could otherwise gain without end from one adversary, and lose what it is to keep.
    """
    lost = cross_entropies(network.adversary.network(code), hidden)
    gain: Tensor = network.strength * (lost < _MOST_LOST * np.log(network.classes[1])).float()
    return gain[:, None]


@torch.no_grad()
def codes_of(encoder: CodeNet, places: Tensor) -> Float32:
    """Codes [n, 64] of mel bands [n, 64, t], without dropout."""
    encoder.eval()
    return np.asarray(torch.cat([encoder(part) for part in torch.split(places, _CHECKED_BATCH)]))


@torch.no_grad()
def in_loop(network: RdalNet, examples: Examples) -> tuple[float, float, float]:
    """Balanced accuracies of the classifier and of the adversary, and the adversary's loss, classes counting alike."""
    network.eval()
    found = [network(part) for part in torch.split(examples.places, _CHECKED_BATCH)]
    kept, hidden = (torch.cat(parts) for parts in zip(*found, strict=True))
    label = torch.from_numpy(examples.hidden)
    loss = cross_entropies(hidden, label, balance(examples.hidden, hidden.shape[1])).mean()
    read = recall(examples.kept, kept.argmax(dim=1).numpy()), recall(examples.hidden, hidden.argmax(dim=1).numpy())
    return *read, float(loss)
