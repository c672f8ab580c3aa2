"""The kind of request and response of every call.

`study` is left as it came: `wire.study_of` checks it as a study file is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from moretta.shared.core.errors import MessageError
from moretta.shared.core.labels import MAX_CLASSES
from moretta.shared.core.printable import printable
from moretta.shared.messages import wire
from moretta.shared.messages.message import (
    KIB,
    MIB,
    Count,
    Figure,
    Hex,
    Message,
    Name,
    Pseudonym,
    Round,
    Sha256,
    Word,
    read,
)
from moretta.shared.messages.wire import LEVELS, MAX_TRIALS
from moretta.shared.models.reliability import BINS
from moretta.shared.privacy.site_updates import MAX_SITES
from moretta.shared.release.release_format import MAX_FILES, MAX_SHARD_BYTES, ReleaseStatement
from moretta.shared.study.sections import AttackerName, ModelKind

if TYPE_CHECKING:
    from flwr.app import RecordDict

MAX_MODEL_BYTES = 512 * MIB
"""Most bytes of the arrays of one update. No model of a study is larger than a tenth of it."""
ONE_MODEL = frozenset({wire.ARRAYS})
MODELS = frozenset(f"{wire.ARRAYS}-{kind}" for kind in ("voice", "face", "fusion"))
"""Names under which finished models travel."""
Session = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
FileName = Annotated[
    str, Field(pattern=r"^(statement\.json|clips\.jsonl|codebook\.safetensors|(voice|face)-\d{5}\.safetensors)$")
]
"""The only files that a release has."""
_Part = tuple[FileName, Annotated[int, Field(ge=0, le=2**40)], Annotated[int, Field(ge=0, le=wire.CHUNK_BYTES)]]
_Shares = Annotated[dict[Name, Hex], Field(max_length=MAX_SITES)]


class HelloRequest(Message):
    """Requests name and code of a site."""

    version: Annotated[int, Field(ge=1, le=1)]


class Hello(Message):
    """A site's name, and the code that it runs."""

    site: Name
    versions: Annotated[dict[Word, Word], Field(max_length=64)]
    digest: Sha256


class Failed(Message):
    """The site refused or failed, and why, in a word."""

    max_text_bytes: ClassVar[int] = 16 * KIB
    site: Annotated[str, Field(max_length=200)]
    failure: Annotated[str, Field(max_length=4000)]
    code: Annotated[int, Field(ge=0, le=255)] = 1


class OfStudy(Message):
    """A request about one study."""

    max_text_bytes: ClassVar[int] = 256 * KIB
    study: Annotated[dict[str, Any], Field(max_length=100)]


class OfferMade(OfStudy):
    """Offers a study with its public arrays; without them it repeats an offer that was made."""

    max_array_bytes: ClassVar[int] = MAX_MODEL_BYTES
    arrays: ClassVar[frozenset[str]] = ONE_MODEL
    approval: Sha256


class Offered(Message):
    """The steward's decision about an offer. `unknown`: the site does not have it, and must be sent all of it."""

    site: Name
    state: Literal["approved", "pending", "refused", "unknown"]


class ReleaseWanted(OfStudy):
    """Requests a release by public arrays that the site has approved; carries those that sites have trained since, and
    in a simulation, where nobody need approve anything, all of them."""

    max_array_bytes: ClassVar[int] = MAX_MODEL_BYTES
    arrays: ClassVar[frozenset[str]] = ONE_MODEL
    approval: Sha256 | None = None


class Announced(Message):
    """A site's release: the files can be fetched."""

    max_text_bytes: ClassVar[int] = 4 * MIB
    site: Name
    files: Annotated[
        dict[FileName, Annotated[int, Field(ge=0, le=2 * MAX_SHARD_BYTES)]], Field(min_length=1, max_length=MAX_FILES)
    ]
    """Bytes of each."""
    statement: ReleaseStatement
    training: Annotated[dict[ModelKind, Count], Field(max_length=3)]
    """Training clips by model."""
    held_out: Annotated[tuple[Pseudonym, ...], Field(max_length=100_000)] = ()
    synthetic: bool = False


class PartsWanted(OfStudy):
    """Requests parts of files of a release: name, offset and length in bytes."""

    max_text_bytes: ClassVar[int] = 2 * MIB
    parts: Annotated[tuple[_Part, ...], Field(min_length=1, max_length=10_000)]


class Fetched(Message):
    """Parts of files of a release, one after the other."""

    blobs: ClassVar[Mapping[str, int]] = {"chunk": wire.CHUNK_BYTES}
    site: Name
    chunk: bytes = b""
    sha256: Sha256


class TrainingWanted(OfStudy):
    """Requests one round of training; Flower's strategies put the numbers in."""

    max_array_bytes: ClassVar[int] = 2 * MAX_MODEL_BYTES
    max_text_bytes: ClassVar[int] = 8 * MIB
    arrays: ClassVar[frozenset[str]] = ONE_MODEL | MODELS
    server_round: Annotated[int, Field(alias="server-round", ge=1, le=1_000_000)]
    proximal_mu: Annotated[float, Field(alias="proximal-mu", ge=0, le=1e6)] = 0.0
    session: Session | None = None
    shares: _Shares | None = None
    """Under secure aggregation: the other sites' shares, encrypted for this site."""


