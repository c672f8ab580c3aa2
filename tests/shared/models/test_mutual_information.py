from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor

from moretta.shared.models.mutual_information import ConditionalGaussian, club

CLIPS = 4_000


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def correlated(correlation: float) -> tuple[Tensor, Tensor]:
    x = torch.randn(CLIPS, 1)
    return x, correlation * x + math.sqrt(1 - correlation**2) * torch.randn(CLIPS, 1)


def learnt(x: Tensor, y: Tensor) -> ConditionalGaussian:
    model = ConditionalGaussian(x.shape[1], y.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        (-model.log_likelihood(x, y).mean()).backward()
        optimizer.step()
    return model


def bound(x: Tensor, y: Tensor) -> float:
    model = learnt(x, y)
    with torch.no_grad():
        return float(club(*model(x), y))


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6, 0.9])
def test_the_bound_of_correlated_gaussians_is_what_it_should_be_and_above_their_information(correlation: float) -> None:
    """With the true conditional the bound of these is r^2 / (1 - r^2); their information is -log(1 - r^2) / 2."""
    found = bound(*correlated(correlation))
    assert found == pytest.approx(correlation**2 / (1 - correlation**2), rel=0.1, abs=0.02)
    assert found >= -math.log(1 - correlation**2) / 2 - 0.01


@pytest.mark.parametrize("apart", [0.5, 1.5])
def test_the_bound_of_people_and_codes_is_above_their_information_by_quadrature(apart: float) -> None:
    """Three people whose codes are Gaussians around -a, 0 and a."""
    places = apart * np.array([-1.0, 0.0, 1.0])

    def density(y: float) -> float:
        return float(np.mean(norm.pdf(y, places)))

    entropy = quad(lambda y: -density(y) * math.log(density(y)), -9, 9)[0]
    information = entropy - 0.5 * math.log(2 * math.pi * math.e)
    person = torch.randint(3, (CLIPS,))
    codes = torch.tensor(places, dtype=torch.float32)[person, None] + torch.randn(CLIPS, 1)
    found = bound(torch.nn.functional.one_hot(person, 3).float(), codes)
    assert found >= information - 0.01
    assert found == pytest.approx(np.var(places), rel=0.15)  # the bound with the true conditional


def test_moments_give_what_all_pairs_give() -> None:
    mean, log_variance, y = torch.randn(3, 50, 2).unbind()

    def log_likelihood(i: int, j: int) -> Tensor:
        return -0.5 * ((y[j] - mean[i]).square() / log_variance[i].exp() + log_variance[i]).sum()

    group = torch.arange(50) % 3
    pairs = []
    for i in range(50):
        others = torch.stack([log_likelihood(i, int(j)) for j in torch.where(group == group[i])[0]])
        pairs.append(log_likelihood(i, i) - others.mean())
    torch.testing.assert_close(club(mean, log_variance, y, group), torch.stack(pairs).mean())


def test_what_a_group_tells_is_no_information_about_people_given_the_group() -> None:
    group = torch.randint(2, (CLIPS,))
    y = 3.0 * group[:, None] + torch.randn(CLIPS, 1)
    x = torch.nn.functional.one_hot(group, 2).float()  # everything that x tells, the group tells
    model = learnt(x, y)
    with torch.no_grad():
        assert float(club(*model(x), y)) > 1.0
        assert float(club(*model(x), y, given=group)) == pytest.approx(0.0, abs=0.01)
