"""Toys with a planted attribute: when an adversary is replaced, when training stops, and what sites compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from planted import planted_mels

from moretta.shared.core.errors import StudyError
from moretta.shared.core.workers import seeded
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.models import train_rdal
from moretta.shared.models.adversaries import Fresh, Labelled, fresh_readers, train_fresh
from moretta.shared.models.rdal import CODE, ENCODER, FIGURES, MASK, CodeNet, Rdal, RdalNet, verifier
from moretta.shared.models.rdal_of_speech import public_voice_mask, train_speech_code
from moretta.shared.models.spectral_mask import FRAMES, MELS, MaskNet, clip_mels, magnitudes, train_mask
from moretta.shared.models.train_rdal import Examples, RdalTask, codes_of, fitted, in_loop

HIDING = RdalTask(strength=1.0, epochs=40, replaced_every=4)
SHORT = RdalTask(strength=1.0, epochs=10, replaced_every=4)
Parts = tuple[Examples, Examples]


def examples(rows: PublicRows) -> Examples:
    return Examples(torch.from_numpy(rows.values), rows.emotion, (rows.sex == "male").astype(np.int64))


@pytest.fixture(scope="module")
def parts() -> Parts:
    """Clips that hold a bit of emotion and one of sex, and others of the same kind."""
    return examples(planted_mels(16, 16, seed=1)), examples(planted_mels(8, 16, seed=2))


def found_afresh(network: RdalNet, parts: Parts) -> float:
    """Mean of what readers find who are trained on codes: a verifier, a linear model, a forest."""
    known, others = (Labelled(codes_of(network.encoder, part.places), part.hidden) for part in parts)
    verified = train_fresh(partial(verifier, 2), known, others, seed=9, epochs=40).recall
    return float(np.mean([verified, *fresh_readers(known, others, seed=1)]))


def test_plain_reversal_beats_its_own_adversary_alone_and_a_replaced_one_hides_from_fresh_readers(parts: Parts) -> None:
    naive, replaced = (fitted(*parts, task, seed=1).network for task in (replace(HIDING, replaced_every=0), HIDING))
    assert min(in_loop(network, parts[1])[0] for network in (naive, replaced)) >= 0.95  # emotion is kept
    assert in_loop(naive, parts[1])[1] <= 0.6  # as a paper would report it
    assert found_afresh(naive, parts) >= 0.68  # processors differ: 0.74 was seen
    assert found_afresh(replaced, parts) <= 0.65


@pytest.fixture
def verifiers(monkeypatch: pytest.MonkeyPatch) -> list[Fresh]:
    """Losses of verifiers as they are planned, of networks that are as they come; those that were made are kept."""
    losses, made = iter([0.9, 0.1, 0.5, 0.3, 0.4, 0.2, 0.6]), []

    def verify(make: Callable[[], Any], *_: Any, **__: Any) -> Fresh:
        with seeded(len(made)):
            made.append(Fresh(make(), next(losses), 0.5))
        return made[-1]

    monkeypatch.setattr(train_rdal, "train_fresh", verify)
    return made


def test_training_stops_where_a_fresh_verifier_loses_most_and_only_once_the_reversal_is_at_its_strength(
    parts: Parts, verifiers: list[Fresh]
) -> None:
    few = tuple(Examples(part.places[:32], part.kept[:32], part.hidden[:32]) for part in parts)
    found = fitted(*few, RdalTask(strength=1.0, epochs=40, replaced_every=5, patience=2), seed=1)  # type: ignore[arg-type]
    assert [check.epoch for check in found.checks] == [13, 18, 23, 28, 33]
    assert [check.loss for check in found.checks] == [0.9, 0.1, 0.5, 0.3, 0.4]
    assert found.epoch == 23  # 0.9 is no result: the reversal had not risen yet


def test_a_verifier_takes_the_place_of_the_adversary_as_it_is(
    parts: Parts, verifiers: list[Fresh], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tuple(Examples(part.places[:32], part.kept[:32], part.hidden[:32]) for part in parts)
    seen: list[dict[str, torch.Tensor]] = []
    once = train_rdal._train_once

    def watched(network: RdalNet, *rest: Any) -> None:
        seen.append({name: tensor.clone() for name, tensor in network.adversary.network.state_dict().items()})
        once(network, *rest)

    monkeypatch.setattr(train_rdal, "_train_once", watched)
    fitted(*few, SHORT, seed=1)  # type: ignore[arg-type]
    assert len(verifiers) == 2
    for name, tensor in verifiers[0].network.state_dict().items():
        torch.testing.assert_close(seen[6][name], tensor)
    assert not all(torch.equal(seen[6][name], seen[5][name]) for name in seen[6])


def test_a_code_does_not_depend_on_the_other_clips_of_a_batch(parts: Parts) -> None:
    with seeded(1):
        network = CodeNet()
    together, alone = codes_of(network, parts[0].places[:8]), codes_of(network, parts[0].places[3:4])
    np.testing.assert_allclose(together[3], alone[0], atol=1e-5)
    assert together.shape == (8, CODE)


def test_a_mask_is_between_0_and_1_and_level_does_not_change_it() -> None:
    with seeded(1):
        network = MaskNet().eval()
    found = torch.rand(2, 257, 37)
    with torch.no_grad():
        mask, louder = network(found), network(50 * found)
    assert mask.shape == found.shape and float(mask.min()) > 0 and float(mask.max()) < 1
    torch.testing.assert_close(mask, louder, rtol=1e-3, atol=1e-4)


def test_a_mask_learns_to_take_away_what_the_target_has_not() -> None:
    drawn = np.random.default_rng(1)
    tones = [np.sin(2 * np.pi * hz * np.arange(20_160) / 16_000) for hz in drawn.uniform(300, 800, 24)]
    noises = [np.diff(drawn.normal(size=20_161)) for _ in tones]  # mostly high
    seen = [magnitudes((0.1 * (tone + noise)).astype(np.float32)) for tone, noise in zip(tones, noises, strict=True)]
    wanted = [magnitudes((0.1 * tone).astype(np.float32)) for tone in tones]
    network = train_mask(seen[:16], wanted[:16], epochs=12, seed=1)
    with torch.no_grad():
        passed = [network(one[None])[0] * one for one in seen[16:]]
    before, after = (
        sum(float((one - clean).abs().sum()) for one, clean in zip(found, wanted[16:], strict=True))
        for found in (seen[16:], passed)
    )
    assert after <= 0.6 * before


def test_a_clip_is_cut_or_padded_to_its_middle() -> None:
    sound = np.random.default_rng(1).normal(0, 0.1, 6 * 16_000).astype(np.float32)
    whole, short = clip_mels(sound, None), clip_mels(sound[:8_000], None)
    assert whole.shape == short.shape == (MELS, FRAMES)
    padded = (short == short.min()).all(axis=0)
    assert padded[:60].all() and padded[-60:].all() and not padded[70:90].any()


@pytest.fixture(scope="module")
def made() -> Rdal:
    rows = planted_mels()
    with seeded(1):
        mask = MaskNet().eval()
    return train_speech_code(rows, mask, "sex", SHORT, seed=1)


def test_figures_of_held_out_people_come_with_the_arrays(made: Rdal) -> None:
    found = made.figures
    assert found.hidden.classes == 2 and 0 <= found.kept <= 1
    assert {"able", "in_loop", "fresh_linear", "faults"} <= found.hidden.stated().keys()
    again = Rdal.from_arrays(made.arrays, has_mask=True).figures
    assert again == found


def test_the_same_people_and_seed_give_the_same_arrays(made: Rdal) -> None:
    again = train_speech_code(planted_mels(), made.mask, "sex", SHORT, seed=1)
    assert all(np.array_equal(again.arrays[name], array) for name, array in made.arrays.items())


def test_what_sites_release_is_bounded_and_finite_whatever_the_arrays_are(made: Rdal) -> None:
    sound = np.random.default_rng(1).normal(0, 0.1, 16_000).astype(np.float32)
    assert made(sound).shape == (CODE,) and np.abs(made(sound)).max() <= 5
    hostile = {n: np.full_like(a, 1e3) if n.startswith((ENCODER, MASK)) else a for n, a in made.arrays.items()}
    assert np.abs(Rdal.from_arrays(hostile, has_mask=True)(sound)).max() <= 5
    for name, array in made.arrays.items():
        with pytest.raises(StudyError):
            Rdal.from_arrays({**made.arrays, name: np.full_like(array, np.nan)}, has_mask=True)


def test_a_constant_code_has_collapsed(made: Rdal, monkeypatch: pytest.MonkeyPatch) -> None:
    def collapsed(*arguments: Any, **named: Any) -> Any:
        found = fitted(*arguments, **named)
        if arguments[2].strength:
            torch.nn.init.zeros_(found.network.encoder.last.weight)
        return found

    monkeypatch.setattr("moretta.shared.models.rdal_of_speech.fitted", collapsed)
    faults = train_speech_code(planted_mels(), None, "sex", SHORT, seed=1).figures.hidden.faults()
    assert any("collapsed" in fault for fault in faults)


def chosen(rows: PublicRows, mine: Any) -> PublicRows:
    return PublicRows(*(part[mine] for part in rows))


BAD: dict[str, tuple[Callable[[PublicRows], PublicRows], str]] = {
    "no clip": (lambda r: chosen(r, r.person == "nobody"), "0 people, of whom 0 female and 0 male"),
    "no sex": (lambda r: r._replace(sex=np.full(len(r.sex), "")), "0 female and 0 male"),
    "one sex": (lambda r: r._replace(sex=np.full(len(r.sex), "male")), "0 female and 12 male"),
    "one person": (lambda r: chosen(r, r.person == "3"), "1 people, of whom 0 female and 1 male"),
    "too few": (lambda r: chosen(r, np.isin(r.person, ["0", "1", "2", "3", "4"])), "3 female and 2 male"),
    "one emotion": (lambda r: r._replace(emotion=np.full(len(r.sex), 2)), "one emotion alone: FEA"),
}


@pytest.mark.parametrize("case", BAD)
def test_public_people_who_cannot_train_it_are_refused_with_what_is_missing_and_how_to_get_it(case: str) -> None:
    spoil, found = BAD[case]
    with pytest.raises(StudyError, match=found) as caught:
        train_speech_code(spoil(planted_mels()), None, "speaker", SHORT, seed=1)
    assert caught.value.expected and "public_speech" in caught.value.fix


def test_a_public_voice_mask_is_made_of_parallel_speech() -> None:
    network = public_voice_mask(1, voices=2, utterances=2, epochs=1)
    assert not network.training
    again = public_voice_mask(1, voices=2, utterances=2, epochs=1)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_arrays_of_another_kind_are_refused(made: Rdal) -> None:
    with pytest.raises(StudyError, match="mask"):
        Rdal.from_arrays({n: a for n, a in made.arrays.items() if not n.startswith(MASK)}, has_mask=True)
    assert FIGURES in Rdal.rules(has_mask=False) and not any(n.startswith(MASK) for n in Rdal.rules(has_mask=False))