class Metrics(Message):
    """Metrics of an update."""

    num_examples: Annotated[int | None, Field(alias="num-examples", ge=1, le=10_000_000)] = None
    loss: Figure | None = None
    epsilon: Figure | None = None
    epsilon_clip: Annotated[Figure | None, Field(alias="epsilon-clip")] = None
    epsilon_speaker: Annotated[Figure | None, Field(alias="epsilon-speaker")] = None
    noise_multiplier: Annotated[Figure | None, Field(alias="noise-multiplier")] = None

    def figures(self) -> dict[str, float]:
        """Figures that are not None, by their names in messages."""
        return {name: float(value) for name, value in self.model_dump(by_alias=True, exclude_none=True).items()}


class Update(Message):
    """One round of local training: arrays of the names and shapes that were sent."""

    max_array_bytes: ClassVar[int] = MAX_MODEL_BYTES
    arrays: ClassVar[frozenset[str]] = ONE_MODEL
    site: Name
    round: Round | None = None
    metrics: Metrics = Metrics()


class EvaluationWanted(OfStudy):
    """Requests a test of the global models."""

    max_array_bytes: ClassVar[int] = 2 * MAX_MODEL_BYTES
    arrays: ClassVar[frozenset[str]] = MODELS


OutputName = Annotated[str, Field(pattern=r"^(voice|face|fused|learned)(/3)?$")]
_Classes = Field(min_length=2, max_length=MAX_CLASSES)
Table = Annotated[tuple[Annotated[tuple[Count, ...], _Classes], ...], _Classes]
"""Confusion counts, [true][predicted]."""
_Bin = tuple[Count, Count, Annotated[int, Field(ge=0, le=10_000_000_000)]]
_Bins = Annotated[tuple[_Bin, ...], Field(min_length=BINS, max_length=BINS)]


class Evaluated(Message):
    """Confusion counts of the global models on held-out speakers, and how far their confidence can be trusted."""

    max_text_bytes: ClassVar[int] = 16 * MIB
    site: Name
    counts: Annotated[
        dict[OutputName, Annotated[dict[Pseudonym, Table], Field(max_length=100_000)]], Field(max_length=8)
    ]
    """Counts by output and pseudonymous speaker."""
    reliability: Annotated[dict[Literal["voice", "face", "fused", "learned"], _Bins], Field(max_length=4)]


class AttackWanted(OfStudy):
    """Requests an attack on originals, by what was approved with the study. It carries no array."""

    attacker: AttackerName
    approval: Sha256


_Scores = Annotated[tuple[Annotated[int, Field(ge=0, le=MAX_TRIALS)], ...], Field(min_length=LEVELS, max_length=LEVELS)]


class Attacked(Message):
    """How many mated, and how many non-mated, comparisons have each score, from the least on."""

    site: Name
    speakers: Count
    unprotected: tuple[_Scores, _Scores]
    ignorant: tuple[_Scores, _Scores]


class OfSession(OfStudy):
    """A step of secure aggregation."""

    session: Session
    modality: ModelKind


class KeysWanted(OfSession):
    """The first one."""

    round: Round


class PublicKeys(Message):
    """A site's two public keys for a round of secure aggregation, PEM."""

    site: Name
    keys: tuple[Hex, Hex]


class SharesWanted(OfSession):
    """The second: everybody's public keys."""

    max_text_bytes: ClassVar[int] = 8 * MIB
    keys: Annotated[dict[Name, tuple[Hex, Hex]], Field(max_length=MAX_SITES)]


class Shares(Message):
    """Shares for other sites, or of other sites' secrets, by site."""

    max_text_bytes: ClassVar[int] = 4 * MIB
    site: Name
    shares: _Shares


class UnmaskingWanted(OfSession):
    """The last: whose updates are in the sum."""

    survivors: Annotated[tuple[Name, ...], Field(max_length=MAX_SITES)]


_CALLS: dict[str, tuple[type[Message], type[Message]]] = {
    wire.HELLO: (HelloRequest, Hello),
    wire.CODE: (TrainingWanted, Update),
    wire.OFFER: (OfferMade, Offered),
    wire.RELEASE: (ReleaseWanted, Announced),
    wire.FETCH: (PartsWanted, Fetched),
    **dict.fromkeys(wire.TRAIN.values(), (TrainingWanted, Update)),
    wire.EVALUATE: (EvaluationWanted, Evaluated),
    wire.ATTACK: (AttackWanted, Attacked),
    wire.SECURE_KEYS: (KeysWanted, PublicKeys),
    wire.SECURE_SHARES: (SharesWanted, Shares),
    wire.SECURE_UNMASK: (UnmaskingWanted, Shares),
}
REQUESTS = {call: request for call, (request, _) in _CALLS.items()}
RESPONSES = {call: response for call, (_, response) in _CALLS.items()}


def failure_of(content: RecordDict) -> str | None:
    """A site's failure, as it may stand in a report; None where there was none."""
    from flwr.app import ConfigRecord

    config = content.get(wire.CONFIG)
    if not isinstance(config, ConfigRecord) or "failure" not in config:
        return None
    try:
        return printable(read(Failed, content).failure, most=1000)
    except MessageError as error:
        return error.message
