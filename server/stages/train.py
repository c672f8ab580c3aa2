"""Stages train voice, face and fusion: federated rounds of one of Flower's strategies, DP-SGD at the sites."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from flwr.serverapp.strategy import Strategy
from safetensors.numpy import save

from moretta.server.aggregation.checked_strategy import CheckedStrategy, RoundOutcome, Weights
from moretta.server.aggregation.secure_strategy import SecureStrategy
from moretta.server.aggregation.site_level_mean import SiteLevelMean
from moretta.server.aggregation.strategies import make_strategy, restore_strategy, strategy_state
from moretta.server.grid.site_grid import SiteGrid
from moretta.server.stages.context import RunContext, ranges
from moretta.server.stages.results import Results, SiteSpending, Training
from moretta.server.stages.state import load_round, save_round
from moretta.shared.audit.report.report_schema import Modality as Output
from moretta.shared.audit.report.report_schema import RoundRow
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import RunError
from moretta.shared.core.reproducibility import derive
from moretta.shared.core.terms import Modality
from moretta.shared.messages import wire
from moretta.shared.privacy.noise import NoiseSource, SeededNoise, SystemNoise
from moretta.shared.privacy.site_level import plan_site_level
from moretta.shared.study.fusion import ModelKind
from moretta.shared.study.run_plan import DeploymentPlan
from moretta.shared.study.schema import Study

OUTPUTS: dict[ModelKind, Output] = {"voice": "voice", "face": "face", "fusion": "learned"}
"""Output of each model in the evaluation."""
_HELD_OUT = "all its clips are of held-out speakers"
_LACKS = {"fusion": f"{_HELD_OUT}, or none was held back for it"}
_log = logging.getLogger(__name__)


def train(context: RunContext, grid: SiteGrid, results: Results, kind: ModelKind) -> Weights | str:
    """All rounds of one model, from the last one that was checkpointed.

    Args:
        context: of the run.
        grid: to the sites.
        results: of the stages before; the rounds are added to its training, and all of it is saved after each.
        kind: of model; a fusion weighs the predictions of both others, and needs them.

    Returns:
        The global weights, or why there can be no such model.

    Raises:
        RunError: a round brought fewer usable updates than the study needs.
    """
    study, releases = context.study, results.releases
    clips = {site: releases.facts[site].training.get(kind, 0) for site in sorted(releases.kept)}
    sites = [site for site, count in clips.items() if count > 0]
    if why := _cannot_be_trained(study, results, kind, sites):
        return why
    least = _floor(study, len(sites))
    if len(sites) < least:
        raise RunError(
            f"{len(sites)} sites with training clips of {kind}",
            expected=f"at least {least}, as min_sites says",
            fix="let more sites take part, or lower min_sites in [aggregation] and [train]",
        )
    for site in sorted(clips.keys() - set(sites)):
        context.warn(f"{site} trained no {kind} model: {_LACKS.get(kind, f'{_HELD_OUT}, or lack {kind}')}")
    flower = make_strategy(study.train.strategy, dict(study.train.strategy_options))
    if kind in context.progress.last_round:
        first = context.progress.last_round[kind] + 1
        weights, state = load_round(context, kind)
        restore_strategy(flower, state)
    else:
        first, weights = 1, _initial(context, results, kind)
    strategy = _strategy(
        context, grid, results, kind, flower=flower, weights=weights, clips={site: clips[site] for site in sites}
    )
    for number in range(first, study.train.rounds + 1):
        weights = strategy.round(number, weights)
        save_round(context, results, kind, number, weights=weights, strategy=strategy_state(flower))
    write_atomic(context.checkpoint(kind), save(weights))
    _warn_of_lost(context, kind)
    return weights


def _cannot_be_trained(study: Study, results: Results, kind: ModelKind, sites: list[str]) -> str:
    """Why there will be no such model; empty if there can be one."""
    if (known := results.absent.get(OUTPUTS[kind])) is not None:
        return known
    missing = [m for m in study.modalities if kind == "fusion" and m not in results.models]
    if missing:
        return f"fusion needs the models of both modalities; absent: {', '.join(missing)}"
    return "" if sites else "no site has a training clip of it"


def _strategy(
    context: RunContext,
    grid: SiteGrid,
    results: Results,
    kind: ModelKind,
    *,
    flower: Strategy,
    weights: Weights,
    clips: dict[str, int],
) -> CheckedStrategy:
    """Flower's strategy behind the checks and, where the study says so, site-level noise or secure aggregation."""
    from moretta.shared.models.emotion import study_model, trained_names

    study, aggregation = context.study, context.study.aggregation
    trained = trained_names(study_model(study, kind), weights)
    plan = plan_site_level(study)
    if plan is not None and not aggregation.secure:
        noise = _noise(context, kind) if aggregation.dp == "central" else None
        flower = SiteLevelMean(flower, plan, trained, noise)
    checked = SecureStrategy if aggregation.secure else CheckedStrategy
    strategy = checked(
        strategy=flower,
        grid=grid,
        sites=list(clips),
        call=wire.TRAIN[kind],
        study=study,
        min_sites=_floor(study, len(clips)),
        on_round=lambda outcome: _record(context, results.training, kind, outcome),
        on_update=lambda number, site, change: keep_update(context, kind, number, site, change),
        deadline_seconds=study.deadline_seconds("train"),
        max_norm=study.train.max_update_norm,
        # one where a site does not reveal how many it has
        most=dict.fromkeys(clips, 1) if aggregation.secure or aggregation.dp == "distributed" else clips,
        other_models={m: results.models[m] for m in study.modalities} if kind == "fusion" else {},
        find_outlying=plan is None and not aggregation.secure,
    )
    if isinstance(strategy, SecureStrategy):
        strategy.kind, strategy.trained = kind, trained
    return strategy


