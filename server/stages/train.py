"""Stages train voice, face and fusion: federated rounds of one of Flower's strategies, DP-SGD at the sites."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import save

from moretta.server.aggregation.guarded import GuardedStrategy, Mean, RoundOutcome
from moretta.server.aggregation.memory import remembered, remind
from moretta.server.aggregation.secure_strategy import SecureStrategy
from moretta.server.aggregation.site_level_mean import SiteLevelMean
from moretta.server.aggregation.strategies import make_strategy
from moretta.server.stages.run_context import Run, ranges
from moretta.server.stages.state import load_round, save_round
from moretta.shared.audit.report.report_schema import Modality as Output
from moretta.shared.audit.report.report_schema import RoundRow
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import RunError
from moretta.shared.core.seeds import derive
from moretta.shared.core.terms import Modality
from moretta.shared.messages import wire
from moretta.shared.privacy.noise import NoiseSource, SeededNoise, SystemNoise
from moretta.shared.privacy.site_level import plan_site_level
from moretta.shared.study.fusion import ModelKind
from moretta.shared.study.run_plan import DeploymentPlan
from moretta.shared.study.schema import Study


def train_voice(run: Run, rates: dict[str, float]) -> None:
    """Train the voice model."""
    _train(run, "voice", rates)


def train_face(run: Run, rates: dict[str, float]) -> None:
    """Train the face model."""
    _train(run, "face", rates)


def train_fusion(run: Run, rates: dict[str, float]) -> None:
    """Train the gate that weighs both models' opinions; needs both."""
    _train(run, "fusion", rates)


def _train(run: Run, kind: ModelKind, rates: dict[str, float]) -> None:
    """All rounds of one model, from the last one that was checkpointed.

    Raises:
        RunError: a round brought fewer usable updates than the study asks for.
    """
    study = run.study
    sites = [s for s in sorted(run.releases) if run.sites[s].training.get(kind, 0) > 0]
    if why := _cannot_be_trained(run, kind, sites):
        run.absent.setdefault(OUTPUTS[kind], why)
        return
    if len(sites) < _floor(study, len(sites)):
        raise RunError(
            f"{len(sites)} sites with training clips of {kind}",
            expected=f"at least {_floor(study, len(sites))}, as min_sites says",
            fix="let more sites take part, or lower min_sites in [aggregation] and [train]",
        )
    for site in sorted(run.releases.keys() - set(sites)):
        run.warn(f"{site} trained no {kind} model: {_LACKS.get(kind, f'{_HELD_OUT}, or lack {kind}')}")
    first, weights = _start(run, kind)
    strategy = _strategy(run, kind, sites, weights)
    if kind in run.last_round:
        remind(strategy.inner, load_round(run, kind)[1])
    for number in range(first, study.train.rounds + 1):
        weights = strategy.round(number, weights)
        save_round(run, kind, number, weights, remembered(strategy.inner))
    write_atomic(run.checkpoint(kind), save(weights))
    run.weights[kind] = weights
    run.trained = (*run.trained, kind)
    _warn_of_lost(run, kind)
    rates["clips"] = study.train.rounds * study.train.local_epochs * sum(run.sites[s].training[kind] for s in sites)


OUTPUTS: dict[ModelKind, Output] = {"voice": "voice", "face": "face", "fusion": "learned"}
"""What a model gives in the evaluation."""
_HELD_OUT = "all its clips are of held-out speakers"
_LACKS = {"fusion": f"{_HELD_OUT}, or none was held back for it"}


def _cannot_be_trained(run: Run, kind: ModelKind, sites: list[str]) -> str:
    """Why there will be no such model; empty if there can be one."""
    if (known := run.absent.get(OUTPUTS[kind])) is not None:
        return known
    missing = [m for m in run.study.modalities if kind == "fusion" and m not in run.weights]
    if missing:
        return f"fusion needs the models of both modalities; absent: {', '.join(missing)}"
    return "" if sites else "no site has a training clip of it"


def _strategy(run: Run, kind: ModelKind, sites: list[str], weights: dict[str, wire.Array]) -> GuardedStrategy:
    from moretta.shared.models.emotion import emotion_model, trained_names

    study = run.study
    trained = trained_names(emotion_model(kind, study.model_of(kind)), weights)
    options: dict[str, Any] = {
        "inner": make_strategy(study.train.strategy, dict(study.train.strategy_options)),
        "site_grid": run.site_grid,
        "sites": sites,
        "call": wire.TRAIN[kind],
        "study": study,
        "min_sites": _floor(study, len(sites)),
        "on_round": lambda outcome: _record(run, kind, outcome),
        "on_update": lambda number, site, change: _keep(run, kind, number, site, change),
        "deadline_seconds": study.deadline_seconds("train"),
        "max_norm": study.train.max_update_norm,
        "most": {site: _most(run, kind, site) for site in sites},
        "beside": {m: run.weights[m] for m in study.modalities} if kind == "fusion" else {},
    }
    if study.aggregation.secure:
        return SecureStrategy(**options, kind=kind, trained=trained)
    return GuardedStrategy(**options, mean=_mean(run, kind, trained))


