"""Secure aggregation over messages: what is read from a question, and what goes into its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moretta.client.secure_aggregation import secure_round as secure
from moretta.client.secure_aggregation.state import SessionStore
from moretta.client.settings import SiteSettings
from moretta.client.training.rounds import models_beside, round_of_training
from moretta.client.training.update_store import question
from moretta.shared.core.errors import RefusedError, ReleaseError
from moretta.shared.messages import wire
from moretta.shared.privacy.secure_aggregation import packed, texts
from moretta.shared.study.fusion import ModelKind
from moretta.shared.study.schema import Study

if TYPE_CHECKING:
    from flwr.app import RecordDict


def keys(content: RecordDict, settings: SiteSettings, study: Study) -> RecordDict:
    """Answers the first question of a round."""
    store, number = _session(content, settings, study)
    round_number = wire.from_config(content, "round")
    if not (isinstance(round_number, int) and 1 <= round_number <= study.train.rounds):
        raise RefusedError(f"round {str(round_number)[:20]}", expected=f"1 to {study.train.rounds}, by the study")
    first, second = secure.make_keys(store, number, round_number)
    return _response(settings, keys=[first.hex(), second.hex()])


def shares(content: RecordDict, settings: SiteSettings, study: Study) -> RecordDict:
    """Answers the second."""
    store, number = _session(content, settings, study)
    try:
        pairs = {site: [bytes.fromhex(key) for key in keys] for site, keys in _mapping(content, "keys").items()}
        public_keys = {site: (first, second) for site, (first, second) in pairs.items()}
    except (TypeError, ValueError) as error:
        raise ReleaseError("public keys that cannot be read", expected="two for each site") from error
    sent = secure.share_keys(store, number, settings.name, public_keys, min_sites=study.aggregation.min_sites)
    return _response(settings, shares=texts(sent))


def masked_update(content: RecordDict, settings: SiteSettings, study: Study, kind: ModelKind) -> RecordDict:
    """Answers the third: trains, if this round was not trained before, and covers what came out.

    Neither the number of clips nor a loss goes with it.
    """
    from flwr.app import MetricRecord, RecordDict

    store, number = _session(content, settings, study, kind)
    received = _bytes(_mapping(content, "shares"))
    session = secure.take_shares(store, number, settings.name, received, min_sites=study.aggregation.min_sites)
    weights, round_number = wire.arrays_of(content), int(wire.number_of(content, "server-round"))
    proximal = wire.number_of(content, "proximal-mu", 0.0)
    beside = models_beside(content, study, kind)
    request_digest = question(study, kind, round_number, weights, proximal, beside=beside)
    if round_number != session.round or session.question not in ("", request_digest):
        raise RefusedError("secure aggregation: masks of one round for another's update")
    session.question = request_digest
    store.keep(session)
    update = round_of_training(
        settings, study, kind, weights, round_number=round_number, proximal=proximal, beside=beside
    )
    covered = secure.masked(session, settings.name, packed(update.arrays))
    metrics: dict[str, int | float | list[int] | list[float]] = {**update.metrics}
    return RecordDict(
        {
            wire.ARRAYS: wire.arrays_to_record({wire.MASKED: np.asarray(covered)}),
            wire.METRICS: MetricRecord(metrics),
            wire.CONFIG: wire.json_config(site=settings.name, round=round_number),
        }
    )


def unmask(content: RecordDict, settings: SiteSettings, study: Study) -> RecordDict:
    """Answers the fourth."""
    store, number = _session(content, settings, study)
    survivors = wire.from_config(content, "survivors")
    if not (isinstance(survivors, list) and all(isinstance(site, str) for site in survivors)):
        raise ReleaseError("survivors that cannot be read", expected="names of sites")
    revealed = secure.unmask(store, number, settings.name, survivors, min_sites=study.aggregation.min_sites)
    return _response(settings, shares=texts(revealed))


def _session(
    content: RecordDict, settings: SiteSettings, study: Study, kind: ModelKind | None = None
) -> tuple[SessionStore, str]:
    named = kind or wire.from_config(content, "modality")
    number = wire.from_config(content, "session")
    if named not in study.models or not study.aggregation.secure or not isinstance(number, str) or not number:
        raise RefusedError("a step of secure aggregation that the study does not have")
    return SessionStore.of(settings.home, study, named), number


def _mapping(content: RecordDict, key: str) -> dict[str, list[str] | str]:
    found = wire.from_config(content, key)
    if not isinstance(found, dict):
        raise ReleaseError(f"{key} that cannot be read", expected="one entry for each site")
    return found


def _bytes(values: dict[str, list[str] | str]) -> dict[str, bytes]:
    try:
        return {site: bytes.fromhex(str(text)) for site, text in values.items()}
    except ValueError as error:
        raise ReleaseError("shares that cannot be read", expected="bytes for each site") from error


def _response(settings: SiteSettings, **values: object) -> RecordDict:
    from flwr.app import RecordDict

    return RecordDict({wire.CONFIG: wire.json_config(site=settings.name, **values)})
