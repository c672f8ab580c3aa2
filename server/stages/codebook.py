"""Stage federated codebook: the words of voice releases, moved by what all sites' speakers add up to."""

from __future__ import annotations

import numpy as np

from moretta.server.inquiry import Answer
from moretta.server.run import Run
from moretta.shared import wire
from moretta.shared.errors import MorettaError, ReleaseError
from moretta.shared.privacy.codebook_budget import lloyd_noise
from moretta.shared.privacy.lloyd_sums import Words, moved_words, public_radius

STAGE = "federated codebook"
_RADIUS, _SUMS = "voice/codebook-radius", "sums"
_MOST = 1e7
"""No sum over any number of people there could be is larger: what is, was damaged or made up."""


def wanted(run: Run) -> bool:
    """Whether the study has such a codebook."""
    return run.study.voice.enabled and run.study.voice.codebook == "federated"


def federate_codebook(run: Run, rates: dict[str, float]) -> None:
    """Ask all sites in every iteration; a site that fails in one is asked again in the next.

    The first words and the radius are public, and everything after the sites' noise is made of nothing else, so it
    costs nothing more.

    Raises:
        RunError: fewer sites than the study asks for have answered.
    """
    del rates
    voice = run.study.voice
    name = "voice/codes/words" if voice.budgeted else "voice/codebook"
    run.public[_RADIUS] = np.array([public_radius(run.public[name])], np.float32)
    for iteration in range(1, voice.codebook_iterations + 1):
        sums = _gather(run, run.public[name], iteration)
        run.public[name] = moved_words(
            run.public[name],
            np.sum(sums, axis=0, dtype=np.float64),
            noise_std=lloyd_noise(voice) * float(np.sqrt(len(sums))),
            radius=float(run.public[_RADIUS][0]),
        )
        run.tell(stage=STAGE, state="step", done=iteration, total=voice.codebook_iterations)


def _gather(run: Run, words: Words, iteration: int) -> list[wire.Array]:
    """The usable answers of one iteration, in order of the sites' names."""
    from flwr.app import RecordDict

    public = wire.arrays_to_record({k: a for k, a in run.public.items() if k.startswith("voice/")})
    config = wire.study_config(run.study, iteration=iteration)
    answers = run.ask("codebook", wire.CODEBOOK, lambda _: RecordDict({wire.ARRAYS: public, wire.CONFIG: config}))
    usable: dict[str, wire.Array] = {}
    failures: dict[str, str] = {}
    for answer in answers:
        try:
            usable[answer.site] = _checked(answer, words)
        except MorettaError as error:
            failures[answer.site] = str(error)
            run.miss(answer.site, STAGE, str(error), lost=answer.lost)
            run.warn(f"{answer.site} had no part in iteration {iteration} of the codebook: {error}")
    why = "; ".join(f"{site}: {cause}" for site, cause in sorted(failures.items())[:3])
    run.require_sites(sorted(usable), "codebook", why)
    return [usable[site] for site in sorted(usable)]


def _checked(answer: Answer, words: Words) -> wire.Array:
    """One site's sums.

    Raises:
        ReleaseError: there is no answer, or one that cannot be.
    """
    if answer.content is None:
        raise ReleaseError(answer.failure)
    sums = wire.arrays_of(answer.content).get(_SUMS)
    expected = (len(words), 1 + words.shape[1])
    if sums is None or sums.dtype != np.float32 or sums.shape != expected:
        found = "no sums" if sums is None else f"sums of {sums.dtype} {list(sums.shape)}"
        raise ReleaseError(found, expected=f"float32 {list(expected)}")
    if not np.isfinite(sums).all() or np.abs(sums).max() > _MOST:
        raise ReleaseError("sums that no speakers add up to", expected=f"finite values up to {_MOST:g}")
    return sums
