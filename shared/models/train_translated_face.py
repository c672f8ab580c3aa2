"""Training of `translated_face` on drawn heads, end to end, against a conditional discriminator of patches each.

The truth is known: the same head, in the same pose and light, shows the other emotion. Landmarks are learned by cross
entropy. By L1 they are not learned at all: most of their picture is black, so that a black one has the least error, and
whoever makes black pictures passes no category on.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from moretta.shared.core.workers import seeded
from moretta.shared.models.optimizers import Descent
from moretta.shared.models.picture_gan import Adversary, PatchDiscriminator
from moretta.shared.models.translated_face import (
    LABELS,
    PARTS,
    SIDE,
    WIDTH,
    Notify,
    Translated,
    TranslationTask,
    Translator,
    as_tensor,
    one_hot,
)

_BATCH, _RATE, _JUDGE_RATE = 4, 1e-3, 2e-4
_PIXELS, _POINTS, _HINGE, _FEATURES = 10.0, 3.0, 0.05, 0.5
_CHANGED, _LEAST_CHANGE, _NEAR = 8.0, 0.1, 7
"""How much more a pixel counts where the expression changes the face: this much at a mean change of this much, in [0,
1], over a square of so many pixels."""


def train_translator(drawn: Translated, task: TranslationTask, *, seed: int, notify: Notify) -> Translator:
    """Train both networks: the losses of faces reach the network of landmarks, too."""
    with seeded(seed):
        translator = Translator(task.landmarks)
        descend = Descent(translator.parameters(), task.steps, _RATE)
        of_faces, of_points = (
            Adversary(PatchDiscriminator(channels + 3 + LABELS, WIDTH), task.steps, _JUDGE_RATE)
            for channels in (3, len(PARTS))
        )
        for step in range(task.steps):
            row, before, after = (torch.randint(most, (_BATCH,)) for most in (len(drawn.pictures), LABELS, LABELS))
            source, wanted = (as_tensor(drawn.pictures[row.numpy(), which.numpy()]) for which in (before, after))
            category = one_hot(after)
            given = torch.cat([source, category[:, :, None, None].expand(-1, -1, SIDE, SIDE)], dim=1)
            logits, made = translator(source, category)
            pixels = (changed(source, wanted) * (made - wanted).abs()).mean()
            pairs = [(of_faces, torch.cat([given, wanted], dim=1), torch.cat([given, made], dim=1))]
            loss, points = _PIXELS * pixels, torch.zeros(())
            if logits is not None:
                truth = torch.from_numpy(drawn.landmarks[row.numpy(), after.numpy()]).float() / 255
                points = functional.binary_cross_entropy_with_logits(logits, truth)
                dots = torch.sigmoid(logits)
                pairs.append((of_points, torch.cat([given, truth], dim=1), torch.cat([given, dots], dim=1)))
                loss = loss + _POINTS * points
            for adversary, real, false in pairs:
                fooled = adversary.losses(real, false)
                loss = loss + _HINGE * fooled.hinge + _FEATURES * fooled.features
            descend(loss)
            judged = [adversary.learn(real, false) for adversary, real, false in pairs]
            if (step + 1) % max(1, task.steps // 10) == 0:
                found = f"pixels {float(pixels.detach()):.4f}, landmarks {float(points.detach()):.4f}"
                notify(f"faces, step {step + 1} of {task.steps}: {found}, discriminator {judged[0]:.2f}")
    return translator.eval()


def changed(source: Tensor, wanted: Tensor) -> Tensor:
    """How much pixels count, [n, 1, 64, 64]: 1, and up to 9 in mouth, brows and eyes where the faces differ.

    All that stands still would have nearly all of the loss otherwise.
    """
    apart = (source - wanted).abs().mean(dim=1, keepdim=True)
    near = functional.avg_pool2d(apart, _NEAR, stride=1, padding=_NEAR // 2)
    return 1 + _CHANGED * (near / _LEAST_CHANGE).clamp(max=1)
