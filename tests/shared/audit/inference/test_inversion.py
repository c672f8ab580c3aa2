from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from moretta.shared.audit.inference.inversion import (
    DECODERS,
    ConvDecoder,
    Restored,
    alternate,
    restore,
    verify,
    with_context,
)
from moretta.shared.audit.metrics.verification import eer

Array = npt.NDArray[np.float64]


def known(speakers: int = 16, each: int = 20, size: int = 8) -> tuple[Array, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    speaker = np.repeat(np.arange(speakers), each)
    return rng.normal(size=(speakers, size))[speaker] * 2 + rng.normal(size=(len(speaker), size)), speaker


def scrambled(original: Array) -> Array:
    """Unreadable, and yet invertible: a fixed mixing and a bend."""
    mixing = np.linalg.qr(np.random.default_rng(9).normal(size=(original.shape[1],) * 2))[0]
    return np.sinh(original @ mixing / 4)


def rate(found: Restored, original: Any, speaker: npt.NDArray[np.int64], embed: Any = np.asarray) -> float:
    """EER of decoded clips against original enrolments of the victims."""
    victims = speaker[found.victims]
    truth = original[found.victims] if isinstance(original, np.ndarray) else [original[i] for i in found.victims]
    enrols = alternate(victims)
    enrolment, trial = np.asarray(embed(truth)), np.asarray(embed(found.clips))
    trials = verify(enrolment[enrols], victims[enrols], trial[~enrols], victims[~enrols])
    assert trials is not None
    return eer(trials)


@pytest.mark.parametrize("name", ["ridge", "mlp"])
def test_a_reversible_anonymizer_is_reversed_on_people_never_seen(name: str) -> None:
    original, speaker = known()
    released = scrambled(original)
    found = restore(released, original, speaker, decoder=DECODERS[name](0))
    assert not set(speaker[found.own]) & set(speaker[found.victims])
    as_it_is = Restored(found.own, found.victims, released[found.victims], 0.0)
    open_data = Restored(found.own, found.victims, original[found.victims], 1.0)
    assert rate(open_data, original, speaker) < 0.1 and rate(as_it_is, original, speaker) > 0.3
    assert rate(found, original, speaker) < 0.15 and found.explained > 0.7


@pytest.mark.parametrize("name", ["ridge", "mlp"])
def test_noise_cannot_be_inverted(name: str) -> None:
    original, speaker = known()
    noise = np.random.default_rng(1).normal(size=original.shape)
    found = restore(noise, original, speaker, decoder=DECODERS[name](0))
    assert rate(found, original, speaker) == pytest.approx(0.5, abs=0.1)
    assert found.explained < 0.05


def test_sequences_are_decoded_frame_by_frame_with_their_neighbours() -> None:
    vectors, speaker = known(speakers=10, each=8)
    rng = np.random.default_rng(2)
    original = [
        v + rng.normal(size=(int(n), 8)) for v, n in zip(vectors, rng.integers(5, 9, len(vectors)), strict=True)
    ]
    # Every released frame is its right neighbour: without context the decoder cannot see what it must restore.
    released = [np.roll(frames, 1, axis=0) for frames in original]

    def explained(context: int) -> float:
        found = restore(released, original, speaker, decoder=DECODERS["ridge"](0), context_frames=context)
        assert rate(found, original, speaker, lambda clips: np.stack([c.mean(axis=0) for c in clips])) < 0.2
        return found.explained

    assert explained(1) > explained(0) + 0.05


def test_context_repeats_the_edges() -> None:
    windows = with_context([np.array([[1.0], [2.0], [3.0]]), np.array([[9.0]])], 1)
    assert windows.tolist() == [[1, 1, 2], [1, 2, 3], [2, 3, 3], [9, 9, 9]]


def faces() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Pictures whose identity is the colours of four patches."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(60), 4)
    colours = rng.random((60, 2, 2, 3))[person] + 0.05 * rng.normal(size=(240, 2, 2, 3))
    return np.clip(colours.repeat(4, axis=1).repeat(4, axis=2), 0, 1).astype(np.float32), person


def look(pictures: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return np.asarray(pictures[:, ::2, ::2].reshape(len(pictures), -1) - 0.5, dtype=np.float64)


def test_colours_turned_around_are_turned_back_by_the_small_network_and_a_constant_is_not() -> None:
    original, person = faces()
    turned = 1 - original[..., ::-1]
    found = {
        name: restore(released, original, person, decoder=ConvDecoder(0, steps=200, width=12))
        for name, released in {"turned": turned, "constant": np.full_like(original, 0.5)}.items()
    }
    assert rate(found["turned"], original, person, look) < 0.1
    assert rate(found["constant"], original, person, look) > 0.35


def test_decoders_are_the_same_for_the_same_seed() -> None:
    original, _ = faces()
    first, second = (
        ConvDecoder(3, steps=2, width=8).fit(original[:8], original[:8]).predict(original[:4]) for _ in range(2)
    )
    assert np.array_equal(first, second)
