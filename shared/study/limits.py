"""Limits of a study that contradict each other, or the number of sites: found before a site spends anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

from moretta.shared.core.errors import StudyError
from moretta.shared.core.terms import Modality
from moretta.shared.privacy.mechanism import least_epsilon
from moretta.shared.privacy.site_updates import MAX_SITES
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import RequestStage

_CHANCE_EER = 0.5
_MARGIN = 1.1
"""Factor between the least epsilon that the accountant's orders can show and the least one that may be required."""


def check_limits(study: Study, *, sites: int | None = None) -> None:
    """Refuse a study that cannot come to a good end, whatever the sites' clips are.

    `sites` is how many take part; None where that is not known yet. All contradictions are in one StudyError.
    """
    if found := [*_in_itself(study), *(() if sites is None else _with_sites(study, sites))]:
        fix = "correct the keys named; nothing was made or spent"
        raise StudyError("; ".join(found), expected="limits that can be kept together", fix=fix)


def check_training_sites(study: Study, training: Sequence[Sequence[Modality]]) -> None:
    """Refuse a study whose noise is shared out for more sites than have clips to train on.

    `training` has, for each site, the modalities of its clips of speakers who are not held out. Each round must be sent
    to enough of them.
    """
    least = study.min_sites("train")
    for modality in study.modalities if study.aggregation.bounds_sites else ():
        able = sum(modality in there for there in training)
        if study.train.sites_of_round(able) < least:
            raise StudyError(
                f"{able} of {len(training)} sites have clips of {modality} of speakers who are not held out",
                expected=f"at least {least}, as min_sites of [aggregation] or of training says",
                fix="raise folds in [split] or fraction_train, give each site more speakers, or lower min_sites",
            )


def _in_itself(study: Study) -> Iterator[str]:
    gate, privacy = study.gate, study.privacy
    if gate.max_epsilon is not None and not privacy.dp_sgd:
        yield f"gate.max_epsilon is {gate.max_epsilon:g}, and privacy.dp_sgd is off: no epsilon is spent to compare"
    elif gate.max_epsilon is not None and gate.max_epsilon < privacy.epsilon:
        yield f"gate.max_epsilon is {gate.max_epsilon:g}, below the {privacy.epsilon:g} that privacy.epsilon spends"
    # Targets that no noise reaches, by the accountants there are
    wanted = [("privacy.epsilon", privacy.epsilon, privacy.delta)] if privacy.dp_sgd else []
    for modality in study.modalities:
        training = study.section(modality).site_training()
        if training is not None and training.epsilon:
            wanted.append((f"{modality}.options.{training.epsilon_key}", training.epsilon, training.delta))
    for key, epsilon, delta in wanted:
        if epsilon <= (least := _MARGIN * least_epsilon(delta)):
            yield f"{key} is {epsilon:g}, and no noise keeps less than {least:.3g} at a delta of {delta:g}"
    for key, value in {"gate.max_top1": gate.max_top1, "gate.min_eer": gate.min_eer}.items():
        if value is not None and not study.audit.enabled:
            yield f"{key} is {value:g}, and audit.enabled is off: nothing is attacked to compare"
    if gate.min_eer is not None and gate.min_eer > _CHANCE_EER:
        yield f"gate.min_eer is {gate.min_eer:g}, above {_CHANCE_EER:g}, the rate of an attacker that only guesses"
    norm, cut = study.train.max_update_norm, study.aggregation.clipping_norm
    if study.aggregation.bounds_sites and cut > norm:
        yield f"aggregation.clipping_norm is {cut:g}, above train.max_update_norm {norm:g}, beyond which it is refused"


def _with_sites(study: Study, sites: int) -> Iterator[str]:
    """The numbers that strategies need are of Blanchard et al. (Krum, NeurIPS 2017) and El Mhamdi et al. (Bulyan, ICML
    2018)."""
    train, taking_part = study.train, f"{sites} sites take part, and"
    in_round = train.sites_of_round(sites)
    each = taking_part if in_round == sites else f"{in_round} of {sites} sites take part in a round, and"
    stages: tuple[RequestStage, ...] = get_args(RequestStage)
    if train.min_sites > sites:
        yield f"{taking_part} train.min_sites is {train.min_sites}"
    else:
        for stage in stages:
            if (least := study.min_sites(stage)) > sites:
                own = getattr(study.stages, stage).min_sites == least
                yield f"{taking_part} {f'stages.{stage}' if own else 'aggregation'}.min_sites is {least}"
        if in_round < (least := study.min_sites("train")) <= sites:
            yield f"{each} so few are too few: min_sites is {least}"
    if study.aggregation.secure and sites > MAX_SITES:
        yield f"{taking_part} aggregation.secure adds up {MAX_SITES} at most"
    bad = train.strategy_options.get("num_malicious_nodes", 0)
    needed = {"Bulyan": 4 * bad + 3, "Krum": 2 * bad + 3, "MultiKrum": 2 * bad + 3}.get(train.strategy, 0)
    if needed > in_round and (bad > 0 or train.strategy == "Bulyan"):
        yield f"{each} train.strategy {train.strategy} needs {needed:g}"
    chosen = train.strategy_options.get("num_nodes_to_select", 1)
    if train.strategy == "MultiKrum" and chosen > in_round:
        yield f"{each} strategy_options.num_nodes_to_select is {chosen:g}"
