"""A toy of 95 measurements with planted bits, and public speech that the autoencoder cannot be trained on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from planted import planted_people
from torch import nn

from moretta.shared.core.errors import StudyError
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.models import replacement_autoencoder
from moretta.shared.models.adversaries import recall
from moretta.shared.models.replacement_autoencoder import (
    BOTTLENECK,
    CENTER,
    LIMIT,
    WIDTH,
    ReplacementAutoencoder,
    ReplacementNet,
)
from moretta.shared.models.train_replacement import (
    PublicSplit,
    ReplacementTask,
    measured_autoencoder,
    train_replacement,
)

FEA, NEU = 2, 4
PLAIN = ReplacementTask(sensitive=None, replacement=NEU, strength=0.0, epochs=60)
HIDING = replace(PLAIN, sensitive=FEA, strength=3.0)


@pytest.fixture(scope="module")
def rows() -> PublicRows:
    return planted_people()


@pytest.fixture(scope="module")
def plain(rows: PublicRows) -> ReplacementAutoencoder:
    return train_replacement(rows, PLAIN, seed=1)


@pytest.fixture(scope="module")
def hiding(rows: PublicRows) -> ReplacementAutoencoder:
    return train_replacement(rows, HIDING, seed=1)


def others_of(rows: PublicRows) -> PublicSplit:
    return PublicSplit.of(rows, seed=1).some(held_out=True)


def read_by_originals(rows: PublicRows, what: str, released: Any) -> Any:
    """Of released clips of held-out people, the emotion or sex that a model of originals finds."""
    from sklearn.linear_model import LogisticRegression

    known = PublicSplit.of(rows, seed=1).some(held_out=False)
    return LogisticRegression(max_iter=500).fit(known.places, getattr(known, what)).predict(released)


def kept_emotion(rows: PublicRows, made: ReplacementAutoencoder) -> float:
    """Balanced accuracy of the emotions that are not replaced."""
    others = others_of(rows)
    kept = others.emotion != FEA
    return recall(others.emotion[kept], read_by_originals(rows, "emotion", made(others.places[kept])))


def test_without_reversal_and_replacement_the_planted_bits_are_kept(
    rows: PublicRows, plain: ReplacementAutoencoder
) -> None:
    found = plain.figures
    assert found.in_loop == found.able >= 0.95
    assert min(found.fresh_linear, found.of_originals) >= 0.95
    assert found.faults() == ()
    others = others_of(rows)
    assert recall(others.emotion, read_by_originals(rows, "emotion", plain(others.places))) >= 0.95


def test_strong_reversal_beats_its_own_reader_hides_the_sensitive_emotion_and_keeps_the_others(
    rows: PublicRows, plain: ReplacementAutoencoder, hiding: ReplacementAutoencoder
) -> None:
    found = hiding.figures
    assert found.able >= 0.95 and found.in_loop <= 0.60
    assert found.of_originals <= plain.figures.of_originals - 0.2
    assert found.fresh_linear >= found.in_loop + 0.2  # the bit is still there: this system hides it from its own reader
    assert found.faults() == ()
    assert kept_emotion(rows, hiding) >= kept_emotion(rows, plain) - 0.05
    others = others_of(rows)
    fear = hiding(others.places[others.emotion == FEA])
    assert (read_by_originals(rows, "emotion", fear) == FEA).mean() <= 0.05


def test_replaced_clips_come_out_as_the_other_emotion_of_the_same_sex(rows: PublicRows) -> None:
    made = train_replacement(rows, replace(PLAIN, sensitive=FEA), seed=1)
    others = others_of(rows)
    mine = others.emotion == FEA
    fear = made(others.places[mine])
    assert (read_by_originals(rows, "emotion", fear) == NEU).mean() >= 0.95
    assert (read_by_originals(rows, "sex", fear) == others.sex[mine]).mean() >= 0.95


def test_an_autoencoder_that_releases_the_same_for_everybody_has_collapsed(rows: PublicRows) -> None:
    split, network = PublicSplit.of(rows, seed=1), ReplacementNet()
    torch.nn.init.zeros_(network.decoder[2].weight)
    constant = measured_autoencoder(network, split, HIDING, able=0.99, seed=1)
    assert constant.figures.fresh_linear == 0.5  # which looks like the best result there can be
    assert any("collapsed" in fault for fault in constant.figures.faults())
    assert constant.explained <= 0.01


def test_an_adversary_that_never_learned_is_a_fault(rows: PublicRows, monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf(*_: Any) -> nn.Module:
        return nn.Sequential(Detached(), nn.Linear(BOTTLENECK, 2))

    monkeypatch.setattr(replacement_autoencoder, "dense", deaf)
    found = train_replacement(rows, replace(HIDING, epochs=20), seed=1).figures
    assert any("without reversal" in fault for fault in found.faults())


class Detached(nn.Module):
    """Gives an adversary nothing to read."""

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        return 0 * code


def test_sites_compute_what_the_network_computes_without_torch(
    rows: PublicRows, hiding: ReplacementAutoencoder
) -> None:
    places = hiding.places(rows.values[:20])
    with torch.no_grad():
        expected = hiding.network()(torch.tensor(places, dtype=torch.float32))[:, :WIDTH].numpy()
    np.testing.assert_allclose(hiding(places), np.clip(expected, -LIMIT, LIMIT), atol=1e-4)


def test_the_same_speech_and_seed_give_the_same_autoencoder(rows: PublicRows, plain: ReplacementAutoencoder) -> None:
    again = train_replacement(rows, PLAIN, seed=1)
    assert all(np.array_equal(again.arrays[name], array) for name, array in plain.arrays.items())
    sent = ReplacementAutoencoder.from_arrays(plain.arrays)
    np.testing.assert_array_equal(sent(others_of(rows).places), plain(others_of(rows).places))


def test_a_third_of_the_people_of_each_sex_has_no_part_in_training(rows: PublicRows) -> None:
    split = PublicSplit.of(rows, seed=1)
    held = split.is_held_out
    assert [len(np.unique(rows.person[held & (rows.sex == sex)])) for sex in ("female", "male")] == [3, 3]
    assert not {*rows.person[held]} & {*rows.person[~held]}
    moved = rows._replace(values=rows.values + 50 * split.is_held_out[:, None])
    one, other = (train_replacement(r, replace(PLAIN, epochs=10), seed=1).arrays for r in (rows, moved))
    assert all(np.array_equal(one[name], other[name]) for name in one if "figures" not in name)


def chosen(rows: PublicRows, mine: Any) -> PublicRows:
    return PublicRows(*(part[mine] for part in rows))


def without_sex(rows: PublicRows) -> PublicRows:
    return rows._replace(sex=np.full(len(rows.sex), ""))


BAD = {
    "no sex": (without_sex, "0 female and 0 male by the table of speakers"),
    "one person": (lambda r: chosen(r, r.person == "3"), "1 people, of whom 0 female and 1 male"),
    "too few": (lambda r: chosen(r, np.isin(r.person, ["0", "1", "2", "3", "4"])), "3 female and 2 male"),
    "one sex": (lambda r: chosen(r, r.sex == "female"), "9 female and 0 male"),
    "nobody": (lambda r: chosen(r, r.person == "x"), "0 people"),
    "nothing sensitive": (lambda r: chosen(r, r.emotion != FEA), "without a clip of FEA"),
    "no replacement": (lambda r: chosen(r, r.emotion != NEU), "NEU of female speakers or of NEU of male speakers"),
    "no replacement by men": (lambda r: chosen(r, (r.emotion != NEU) | (r.sex == "female")), "NEU of male speakers"),
}


@pytest.mark.parametrize("case", BAD)
def test_public_speech_that_lacks_something_is_refused_with_what_is_missing_and_how_to_get_it(
    rows: PublicRows, case: str
) -> None:
    spoil, found = BAD[case]
    with pytest.raises(StudyError, match=found) as caught:
        train_replacement(spoil(rows), HIDING, seed=1)
    assert "public_speech" in caught.value.fix
    assert caught.value.expected


def test_people_whose_sex_is_unknown_have_no_part_and_the_others_do(rows: PublicRows) -> None:
    some = rows._replace(sex=np.where(np.isin(rows.person, ["0", "1"]), "", rows.sex))
    split = PublicSplit.of(some, seed=1)
    assert len(split.places) == len(rows.values) - 48


def test_what_is_not_replaced_needs_no_example(rows: PublicRows) -> None:
    only = chosen(rows, np.isin(rows.emotion, (0, 1)))
    assert train_replacement(only, replace(PLAIN, epochs=10), seed=1).explained > 0


def test_arrays_that_cannot_be_are_refused(plain: ReplacementAutoencoder) -> None:
    with pytest.raises(StudyError, match="center"):
        ReplacementAutoencoder.from_arrays({**plain.arrays, CENTER: np.full(WIDTH, np.nan, np.float32)})
    name = next(name for name in plain.arrays if name.endswith("encoder.0.weight"))
    with pytest.raises(StudyError, match=r"encoder\.0\.weight"):
        ReplacementAutoencoder.from_arrays({**plain.arrays, name: plain.arrays[name][:-1]})
