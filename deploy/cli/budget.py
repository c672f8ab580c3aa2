"""`moretta budget` and `moretta site ledger`: what a study will cost in privacy, and what has been spent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from moretta.deploy.cli.console import AsJson, Settings, SiteFolder, StudyArgument, read_study, show, site_home
from moretta.shared.core.errors import HomeError, StudyError

if TYPE_CHECKING:
    from cryptography import x509

    from moretta.client.accounting.budget import BudgetLimits
    from moretta.client.accounting.planning import CostEstimate

_UNITS: tuple[Literal["clip"], Literal["speaker"]] = ("clip", "speaker")
_BUDGET = """\
Study {study} at a site with {clips} clips of {speakers} speakers, {seconds:g} s at most. Every epsilon is at \
delta {delta:g}."""
_TRAINING = """\
Training by DP-SGD, each {unit} one example; target epsilon {target_epsilon:g} ({accountant} accountant)
  noise multiplier     {noise_multiplier:.3f}
  sampling             {sampling_rate:.3f} of all, {expected_batch:.1f} on average
  steps                {steps}: {models} models x {rounds} rounds x {steps_per_round}
  noise in a gradient  every step's mean gradient, cut to 1, carries noise of {noise_on_mean_gradient:.3f} in each \
parameter"""
_FUSION = """\
  fusion               {steps} steps on {clips} clips held back for it, noise multiplier {noise_multiplier:.3f}, \
sampling {sampling_rate:.3f}"""
_AGGREGATION = """\
Aggregation with noise on the sum of the sites' updates ({dp}), for a whole site
  noise multiplier     {noise_multiplier:.3f}, in norms that an update is cut to
  noise in the mean    the mean of {min_sites} updates carries noise of {in_mean:.3f} norms in each value
  epsilon per site     {figure} at delta {delta:g}, all rounds"""
_CODE = "    noise multiplier {noise_multiplier:.3f}: {noise_on_mean_gradient:.3f} in each value of a mean gradient"
_LEDGER = """\
Privacy ledger of {site}: {entries} entries, the chain is whole
head          {head}
countersigned {signed}
about         {clips} clips of {speakers} speakers
"""


