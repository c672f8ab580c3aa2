"""Attackers that train a small network: convolutions (closed set), a TDNN and a residual network (open set)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from moretta.shared.audit.attackers.base import Attacker, Embedder, Identifier, NotConvergedError, attacker_row
from moretta.shared.audit.crossval import check_learned
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.core.array_types import Float32, Int64, UInt8
from moretta.shared.core.device import computing_device

if TYPE_CHECKING:
    import torch
    from torch import nn

BatchOf = Callable[[Int64, np.random.Generator], "torch.Tensor"]
"""Makes the network's input for some clips, with random crops and the like."""
Model = tuple[Callable[[ClipSet], Float32], Float32]
"""Maps clips to embeddings of length 1, and has the direction of each speaker it was trained on."""
TRAIN_FRAMES, TEST_FRAMES = 150, 300
FEWEST_FRAMES = 16
"""That the networks of sequences take: the code of a clip is one frame, which is repeated."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network is trained."""

    margin: float
    """In radians, on the angle to the clip's own speaker; 0 is plain softmax on cosines."""
    epochs: float = 15.0
    min_steps: int = 60
    batch: int = 32
    learning_rate: float = 3e-3
    scale: float = 20.0


@dataclass(frozen=True)
class Effort:
    """How hard a network tries to learn its clips."""

    longer: float = 1.0
    wider: int = 1
    varied: bool = True
    """Random crops, mirrored and moved frames, dropout."""

    def of(self, schedule: Schedule) -> Schedule:
        """The schedule, so much longer."""
        steps = round(self.longer * schedule.min_steps)
        return replace(schedule, epochs=self.longer * schedule.epochs, min_steps=steps)


EFFORTS = (Effort(), Effort(longer=4.0, varied=False), Effort(longer=6.0, wider=2, varied=False))
"""In turn, until the network has learned its clips. A release may hide people so well that nothing is left which still
holds of a crop or a mirrored frame. Only the failure of an attacker that has learned its clips is evidence."""


