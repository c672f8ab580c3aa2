"""The Flower ClientApp of a site: hello, offer, code, release, fetch, train, evaluate, attack; see `client.mods`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from moretta.client.mods import SiteCall, check_policy, handler, mask_errors, one_thread, unchanged_clips
from moretta.client.offers import arrays_for, respond_to_offer
from moretta.client.settings import SiteSettings
from moretta.client.training.data import held_out, training_clips
from moretta.client.training.masked_rounds import masked_update, public_keys, shares, unmasking
from moretta.client.training.rounds import RoundRequest, Trained, train_round
from moretta.shared.core.atomic import locked
from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.reproducibility import code_digest, versions
from moretta.shared.messages import calls, wire
from moretta.shared.release import Release, open_release
from moretta.shared.release.release_format import CLIPS_FILE, CODEBOOK_FILE, STATEMENT_FILE

app = ClientApp(mods=[one_thread, mask_errors, check_policy, unchanged_clips])


@app.query("hello")
@handler
def hello(call: SiteCall) -> RecordDict:
    """The site's name, and what it runs. Nothing of the clips is read."""
    return _content(call, versions=versions(), digest=code_digest())


@app.query("offer")
@handler
def offer(call: SiteCall) -> RecordDict:
    """A study and its public arrays, for the steward to approve; nothing of the clips is read."""
    arrays = wire.arrays_of(call.content) if wire.ARRAYS in call.content else None
    state = respond_to_offer(call.settings, call.study, call.as_(calls.OfferMade).approval, arrays)
    return _content(call, state=state)


@app.query("release")
@handler
def release(call: SiteCall) -> RecordDict:
    """Anonymizes this site's clips and states what was released; the files are fetched one by one."""
    from moretta.client.clips.release import make_release
    from moretta.shared.data.reader import read_marker

    settings, study = call.settings, call.study
    sent = wire.arrays_of(call.content) if wire.ARRAYS in call.content else {}
    shared = arrays_for(settings, study, call.as_(calls.ReleaseWanted).approval or "", sent)
    lock = settings.home / "locks" / f"{study.digest()[:16]}-release"
    lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(lock):  # two at once would draw noise twice
        made = _allowed(make_release(settings, study, shared), settings)
    return _content(
        call,
        files={name: path.stat().st_size for name, path in _release_files(made.folder).items()},
        statement=made.statement.model_dump(mode="json"),
        training=training_clips(settings, study),
        held_out=sorted(map(settings.names(study).released, held_out(settings, study))),
        synthetic=read_marker(settings.corpus)[1],
    )


@app.query("fetch")
@handler
def fetch(call: SiteCall) -> RecordDict:
    """Parts of files of the release of this study, one after the other: a message costs more than its bytes."""
    parts = call.as_(calls.PartsWanted).parts
    if (whole := sum(length for _, _, length in parts)) > wire.CHUNK_BYTES:
        raise ReleaseError(f"a request for {whole} bytes", expected=f"at most {wire.CHUNK_BYTES}")
    folder = call.settings.release_of(call.study)
    if not (folder / STATEMENT_FILE).exists():  # before the statement the ledger may not have the loss
        raise ReleaseError("a request for files of a release that is not finished", expected="a finished release")
    _allowed(open_release(folder), call.settings)
    files, chunks = _release_files(folder), []
    for name, offset, length in parts:
        if name not in files:
            raise ReleaseError(f"a request for {name!r}", expected="a file of the release")
        with files[name].open("rb") as file:
            file.seek(offset)
            chunks.append(file.read(length))
    chunk = b"".join(chunks)
    return _content(call, chunk=chunk, sha256=hashlib.sha256(chunk).hexdigest())


@app.evaluate("emotion")
@handler
def evaluate(call: SiteCall) -> RecordDict:
    """Confusion counts of the global models on held-out speakers, and how far their confidence can be trusted."""
    from moretta.client.training.evaluation import evaluate_site

    found = evaluate_site(call.settings, call.study, wire.models_of(call.content, call.study.models))
    tables = {output: {speaker: table.tolist() for speaker, table in c.items()} for output, c in found.counts.items()}
    return _content(call, counts=tables, reliability={name: bins.tolist() for name, bins in found.reliability.items()})


@app.query("attack")
@handler
def attack(call: SiteCall) -> RecordDict:
    """Scores of an approved attacker between this site's originals and its release: counts, and nothing of a clip."""
    from moretta.client.attacks import respond_to_attack

    request = call.as_(calls.AttackWanted)
    return _content(call, **respond_to_attack(call.settings, call.study, request.attacker, request.approval))


def _train(kind: Trained) -> Callable[[SiteCall], RecordDict]:
    def train(call: SiteCall) -> RecordDict:
        """One round of training."""
        request = RoundRequest.of(call.content, call.study, kind)
        if kind != "code" and call.study.aggregation.secure:
            response = masked_update(call.settings, request, call.as_(calls.TrainingWanted))
        else:
            response = train_round(call.settings, request)
        content = _content(call, round=request.number)
        content[wire.ARRAYS] = wire.arrays_to_record(response.arrays)
        content[wire.METRICS] = MetricRecord({**response.metrics})
        return content

    return train


_TRAINED: tuple[Trained, ...] = ("code", *wire.TRAIN)
for _kind in _TRAINED:
    app.train(_kind)(handler(_train(_kind)))


def _step(key: str, step: Callable[..., Any], kind: type[calls.OfSession]) -> Callable[[SiteCall], RecordDict]:
    """A step of secure aggregation: public keys, shares of secrets, or shares that take the masks off the sum."""
    return lambda call: _content(call, **{key: step(call.settings, call.study, call.as_(kind))})


app.query("secure_keys")(handler(_step("keys", public_keys, calls.KeysWanted)))
app.query("secure_shares")(handler(_step("shares", shares, calls.SharesWanted)))
app.query("secure_unmask")(handler(_step("shares", unmasking, calls.UnmaskingWanted)))


def _content(call: SiteCall, **values: Any) -> RecordDict:
    return RecordDict({wire.CONFIG: wire.json_config(site=call.settings.name, **values)})


def _allowed(made: Release, settings: SiteSettings) -> Release:
    """A release that the policy allows today, whatever it allowed on the day it was made."""
    if settings.policy is not None:
        settings.policy.check_clips(made.statement.clips, made.statement.speakers)
        settings.policy.check_release(made.statement.anonymizers)
    return made


def _release_files(folder: Path) -> dict[str, Path]:
    patterns = (STATEMENT_FILE, CLIPS_FILE, CODEBOOK_FILE, "voice-*.safetensors", "face-*.safetensors")
    return {path.name: path for path in sorted(folder.iterdir()) if any(map(path.match, patterns))}
