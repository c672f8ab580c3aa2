"""Federated rounds of one of Flower's strategies: stages federated code, train voice, face and fusion."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping

import numpy as np
from flwr.serverapp.strategy import Strategy
from safetensors.numpy import load_file, save

from moretta.server.aggregation.checked_strategy import (
    WEIGHT,
    CheckedStrategy,
    RoundOutcome,
    Weights,
    bounded_weights,
)
from moretta.server.aggregation.secure_strategy import SecureStrategy
from moretta.server.aggregation.site_level_mean import SiteLevelMean
from moretta.server.aggregation.strategies import make_strategy, restore_strategy, strategy_state
from moretta.server.grid.site_grid import SiteGrid
from moretta.server.stages.run import Arrays, Releases, RunContext, SiteSpending, Training, ranges
from moretta.server.stages.state import load_round
from moretta.shared.audit.report.report_schema import Modality as Output
from moretta.shared.audit.report.report_schema import RoundRow
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import ReleaseError, RunError, StudyError
from moretta.shared.core.reproducibility import derive
from moretta.shared.features.federated_encoder import CLIPPING_NORM, PUBLIC, is_clear
from moretta.shared.messages import wire
from moretta.shared.privacy.accounting import training_step
from moretta.shared.privacy.noise import NoiseSource, SeededNoise, SystemNoise
from moretta.shared.privacy.site_updates import plan_site_level
from moretta.shared.release.anonymizer import site_training_of
from moretta.shared.study.run_plan import DeploymentPlan
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import ModelKind

CODE_STAGE = "federated code"
OUTPUTS: dict[ModelKind, Output] = {"voice": "voice", "face": "face", "fusion": "learned"}
"""Output of each model in the evaluation."""
_HELD_OUT = "all its clips are of held-out speakers"
_log = logging.getLogger(__name__)


def federate_code(context: RunContext, grid: SiteGrid, public: Arrays) -> tuple[Arrays, dict[str, int]]:
    """Let the sites train the encoder of their voices, from what public speech gives.

    The public arrays are computed anew from the last round. This costs no more privacy, since it uses only what left
    the sites after their noise. Where the noise exceeds what the sites' clips add, the public code stays as it is.
    A server that died during this stage makes all rounds again, and the sites respond as before.

    Returns these arrays, and the clips or speakers, as the study says, that each site trained on.
    """
    study, training = context.study, site_training_of(context.study)
    assert training is not None, "only a study that has an encoder to train has this stage"
    first, rounds = training.first_arrays(public), training.plan.rounds
    variance, units = 0.0, dict[str, int]()

    def add(outcome: RoundOutcome) -> None:
        """Every site adds noise of one clipping norm to the sum over its units, and sends their mean."""
        nonlocal variance
        stated = {site: metrics[WEIGHT] for site, metrics in outcome.used.items()}
        weights = bounded_weights(stated)
        shares = [weights[site] / sum(weights.values()) / stated[site] for site in stated]
        variance += float(np.square(shares).sum()) * (training.learning_rate * CLIPPING_NORM) ** 2
        for site, count in stated.items():
            units[site] = max(units.get(site, 0), int(count))
        _note_outlying(context, outcome, "code")
        for failures, lost in ((outcome.refused, False), (outcome.lost, True)):
            for site, why in failures.items():
                if not any(m.stage == CODE_STAGE and m.why == why for m in context.progress.missed.get(site, ())):
                    context.warn(f"{site} had no part in training the code, from round {outcome.round} on: {why}")
                context.miss(site, CODE_STAGE, why, round_number=outcome.round, lost=lost)
        context.notify(stage=CODE_STAGE, state="step", done=outcome.round, total=rounds)

    def check(number: int, update: Weights) -> None:
        """Refuse values beyond an array's rule: with them every other site would refuse the next round."""
        try:
            training.encoder(update, number)
        except StudyError as error:
            raise ReleaseError(error.found, expected=error.expected) from error
        if changed := [name for name in update if name.startswith(PUBLIC) and (update[name] != first[name]).any()]:
            raise ReleaseError(
                f"{', '.join(changed)[:200]} with other values", expected="what is public, as it was sent"
            )

    strategy = CheckedStrategy(
        strategy=make_strategy("FedAvg", {}),
        grid=grid,
        sites=grid.sites,
        call=wire.CODE,
        study=study,
        min_sites=study.min_sites("train"),
        on_round=add,
        check=check,
        deadline_seconds=study.deadline_seconds("train"),
        max_norm=study.train.max_update_norm,
        weights=bounded_weights,
    )
    weights = first
    for number in range(1, rounds + 1):
        weights = strategy.round(number, weights) | {n: first[n] for n in first if n.startswith(PUBLIC)}
    step = training_step(training.plan)
    deviation = 0.0 if step is None else step.noise_multiplier * float(np.sqrt(variance))
    before, after = first[training.monitored], weights[training.monitored]
    clear = is_clear(before, after, noise=deviation, least_signal=training.least_signal)
    if not clear:
        context.warn(
            f"the noise of {rounds} rounds exceeds what the sites' clips add to the code: it stays as public people "
            "have made it, and the budget is spent"
        )
    return public | training.public_after(public, weights if clear else None), units


