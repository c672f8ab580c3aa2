"""`moretta budget`: what a study will cost, and how much noise that takes, before anything is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from moretta.deploy.cli.console import AsJson, show

if TYPE_CHECKING:
    from moretta.client.accounting.planning import CostEstimate
    from moretta.shared.study.schema import Study

_UNITS: tuple[Literal["clip"], Literal["speaker"]] = ("clip", "speaker")


def budget(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Study file (TOML); see docs/study.md.")],
    *,
    clips: Annotated[int, typer.Option(min=1, help="Clips of the site that are released and trained on.")] = 820,
    speakers: Annotated[int, typer.Option(min=1, help="How many people are on them.")] = 10,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the longest clip.")] = 2.6,
    as_json: AsJson = False,
) -> None:
    """Plan the privacy budget of a study at a site: noise, steps, and epsilon per clip and per speaker.

    Nothing is read but the study file. The ledger of a site adds what other studies have cost the same people.

    Example: moretta budget study.toml --clips 440 --speakers 10
    """
    from moretta.client.accounting.planning import estimate_cost
    from moretta.shared.study.schema import load_study

    planned = estimate_cost(load_study(study), clips_of_each(clips, speakers), seconds=seconds)
    facts = {"clips": clips, "speakers": speakers, "seconds": seconds, **_facts(planned)}
    show(facts, _lines(facts), as_json=as_json)


def clips_of_each(clips: int, speakers: int) -> list[int]:
    """Clips dealt evenly over speakers.

    Raises:
        StudyError: fewer clips than speakers.
    """
    from moretta.shared.core.errors import StudyError

    if not 1 <= speakers <= clips:
        raise StudyError(
            f"{clips} clips of {speakers} speakers", expected="at least one clip of each", fix="correct them"
        )
    share, rest = divmod(clips, speakers)
    return [share + (number < rest) for number in range(speakers)]


def _facts(planned: CostEstimate) -> dict[str, Any]:
    privacy = planned.study.privacy
    facts: dict[str, Any] = {
        "study": planned.study.name,
        "delta": privacy.delta,
        "training": None,
        "aggregation": _aggregation(planned.study),
        "releases": {
            modality: {
                "anonymizer": planned.study.section(modality).anonymizer,
                **{unit: planned.release_epsilon(modality, unit) for unit in _UNITS},
            }
            for modality in planned.releases
        },
        "code": _code(planned),
        "composed": planned.composed(),
    }
    if planned.trainings:
        (training, _), *others = planned.trainings
        one = training.round
        facts["training"] = {
            "unit": one.unit,
            "accountant": privacy.accountant,
            "target_epsilon": privacy.epsilon,
            "noise_multiplier": one.noise_multiplier,
            "sampling_rate": one.rate,
            "expected_batch": training.expected_batch,
            "models": training.models,
            "rounds": training.rounds,
            "steps_per_round": one.steps,
            "steps": one.steps * training.rounds * training.models,
            "noise_on_mean_gradient": one.noise_multiplier / training.expected_batch,
            "fusion": next(
                (
                    {
                        "clips": held_back.clips,
                        "noise_multiplier": fusion.round.noise_multiplier,
                        "sampling_rate": fusion.round.rate,
                        "steps": fusion.round.steps * fusion.rounds,
                    }
                    for fusion, held_back in others
                ),
                None,
            ),
            "epsilon": {
                unit: [planned.training_epsilon(unit, number) for number in (1, training.rounds)] for unit in _UNITS
            },
        }
    return facts


def _code(planned: CostEstimate) -> dict[str, Any] | None:
    from moretta.shared.privacy.site_training import training_step

    plan = planned.study.site_training
    if plan is None:
        return None
    step = training_step(plan)
    units = planned.cohort.clips if plan.unit == "clip" else len(planned.cohort.speakers)
    return {
        "unit": plan.unit,
        "rounds": plan.rounds,
        "noise_multiplier": None if step is None else step.noise_multiplier,
        "noise_on_mean_gradient": None if step is None else step.noise_multiplier / units,
        "epsilon": {unit: planned.code_epsilon(unit) for unit in _UNITS},
    }


def _aggregation(study: Study) -> dict[str, Any] | None:
    from moretta.shared.privacy.site_level import plan_site_level

    plan, wanted = plan_site_level(study), study.aggregation
    if plan is None:
        return None
    distributed = wanted.dp == "distributed"
    return {
        "dp": wanted.dp,
        "delta": wanted.delta,
        "epsilon": plan.loss(plan.rounds).epsilon(wanted.delta),
        "noise_multiplier": plan.noise_multiplier,
        "min_sites": plan.min_sites,
        "share": plan.share / plan.clipping_norm if distributed else None,
        "epsilon_of_share": plan.loss_of_share(plan.rounds).epsilon(wanted.delta) if distributed else None,
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    lines = [
        f"Study {facts['study']} at a site with {facts['clips']} clips of {facts['speakers']} speakers, "
        f"{facts['seconds']:g} s at most. Every epsilon is at delta {facts['delta']:g}.",
        "",
        *_training_lines(facts["training"]),
        "",
        *_aggregation_lines(facts["aggregation"]),
        "Releases",
    ]
    for modality, release in facts["releases"].items():
        lines += [f"  {modality} by {release['anonymizer']}", *_epsilon_lines(release)]
    if facts["code"] is not None:
        lines += _code_lines(facts["code"])
    composed = facts["composed"]
    lines += [
        "",
        "All of it together, for",
        "  the server, which has the releases",
        *_epsilon_lines(composed["server"]),
    ]
    return [*lines, "  those who see the models alone", *_epsilon_lines(composed["model"])]


def _epsilon_lines(by_unit: dict[str, Any]) -> list[str]:
    return [f"    epsilon per {unit:<8} {_figure(by_unit[unit])}" for unit in _UNITS]


def _code_lines(code: dict[str, Any]) -> list[str]:
    lines = [f"  voice, for the federated code: {code['rounds']} rounds, each {code['unit']} one example"]
    if code["noise_multiplier"] is not None:
        share = code["noise_on_mean_gradient"]
        lines.append(
            f"    noise multiplier {code['noise_multiplier']:.3f}: {share:.3f} in each value of a mean gradient"
        )
    return lines + _epsilon_lines(code["epsilon"])


def _training_lines(training: dict[str, Any] | None) -> list[str]:
    if training is None:
        return ["Training without DP-SGD: models leak as much as the releases do."]
    share = training["noise_on_mean_gradient"]
    lines = [
        f"Training by DP-SGD, each {training['unit']} one example; target epsilon {training['target_epsilon']:g} "
        f"({training['accountant']} accountant)",
        f"  noise multiplier     {training['noise_multiplier']:.3f}",
        f"  sampling             {training['sampling_rate']:.3f} of all, {training['expected_batch']:.1f} on average",
        f"  steps                {training['steps']}: {training['models']} models x {training['rounds']} rounds x "
        f"{training['steps_per_round']}",
        f"  noise in a gradient  every step's mean gradient, cut to 1, carries noise of {share:.3f} in each parameter",
    ]
    if (fusion := training["fusion"]) is not None:
        lines.append(
            f"  fusion               {fusion['steps']} steps on {fusion['clips']} clips held back for it, "
            f"noise multiplier {fusion['noise_multiplier']:.3f}, sampling {fusion['sampling_rate']:.3f}"
        )
    for unit, epsilon in training["epsilon"].items():
        first, last = map(_figure, epsilon)
        lines.append(f"  epsilon per {unit:<8} {last} ({first} after the first round of each model)")
    return lines


def _aggregation_lines(aggregation: dict[str, Any] | None) -> list[str]:
    if aggregation is None:
        return []
    noise, least = aggregation["noise_multiplier"], aggregation["min_sites"]
    lines = [
        f"Aggregation with noise on the sum of the sites' updates ({aggregation['dp']}), for a whole site",
        f"  noise multiplier     {noise:.3f}, in norms that an update is cut to",
        f"  noise in the mean    the mean of {least} updates carries noise of {noise / least:.3f} norms in each value",
        f"  epsilon per site     {_figure(aggregation['epsilon'])} at delta {aggregation['delta']:g}, all rounds",
    ]
    if aggregation["share"] is not None:
        lines.append(
            f"  each site adds       {aggregation['share']:.3f} norms; its update alone would have epsilon "
            f"{_figure(aggregation['epsilon_of_share'])}"
        )
    return [*lines, ""]


def _figure(epsilon: float | None) -> str:
    return "no finite guarantee" if epsilon is None else f"{epsilon:,.2f}"
