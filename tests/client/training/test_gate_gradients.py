"""What DP-SGD cuts is each clip's own gradient, in the gate's own layers too: Opacus has no rule for temperatures."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from moretta.shared.models.fusion_gate import Gate

CLASSES = 6
INPUTS = 2 * CLASSES + 2


def _clips() -> tuple[torch.Tensor, torch.Tensor]:
    """Ten clips, of which some lack a modality."""
    rng = np.random.default_rng(5)
    rows = np.zeros((10, INPUTS), np.float32)
    rows[:, : 2 * CLASSES] = np.log(rng.dirichlet(np.ones(CLASSES), (10, 2)).reshape(10, -1))
    rows[:, 2 * CLASSES :] = [[1, 1]] * 6 + [[1, 0]] * 2 + [[0, 1]] * 2
    return torch.from_numpy(rows), torch.from_numpy(rng.integers(0, CLASSES, 10))


def test_opacus_has_the_gradient_of_every_clip_by_itself() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus import GradSampleModule

    rows, labels = _clips()
    torch.manual_seed(3)
    gate = Gate()
    torch.nn.init.normal_(gate.weigh.weight)
    state = {name: tensor.clone() for name, tensor in gate.state_dict().items()}
    private = GradSampleModule(gate)
    cross_entropy(private(rows.requires_grad_()), labels).backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad_sample for name, p in gate.named_parameters()}  # type: ignore[attr-defined]
    for clip in range(len(labels)):
        alone = Gate()
        alone.load_state_dict(state)
        cross_entropy(alone(rows[clip : clip + 1].detach()), labels[clip : clip + 1]).backward()  # type: ignore[no-untyped-call]
        for name, parameter in alone.named_parameters():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            assert torch.allclose(found[name][clip], expected, atol=1e-5), (name, clip)
