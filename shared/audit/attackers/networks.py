"""Attackers that train a small network: ECAPA or convolutions (closed set), a TDNN or a residual network (open set)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from moretta.shared.audit.attackers.base import Attacker, Embedder, Identifier, NotConvergedError, attacker_row
from moretta.shared.audit.crossval import check_learned
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.margin_training import FEWEST_FRAMES, Schedule, Sequences, middle, train_with_margin
from moretta.shared.core.array_types import Array, Float32, Int64, UInt8
from moretta.shared.core.device import computing_device

if TYPE_CHECKING:
    import torch
    from torch import nn

Model = tuple[Callable[[ClipSet], Float32], Float32]
"""Maps clips to embeddings of length 1, and has the direction of each speaker it was trained on."""
TRAIN_FRAMES, TEST_FRAMES = 150, 300
NOISE = 0.2
"""Noise on every value, in standard deviations: without it, a network learns few clips by heart."""


@dataclass(frozen=True)
class Effort:
    """How hard a network tries to learn its clips."""

    longer: float = 1.0
    wider: int = 1
    varied: bool = True
    """Random crops, mirrored and moved frames, masks, noise, dropout."""

    def of(self, schedule: Schedule) -> Schedule:
        """The schedule, so much longer."""
        steps = round(self.longer * schedule.min_steps)
        return replace(schedule, epochs=self.longer * schedule.epochs, min_steps=steps)


EFFORTS = (Effort(), Effort(longer=4.0, varied=False), Effort(longer=6.0, wider=2, varied=False))
"""In turn, until the network has learned its clips. A release may hide people so well that nothing is left which still
holds of a crop or a mirrored frame. Only the failure of an attacker that has learned its clips is evidence."""


def _trained_on_sequences(
    network: nn.Module, dimensions: int, schedule: Schedule, clips: ClipSet, seed: int, *, varied: bool
) -> Model:
    """A model trained on MFCC or codes: random crops in training, the middle of each clip afterwards."""
    import torch

    from moretta.shared.models.sequence_net import Varying

    device, varying = next(network.parameters()).device, Varying(shift=0.0, coefficient_mask=0.0, stretch=0.15)
    shown = Sequences.scaled([np.asarray(clips.mfcc(i)) for i in range(len(clips))], TRAIN_FRAMES)
    test_frames = min(TEST_FRAMES, max(FEWEST_FRAMES, *map(len, shown.of)))

    def batch_of(chosen: Int64, rng: np.random.Generator) -> torch.Tensor:
        if not varied:
            return shown.tensor([middle(shown.of[i], shown.frames) for i in chosen])
        crops = varying(shown.tensor(shown.random_crops(chosen, rng)).numpy(), rng)
        return torch.from_numpy(crops + rng.normal(0, NOISE, crops.shape).astype(np.float32))

    def embed(clips: ClipSet) -> Float32:
        parts = []
        with torch.inference_mode():
            for chosen in clips.batches(64):
                batch = shown.tensor([middle(clips.mfcc(i), test_frames) for i in chosen]).to(device)
                parts.append(torch.nn.functional.normalize(network(batch)).cpu().numpy())
        return np.concatenate(parts)

    centres = train_with_margin(network, dimensions, batch_of, clips.labels, schedule=schedule, seed=seed)
    tested = np.stack([middle(sequence, test_frames) for sequence in shown.of])
    check_learned(tested, clips.labels, (embed(clips) @ centres.T).argmax(1))
    return embed, centres


def _trained_on_pictures(
    network: nn.Module, dimensions: int, schedule: Schedule, clips: ClipSet, seed: int, *, varied: bool
) -> Model:
    """On few small frames of a clip: a clip is the mean direction of its frames.

    It is trained on one frame of each clip at a time, mirrored and moved at random where `varied`.
    """
    import torch
    from torch.nn.functional import normalize

    device = next(network.parameters()).device

    def tensor(frames: UInt8) -> torch.Tensor:
        scaled = frames.astype(np.float32) / 127.5 - 1  # [n, 48, 48, 3], in [-1, 1]
        return torch.from_numpy(scaled.transpose(0, 3, 1, 2).copy())

    def embed(clips: ClipSet) -> Float32:
        rows = []
        with torch.inference_mode():
            for chosen in clips.batches(32):
                frames = [clips.thumbnails(i) for i in chosen]
                vectors = normalize(network(tensor(np.concatenate(frames)).to(device))).cpu()
                for part in torch.split(vectors, [len(f) for f in frames]):
                    rows.append(normalize(part.mean(0), dim=0).numpy())
        return np.stack(rows)

    def batch_of(chosen: Int64, rng: np.random.Generator) -> torch.Tensor:
        return tensor(np.stack([_frame(clips.thumbnails(int(i)), rng, varied=varied) for i in chosen]))

    centres = train_with_margin(network, dimensions, batch_of, clips.labels, schedule=schedule, seed=seed)
    shown = np.stack([frames[len(frames) // 2] for frames in map(clips.thumbnails, range(len(clips)))])
    check_learned(shown, clips.labels, (embed(clips) @ centres.T).argmax(1))
    return embed, centres


def _frame(frames: UInt8, rng: np.random.Generator, *, varied: bool, shift: int = 3) -> UInt8:
    """One frame at random; `varied`: perhaps mirrored, moved by up to `shift` pixels."""
    frame = np.asarray(frames[int(rng.integers(len(frames)))])
    if not varied:
        return frame
    if rng.random() < 0.5:
        frame = frame[:, ::-1]
    down, right = rng.integers(0, 2 * shift + 1, 2)
    padded = np.pad(frame, ((shift, shift), (shift, shift), (0, 0)), mode="edge")
    return padded[down : down + frame.shape[0], right : right + frame.shape[1]]


ON_SEQUENCES = {"picture_cnn": "ecapa", "resnet": "tdnn"}
"""Network of pictures -> the network that attacks codes of faces in its place."""


class _WithNetwork(Attacker):
    """Makes and trains the network of a row at the end of this file."""

    network: ClassVar[str]
    dimensions: ClassVar[int]
    margin: ClassVar[float]
    epochs: ClassVar[float] = Schedule.epochs
    uses_public: ClassVar[bool] = False
    """Whether it learns from public people first, where there are any."""

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Train to separate the speakers, harder each time that it fails.

        Raises:
            NotConvergedError: no effort was enough.
        """
        import torch

        from moretta.shared.audit import attack_networks

        self.speakers = clips.speakers
        seen = clips.holds_pictures
        sizes = (self.dimensions,) if seen else (clips.mfcc(0).shape[1], self.dimensions)
        train = _trained_on_pictures if seen else _trained_on_sequences
        make = getattr(attack_networks, self.network if seen else ON_SEQUENCES.get(self.network, self.network))
        learned: Mapping[str, Array] = {}
        if self.uses_public and self.public is not None:
            from moretta.shared.audit.pretraining import trained_on_public

            learned = trained_on_public(self.name, partial(make, *sizes), self.dimensions, self.public)
        for effort in EFFORTS:
            torch.manual_seed(seed)  # initial weights and dropout draw from torch's generator
            dropout = attack_networks.DROPOUT if effort.varied else 0.0
            network = make(*sizes, wider=effort.wider, dropout=dropout).to(computing_device())
            if learned and effort.wider == 1:
                network.load_state_dict({name: torch.tensor(array) for name, array in learned.items()})
            schedule = effort.of(Schedule(self.margin, self.epochs))
            try:
                model = train(network, self.dimensions, schedule, clips, seed, varied=effort.varied)
            except NotConvergedError:
                if effort is EFFORTS[-1]:
                    raise
                continue
            self._embed, self._centres = model
            return


