"""The first training of an attacker's network, on public people: once for equal clips and code, for all audits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import nn

from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.margin_training import Schedule, Sequences, train_with_margin
from moretta.shared.core.array_types import Array, Float32, Int64
from moretta.shared.core.device import computing_device
from moretta.shared.core.workers import seeded
from moretta.shared.features.mfcc import MELS
from moretta.shared.models.network_arrays import arrays_of
from moretta.shared.models.sequence_net import Varying
from moretta.shared.pretrained.cache import trained_arrays
from moretta.shared.study.public_arrays import PUBLIC_SEED

SCHEDULE = Schedule(margin=0.2, epochs=0, min_steps=800, batch=64, scale=30.0)
"""Bounds the time, whatever the number of people: under three minutes of one core."""
FRAMES = 150
VARYING = Varying(shift=0.0, coefficient_mask=0.0, stretch=0.15)
TRACTS = (0.9, 1.1)
"""Each person counts as two more, whose bands lie so much lower and higher: few people become many."""
CHANNEL = 0.3
"""Deviation of what each crop's coefficients are moved by: one recording of a person is also one microphone."""


def trained_on_public(
    name: str, make: Callable[[], nn.Module], dimensions: int, public: ClipSet
) -> Mapping[str, Array]:
    """The arrays of a network that separates public people by their MFCC or codes.

    Another process that needs the same waits for it. Kept in the user's cache, see `trained_arrays`.

    Args:
        make: makes the network, whose weights are then drawn from a public seed.
        public: clips of public people, in the form of those that will be attacked.
    """
    sequences = [np.asarray(public.mfcc(i)) for i in range(len(public))]
    digest = hashlib.sha256(np.concatenate(sequences).tobytes())
    digest.update(public.labels.tobytes() + np.array([len(s) for s in sequences]).tobytes())
    choices = f"{digest.hexdigest()} {SCHEDULE} {VARYING} {TRACTS} {computing_device().type}"
    tracts = () if public.holds_codes else TRACTS
    return trained_arrays(
        "attackers", name, choices, partial(_train, make, dimensions, sequences, public.labels, tracts)
    )


def _train(
    make: Callable[[], nn.Module], dimensions: int, sequences: list[Float32], labels: Int64, tracts: tuple[float, ...]
) -> Mapping[str, Array]:
    own = Sequences.scaled(sequences, FRAMES)
    people = int(labels.max()) + 1
    shown, of = list(sequences), [labels]
    for number, factor in enumerate(tracts, start=1):
        move = of_other_tract(sequences[0].shape[1], factor)
        shown += [sequence @ move.T for sequence in sequences]
        of.append(labels + number * people)
    everybody = Sequences(shown, own.mean, own.scale, own.frames)

    def batch_of(chosen: Int64, rng: np.random.Generator) -> torch.Tensor:
        crops = VARYING(everybody.tensor(everybody.random_crops(chosen, rng)).numpy(), rng)
        moved = crops + rng.normal(0, CHANNEL, (*crops.shape[:2], 1)).astype(np.float32)
        return torch.from_numpy(moved)

    with seeded(PUBLIC_SEED):  # initial weights and dropout draw from torch's generator
        network = make().to(computing_device())
        train_with_margin(network, dimensions, batch_of, np.concatenate(of), schedule=SCHEDULE, seed=PUBLIC_SEED)
    return arrays_of(network.cpu(), "")


def of_other_tract(coefficients: int, factor: float) -> Float32:
    """[coefficients, coefficients]: multiplies MFCC to those of a voice whose mel bands lie elsewhere.

    Vocal tract length perturbation (Jaitly and Hinton, ICML workshop on deep learning for audio, 2013). Bands are moved
    along their own axis, which is linear in MFCC.
    """
    from torchaudio.functional import create_dct

    to_bands = create_dct(coefficients, MELS, "ortho").double().numpy()  # [bands, coefficients]
    rows = np.arange(MELS)
    places = np.clip(rows / factor, 0, MELS - 1)
    below = np.minimum(places.astype(int), MELS - 2)
    move = np.zeros((MELS, MELS))
    move[rows, below] = 1 - (places - below)
    move[rows, below + 1] = places - below
    return np.asarray(to_bands.T @ move @ to_bands, np.float32)
