"""The sections of a study file, but for `[voice]` and `[face]`, which an anonymizer has a say in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from moretta.shared.core.device import DeviceName
from moretta.shared.core.errors import StudyError
from moretta.shared.core.labels import Code
from moretta.shared.core.plugins import PLUGIN_NAME

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Epsilon = Annotated[float, Field(ge=1e-9, le=1e9)]
Delta = Annotated[float, Field(ge=1e-15, lt=0.1)]
"""Both as far as the bounds of `shared/privacy` hold in float64: beyond, rounding could state less than is true."""
Computable = Annotated[float, Field(ge=1e-6, le=1e6)]
"""A norm or factor of gradients: beyond these bounds float32 cannot hold the products."""
AttackerName = Annotated[str, Field(pattern=PLUGIN_NAME)]
Accountant = Literal["rdp", "prv"]
RequestStage = Literal["release", "train", "evaluate"]
"""The stages that send requests to sites."""
OptimizerName = Literal["sgd", "adam"]
ModelKind = Literal["voice", "face", "fusion"]
"""A model that a study may train: of one modality, or the gate that weighs both of them."""
FUSION_MODEL = "gate"
MODELS: dict[ModelKind, tuple[str, ...]] = {
    "voice": ("cnn", "crnn", "layered", "statistics"),
    "face": ("cnn", "gradients", "sequence"),
    "fusion": (FUSION_MODEL,),
}
"""Names of the models in `moretta.shared.models.emotion`, for those that need not load any."""
AVERAGING = ("FedAvg", "FedAvgM", "FedProx", "FedAdagrad", "FedAdam", "FedYogi")
"""Flower's strategies that need nothing but the mean of the updates."""


Text = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z' ,.?!-]{0,199}$")]
"""One sentence of American English."""


