"""The Flower ClientApp of a site: hello, offer, code, release, fetch, train, evaluate.

The mods check every request before its handler sees it, and mask every error; see `moretta.client.mods`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from moretta.client.mods import SiteCall, check_policy, handler, mask_errors, one_thread, unchanged_clips
from moretta.client.settings import SiteSettings
from moretta.client.training.rounds import RoundRequest, StoredResponse, Trained
from moretta.shared.core.atomic import locked
from moretta.shared.core.errors import ReleaseError
from moretta.shared.messages import wire
from moretta.shared.messages.calls import (
    KeysWanted,
    OfferMade,
    PartsWanted,
    ReleaseWanted,
    SharesWanted,
    TrainingWanted,
    UnmaskingWanted,
)
from moretta.shared.release import Release, open_release
from moretta.shared.release.release_format import CLIPS_FILE, CODEBOOK_FILE, STATEMENT_FILE

app = ClientApp(mods=[one_thread, mask_errors, check_policy, unchanged_clips])


@app.query("hello")
@handler
def hello(call: SiteCall) -> RecordDict:
    """The site's name, and what it runs. Nothing of the clips is read."""
    from moretta.shared.core.reproducibility import code_digest, versions

    return _content(call, versions=versions(), digest=code_digest())


@app.query("offer")
@handler
def offer(call: SiteCall) -> RecordDict:
    """A study and its public arrays, for the steward to approve; nothing of the clips is read."""
    from moretta.client.approval.offer_approval import respond_to_offer

    arrays = wire.arrays_of(call.content) if wire.ARRAYS in call.content else None
    state = respond_to_offer(call.settings, call.study, call.as_(OfferMade).approval, arrays)
    return _content(call, state=state)


@app.query("release")
@handler
def release(call: SiteCall) -> RecordDict:
    """Anonymizes this site's clips and states what was released; the files are fetched one by one."""
    from moretta.client.approval.offer_approval import arrays_for
    from moretta.client.clips.release import make_release
    from moretta.client.training.data import held_out
    from moretta.client.training.training_sets import training_clips
    from moretta.shared.data.reader import read_marker

    settings, study = call.settings, call.study
    sent = wire.arrays_of(call.content) if wire.ARRAYS in call.content else {}
    shared = arrays_for(settings, study, call.as_(ReleaseWanted).approval or "", sent)
    lock = settings.home / "locks" / f"{study.digest()[:16]}-release"
    lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(lock):  # two at once would draw noise twice
        made = _allowed(make_release(settings, study, shared), settings)
    return _content(
        call,
        files={path.name: path.stat().st_size for path in _release_files(made.folder)},
        statement=made.statement.model_dump(mode="json"),
        training=training_clips(settings, study),
        held_out=sorted(map(settings.names(study).released, held_out(settings, study))),
        synthetic=read_marker(settings.corpus)[1],
    )


@app.query("fetch")
@handler
def fetch(call: SiteCall) -> RecordDict:
    """Parts of files of the release of this study, one after the other: a message costs more than its bytes."""
    parts = call.as_(PartsWanted).parts
    whole = sum(length for _, _, length in parts)
    if whole > wire.CHUNK_BYTES:
        raise ReleaseError(f"a request for {whole} bytes", expected=f"at most {wire.CHUNK_BYTES}")
    folder = call.settings.releases / call.study.digest()[:16]
    if not (folder / STATEMENT_FILE).exists():  # before the statement the ledger may not have the loss
        raise ReleaseError("a request for files of a release that is not finished", expected="a finished release")
    _allowed(open_release(folder), call.settings)
    known = {path.name for path in _release_files(folder)}
    chunk = b"".join(_part(folder, known, *part) for part in parts)
    return _content(call, chunk=chunk, sha256=hashlib.sha256(chunk).hexdigest())


@app.evaluate("emotion")
@handler
def evaluate(call: SiteCall) -> RecordDict:
    """Confusion counts of the global models on held-out speakers, and how far their confidence can be trusted."""
    from moretta.client.training.evaluation import evaluate_site

    found = evaluate_site(call.settings, call.study, wire.models_of(call.content, call.study.models))
    tables = {output: {speaker: table.tolist() for speaker, table in c.items()} for output, c in found.counts.items()}
    return _content(call, counts=tables, reliability={name: bins.tolist() for name, bins in found.reliability.items()})


def _train(kind: Trained) -> Callable[[SiteCall], RecordDict]:
    def train(call: SiteCall) -> RecordDict:
        """One round of training."""
        from moretta.client.secure_aggregation.steps import masked_update
        from moretta.client.training.rounds import train_round

        request = RoundRequest.of(call.content, call.study, kind)
        if kind != "code" and call.study.aggregation.secure:
            return _update(call, masked_update(call.settings, request, call.as_(TrainingWanted)), request.number)
        return _update(call, train_round(call.settings, request), request.number)

    return train


_TRAINED: tuple[Trained, ...] = ("code", *wire.TRAIN)
for _kind in _TRAINED:
    app.train(_kind)(handler(_train(_kind)))


@app.query("secure_keys")
@handler
def secure_keys(call: SiteCall) -> RecordDict:
    """Public keys for a round of secure aggregation."""
    from moretta.client.secure_aggregation.steps import public_keys

    return _content(call, keys=public_keys(call.settings, call.study, call.as_(KeysWanted)))


@app.query("secure_shares")
@handler
def secure_shares(call: SiteCall) -> RecordDict:
    """Shares of this site's secrets, for the others to read."""
    from moretta.client.secure_aggregation.steps import shares

    return _content(call, shares=shares(call.settings, call.study, call.as_(SharesWanted)))


@app.query("secure_unmask")
@handler
def secure_unmask(call: SiteCall) -> RecordDict:
    """Shares that take the masks off the sum."""
    from moretta.client.secure_aggregation.steps import unmasking

    return _content(call, shares=unmasking(call.settings, call.study, call.as_(UnmaskingWanted)))


def _content(call: SiteCall, **values: Any) -> RecordDict:
    return RecordDict({wire.CONFIG: wire.json_config(site=call.settings.name, **values)})


def _update(call: SiteCall, response: StoredResponse, round_number: int) -> RecordDict:
    content = _content(call, round=round_number)
    content[wire.ARRAYS] = wire.arrays_to_record(response.arrays)
    content[wire.METRICS] = MetricRecord({**response.metrics})
    return content


def _allowed(made: Release, settings: SiteSettings) -> Release:
    """A release that the policy allows today, whatever it allowed on the day it was made."""
    if settings.policy is not None:
        settings.policy.check_clips(made.statement.clips, made.statement.speakers)
        settings.policy.check_release(made.statement.anonymizers)
    return made


def _release_files(folder: Path) -> list[Path]:
    names, shards = {STATEMENT_FILE, CLIPS_FILE, CODEBOOK_FILE}, ("voice-*.safetensors", "face-*.safetensors")
    return sorted(p for p in folder.iterdir() if p.name in names or any(p.match(shard) for shard in shards))


def _part(folder: Path, known: set[str], name: str, offset: int, length: int) -> bytes:
    if name not in known:
        raise ReleaseError(f"a request for {name!r}", expected="a file of the release")
    with (folder / name).open("rb") as file:
        file.seek(offset)
        return file.read(length)
