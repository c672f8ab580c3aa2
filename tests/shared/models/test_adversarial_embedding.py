"""A toy of embeddings with planted people, every known way to fake the result, and public people that are too few."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from planted import planted_voices
from torch import nn

from moretta.shared.core.errors import StudyError
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.models import adversarial_embedding, train_embedding
from moretta.shared.models.adversarial_embedding import (
    CENTER,
    DEVIATION,
    PREFIX,
    AdversarialEmbedding,
    EmbeddingFigures,
    EmbeddingNet,
    divided,
)
from moretta.shared.models.adversaries import Adversary, reverse
from moretta.shared.models.held_out_people import Split, people_without_part
from moretta.shared.models.train_embedding import EmbeddingTask, fitted, in_loop, measured_embedding

PLAIN, HIDING = EmbeddingTask(strength=0.0, epochs=40), EmbeddingTask(strength=3.0, epochs=120)


@pytest.fixture(scope="module")
def rows() -> PublicRows:
    return planted_voices()


@pytest.fixture(scope="module")
def plain(rows: PublicRows) -> AdversarialEmbedding:
    return train_embedding.train_embedding(rows, PLAIN, seed=1)


@pytest.fixture(scope="module")
def hiding(rows: PublicRows) -> AdversarialEmbedding:
    return train_embedding.train_embedding(rows, HIDING, seed=1)


def test_heads_alone_read_everybody_and_the_embedding_is_reconstructed(plain: AdversarialEmbedding) -> None:
    found = plain.figures
    assert min(found.person.able, found.sex.able) >= 0.9
    assert found.person.in_loop == found.person.able
    assert found.cosine >= 0.9 > found.constant_cosine
    assert abs(found.distinctiveness_gain) <= 3
    assert found.faults() == ()


def test_reversal_beats_its_own_heads_and_fresh_readers_are_reported_beside_them(hiding: AdversarialEmbedding) -> None:
    found = hiding.figures
    assert found.person.able >= 0.9 and found.person.in_loop <= 0.8
    assert found.person.loss <= 2 * np.log(found.person.classes) and found.sex.loss <= 2 * np.log(2)
    assert found.person.fresh_linear >= found.person.in_loop + 0.1  # hidden from its own head, and from nobody else
    assert {"speaker", "sex", "cosine", "distinctiveness_gain"} <= found.stated().keys()


class SoftmaxReversed(nn.Module):
    """The known fake: the reversal stands behind the head's softmax, so head and encoder both maximize its loss."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, code: torch.Tensor, strength: float) -> torch.Tensor:
        found = torch.softmax(self.network(code), dim=1)
        return torch.log((reverse(found, strength) if strength else found).clamp_min(1e-9))


def test_a_reversal_behind_the_softmax_is_a_fault(rows: PublicRows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adversarial_embedding, "Adversary", SoftmaxReversed)
    split = Split.of(rows, seed=1)
    found = fitted(split.known, EmbeddingTask(strength=3.0, epochs=40), seed=1)
    faults = measured_embedding(found, split, able=(1.0, 1.0), seed=1).figures.faults()
    assert len([fault for fault in faults if "above twice chance" in fault]) == 2


def test_a_head_that_ends_in_probabilities_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="LogSoftmax"):
        Adversary(nn.Sequential(nn.Linear(4, 2), nn.LogSoftmax(dim=1)))


def test_an_output_that_is_the_same_for_everybody_has_collapsed(rows: PublicRows) -> None:
    split = Split.of(rows, seed=1)
    found = fitted(split.known, PLAIN, seed=1)
    nn.init.zeros_(found.network.decoder[2].weight)
    made = measured_embedding(found, split, able=(1.0, 1.0), seed=1)
    assert made.figures.person.fresh_linear <= 1 / made.figures.held_out + 1e-9  # looks like the best that can be
    assert any("collapsed" in fault for fault in made.figures.faults())
    assert made.figures.distinctiveness_gain == -60


def test_an_output_with_noise_alone_has_collapsed_although_it_is_put_on_the_public_scale(rows: PublicRows) -> None:
    split = Split.of(rows, seed=1)
    found = fitted(split.known, PLAIN, seed=1)
    with torch.no_grad():
        found.network.decoder[2].weight.mul_(0.05)
    made = measured_embedding(found, split, able=(1.0, 1.0), seed=1)
    assert made(split.others.values).var() > 0.5 * split.others.values.var()  # the scale hides it
    assert any("collapsed" in fault for fault in made.figures.faults())


