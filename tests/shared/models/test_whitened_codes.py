from __future__ import annotations

import numpy as np
import torch

from moretta.shared.features.speaker_code import CODE_LIMIT
from moretta.shared.features.speaker_normalization import SpeakerWhitening
from moretta.shared.models.speaker_net import inverse_root, whitened_codes


def test_codes_in_training_are_those_that_are_released_with_equal_weights() -> None:
    generator = np.random.default_rng(0)
    people = [generator.normal(size=(clips, 4)) @ generator.normal(size=(4, 4)) + 5 for clips in (3, 9, 20)]
    expected = np.concatenate(
        [np.clip(SpeakerWhitening.of(own, np.ones(len(own)))(own), -CODE_LIMIT, CODE_LIMIT) for own in people]
    )
    found = whitened_codes(torch.tensor(np.concatenate(people)), [3, 9, 20])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_the_gradient_of_the_inverse_root_is_right_even_where_eigenvalues_are_equal() -> None:
    wide = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    apart = wide @ wide.mT + torch.eye(3, dtype=torch.float64)
    equal = 2 * torch.eye(3, dtype=torch.float64)[None]
    for matrices in (apart, equal):
        matrices.requires_grad_(True)
        assert torch.autograd.gradcheck(lambda m: inverse_root((m + m.mT) / 2), (matrices,))


def test_values_that_never_change_are_released_as_zero_and_break_no_gradient() -> None:
    codes = torch.ones(6, 3, requires_grad=True)
    reported = whitened_codes(codes, [3, 3])
    reported.square().sum().backward()  # type: ignore[no-untyped-call]
    assert float(reported.detach().abs().max()) == 0.0
    assert codes.grad is not None and bool(torch.isfinite(codes.grad).all())