class NetworkIdentifier(_WithNetwork, Identifier):
    """Closed set: softmax over the enrolled speakers, plain where the margin is 0."""

    margin: ClassVar[float] = 0.0
    cost: ClassVar[int] = 6

    def scores(self, clips: ClipSet) -> Float32:
        """Logits, [clips, speakers]."""
        return (Schedule.scale * (self._embed(clips) @ self._centres.T)).astype(np.float32)


class NetworkEmbedder(_WithNetwork, Embedder):
    """Open set: trained on other speakers' clips, with an angular margin."""

    margin: ClassVar[float] = 0.2
    cost: ClassVar[int] = 10

    def embed(self, clips: ClipSet) -> Float32:
        """[clips, dimensions], each of length 1."""
        return self._embed(clips)


attacker_row(
    "voice-ecapa",
    NetworkIdentifier,
    modality="voice",
    network="ecapa",
    dimensions=128,
    margin=0.2,
    epochs=28.0,
    uses_public=True,
    cost=20,
)
attacker_row("voice-tdnn", NetworkEmbedder, modality="voice", network="tdnn", dimensions=96)
attacker_row("face-cnn", NetworkIdentifier, modality="face", network="picture_cnn", dimensions=64)
attacker_row("face-resnet", NetworkEmbedder, modality="face", network="resnet", dimensions=64)
