"""Responses of sites, by the name of the call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from moretta.shared.core.errors import MessageError
from moretta.shared.core.labels import MAX_CLASSES
from moretta.shared.core.printable import printable
from moretta.shared.messages import wire
from moretta.shared.messages.message import (
    ARRAYS,
    CONFIG,
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
from moretta.shared.models.reliability import BINS
from moretta.shared.privacy.secure_aggregation import MAX_SITES
from moretta.shared.release.release_format import MAX_FILES, MAX_SHARD_BYTES, ReleaseStatement
from moretta.shared.study.sections import ModelKind

if TYPE_CHECKING:
    from flwr.app import RecordDict

MAX_MODEL_BYTES = 512 * MIB
"""Of the arrays of one update. No model of a study is larger than a tenth of it."""


class Failed(Message):
    """The site refused or failed, and says why in a word."""

    max_text_bytes: ClassVar[int] = 16 * KIB
    site: Annotated[str, Field(max_length=200)]
    failure: Annotated[str, Field(max_length=4000)]
    code: Annotated[int, Field(ge=0, le=255)] = 1


class Hello(Message):
    """A site's name, and the code that it runs."""

    site: Name
    versions: Annotated[dict[Word, Word], Field(max_length=64)]
    digest: Sha256


class Offered(Message):
    """The steward's decision about an offer. `unknown`: the site does not have it, and must be sent all of it."""

    site: Name
    state: Literal["approved", "pending", "refused", "unknown"]


FileName = Annotated[
    str, Field(pattern=r"^(statement\.json|clips\.jsonl|codebook\.safetensors|(voice|face)-\d{5}\.safetensors)$")
]
"""The only files that a release has."""


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


class Fetched(Message):
    """Parts of files of a release, one after the other."""

    blobs: ClassVar[Mapping[str, int]] = {"chunk": wire.CHUNK_BYTES}
    site: Name
    chunk: bytes = b""
    sha256: Sha256


class Metrics(Message):
    """Metrics of an update."""

    num_examples: Annotated[int | None, Field(alias="num-examples", ge=1, le=10_000_000)] = None
    loss: Figure | None = None
    epsilon: Figure | None = None
    epsilon_clip: Annotated[Figure | None, Field(alias="epsilon-clip")] = None
    epsilon_speaker: Annotated[Figure | None, Field(alias="epsilon-speaker")] = None
    noise_multiplier: Annotated[Figure | None, Field(alias="noise-multiplier")] = None

    def figures(self) -> dict[str, float]:
        """Those that are there, by the names they travel under."""
        return {name: float(value) for name, value in self.model_dump(by_alias=True).items() if value is not None}


class Update(Message):
    """One round of local training: arrays of the names and shapes that were sent."""

    max_array_bytes: ClassVar[int] = MAX_MODEL_BYTES
    arrays: ClassVar[frozenset[str]] = frozenset({ARRAYS})
    site: Name
    round: Round | None = None
    metrics: Metrics = Metrics()


OutputName = Annotated[str, Field(pattern=r"^(voice|face|fused|learned)(/3)?$")]
_Classes = Field(min_length=2, max_length=MAX_CLASSES)
Table = Annotated[tuple[Annotated[tuple[Count, ...], _Classes], ...], _Classes]
"""Confusion counts, [true][predicted]."""
Bin = tuple[Count, Count, Annotated[int, Field(ge=0, le=10_000_000_000)]]


class Evaluated(Message):
    """Confusion counts of the global models on held-out speakers, and how far their confidence can be trusted."""

    max_text_bytes: ClassVar[int] = 16 * MIB
    site: Name
    counts: Annotated[
        dict[OutputName, Annotated[dict[Pseudonym, Table], Field(max_length=100_000)]], Field(max_length=8)
    ]
    """By output and pseudonymous speaker."""
    reliability: Annotated[
        dict[
            Literal["voice", "face", "fused", "learned"],
            Annotated[tuple[Bin, ...], Field(min_length=BINS, max_length=BINS)],
        ],
        Field(max_length=4),
    ]


class PublicKeys(Message):
    """A site's two public keys for a round of secure aggregation, PEM."""

    site: Name
    keys: tuple[Hex, Hex]


class Shares(Message):
    """Shares for other sites, or of other sites' secrets, by site."""

    max_text_bytes: ClassVar[int] = 4 * MIB
    site: Name
    shares: Annotated[dict[Name, Hex], Field(max_length=MAX_SITES)]


RESPONSES: dict[str, type[Message]] = {
    wire.HELLO: Hello,
    wire.CODE: Update,
    wire.OFFER: Offered,
    wire.RELEASE: Announced,
    wire.FETCH: Fetched,
    **dict.fromkeys(wire.TRAIN.values(), Update),
    wire.EVALUATE: Evaluated,
    wire.SECURE_KEYS: PublicKeys,
    wire.SECURE_SHARES: Shares,
    wire.SECURE_UNMASK: Shares,
}
"""Kind of the response to each call."""


def failure_of(content: RecordDict) -> str | None:
    """A site's failure, as it may stand in a report; None where there was none."""
    from flwr.app import ConfigRecord

    config = content.get(CONFIG)
    if not isinstance(config, ConfigRecord) or "failure" not in config:
        return None
    try:
        return printable(read(Failed, content).failure, most=1000)
    except MessageError as error:
        return error.message
