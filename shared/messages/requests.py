"""Requests to sites, by the name of the call.

`study` is left as it came: `wire.study_of` checks it as a study file is checked.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from moretta.shared.messages import wire
from moretta.shared.messages.message import ARRAYS, KIB, MIB, Hex, Message, Name, Round, Sha256
from moretta.shared.messages.responses import MAX_MODEL_BYTES, FileName
from moretta.shared.privacy.secure_aggregation import MAX_SITES
from moretta.shared.study.sections import ModelKind

MODELS = frozenset(f"{ARRAYS}-{kind}" for kind in ("voice", "face", "fusion"))
"""Names under which finished models travel."""
Session = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]


class HelloRequest(Message):
    """Asks who is there."""

    version: Annotated[int, Field(ge=1, le=1)]


class OfStudy(Message):
    """A request about one study."""

    max_text_bytes: ClassVar[int] = 256 * KIB
    study: Annotated[dict[str, Any], Field(max_length=100)]


class OfferMade(OfStudy):
    """Offers a study with its public arrays; without them it repeats an offer that was made."""

    max_array_bytes: ClassVar[int] = MAX_MODEL_BYTES
    arrays: ClassVar[frozenset[str]] = frozenset({ARRAYS})
    approval: Sha256


class ReleaseWanted(OfStudy):
    """Asks for a release by public arrays that the site has approved; carries those that sites have trained since, and
    in a simulation, where nobody need approve anything, all of them."""

    max_array_bytes: ClassVar[int] = MAX_MODEL_BYTES
    arrays: ClassVar[frozenset[str]] = frozenset({ARRAYS})
    approval: Sha256 | None = None


class PartsWanted(OfStudy):
    """Asks for parts of files of a release: name, offset and length in bytes."""

    max_text_bytes: ClassVar[int] = 2 * MIB
    parts: Annotated[
        tuple[
            tuple[FileName, Annotated[int, Field(ge=0, le=2**40)], Annotated[int, Field(ge=0, le=wire.CHUNK_BYTES)]],
            ...,
        ],
        Field(min_length=1, max_length=10_000),
    ]


class TrainingWanted(OfStudy):
    """Asks for one round of training; Flower's strategies put the numbers in."""

    max_array_bytes: ClassVar[int] = 2 * MAX_MODEL_BYTES
    max_text_bytes: ClassVar[int] = 8 * MIB
    arrays: ClassVar[frozenset[str]] = frozenset({ARRAYS}) | MODELS
    server_round: Annotated[int, Field(alias="server-round", ge=1, le=1_000_000)]
    proximal_mu: Annotated[float, Field(alias="proximal-mu", ge=0, le=1e6)] = 0.0
    session: Session | None = None
    shares: Annotated[dict[Name, Hex] | None, Field(max_length=MAX_SITES)] = None
    """Under secure aggregation: what the other sites have sent for this one's eyes."""


class EvaluationWanted(OfStudy):
    """Asks for a test of the global models."""

    max_array_bytes: ClassVar[int] = 2 * MAX_MODEL_BYTES
    arrays: ClassVar[frozenset[str]] = MODELS


class OfSession(OfStudy):
    """A step of secure aggregation."""

    session: Session
    modality: ModelKind


class KeysWanted(OfSession):
    """The first one."""

    round: Round


class SharesWanted(OfSession):
    """The second: everybody's public keys."""

    max_text_bytes: ClassVar[int] = 8 * MIB
    keys: Annotated[dict[Name, tuple[Hex, Hex]], Field(max_length=MAX_SITES)]


class UnmaskingWanted(OfSession):
    """The last: whose updates are in the sum."""

    survivors: Annotated[tuple[Name, ...], Field(max_length=MAX_SITES)]


REQUESTS: dict[str, type[Message]] = {
    wire.HELLO: HelloRequest,
    wire.CODE: TrainingWanted,
    wire.OFFER: OfferMade,
    wire.RELEASE: ReleaseWanted,
    wire.FETCH: PartsWanted,
    **dict.fromkeys(wire.TRAIN.values(), TrainingWanted),
    wire.EVALUATE: EvaluationWanted,
    wire.SECURE_KEYS: KeysWanted,
    wire.SECURE_SHARES: SharesWanted,
    wire.SECURE_UNMASK: UnmaskingWanted,
}
"""Kind of the request of each call."""