def _most(run: Run, kind: ModelKind, site: str) -> int:
    """What its updates may weigh: all its training clips; one where all sites weigh alike."""
    return 1 if run.study.aggregation.bounds_sites else run.sites[site].training[kind]


def _floor(study: Study, sites: int) -> int:
    """How many updates a round needs: where not all sites have clips of a modality, no more than those that have; but
    noise that was shared out for more sites is too little for fewer."""
    return study.min_sites("train") if study.aggregation.bounds_sites else min(study.min_sites("train"), sites)


def _mean(run: Run, kind: ModelKind, trained: frozenset[str]) -> Mean | None:
    plan = plan_site_level(run.study)
    if plan is None:
        return None
    return SiteLevelMean(plan, trained, _noise(run, kind) if run.study.aggregation.dp == "central" else None)


def _noise(run: Run, kind: ModelKind) -> Callable[[int], NoiseSource]:
    """From the seed in a simulation, so that a round that is made again has the same; else from the system.

    A round's noise is drawn before its checkpoint is written, and nothing leaves before that: a round that was lost to
    a crash was told to nobody, and is spent once.
    """
    if isinstance(run.plan, DeploymentPlan):
        return lambda _: SystemNoise()
    return lambda number: SeededNoise(run.study.seed, "site-level noise", kind, number)


def _start(run: Run, kind: ModelKind) -> tuple[int, dict[str, wire.Array]]:
    """The first round to do, and the weights it starts from."""
    if kind in run.last_round:
        return run.last_round[kind] + 1, load_round(run, kind)[0]
    if kind == "fusion":
        from moretta.shared.models.fusion_gate import first_gate

        return 1, {name: np.asarray(tensor) for name, tensor in first_gate(run.study.voice.weight).items()}
    return 1, _initial(run, kind)


def _initial(run: Run, modality: Modality) -> dict[str, wire.Array]:
    """Seeded initial weights. Inputs are standardised by released clips that the model may learn on."""
    from moretta.server.stages.model_inputs import model_inputs
    from moretta.shared.models.emotion import emotion_model, initial_weights

    model = emotion_model(modality, run.study.section(modality).model)
    held_out = run.held_out()
    inputs = [
        x
        for x, clip in model_inputs(run, modality, model)
        if clip.speaker not in held_out and run.study.learns(modality, speaker=clip.speaker, clip=clip.clip)
    ]
    if not inputs:
        raise RunError(f"no released {modality} clip of a speaker who is not held out", expected="at least one")
    weights = initial_weights(
        model,
        np.stack(inputs),
        seed=derive(run.study.seed, "initial weights", modality),
        standardise=run.study.aggregation.dp == "none",
    )
    return {name: np.asarray(tensor) for name, tensor in weights.items()}


def _record(run: Run, kind: ModelKind, outcome: RoundOutcome) -> None:
    public_loss = not run.study.aggregation.bounds_sites  # a mean loss without noise would be a release of its own
    losses = [m["loss"] for m in outcome.used.values() if "loss" in m and public_loss]
    run.rounds.append(
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
        record = run.sites[site]
        record.rounds += 1
        if "epsilon" in metrics:
            record.epsilon[len(run.rounds)] = metrics["epsilon"]
        for unit in ("clip", "speaker"):
            if f"epsilon-{unit}" in metrics:
                record.levels[unit] = metrics[f"epsilon-{unit}"]
    for site, why in outcome.lost.items():
        run.miss(site, f"train {kind}", why, round_number=outcome.round, lost=True)
    for site, why in outcome.refused.items():
        run.miss(site, f"train {kind}", why, round_number=outcome.round)
        run.warn(f"{site} was left out of round {outcome.round} of training {kind}: {why}")
        logging.getLogger("moretta").warning("%s refused: %s", site, why)
    for site, how in outcome.outlying.items():
        far = f"{site}'s updates of the {kind} model lie far outside those of the others"
        logging.getLogger("moretta").warning("%s in round %d: %s", far, outcome.round, how)
        if not any(warning.startswith(far) for warning in run.warnings):
            run.warn(f"{far}, first in round {outcome.round}: one {how}")
    run.notify(stage=f"train {kind}", state="round", done=outcome.round, total=run.study.train.rounds)


def _warn_of_lost(run: Run, kind: ModelKind) -> None:
    """One warning for each site that sent nothing, with the rounds it missed."""
    for site, record in sorted(run.sites.items()):
        lost = [m for m in record.missed if m.stage == f"train {kind}" and m.lost]
        if lost:
            rounds = ranges([m.round for m in lost if m.round is not None])
            run.warn(f"{site} missed {rounds} of training {kind}: {'; '.join(dict.fromkeys(m.why for m in lost))}")


def _keep(run: Run, kind: ModelKind, number: int, site: str, change: Callable[[], dict[str, wire.Array]]) -> None:
    """The last round's updates, each on its own, are what the audit attacks; without it they are not kept."""
    audit = run.study.audit
    if number == run.study.train.rounds and audit.enabled and audit.inference and audit.updates:
        write_atomic(run.update(kind, site), save(change()))