def test_a_deaf_head_is_a_fault(rows: PublicRows, monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf(Adversary):
        def forward(self, representation: torch.Tensor, strength: float) -> torch.Tensor:
            return super().forward(0 * representation, strength)

    monkeypatch.setattr(adversarial_embedding, "Adversary", Deaf)
    faults = train_embedding.train_embedding(rows, EmbeddingTask(strength=1.0, epochs=10), seed=1).figures.faults()
    assert [fault for fault in faults if fault.startswith("speaker") and "without reversal" in fault]
    assert [fault for fault in faults if fault.startswith("sex") and "without reversal" in fault]


def test_what_is_released_has_length_1_and_the_public_scale(rows: PublicRows, hiding: AdversarialEmbedding) -> None:
    split = Split.of(rows, seed=1)
    released = hiding(split.known.values)
    np.testing.assert_allclose(np.linalg.norm(released, axis=1), 1)
    center, deviation = hiding.arrays[CENTER], hiding.arrays[DEVIATION]
    assert np.abs(released.mean(axis=0) - center).max() <= 0.1
    assert 0.5 <= (released.std(axis=0) / deviation).mean() <= 1.5
    hostile = {**hiding.arrays, f"{PREFIX}decoder.2.bias": np.full(24, 1e3, np.float32)}
    found = AdversarialEmbedding.from_arrays(hostile, width=24)(np.full((2, 24), 1e30))
    assert np.isfinite(found).all() and np.linalg.norm(found, axis=1) == pytest.approx(1)


def test_sites_compute_what_the_network_computes_without_torch(rows: PublicRows) -> None:
    split = Split.of(rows, seed=1)
    found = fitted(split.known, EmbeddingTask(strength=1.0, epochs=10), seed=1)
    made = AdversarialEmbedding.of(found.network, found.scale, found.scale)
    center, deviation = found.scale
    places = torch.tensor((rows.values[:9] - center) / deviation, dtype=torch.float32).clamp(-5, 5)
    with torch.no_grad():
        expected = divided(found.network(places), places.shape[1])[0].numpy()
    np.testing.assert_allclose(made.reconstructed(rows.values[:9]), expected, atol=1e-4)


def test_the_same_people_and_seed_give_the_same_arrays_and_figures(
    rows: PublicRows, plain: AdversarialEmbedding
) -> None:
    again = train_embedding.train_embedding(rows, PLAIN, seed=1)
    assert all(np.array_equal(again.arrays[name], array) for name, array in plain.arrays.items())
    sent = AdversarialEmbedding.from_arrays(plain.arrays, width=24).figures
    assert sent == EmbeddingFigures.from_array(plain.figures.to_array())
    assert (sent.person.classes, sent.held_out) == (8, 4)


def test_held_out_people_and_unseen_clips_have_no_part_in_training(rows: PublicRows) -> None:
    split = Split.of(rows, seed=1)
    assert [len(part.person) for part in split] == [96, 32, 64]
    assert {*split.unseen.person} == {*split.known.person}
    parts = [{row.tobytes() for row in part.values} for part in split]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    able = in_loop(fitted(split.known, PLAIN, seed=1), split.unseen)
    assert able[0] >= 0.9
    assert divided(EmbeddingNet(24, 8)(torch.zeros(3, 24)), 24)[1].shape == (3, 8)


def chosen(rows: PublicRows, mine: Any) -> PublicRows:
    return PublicRows(*(part[mine] for part in rows))


BAD: dict[str, tuple[Callable[[PublicRows], PublicRows], str]] = {
    "no sex": (lambda r: r._replace(sex=np.full(len(r.sex), "")), "0 female and 0 male"),
    "one sex": (lambda r: r._replace(sex=np.full(len(r.sex), "male")), "0 female and 12 male"),
    "one person": (lambda r: chosen(r, r.person == "3"), "1 people, of whom 0 female and 1 male"),
    "too few": (lambda r: chosen(r, np.isin(r.person, ["0", "1", "2", "3", "4"])), "3 female and 2 male"),
    "few clips": (lambda r: chosen(r, np.arange(len(r.person)) % 16 < 3), "0 female and 0 male"),
}


@pytest.mark.parametrize("case", BAD)
def test_public_people_that_are_too_few_are_refused_with_what_is_missing_and_how_to_get_it(
    rows: PublicRows, case: str
) -> None:
    spoil, found = BAD[case]
    with pytest.raises(StudyError, match=found) as caught:
        train_embedding.train_embedding(spoil(rows), PLAIN, seed=1)
    assert caught.value.expected and "public_speech" in caught.value.fix


def test_people_who_have_no_part_are_counted(rows: PublicRows) -> None:
    assert people_without_part(rows) == 0
    some = rows._replace(sex=np.where(rows.person == "3", "", rows.sex))
    some = chosen(some, (rows.person != "5") | (np.arange(len(rows.person)) % 16 < 3))
    assert people_without_part(some) == 2
    used = sum(len(np.unique(part.person)) for part in (Split.of(some, seed=1).known, Split.of(some, seed=1).others))
    assert used == 10


def test_arrays_that_cannot_be_are_refused(plain: AdversarialEmbedding) -> None:
    for name, array in plain.arrays.items():
        with pytest.raises(StudyError):
            AdversarialEmbedding.from_arrays({**plain.arrays, name: np.full_like(array, np.nan)}, width=24)
    with pytest.raises(StudyError, match="center"):
        AdversarialEmbedding.from_arrays(plain.arrays, width=192)
