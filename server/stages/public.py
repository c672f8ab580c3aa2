"""Stage codebook: what the coordinator makes from public data alone."""

from __future__ import annotations

from moretta.server.stages.run_context import Run
from moretta.shared.models.public_arrays import public_arrays


def make_public(run: Run, rates: dict[str, float]) -> None:
    """Make the codebook, the voice statistics and the face autoencoder that every site will use."""
    del rates
    run.public |= public_arrays(run.study, lambda text: run.notify(stage="public arrays", state="note", what=text))