def train_with_margin(
    network: nn.Module, dimensions: int, batch_of: BatchOf, labels: Int64, *, schedule: Schedule, seed: int
) -> Float32:
    """Train `network` to put clips of one speaker at small angles (Deng et al., "ArcFace", CVPR 2019, equation 3).

    The margin grows from 0 over the first half: a small network given it at once does not start to learn.

    Returns:
        [speakers, dimensions], the direction of each speaker, of length 1.

    Raises:
        NotConvergedError: the loss left the finite numbers.
    """
    import torch
    from torch.nn.functional import cross_entropy, linear, normalize

    rng, device = np.random.default_rng(seed), next(network.parameters()).device
    # Linear in the number of clips, but for the smallest sets.
    steps = max(schedule.min_steps, round(schedule.epochs * len(labels) / schedule.batch))
    size = (int(labels.max()) + 1, dimensions)
    centres = torch.nn.Parameter(torch.from_numpy(rng.normal(size=size).astype(np.float32)).to(device))
    optimizer = torch.optim.AdamW([*network.parameters(), centres], lr=schedule.learning_rate, weight_decay=1e-3)
    pace = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.learning_rate, total_steps=steps)
    network.train()
    for step in range(steps):
        chosen = _balanced(labels, schedule.batch, rng)
        target = torch.from_numpy(labels[chosen]).to(device)
        cosine = linear(normalize(network(batch_of(chosen, rng).to(device))), normalize(centres))  # [batch, speakers]
        own = cosine.gather(1, target[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
        margin = schedule.margin * min(1.0, 2 * step / steps)
        harder = torch.cos((torch.acos(own) + margin).clamp(max=float(np.pi)))
        loss = cross_entropy(schedule.scale * cosine.scatter(1, target[:, None], harder), target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        pace.step()
    if not bool(torch.isfinite(loss)):
        raise NotConvergedError(f"a training loss of {float(loss)}", expected="a finite loss")
    network.eval()
    with torch.inference_mode():
        return np.asarray(normalize(centres.detach()).cpu().numpy())


def _balanced(labels: Int64, batch: int, rng: np.random.Generator) -> Int64:
    """As many clips of each speaker as of any other, on average."""
    speakers = rng.permutation(np.resize(rng.permutation(np.unique(labels)), batch))
    return np.array([rng.choice(np.flatnonzero(labels == speaker)) for speaker in speakers], np.int64)


def _trained_on_sequences(
    network: nn.Module, dimensions: int, schedule: Schedule, clips: ClipSet, seed: int, *, varied: bool
) -> Model:
    """On MFCC or codes: random crops in training, the middle of each clip afterwards."""
    import torch

    device = next(network.parameters()).device
    sequences = [np.asarray(clips.mfcc(i)) for i in range(len(clips))]
    together = np.concatenate(sequences)
    mean, scale = together.mean(0), together.std(0) + 1e-3
    longest = max(FEWEST_FRAMES, *(len(sequence) for sequence in sequences))
    train_frames, test_frames = min(TRAIN_FRAMES, longest), min(TEST_FRAMES, longest)

    def crop(sequence: Float32, rng: np.random.Generator) -> Float32:
        if not varied or len(sequence) <= train_frames:
            return _middle(sequence, train_frames)
        start = int(rng.integers(len(sequence) - train_frames + 1))
        return sequence[start : start + train_frames]

    def tensor(batch: list[Float32]) -> torch.Tensor:  # [clips, coefficients, frames]
        scaled = ((np.stack(batch) - mean) / scale).astype(np.float32)
        return torch.from_numpy(scaled.transpose(0, 2, 1).copy())

    def batch_of(chosen: Int64, rng: np.random.Generator) -> torch.Tensor:
        return tensor([crop(sequences[i], rng) for i in chosen])

    def embed(clips: ClipSet) -> Float32:
        parts = []
        with torch.inference_mode():
            for chosen in clips.batches(64):
                batch = tensor([_middle(clips.mfcc(i), test_frames) for i in chosen]).to(device)
                parts.append(torch.nn.functional.normalize(network(batch)).cpu().numpy())
        return np.concatenate(parts)

    centres = train_with_margin(network, dimensions, batch_of, clips.labels, schedule=schedule, seed=seed)
    shown = np.stack([_middle(s, test_frames) for s in sequences])
    check_learned(shown, clips.labels, (embed(clips) @ centres.T).argmax(1))
    return embed, centres


def _middle(sequence: Float32, frames: int) -> Float32:
    """The middle of a long sequence; a short one is repeated."""
    if len(sequence) < frames:
        return np.take(sequence, np.arange(frames) % len(sequence), axis=0)
    start = (len(sequence) - frames) // 2
    return sequence[start : start + frames]


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


ON_SEQUENCES = {"picture_cnn": "sequence_cnn", "resnet": "tdnn"}
"""What attacks codes of faces in place of a network of pictures."""


class _WithNetwork(Attacker):
    """Makes and trains the network of a row at the end of this file."""

    network: ClassVar[str]
    dimensions: ClassVar[int]
    margin: ClassVar[float]

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
        for effort in EFFORTS:
            torch.manual_seed(seed)  # initial weights and dropout draw from torch's generator
            dropout = attack_networks.DROPOUT if effort.varied else 0.0
            network = make(*sizes, wider=effort.wider, dropout=dropout).to(computing_device())
            schedule = effort.of(Schedule(self.margin))
            try:
                model = train(network, self.dimensions, schedule, clips, seed, varied=effort.varied)
            except NotConvergedError:
                if effort is EFFORTS[-1]:
                    raise
                continue
            self._embed, self._centres = model
            return


class NetworkIdentifier(_WithNetwork, Identifier):
    """Closed set: plain softmax over the enrolled speakers."""

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


attacker_row("voice-cnn", NetworkIdentifier, modality="voice", network="sequence_cnn", dimensions=64)
attacker_row("voice-tdnn", NetworkEmbedder, modality="voice", network="tdnn", dimensions=96)
attacker_row("face-cnn", NetworkIdentifier, modality="face", network="picture_cnn", dimensions=64)
attacker_row("face-resnet", NetworkEmbedder, modality="face", network="resnet", dimensions=64)