def _floor(study: Study, sites: int) -> int:
    """How many updates a round needs: where not all sites have clips of a modality, no more than those that have; but
    noise that was shared out for more sites is too little for fewer."""
    return study.min_sites("train") if study.aggregation.bounds_sites else min(study.min_sites("train"), sites)


def _noise(context: RunContext, kind: ModelKind) -> Callable[[int], NoiseSource]:
    """From the seed in a simulation, so that a round that is made again has the same; else from the system.

    A round's noise is drawn before its checkpoint is written, and nothing leaves before that: a round that was lost to
    a crash was released to nobody, and is spent once.
    """
    if isinstance(context.plan, DeploymentPlan):
        return lambda _: SystemNoise()
    return lambda number: SeededNoise(context.study.seed, "site-level noise", kind, number)


def _initial(context: RunContext, results: Results, kind: ModelKind) -> Weights:
    """Seeded initial weights. Inputs are standardised by released clips that the model may be trained on."""
    if kind == "fusion":
        from moretta.shared.models.fusion_gate import first_gate

        return {
            name: np.asarray(tensor)
            for name, tensor in first_gate(context.study.voice.weight, len(context.study.classes)).items()
        }
    from moretta.shared.models.emotion import initial_weights, study_model

    modality: Modality = kind
    study, model = context.study, study_model(context.study, modality)
    held_out = results.releases.held_out(context.plan)
    inputs = [
        x
        for x, clip in results.releases.model_inputs(results.public, modality, model)
        if clip.speaker not in held_out and study.learns(modality, speaker=clip.speaker, clip=clip.clip)
    ]
    if not inputs:
        raise RunError(f"no released {modality} clip of a speaker who is not held out", expected="at least one")
    weights = initial_weights(
        model,
        np.stack(inputs),
        seed=derive(study.seed, "initial weights", modality),
        standardise=study.aggregation.dp == "none",
    )
    return {name: np.asarray(tensor) for name, tensor in weights.items()}


def _record(context: RunContext, training: Training, kind: ModelKind, outcome: RoundOutcome) -> None:
    public_loss = not context.study.aggregation.bounds_sites  # a mean loss without noise would be a release of its own
    losses = [m["loss"] for m in outcome.used.values() if "loss" in m and public_loss]
    training.rounds.append(
        RoundRow(
            stage=f"train {kind}",
            round=outcome.round,
            sites=len(outcome.used),
            failed=len(outcome.refused) + len(outcome.lost),
            loss=float(np.mean(losses)) if losses else None,
            seconds=round(outcome.seconds, 2),
        )
    )
    for site, metrics in outcome.used.items():
        spent = training.spent.setdefault(site, SiteSpending())
        spent.rounds += 1
        if "epsilon" in metrics:
            spent.epsilon[len(training.rounds)] = metrics["epsilon"]
        for unit in ("clip", "speaker"):
            if f"epsilon-{unit}" in metrics:
                spent.levels[unit] = metrics[f"epsilon-{unit}"]
    for site, why in outcome.lost.items():
        context.miss(site, f"train {kind}", why, round_number=outcome.round, lost=True)
    for site, why in outcome.refused.items():
        context.miss(site, f"train {kind}", why, round_number=outcome.round)
        context.warn(f"{site} was left out of round {outcome.round} of training {kind}: {why}")
        _log.warning("%s refused: %s", site, why)
    for site, how in outcome.outlying.items():
        far = f"{site}'s updates of the {kind} model lie far outside those of the others"
        _log.warning("%s in round %d: %s", far, outcome.round, how)
        context.warn(f"{far}, first in round {outcome.round}: one {how}", once_per=far)
    context.notify(stage=f"train {kind}", state="round", done=outcome.round, total=context.study.train.rounds)


def _warn_of_lost(context: RunContext, kind: ModelKind) -> None:
    """One warning for each site that sent nothing, with the rounds it missed."""
    for site, missed in sorted(context.progress.missed.items()):
        lost = [m for m in missed if m.stage == f"train {kind}" and m.lost]
        if lost:
            rounds = ranges([m.round for m in lost if m.round is not None])
            context.warn(f"{site} missed {rounds} of training {kind}: {'; '.join(dict.fromkeys(m.why for m in lost))}")


def keep_update(context: RunContext, kind: ModelKind, number: int, site: str, change: Callable[[], Weights]) -> None:
    """The last round's updates, each on its own, are what the audit attacks; without it they are not kept."""
    audit = context.study.audit
    if number == context.study.train.rounds and audit.enabled and audit.inference and audit.updates:
        write_atomic(context.update(kind, site), save(change()))
