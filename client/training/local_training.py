"""Local training: one round of DP-SGD, or of plain SGD, with its loss on the ledger before the first step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moretta.client.accounting.account import UNITS, Cohort, Loss, Unit
from moretta.client.accounting.budget import SiteBudget
from moretta.client.accounting.ledger import Ledger
from moretta.client.training.dp_sgd import TrainingExamples, private_steps
from moretta.client.training.randomness import Randomness, SeededRandomness, SystemRandomness
from moretta.client.training.response_ledger import is_paid
from moretta.client.training.training_plan import plan_training
from moretta.shared.privacy.accounting import epsilon_spent
from moretta.shared.privacy.composition import composed_epsilon
from moretta.shared.privacy.dp_sgd import SampledGaussian
from moretta.shared.privacy.mechanism import Mechanism, from_record
from moretta.shared.study.fusion import ModelKind
from moretta.shared.study.schema import Study

if TYPE_CHECKING:
    import torch

    from moretta.shared.models.emotion import EmotionModel

LEDGER_KIND = "dp-sgd"
PLAIN_KIND = "training"
"""Of training without DP-SGD: it tells no more than the release that it is made on."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Features of one site's training clips: float32 [clips, ...], class indices int64 [clips], and pseudonyms."""

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    speakers: tuple[str, ...]
    clips: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def cohort(self) -> Cohort:
        """Who is trained on."""
        return Cohort.of(zip(self.speakers, self.clips, strict=True))

    @property
    def clips_per_speaker(self) -> list[int]:
        """In order of pseudonyms."""
        return self.cohort.clips_per_speaker

    def owners(self, unit: str) -> npt.NDArray[np.int64]:
        """int64 [clips]: the number of the unit that each clip belongs to."""
        if unit == "clip":
            return np.arange(len(self))
        return np.unique(np.array(self.speakers), return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True, slots=True)
class LocalUpdate:
    """What one round of local training gives."""

    weights: dict[str, torch.Tensor]
    loss: float | None
    """Mean training loss; None under DP-SGD, because a loss without noise would be a release of its own."""
    epsilon: float | None
    """Spent so far by DP-SGD of all this site's models of the study, for one unit; None without DP-SGD."""
    noise_multiplier: float
    levels: dict[Unit, float] = field(default_factory=dict)
    """The same at every unit that has a finite figure, whatever the study's unit is."""


def spent(
    ledger: Ledger, study: Study, *, planned: Sequence[SampledGaussian] = (), kind: ModelKind | None = None
) -> float:
    """Epsilon that DP-SGD has spent at this site for this study, over all models, rounds and restarts.

    Models that learn on the same clips add up; of those that have no clip in common the largest sum counts.

    Args:
        ledger: the site's.
        study: which.
        planned: rounds that are to be counted as if they had been made.
        kind: what they would train; None is the first of the study's models.
    """
    found = [0.0]
    for group in study.sharing_clips:
        losses = _losses(ledger, study, group, study.privacy.unit)
        steps = [part for part in losses if isinstance(part, SampledGaussian) and part.is_plain]
        steps += planned if (kind or study.models[0]) in group else ()
        found.append(epsilon_spent(steps, delta=study.privacy.delta, accountant=study.privacy.accountant))
    return max(found)


def levels(ledger: Ledger, study: Study) -> dict[Unit, float]:
    """What DP-SGD has spent of a clip and of a speaker, as far as there is a finite figure."""
    found: dict[Unit, float] = {}
    for unit in UNITS:
        apart = unit == "clip" or study.privacy.unit == "speaker"  # a speaker may have clips in both parts
        groups = study.sharing_clips if apart else (study.models,)
        sums = [composed_epsilon(_losses(ledger, study, g, unit), delta=study.privacy.delta) for g in groups]
        known = [epsilon for epsilon in sums if epsilon is not None]
        if len(known) == len(sums):
            found[unit] = max(known)
    return found


def _losses(ledger: Ledger, study: Study, kinds: Iterable[ModelKind], unit: Unit) -> list[Mechanism]:
    """What DP-SGD of these models has cost one unit."""
    kinds = set(kinds)
    entries = ledger.entries(LEDGER_KIND, study=study.digest())
    return [from_record(r) for e in entries if e["model"].split("/")[0] in kinds for r in e["losses"][unit]]


def spent_after_round(
    ledger: Ledger, study: Study, data: TrainingSet, *, question: str = "", kind: ModelKind | None = None
) -> float:
    """What `spent` would say after one more round: asked before it is trained.

    Args:
        ledger: the site's.
        study: which.
        data: what would be trained on.
        question: what the round answers, as `train_locally` has it.
        kind: what would be trained; None is the first of the study's models.
    """
    plan = plan_training(study, data.clips_per_speaker, kind)
    paid = is_paid(ledger, LEDGER_KIND, question, plan.loss(data.cohort))
    return spent(ledger, study, planned=[] if paid else [plan.round], kind=kind)