def train(
    context: RunContext,
    grid: SiteGrid,
    kind: ModelKind,
    *,
    releases: Releases,
    public: Arrays,
    models: Mapping[ModelKind, Weights],
    absent: Mapping[str, str],
    training: Training,
    save_round: Callable[[int, Weights, Arrays], None],
) -> Weights | str:
    """All rounds of one model, from the last one that was checkpointed; returns its weights, or why there is none.

    A fusion weighs the predictions of both other models, and needs them. The rounds and what they spend are added to
    `training`; after each, `save_round` gets its number, the weights and the strategy's state. Raises RunError where a
    round brought fewer usable updates than the study needs.
    """
    study = context.study
    clips = _training_clips(releases, kind)
    if (known := absent.get(OUTPUTS[kind])) is not None:
        return known
    missing = [m for m in study.modalities if kind == "fusion" and m not in models]
    if missing:
        return f"fusion needs the models of both modalities; absent: {', '.join(missing)}"
    if not clips:
        return "no site has a training clip of it"
    in_round = study.train.sites_of_round(len(clips))
    least = _floor(study, in_round)
    if in_round < least:
        part = "" if in_round == len(clips) else f", of which {in_round} take part in a round"
        raise RunError(
            f"{len(clips)} sites with training clips of {kind}{part}",
            expected=f"at least {least}, as min_sites says",
            fix="let more sites take part, raise fraction_train, or lower min_sites in [aggregation] and [train]",
        )
    lacks = "none was held back for it" if kind == "fusion" else f"lack {kind}"
    for site in sorted(releases.kept.keys() - clips.keys()):
        context.warn(f"{site} trained no {kind} model: {_HELD_OUT}, or {lacks}")
    flower = make_strategy(study.train.strategy, dict(study.train.strategy_options))
    if kind in context.progress.last_round:
        first = context.progress.last_round[kind] + 1
        weights, state = load_round(context, kind)
        restore_strategy(flower, state)
    else:
        first, weights = 1, _initial(context, releases, public, kind, training)
    strategy = _strategy(
        context, grid, kind, flower=flower, weights=weights, clips=clips, models=models, training=training
    )
    for number in range(first, study.train.rounds + 1):
        weights = strategy.round(number, weights)
        save_round(number, weights, strategy_state(flower))
    write_atomic(context.checkpoint(kind), save(weights))
    _warn_of_lost(context, kind)
    return weights


def sites_not_in(context: RunContext, releases: Releases, kind: ModelKind) -> set[str]:
    """Sites with training clips of which a model has no update: not drawn for any round, or missing in each."""
    used = context.progress.learned_from.get(kind)
    return set() if used is None else _training_clips(releases, kind).keys() - set(used)


def _training_clips(releases: Releases, kind: ModelKind) -> dict[str, int]:
    """Number of training clips of each site that has any."""
    counts = {
        site: releases.facts[site].training.get(kind, 0) for site in sorted(releases.kept) if site in releases.facts
    }
    return {site: count for site, count in counts.items() if count > 0}


def _strategy(
    context: RunContext,
    grid: SiteGrid,
    kind: ModelKind,
    *,
    flower: Strategy,
    weights: Weights,
    clips: dict[str, int],
    models: Mapping[ModelKind, Weights],
    training: Training,
) -> CheckedStrategy:
    """Flower's strategy behind the checks and, where the study says so, site-level noise or secure aggregation."""
    from moretta.shared.models.emotion import study_model, trained_names

    study, aggregation = context.study, context.study.aggregation
    trained = trained_names(study_model(study, kind), weights)
    plan = plan_site_level(study)
    if plan is not None and not aggregation.secure:
        flower = SiteLevelMean(flower, plan, trained, _noise(context, kind) if aggregation.dp == "central" else None)
    checked = SecureStrategy if aggregation.secure else CheckedStrategy
    strategy = checked(
        strategy=flower,
        grid=grid,
        sites=list(clips),
        call=wire.TRAIN[kind],
        study=study,
        min_sites=_floor(study, study.train.sites_of_round(len(clips))),
        chosen=lambda number: _sites_of_round(study, kind, list(clips), number, there=grid.nodes.values()),
        on_round=lambda outcome: _record(context, training, kind, outcome),
        on_update=lambda number, site, change: keep_update(context, kind, number, site, change),
        deadline_seconds=study.deadline_seconds("train"),
        max_norm=study.train.max_update_norm,
        # one where a site does not reveal how many it has
        most=dict.fromkeys(clips, 1) if aggregation.secure or aggregation.dp == "distributed" else clips,
        other_models={m: models[m] for m in study.modalities} if kind == "fusion" else {},
        find_outlying=plan is None and not aggregation.secure,
    )
    if isinstance(strategy, SecureStrategy):
        strategy.kind, strategy.trained = kind, trained
    return strategy


