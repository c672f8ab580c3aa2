"""One round of training at a site, on one path: voice, face, fusion, or a code that the sites train together.

A site responds to a repeated request as it did: training again would draw new noise, a second loss. A site that died
over a round trains it anew and pays once, because its first response never left.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from moretta.client.accounting.budget import DP_SGD_KIND
from moretta.client.settings import SiteSettings
from moretta.client.training.data import CODE_KIND, Models
from moretta.shared.core.array_types import Array
from moretta.shared.core.atomic import locked, private_folder, write_atomic
from moretta.shared.messages import wire
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import ModelKind

if TYPE_CHECKING:
    from flwr.app import RecordDict

Metrics = dict[str, int | float]
Trained = ModelKind | Literal["code"]


@dataclass(frozen=True)
class RoundRequest:
    """One round of one model, as the server requests it."""

    study: Study
    kind: Trained
    number: int
    """Number of the round, from 1."""
    weights: dict[str, Array]
    """Global weights before this round."""
    proximal: float = 0.0
    """FedProx' mu."""
    models: Models = field(default_factory=dict)
    """Finished voice and face models, whose predictions a fusion weighs; empty for other models."""

    @classmethod
    def of(cls, content: RecordDict, study: Study, kind: Trained) -> RoundRequest:
        """A request from a message that was read and checked."""
        return cls(
            study,
            kind,
            number=int(wire.number_of(content, "server-round")),
            weights=wire.arrays_of(content),
            proximal=wire.number_of(content, "proximal-mu", 0.0),
            models=wire.models_of(content, study.modalities) if kind == "fusion" else {},
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that the round depends on, hexadecimal."""
        others = {f"{modality}:{name}": array for modality, m in self.models.items() for name, array in m.items()}
        number = self.slot if self.kind == "code" else f"{self.model} {self.number} {self.proximal!r}"
        digest = hashlib.sha256(f"{self.study.digest()} {number}".encode())
        for name, given in sorted({**self.weights, **others}.items()):
            array = np.ascontiguousarray(given)
            digest.update(f"\n{name} {array.dtype} {array.shape} ".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    @property
    def model(self) -> str:
        """The model as ledger entries name it."""
        if self.kind == "code":
            return f"{next(iter(self.study.trained_modalities), 'voice')}/code"
        return f"{self.kind}/{self.study.model_of(self.kind)}"

    @property
    def slot(self) -> str:
        """Name under which its response is kept: the last round of each model, every round of a code."""
        return f"{self.kind}-{self.number}" if self.kind == "code" else self.kind

    @property
    def ledger_kind(self) -> str:
        """Kind of its loss on the ledger."""
        return CODE_KIND if self.kind == "code" else DP_SGD_KIND

    def seed(self, settings: SiteSettings) -> int | None:
        """Seed of sampling and noise in simulation; None takes both from the operating system."""
        if settings.simulated_seed is None:
            return None
        kind = self.model if self.kind == "code" else self.kind
        text = f"{settings.simulated_seed} {settings.name} {kind} {self.number}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """The response to one round of training."""

    arrays: dict[str, Array]
    metrics: Metrics


def train_round(settings: SiteSettings, request: RoundRequest) -> StoredResponse:
    """The site's response; the ledger has its loss before the first step.

    Requests are handled one at a time, so that none is paid for by another's loss.

    Raises:
        RefusedError: the study has no such round, the arrays cannot be its model's, nothing can be trained on, or a
            round of a code was requested before with other arrays.
        PolicyError: the policy does not allow the loss; nothing is computed.
        BudgetError: the loss would exceed a limit; nothing is computed.
    """
    from moretta.client.training.code_training import train_code
    from moretta.client.training.local_training import train_model

    store = ResponseStore(settings.updates_of(request.study))
    private_folder(store.folder)
    with locked(store.folder / ".lock"):
        response = store.find(request.slot, request.digest)
        if response is None:
            response = train_code(settings, request) if request.kind == "code" else train_model(settings, request)
            store.keep(request.slot, request.digest, response)
        settings.site_budget().note_response(request.ledger_kind, request.study, request.model, request.digest)
    return response


@dataclass(frozen=True, slots=True)
class ResponseStore:
    """The responses of one study, by slot."""

    folder: Path

    def find(self, slot: str, request: str) -> StoredResponse | None:
        """The response kept in a slot; None if it was to another request, or cannot be read."""
        try:
            with safe_open(self.folder / f"{slot}.safetensors", framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("question") != request:
                    return None
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                return StoredResponse(arrays, json.loads(metadata["metrics"]))
        except (OSError, SafetensorError, ValueError, KeyError):
            return None

    def keep(self, slot: str, request: str, response: StoredResponse) -> None:
        """Replace the response in a slot."""
        metadata = {"question": request, "metrics": json.dumps(response.metrics)}
        arrays = {key: np.ascontiguousarray(array) for key, array in response.arrays.items()}
        write_atomic(self.folder / f"{slot}.safetensors", save(arrays, metadata=metadata), mode=0o600)