def train_locally(
    model: EmotionModel,
    weights: dict[str, torch.Tensor],
    data: TrainingSet,
    study: Study,
    site_budget: SiteBudget,
    *,
    round_number: int,
    seed: int | None,
    question: str = "",
    proximal: float = 0.0,
    whole: Mapping[ModelKind, Cohort] | None = None,
) -> LocalUpdate:
    """Train one round. The ledger is written before the first step, so that a crash over-counts.

    Args:
        question: what the round answers, as a digest. A loss that is on the ledger for an answer that never left is
            not written again.
        seed: for sampling and noise in simulation; None takes both from the operating system.
        proximal: FedProx' mu (Li et al., MLSys 2020): pulls the weights back to the global ones after each step. It
            looks at no clip, so it costs no budget.
        whole: of each modality that the model has to do with, everybody whom any of the study's models learns on;
            None is this model's modality and `data`. Without DP-SGD their releases' losses are noted, once.

    Raises:
        BudgetError: the round would lead beyond the site's budget; nothing is computed or written then.
    """
    import torch

    randomness: Randomness = SystemRandomness() if seed is None else SeededRandomness(seed)
    network = model.build(data.features.shape[1:])
    network.load_state_dict(weights)
    network.train()
    pull = _Pull(network, study.train.learning_rate * proximal)
    examples = TrainingExamples(
        torch.from_numpy(data.features), torch.from_numpy(data.labels), data.owners(study.privacy.unit)
    )
    name = f"{model.modality}/{model.name}"
    if not study.privacy.dp_sgd:
        for modality, cohort in (whole or {model.modality: data.cohort}).items():
            if cohort.clips:
                _note_plain(site_budget, study, f"{modality}/{study.model_of(modality)}", cohort, modality=modality)
        mean = _plain_epochs(network, examples, study, randomness, pull)
        return LocalUpdate(dict(network.state_dict()), mean, None, 0.0)
    plan = plan_training(study, data.clips_per_speaker, model.modality)
    loss = plan.loss(data.cohort)
    if not is_paid(site_budget.ledger, LEDGER_KIND, question, loss):
        _note_round(site_budget, study, loss, model=name, round_number=round_number, question=question)
    private_steps(
        network,
        examples,
        plan,
        randomness,
        max_grad_norm=study.privacy.max_grad_norm,
        learning_rate=study.train.learning_rate,
        after_step=pull,
        clipping=study.privacy.clipping,
    )
    return LocalUpdate(
        dict(network.state_dict()),
        None,
        spent(site_budget.ledger, study),
        plan.round.noise_multiplier,
        levels(site_budget.ledger, study),
    )


def _note_round(
    site_budget: SiteBudget, study: Study, loss: Loss, *, model: str, round_number: int, question: str
) -> None:
    privacy = study.privacy
    site_budget.spend(
        LEDGER_KIND,
        loss,
        study=study.digest(),
        model=model,
        round=round_number,
        question=question,
        unit=privacy.unit,
        delta=privacy.delta,
        max_grad_norm=privacy.max_grad_norm,
    )


def _note_plain(site_budget: SiteBudget, study: Study, model: str, cohort: Cohort, *, modality: str) -> None:
    """All rounds without DP-SGD together, of every model, are one function of the releases: their losses, once."""
    if site_budget.ledger.entries(PLAIN_KIND, study=study.digest(), model=model):
        return
    releases = site_budget.ledger.entries("release", study=study.digest(), modality=modality)
    losses = releases[-1]["losses"] if releases else {}
    clip, speaker = (
        tuple(from_record(record) for record in losses.get(unit, [_UNKNOWN])) for unit in ("clip", "speaker")
    )
    site_budget.spend(PLAIN_KIND, Loss(cohort, ("model",), clip, speaker), study=study.digest(), model=model)


_UNKNOWN = {"kind": "unbounded", "why": "trained without DP-SGD on what no ledger entry speaks of"}


class _Pull:
    """The proximal step: moves every parameter a share of the way back to where it started."""

    def __init__(self, network: torch.nn.Module, share: float) -> None:
        self._pairs = [(p, p.detach().clone()) for p in network.parameters()] if share else []
        self._share = share

    def __call__(self) -> None:
        for parameter, start in self._pairs:
            parameter.data.lerp_(start, min(self._share, 1.0))


def _plain_epochs(
    network: torch.nn.Module, examples: TrainingExamples, study: Study, randomness: Randomness, pull: _Pull
) -> float:
    import torch
    from torch.nn.functional import cross_entropy

    optimizer = torch.optim.SGD(network.parameters(), lr=study.train.learning_rate)
    size = len(examples.labels)
    losses = []
    for _ in range(study.train.local_epochs):
        for batch in torch.split(randomness.order(size), min(study.train.batch_size, size)):
            optimizer.zero_grad()
            loss = cross_entropy(network(examples.features[batch]), examples.labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            pull()
            losses.append(float(loss.detach()))
    return float(np.mean(losses))