def _anchored(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    return path if folder is None else (Path(folder) / path).resolve()


def _by_key(content: dict[str, Any]) -> dict[str, Any]:
    """Keys in one order, so that the order in a file or message does not change the study's digest."""
    return dict(sorted(content.items()))


StudyPath = Annotated[Path, AfterValidator(_anchored)]
"""A path in a study file. It is relative to the file, and made absolute when the file is read."""


class Section(BaseModel):
    """Frozen; unknown keys and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class FusionSection(Section):
    """`[fusion]`: the vote is always there; a learned fusion stands beside it where the study wants one."""

    kind: Literal["vote", "learned"] = "vote"
    """`learned` trains a third model, on the clips that `held_back` sets apart, and costs what that says."""
    held_back: Annotated[float, Field(ge=0, le=0.8)] = 0.15
    """Share of the training clips that the voice and face models do not see and the fusion learns on. On clips that
    they were trained on both are surer than on any other. 0 trains all three on all clips, at the price of three."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the clips with both modalities of which, in each round, one is hidden."""


class TrainSection(Section):
    """`[train]`: federated training of the emotion models."""

    rounds: int = Field(default=10, ge=1, le=10_000)
    """Rounds of training of each model."""
    strategy: str = "FedAvg"
    """Flower's strategy, by the name of its class."""
    strategy_options: Annotated[dict[str, float | int | bool], AfterValidator(_by_key)] = Field(default_factory=dict)
    """Arguments of the strategy."""
    fraction_train: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the sites that each round is sent to, drawn anew for each. It amplifies no guarantee."""
    local_epochs: int = Field(default=1, ge=1, le=100)
    """Passes over a site's clips in one round."""
    batch_size: int = Field(default=16, ge=1, le=4096)
    """Clips, or speakers, of one step; under DP-SGD on average."""
    optimizer: OptimizerName = "sgd"
    """Optimizer at the sites: plain SGD, or Adam, whose state stays there and starts anew each round."""
    learning_rate: Computable = 0.3
    """Learning rate of the optimizer. Adam needs a hundredth of SGD's."""
    min_sites: int = Field(default=1, ge=1)
    """A stage or round with responses of fewer sites fails, and the run with it."""
    deadline_seconds: Positive = 3600.0
    """How long the server waits for the sites' responses to one request."""
    max_update_norm: Positive = 1e6
    """L2 norm of an update beyond which it is taken for damage or an attack."""
    public: StudyPath | None = None
    """The coordinator's folder of labelled clips of people who are at no site: the server trains the first round's
    weights on what the study's anonymizers release of them. No epsilon counts them."""

    def sites_of_round(self, sites: int) -> int:
        """How many of so many sites a round is sent to: the share, rounded down as Flower does, and one at least.

        >>> [TrainSection(fraction_train=0.1).sites_of_round(n) for n in (5, 32, 91)]
        [1, 3, 9]
        """
        return max(1, int(round(self.fraction_train * sites, 6)))


class StageLimits(Section):
    """Limits of one stage where they differ from `[train]`."""

    min_sites: int | None = Field(default=None, ge=1)
    deadline_seconds: Positive | None = None


class StagesSection(Section):
    """`[stages]`: how long sites are waited for, and what happens when one is lost."""

    wait_seconds: Positive = 600.0
    """How long enrolled sites are waited for before the study starts with those that are there."""
    on_lost_site: Literal["continue", "retry"] = "continue"
    """`continue`: a stage or round ends without a site that was lost in it. `retry`: the site gets the request again
    when it is back, up to the deadline."""
    release: StageLimits = StageLimits()
    train: StageLimits = StageLimits()
    evaluate: StageLimits = StageLimits()


class PrivacySection(Section):
    """`[privacy]`: DP-SGD at every site."""

    dp_sgd: bool = True
    """Whether sites train by DP-SGD. Without it models leak as much as the releases do."""
    unit: Literal["clip", "speaker"] = "clip"
    """Unit that is sampled, with one clipped gradient: a clip, or all clips of a speaker at a site as one example."""
    epsilon: Epsilon = 8.0
    """Target over all rounds and models, for one unit; the noise is calibrated to it at each site."""
    delta: Delta = 1e-3
    """Delta at which epsilon is stated."""
    max_grad_norm: Computable = 1.0
    """L2 norm that the gradient of one unit is cut to."""
    accountant: Accountant = "rdp"
    """Opacus' own: `prv` proves the same epsilon with about a tenth less noise, and takes seconds to calibrate it."""


class AggregationSection(Section):
    """`[aggregation]`: noise on the sum of the updates, and a secret sum, limit what is learned of one site."""

    dp: Literal["none", "central", "distributed"] = "none"
    """Source of the noise: `central`, the server, which sees every update; `distributed`, each site a share of it."""
    epsilon: Epsilon = 8.0
    """Target over all rounds and models, for one site; the noise is calibrated to it."""
    delta: Delta = 1e-3
    clipping_norm: Computable = 1.0
    """L2 norm that a site's update is cut to."""
    min_sites: int = Field(default=3, ge=2)
    """A round with fewer sites' updates is refused, and the run with it."""
    curious_sites: int = Field(default=1, ge=0)
    """`distributed`: how many sites may pool what they know of the noise, and still not lift the guarantee."""
    secure: bool = False
    """Secure aggregation: the server learns the sum of the updates and no single one."""

    @property
    def bounds_sites(self) -> bool:
        """Whether updates are clipped and all sites weigh the same."""
        return self.dp != "none" or self.secure

    @model_validator(mode="after")
    def _secure_can_be_had(self) -> Self:
        if self.secure and self.dp == "central":
            raise ValueError(
                "secure aggregation hides from the server the updates that it would have to clip; choose dp = "
                '"distributed", where the sites clip and add the noise'
            )
        if self.secure and self.min_sites < 3:
            raise ValueError(
                f"secure aggregation with min_sites = {self.min_sites}: of a sum of two updates either site knows the "
                "other's; let it be at least 3"
            )
        if self.dp == "distributed" and self.curious_sites > self.min_sites - 2:
            raise ValueError(
                f"{self.curious_sites} curious sites of {self.min_sites}: at least two must be left whose shares of "
                "the noise nobody else knows; raise min_sites or lower curious_sites"
            )
        return self


class SplitSection(Section):
    """`[split]`: speakers of `test_fold` are held out of training at every site."""

    folds: int = Field(default=5, ge=2)
    """Parts that the speakers are dealt into."""
    test_fold: int = Field(default=0, ge=0)
    """The part that is tested on, from 0."""

    @model_validator(mode="after")
    def _fold_exists(self) -> Self:
        if self.test_fold >= self.folds:
            raise ValueError(f"test_fold {self.test_fold} does not exist: folds count from 0 to {self.folds - 1}")
        return self


class AuditSection(Section):
    """`[audit]`: which attackers run on what was released."""

    enabled: bool = True
    """Whether attackers run. Without them the leaks of the releases are unknown."""
    attackers: tuple[str, ...] = ()
    """Names of attackers; empty means all that are there."""
    bootstrap: int = Field(default=200, ge=0, le=100_000)
    """Resamples of each interval, over speakers."""
    attributes: bool = True
    """Whether sites state sex and age group of pseudonymous speakers, so that attribute inference can be scored."""
    inference: bool = True
    """Attacks beyond identity: attributes, inversion, membership, updates, voice to face."""
    updates: bool = True
    """Attacks on updates, as part of `inference`: the server keeps each site's last update for them."""
    evaluators: tuple[str, ...] = ()
    """Utility evaluators that run only where they are named, beside all others: they train a network, for minutes."""
    utility: bool = True
    """Whether utility evaluators of emotion run on originals and releases."""
    sentences: Annotated[dict[Code, Text], Field(max_length=1_000), AfterValidator(_by_key)] = Field(
        default_factory=dict
    )
    """Text of each sentence, by its code, to measure the words that are still recognised. Empty for CREMA-D's and
    RAVDESS's own codes."""
    at_sites: Annotated[tuple[AttackerName, ...], Field(max_length=8)] = ()
    """Attackers that real sites run on their own originals, if their policy lets them; only counts of scores leave."""
    public: StudyPath | None = None
    """The coordinator's folder of clips of public people: attackers learn from them first, and those of `at_sites` that
    learn are trained on them."""


class RunSection(Section):
    """`[run]`: where networks compute. Sites never get it: what a site uses stands in its own `site.toml`."""

    device: DeviceName = "cpu"
    """Device of local training in a simulation, and of the attackers' networks in the server's audit."""


class GateSection(Section):
    """`[gate]`: acceptance criteria. Those on re-identification always stand, by default with the limits below; a limit
    that the study sets itself also fails the run.
    """

    max_top1: Fraction | None = None
    """Largest top-1 of the strongest attacker, from one clip. None is twice chance, and at most halfway from chance to
    certainty: less, for two people."""
    min_eer: Fraction | None = None
    """Smallest EER of the strongest attacker; 0.5 is chance. None is 0.35."""
    max_epsilon: Positive | None = None
    """Largest epsilon of DP-SGD, for one unit, at any site. None is no limit."""

    def top1_limit(self, chance: float | None) -> float | None:
        """Largest allowed top-1 of the strongest attacker; None where chance is unknown and no limit is set."""
        if self.max_top1 is not None or chance is None:
            return self.max_top1
        return min(2 * chance, (1 + chance) / 2)

    @property
    def eer_limit(self) -> float:
        """Smallest allowed EER of the strongest attacker."""
        return 0.35 if self.min_eer is None else self.min_eer


def check_model(kind: ModelKind, name: str) -> None:
    """Raises StudyError for a model that does not exist; the message lists the known ones."""
    if name not in MODELS[kind]:
        known = ", ".join(MODELS[kind])
        raise StudyError(f"the {kind} model {name!r}", expected=f"one of: {known}", fix="correct the study")
