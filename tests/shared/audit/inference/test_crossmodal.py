from typing import Any

import numpy as np
import pytest

from moretta.shared.audit.inference.crossmodal import MAPPERS, link_modalities
from moretta.shared.audit.result import Result

ABOUT = Result(attack="cross-modal", modality="both", attacker="", scenario="semi-informed", metric="")


def link(*arguments: Any, **options: Any) -> list[Result]:
    return link_modalities(*arguments, about=ABOUT, **options)


def people(shared: float, *, sexes: float = 0.0, seed: int = 0, count: int = 60) -> tuple[np.ndarray, ...]:
    """Voice and face features that share `shared` of a person's latent traits, and `sexes` of the sex."""
    rng = np.random.default_rng(seed)
    trait, sex = rng.normal(size=(count, 5)), np.arange(count) % 2 * 2.0 - 1
    voice_person, face_person = np.repeat(np.arange(count), 6), np.repeat(np.arange(count), 4)
    to_voice, to_face = rng.normal(size=(5, 20)), rng.normal(size=(5, 15))
    own_voice, own_face = rng.normal(size=(count, 20)), rng.normal(size=(count, 15))
    voice = shared * trait @ to_voice + own_voice
    face = shared * trait @ to_face + own_face
    voice[:, 0] += sexes * sex
    face[:, 0] += sexes * sex
    return (
        voice[voice_person] + 0.3 * rng.normal(size=(len(voice_person), 20)),
        voice_person,
        face[face_person] + 0.3 * rng.normal(size=(len(face_person), 15)),
        face_person,
    )


def by_name(found: list[Result], kind: str) -> dict[str, Result]:
    return {leak.attacker: leak for leak in found if leak.metric == kind}


@pytest.mark.parametrize("name", sorted(MAPPERS))
def test_shared_traits_link_the_voice_of_a_stranger_to_its_face(name: str) -> None:
    leaks = link(*people(2.0), resamples=100)
    top1, choice = by_name(leaks, "top1")[name], by_name(leaks, "one_of_two")[name]
    assert top1.chance == pytest.approx(1 / 20) and choice.chance == 0.5
    assert top1.leaks and top1.value is not None and top1.value > 0.4
    assert choice.leaks and choice.value is not None and choice.value > 0.9


def test_nothing_links_what_shares_nothing() -> None:
    leaking = [leak.leaks for seed in range(5) for leak in link(*people(0.0, seed=seed), resamples=100)]
    assert sum(leaking) <= 2


def test_within_a_sex_the_sex_itself_links_nobody() -> None:
    sexes = {i: "FM"[i % 2] for i in range(60)}
    across = link(*people(0.0, sexes=5.0), resamples=100)
    within = link(*people(0.0, sexes=5.0), within=sexes, resamples=100)
    # An attacker that knows the sex wins the half of choices between two sexes, and every second other one.
    assert all(
        leak.leaks and leak.value is not None and leak.value > 0.6 for leak in by_name(across, "one_of_two").values()
    )
    assert not any(leak.leaks for leak in within)
    chance = by_name(within, "top1")["ridge"].chance
    assert chance is not None and 0.09 < chance < 0.12


def test_too_few_people_make_the_attack_invalid() -> None:
    found = link(*people(2.0, count=5))
    assert all(leak.invalid and "5 people" in leak.reason for leak in found)


def test_the_same_seed_gives_the_same_figures() -> None:
    assert link(*people(1.0), resamples=10) == link(*people(1.0), resamples=10)
