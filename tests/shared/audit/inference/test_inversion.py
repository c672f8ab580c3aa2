import numpy as np
import numpy.typing as npt
import pytest

from moretta.shared.audit.inference.decoders import DECODERS, ConvDecoder, with_context
from moretta.shared.audit.inference.inversion import Inversion, invert
from moretta.shared.audit.metrics.eer import eer

Array = npt.NDArray[np.float64]


def speakers(speakers: int = 16, each: int = 20, size: int = 8) -> tuple[Array, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    speaker = np.repeat(np.arange(speakers), each)
    return rng.normal(size=(speakers, size))[speaker] * 2 + rng.normal(size=(len(speaker), size)), speaker


def scrambled(original: Array) -> Array:
    """Unreadable, and yet invertible: a fixed mixing and a bend."""
    mixing = np.linalg.qr(np.random.default_rng(9).normal(size=(original.shape[1],) * 2))[0]
    return np.sinh(original @ mixing / 4)


def rate(found: Inversion) -> float:
    assert found.decoded is not None
    return eer(found.decoded)


@pytest.mark.parametrize("name", ["ridge", "mlp"])
def test_a_reversible_anonymizer_is_reversed_on_people_never_seen(name: str) -> None:
    original, speaker = speakers()
    found = invert(
        scrambled(original),
        original,
        speaker,
        decoder=DECODERS[name](0),
        name=name,
        embed=lambda x: x,
        released_readable=True,
    )
    assert found.released is not None and found.original is not None and found.explained is not None
    assert eer(found.original) < 0.1 and eer(found.released) > 0.3
    assert rate(found) < 0.15 and found.explained > 0.7
    assert (found.attacker_speakers, found.victims) == (8, 8)


@pytest.mark.parametrize("name", ["ridge", "mlp"])
def test_noise_cannot_be_inverted(name: str) -> None:
    original, speaker = speakers()
    noise = np.random.default_rng(1).normal(size=original.shape)
    found = invert(noise, original, speaker, decoder=DECODERS[name](0), name=name, embed=lambda x: x)
    assert rate(found) == pytest.approx(0.5, abs=0.1)
    assert found.explained is not None and found.explained < 0.05


def test_sequences_are_decoded_frame_by_frame_with_their_neighbours() -> None:
    vectors, speaker = speakers(speakers=10, each=8)
    rng = np.random.default_rng(2)
    original = [
        v + rng.normal(size=(int(n), 8)) for v, n in zip(vectors, rng.integers(5, 9, len(vectors)), strict=True)
    ]
    # Every released frame is its right neighbour: without context the decoder cannot see what it must restore.
    released = [np.roll(frames, 1, axis=0) for frames in original]

    def explained(context: int) -> float:
        found = invert(
            released,
            original,
            speaker,
            decoder=DECODERS["ridge"](0),
            name="ridge",
            embed=lambda clips: np.stack([c.mean(axis=0) for c in clips]),
            context_frames=context,
        )
        assert rate(found) < 0.2 and found.explained is not None
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
        name: invert(released, original, person, decoder=ConvDecoder(0, steps=200, width=12), name=name, embed=look)
        for name, released in {"turned": turned, "constant": np.full_like(original, 0.5)}.items()
    }
    assert rate(found["turned"]) < 0.1
    assert rate(found["constant"]) > 0.35


def test_decoders_are_the_same_for_the_same_seed() -> None:
    original, _ = faces()
    first, second = (
        ConvDecoder(3, steps=2, width=8).fit(original[:8], original[:8]).decode(original[:4]) for _ in range(2)
    )
    assert np.array_equal(first, second)


def test_too_few_people_make_the_attack_void() -> None:
    found = invert(np.ones((3, 2)), np.ones((3, 2)), np.arange(3), decoder=DECODERS["ridge"](0), name="r", embed=abs)
    assert found.decoded is None and found.invalid is not None and "3 speakers" in found.invalid