def budget(
    study: StudyArgument,
    *,
    clips: Annotated[int, typer.Option(min=1, help="Clips of the site that are released and trained on.")] = 820,
    speakers: Annotated[int, typer.Option(min=1, help="How many people are on them.")] = 10,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the longest clip.")] = 2.6,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Plan the privacy budget of a study at a site: noise, steps, and epsilon per clip and per speaker.

    Nothing is read but the study file. The ledger of a site adds what other studies have cost the same people.

    Example: moretta budget study.toml --clips 440 --speakers 10
    """
    from moretta.client.accounting.planning import estimate_cost

    planned = estimate_cost(read_study(study, set_), clips_of_each(clips, speakers), seconds=seconds)
    facts = {"clips": clips, "speakers": speakers, "seconds": seconds, **_planned_facts(planned)}
    show(facts, _planned_lines(facts), as_json=as_json)


def clips_of_each(clips: int, speakers: int) -> list[int]:
    """Clips dealt evenly over speakers.

    Raises:
        StudyError: fewer clips than speakers.
    """
    if not 1 <= speakers <= clips:
        found = f"{clips} clips of {speakers} speakers"
        raise StudyError(found, expected="at least one clip of each", fix="correct them")
    share, rest = divmod(clips, speakers)
    return [share + (number < rest) for number in range(speakers)]


def _planned_facts(planned: CostEstimate) -> dict[str, Any]:
    from moretta.shared.privacy.accounting import training_step
    from moretta.shared.privacy.site_updates import plan_site_level

    study = planned.study
    training: dict[str, Any] | None = None
    aggregation: dict[str, Any] | None = None
    code: dict[str, Any] | None = None
    if planned.trainings:
        (first, _), *others = planned.trainings
        one = first.round
        fusions = [
            {
                "clips": held_back.clips,
                "noise_multiplier": fusion.round.noise_multiplier,
                "sampling_rate": fusion.round.rate,
                "steps": fusion.round.steps * fusion.rounds,
            }
            for fusion, held_back in others
        ]
        training = {
            "unit": one.unit,
            "accountant": study.privacy.accountant,
            "target_epsilon": study.privacy.epsilon,
            "noise_multiplier": one.noise_multiplier,
            "sampling_rate": one.rate,
            "expected_batch": first.expected_batch,
            "models": first.models,
            "rounds": first.rounds,
            "steps_per_round": one.steps,
            "steps": one.steps * first.rounds * first.models,
            "noise_on_mean_gradient": one.noise_multiplier / first.expected_batch,
            "fusion": fusions[0] if fusions else None,
            "epsilon": {unit: [planned.training_epsilon(unit, n) for n in (1, first.rounds)] for unit in _UNITS},
        }
    if (level := plan_site_level(study)) is not None:
        wanted, distributed = study.aggregation, study.aggregation.dp == "distributed"
        aggregation = {
            "dp": wanted.dp,
            "delta": wanted.delta,
            "epsilon": level.loss(level.rounds).epsilon(wanted.delta),
            "noise_multiplier": level.noise_multiplier,
            "min_sites": level.min_sites,
            "share": level.share / level.clipping_norm if distributed else None,
            "epsilon_of_share": level.loss_of_share(level.rounds).epsilon(wanted.delta) if distributed else None,
        }
    if (plan := study.site_training) is not None:
        step = training_step(plan)
        examples = planned.cohort.clips if plan.unit == "clip" else len(planned.cohort.speakers)
        code = {
            "modality": " and ".join(study.trained_modalities),
            "unit": plan.unit,
            "rounds": plan.rounds,
            "noise_multiplier": None if step is None else step.noise_multiplier,
            "noise_on_mean_gradient": None if step is None else step.noise_multiplier / examples,
            "epsilon": {unit: planned.code_epsilon(unit) for unit in _UNITS},
        }
    releases = {
        modality: {"anonymizer": study.section(modality).anonymizer}
        | {unit: planned.release_epsilon(modality, unit) for unit in _UNITS}
        for modality in planned.releases
    }
    return {
        "study": study.name,
        "delta": study.privacy.delta,
        "training": training,
        "aggregation": aggregation,
        "releases": releases,
        "code": code,
        "composed": planned.composed(),
    }


def _planned_lines(facts: dict[str, Any]) -> list[str]:
    lines = [*_BUDGET.format(**facts).splitlines(), ""]
    if (training := facts["training"]) is None:
        lines.append("Training without DP-SGD: models leak as much as the releases do.")
    else:
        lines += _TRAINING.format(**training).splitlines()
        if training["fusion"] is not None:
            lines.append(_FUSION.format(**training["fusion"]))
        for unit, (first, last) in training["epsilon"].items():
            after = f"({_figure(first)} after the first round of each model)"
            lines.append(f"  epsilon per {unit:<8} {_figure(last)} {after}")
    lines.append("")
    if (aggregation := facts["aggregation"]) is not None:
        in_mean, epsilon = aggregation["noise_multiplier"] / aggregation["min_sites"], _figure(aggregation["epsilon"])
        lines += _AGGREGATION.format(**aggregation, in_mean=in_mean, figure=epsilon).splitlines()
        if aggregation["share"] is not None:
            alone = _figure(aggregation["epsilon_of_share"])
            share = f"{aggregation['share']:.3f} norms; its update alone would have epsilon {alone}"
            lines.append(f"  each site adds       {share}")
        lines.append("")
    lines.append("Releases")
    for modality, release in facts["releases"].items():
        lines += [f"  {modality} by {release['anonymizer']}", *_epsilon_lines(release)]
    if (code := facts["code"]) is not None:
        lines.append("  {modality}, for the federated code: {rounds} rounds, each {unit} one example".format(**code))
        if code["noise_multiplier"] is not None:
            lines.append(_CODE.format(**code))
        lines += _epsilon_lines(code["epsilon"])
    server, model = (_epsilon_lines(facts["composed"][audience]) for audience in ("server", "model"))
    lines += ["", "All of it together, for", "  the server, which has the releases", *server]
    return [*lines, "  those who see the models alone", *model]


def _epsilon_lines(by_unit: dict[str, Any]) -> list[str]:
    return [f"    epsilon per {unit:<8} {_figure(by_unit[unit])}" for unit in _UNITS]


def _figure(epsilon: float | None) -> str:
    return "no finite guarantee" if epsilon is None else f"{epsilon:,.2f}"


def ledger(
    *,
    home: SiteFolder = None,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="A ledger elsewhere, as of a simulation.")] = None,
    delta: Annotated[
        float | None, typer.Option(min=1e-300, max=0.999, help="State epsilon at this delta; default the policy's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the privacy ledger and show what all studies together have cost.

    Follows the chain of hashes, compares it with the server's last receipt, and composes the losses of every clip and
    every speaker. Exits with 6 if the ledger is broken, or older than the server has countersigned.

    Example: moretta site ledger --home clinic-a
    """
    from cryptography import x509

    from moretta.client.accounting.budget import BudgetLimits
    from moretta.client.policy import Policy
    from moretta.client.transport.identity import Identity

    if file is not None:
        if not file.is_file():
            raise HomeError(f"no privacy ledger {file}", expected="a file ledger.jsonl", fix="correct --file")
        facts = ledger_facts(file, site=file.parent.name or ".", ca=None, budget=BudgetLimits.unlimited(), delta=delta)
    else:
        chosen = site_home(home)
        identity = Identity.load(chosen.identity_file)
        facts = ledger_facts(
            chosen.root / "ledger.jsonl",
            site=identity.site,
            ca=x509.load_pem_x509_certificate(identity.ca_pem.encode()),
            budget=Policy.load(chosen.policy_file).budget,
            delta=delta,
        )
    show(facts, ledger_lines(facts), as_json=as_json)


def ledger_facts(
    path: Path, *, site: str, ca: x509.Certificate | None, budget: BudgetLimits, delta: float | None = None
) -> dict[str, Any]:
    """Check a ledger, and compose what it records.

    Args:
        ca: the authority whose server countersigns; None where there is no server.
        delta: at which epsilon is stated; None takes the budget's.

    Raises:
        RefusedError: the chain is broken, older than the receipt, or the receipt is not the server's.
    """
    from moretta.client.accounting.account import AUDIENCES, UNITS, Account
    from moretta.client.accounting.ledger import Ledger, receipt_path, stored_receipt

    opened = Ledger(path)
    signed = stored_receipt(receipt_path(path))
    if signed is not None and ca is not None:
        signed.verify(ca)
    account, delta = Account.read(opened), budget.delta if delta is None else delta
    limits = {a: {unit: budget.limit(unit, a) for unit in UNITS} for a in AUDIENCES}
    return {
        "site": site,
        "path": str(path),
        "entries": opened.length,
        "head": opened.head,
        "countersigned": None if signed is None else {"length": signed.length, "unix_time": signed.unix_time},
        "delta": delta,
        "clips": account.members("clip"),
        "speakers": account.members("speaker"),
        "epsilon": {a: {unit: account.epsilon(unit, a, delta=delta) for unit in UNITS} for a in AUDIENCES},
        # JSON has no infinity
        "limits": {a: {u: None if math.isinf(x) else x for u, x in by_unit.items()} for a, by_unit in limits.items()},
        "spent": _spent(opened.all_entries()),
    }


def _spent(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each study and each thing that it made of the site's clips, in order of time."""
    from moretta.client.accounting.account import COHORT
    from moretta.client.accounting.budget import RESPONSE_KIND

    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for entry in entries:
        if entry["kind"] not in (COHORT, RESPONSE_KIND):
            what = str(entry.get("model") or entry.get("anonymizer") or "")
            key = (str(entry.get("study", "")), entry["kind"], what)
            times = rows[key]["times"] + 1 if key in rows else 1
            rows[key] = {"study": key[0], "kind": key[1], "what": what, "last": entry["at"], "times": times}
    return list(rows.values())


def ledger_lines(facts: dict[str, Any]) -> list[str]:
    """The facts of a ledger as text."""
    signed = "never: without a server's receipt an old backup would not be noticed"
    if (receipt := facts["countersigned"]) is not None:
        signed = f"up to entry {receipt['length']} of {facts['entries']}, {_time(receipt['unix_time'])}"
    heading = f"epsilon at delta {facts['delta']:g}"
    lines = [
        *_LEDGER.format(**facts, signed=signed).splitlines(),
        "",
        f"{heading:<28}{'per clip':>16}{'limit':>10}{'per speaker':>16}{'limit':>10}",
    ]
    for audience, text in {"server": "all that left", "model": "trained models"}.items():
        cells = ""
        for unit, epsilon in facts["epsilon"][audience].items():
            limit = facts["limits"][audience][unit]
            spent = "unbounded" if epsilon is None else f"{epsilon:,.2f}"
            cells += f"{spent:>16}{'none' if limit is None else f'{limit:g}':>10}"
        lines.append(f"{text:<28}{cells}")
    lines += ["", f"{'last':<18}{'study':<18}{'kind':<10}{'times':>6}  what"]
    return lines + [
        f"{_time(row['last']):<18}{row['study'][:16]:<18}{row['kind']:<10}{row['times']:>6}  {row['what']}"
        for row in facts["spent"]
    ]


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
