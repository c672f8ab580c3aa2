"""What a site does to its update before it leaves: it is clipped, and carries the site's share of the noise."""

from __future__ import annotations

from moretta.client.settings import SiteSettings
from moretta.client.training.update_store import Array
from moretta.shared.models.emotion import emotion_model, trained_names
from moretta.shared.privacy.clipping import changed, clipped_change
from moretta.shared.privacy.noise import NoiseSource, SeededNoise, SystemNoise, on_grid
from moretta.shared.privacy.secure_aggregation import quantised
from moretta.shared.privacy.site_level import plan_site_level
from moretta.shared.study.fusion import ModelKind
from moretta.shared.study.schema import Study


def noisy_update(
    settings: SiteSettings,
    study: Study,
    kind: ModelKind,
    sent: dict[str, Array],
    update: dict[str, Array],
    *,
    round_number: int,
) -> dict[str, Array]:
    """What leaves the site of an update: the weights, or, under secure aggregation, their change in whole numbers.

    Its own share of the noise hides an update little. All shares together hide it as the study says, so that the sum
    of the updates may be told and no single one. What training did not change is as it was sent.

    Args:
        settings: decide where the noise comes from.
        study: asks for the distributed form, for secure aggregation, or for both.
        kind: of the model.
        sent: the global weights.
        update: what the site's training made of them.
        round_number: of the round.
    """
    trained = trained_names(emotion_model(kind, study.model_of(kind)), sent)
    change = clipped_change(sent, update, trained=trained, norm=study.aggregation.clipping_norm)
    plan = plan_site_level(study)
    if plan is not None:
        noise = _source(settings, kind, round_number)
        change = {name: array + noise.private_normal(plan.share, array.shape) for name, array in change.items()}
    if study.aggregation.secure:
        return {**quantised(change, study)}
    assert plan is not None  # who calls this has seen that the study asks for one of the two
    return changed(sent, {name: on_grid(array, plan.share) for name, array in change.items()})


def _source(settings: SiteSettings, kind: ModelKind, round_number: int) -> NoiseSource:
    if settings.simulated_seed is None:
        return SystemNoise()
    return SeededNoise(settings.simulated_seed, "site-level noise", settings.name, kind, round_number)