def _floor(study: Study, sites: int) -> int:
    """Number of updates that a round needs. Where not all sites have clips of a modality, these sites are enough; but
    noise that was shared out for more sites is too little for fewer."""
    return study.min_sites("train") if study.aggregation.bounds_sites else min(study.min_sites("train"), sites)


def _sites_of_round(
    study: Study, kind: ModelKind, sites: list[str], number: int, *, there: Collection[str]
) -> Collection[str]:
    """Sites of a round, drawn by seed, model and round alone, so that a repeated round has the same sites.

    A drawn site that is not `there` any more is replaced by another one: otherwise a run could wait for it without end.

    The choice is no secret, so it amplifies no guarantee: noise is calibrated as if every site were in every round, and
    a site pays in full for each round that it is in.
    """
    rng = np.random.default_rng(derive(study.seed, "sites of a round", kind, number))
    drawn = rng.choice(sorted(sites), study.train.sites_of_round(len(sites)), replace=False).tolist()
    others = rng.permutation([site for site in sorted(sites) if site in there and site not in drawn]).tolist()
    left = [site for site in drawn if site in there]
    return {*left, *others[: len(drawn) - len(left)]}


def _noise(context: RunContext, kind: ModelKind) -> Callable[[int], NoiseSource]:
    """Source of each round's noise: the seed in a simulation, so that a repeated round has the same; else the system.

    A round's noise is drawn before its checkpoint is written, and nothing leaves before that. So a round that was lost
    to a crash was released to nobody, and its loss counts once.
    """
    if isinstance(context.plan, DeploymentPlan):
        return lambda _: SystemNoise()
    return lambda number: SeededNoise(context.study.seed, "site-level noise", kind, number)


def _initial(context: RunContext, releases: Releases, public: Arrays, kind: ModelKind, training: Training) -> Weights:
    """Weights of public people, else seeded weights that are standardised by released clips of training."""
    from moretta.shared.models.emotion import initial_weights, study_model
    from moretta.shared.models.fusion_gate import first_gate

    study = context.study
    if kind == "fusion":
        gate = first_gate(study.voice.weight, len(study.classes))
        return {name: np.asarray(tensor) for name, tensor in gate.items()}
    if kind in training.public_start:
        return dict(load_file(context.public_start(kind)))
    model, held_out = study_model(study, kind), releases.held_out(context.plan)
    inputs = [
        x
        for x, clip in releases.model_inputs(public, kind, model)
        if clip.speaker not in held_out and study.learns(kind, speaker=clip.speaker, clip=clip.clip)
    ]
    if not inputs:
        raise RunError(f"no released {kind} clip of a speaker who is not held out", expected="at least one")
    seed = derive(study.seed, "initial weights", kind)
    weights = initial_weights(model, np.stack(inputs), seed=seed, standardise=study.aggregation.dp == "none")
    return {name: np.asarray(tensor) for name, tensor in weights.items()}


def _record(context: RunContext, training: Training, kind: ModelKind, outcome: RoundOutcome) -> None:
    stage = f"train {kind}"
    public_loss = not context.study.aggregation.bounds_sites  # a mean loss without noise would be a release of its own
    losses = [m["loss"] for m in outcome.used.values() if "loss" in m and public_loss]
    training.rounds.append(
        RoundRow(
            stage=stage,
            round=outcome.round,
            sites=len(outcome.used),
            failed=len(outcome.refused) + len(outcome.lost),
            loss=float(np.mean(losses)) if losses else None,
            seconds=round(outcome.seconds, 2),
        )
    )
    known = context.progress.learned_from.setdefault(kind, [])
    known += [site for site in sorted(outcome.used) if site not in known]
    for site, metrics in outcome.used.items():
        spent = training.spent.setdefault(site, SiteSpending())
        spent.rounds += 1
        if "epsilon" in metrics:
            spent.epsilon[len(training.rounds)] = metrics["epsilon"]
        for unit in ("clip", "speaker"):
            if f"epsilon-{unit}" in metrics:
                spent.levels[unit] = metrics[f"epsilon-{unit}"]
    for site, why in outcome.lost.items():
        context.miss(site, stage, why, round_number=outcome.round, lost=True)
    for site, why in outcome.refused.items():
        context.miss(site, stage, why, round_number=outcome.round)
        context.warn(f"{site} was left out of round {outcome.round} of training {kind}: {why}")
        _log.warning("%s refused: %s", site, why)
    _note_outlying(context, outcome, f"{kind} model")
    context.notify(stage=stage, state="round", done=outcome.round, total=context.study.train.rounds)


def _note_outlying(context: RunContext, outcome: RoundOutcome, of: str) -> None:
    for site, how in outcome.outlying.items():
        far = f"{site}'s updates of the {of} lie far outside those of the others"
        _log.warning("%s in round %d: %s", far, outcome.round, how)
        context.warn(f"{far}, first in round {outcome.round}: one {how}", once_per=far)


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
