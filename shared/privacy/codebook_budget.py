"""What a federated codebook costs a clip and a speaker, by the study."""

from __future__ import annotations

from typing import Literal

from moretta.shared.privacy.clip_budget import voice_response
from moretta.shared.privacy.dp_lloyd import DpLloyd, calibrated_lloyd_noise
from moretta.shared.privacy.lloyd_sums import contribution_norm
from moretta.shared.release.format import PrivacyStatement
from moretta.shared.study_voice import VoiceSection

_NOTE = (
    "speakers' bounded sums for the codebook, {iterations} iterations, beside the release; not covered: that there are "
    "so many clips and speakers, since clips keep their place"
)


def lloyd_noise(section: VoiceSection) -> float:
    """The noise multiplier: the budget over all iterations, for one speaker."""
    return calibrated_lloyd_noise(
        epsilon=section.codebook_epsilon, delta=section.budget_delta, iterations=section.codebook_iterations
    )


def codebook_losses(
    section: VoiceSection, fewest_clips: int, *, iterations: int | None = None
) -> dict[Literal["clip", "speaker"], DpLloyd]:
    """Of a speaker, and of a clip of the speaker who has fewest.

    A speaker's sums are the mean over its clips: without one of n they move by its share, 1 / n before they are scaled.
    Told in the speaker's own units, as under `dp-speaker`, all clips move with one: anywhere within the ball.

    Args:
        section: the study's `[voice]`.
        fewest_clips: of a speaker.
        iterations: None means all.
    """
    noise, iterations = lloyd_noise(section), iterations or section.codebook_iterations
    share = 1 / (max(fewest_clips, 1) * contribution_norm(codebook_words(section)))
    reach = 2.0 if section.clip_limit is not None else min(2.0, share)
    return {
        "clip": DpLloyd(noise_multiplier=noise / reach, iterations=iterations, unit="clip"),
        "speaker": DpLloyd(noise_multiplier=noise, iterations=iterations, unit="speaker"),
    }


def codebook_words(section: VoiceSection) -> int:
    """How many words the codebook has."""
    return voice_response(section).choices if section.budgeted else section.codebook_size


def codebook_statements(section: VoiceSection, sizes: dict[str, list[int]]) -> tuple[PrivacyStatement, ...]:
    """Rows of a statement, for a study whose codebook is federated; none for any other.

    Args:
        section: the study's `[voice]`.
        sizes: for each released speaker, an entry for each released clip.
    """
    if section.codebook != "federated" or not sizes:
        return ()
    losses = codebook_losses(section, min(map(len, sizes.values())))
    return tuple(
        PrivacyStatement(
            mechanism="DP Lloyd for the federated codebook",
            unit=unit,
            epsilon=loss.epsilon(section.budget_delta),
            delta=section.budget_delta,
            nominal=section.codebook_epsilon if unit == "speaker" else None,
            note=_NOTE.format(iterations=section.codebook_iterations),
        )
        for unit, loss in losses.items()
    )
