"""The Flower ClientApp of a site: hello, offer, code, release, fetch, train, evaluate.

The site's policy is asked first, in every answer. Errors stay at the site: the server learns only their kind, or the
rule that refused, because their texts may name files. The site's own log has the whole.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from moretta.client.approval.offers import NotApprovedError, Offers
from moretta.client.clips.current_clips import on_current_clips
from moretta.client.clips.provenance import ChangedError
from moretta.client.clips.sent_log import What
from moretta.client.policy import PolicyError
from moretta.client.secure_aggregation import secure_responses
from moretta.client.settings import SiteSettings, deployed_site, simulated_site
from moretta.client.site_home import SITE_HOME
from moretta.client.training.update_store import StoredResponse, exclusively
from moretta.shared.core.errors import BudgetError, MessageError, MorettaError, RefusedError, ReleaseError
from moretta.shared.core.exit_codes import ExitCode
from moretta.shared.core.printable import log_printable, printable, printable_traceback
from moretta.shared.messages import REQUESTS, SHOWN, read, wire
from moretta.shared.release import Release, open_release
from moretta.shared.release.release_format import CLIPS_FILE, CODEBOOK_FILE, STATEMENT_FILE
from moretta.shared.study.fusion import ModelKind
from moretta.shared.study.schema import Study

app = ClientApp()

Handler = Callable[[Message, SiteSettings], RecordDict]
MAX_LOG_BYTES = 16 * 2**20
"""Of the site's log, and of the one before it: messages without end must not fill the disk."""


def site_settings(context: Context) -> SiteSettings:
    """The settings of the site this process serves.

    The node's own configuration decides what it is: nothing that the server says can turn an enrolled site, with its
    policy, into a virtual one.

    Raises:
        RefusedError: neither an enrolled site nor a simulation.
        PolicyError: the site's policy refuses the server, the installed code or the noise.
    """
    home = _home(context)
    if home is not None:
        return deployed_site(home)
    run_folder = context.run_config.get("run-dir")
    if run_folder and "partition-id" in context.node_config:
        return simulated_site(Path(str(run_folder)), int(context.node_config["partition-id"]))
    raise RefusedError(
        "a message for a site that is not configured", expected="an enrolled site, or a virtual one of a simulation"
    )


def _home(context: Context) -> Path | None:
    folder = context.node_config.get(SITE_HOME)
    return None if folder is None else Path(str(folder))


def _responds(handler: Handler) -> Callable[[Message, Context], Message]:
    """Wraps a handler so that a failure becomes an answer that tells its kind and nothing else."""

    @wraps(handler)
    def response(message: Message, context: Context) -> Message:
        from moretta.shared.core.threads import limit_threads

        limit_threads(1)
        log_printable()
        name, home = f"partition-{context.node_config.get('partition-id', '?')}", _home(context)
        try:
            settings = site_settings(context)
            name, home = settings.name, settings.home
            call = message.metadata.message_type
            read(REQUESTS[call], message.content)  # whole and bounded, before any of it is used
            content = handler(message, settings)
        except Exception as error:
            code = error.exit_code if isinstance(error, MorettaError) else ExitCode.INTERNAL
            _log_failure(home, message.metadata.message_type, error)
            failure = _summary(error)
            content = RecordDict({wire.CONFIG: wire.json_config(site=name, failure=failure, code=int(code))})
        return Message(content, reply_to=message)

    return response


def _of_clips(what: What | None, *, making: bool = False, at_once: bool = False) -> Callable[[Handler], Handler]:
    """Wraps a handler whose answers come of clips: the clips must be as they were, before and after it.

    Args:
        what: leaves with the answer; None where nothing that comes of clips does.
        making: it is asked for what can be made anew.
        at_once: nothing is made for the answer.
    """

    def wrap(handler: Handler) -> Handler:
        @wraps(handler)
        def response(message: Message, settings: SiteSettings) -> RecordDict:
            study, run = _study(message, settings), message.metadata.run_id
            number = int(wire.number_of(message.content, "server-round", 0.0))
            with on_current_clips(settings, study, what, run=run, round_number=number, making=making, at_once=at_once):
                return handler(message, settings)

        return response

    return wrap


def _summary(error: Exception) -> str:
    """What the server learns of an error: the rule that refused, what was wrong with its request, or only the kind."""
    if isinstance(error, PolicyError | BudgetError | ChangedError | NotApprovedError):
        return error.public_message
    return error.message if isinstance(error, MessageError) else type(error).__name__


def _log_failure(home: Path | None, call: str, error: Exception) -> None:
    why = f"{error.message}\n" if isinstance(error, MessageError) else printable_traceback(*sys.exc_info())
    text = f"{printable(call, most=SHOWN)} failed\n{why}\n"
    try:
        if home is not None:
            home.mkdir(parents=True, exist_ok=True)
            path = home / "site.log"
            if path.exists() and path.stat().st_size > MAX_LOG_BYTES:  # every refused message adds to it
                path.replace(path.with_name("site.log.1"))
            with path.open("a", encoding="utf-8") as log:
                log.write(text)
            return
    except OSError as disk:  # Flower would tell the server of an error that came out of here, path and all
        text += f"and the site's log cannot be written: {disk}\n"
    logging.getLogger("moretta").error(text)


@app.query("hello")
@_responds
def hello(message: Message, settings: SiteSettings) -> RecordDict:
    """Who is there, and what it runs. Nothing of the clips is read."""
    from moretta.shared.core.versions import code_digest, versions

    del message
    return RecordDict({wire.CONFIG: wire.json_config(site=settings.name, versions=versions(), digest=code_digest())})


@app.query("offer")
@_responds
def offer(message: Message, settings: SiteSettings) -> RecordDict:
    """A study and its public arrays, for the steward to approve; nothing of the clips is read."""
    from moretta.client.approval.offer_approval import respond_to_offer

    study = _permitted(message, settings)
    arrays = wire.arrays_of(message.content) if wire.ARRAYS in message.content else None
    digest = str(wire.from_config(message.content, "approval"))
    state = respond_to_offer(settings, study, digest, arrays)
    return RecordDict({wire.CONFIG: wire.json_config(site=settings.name, state=state)})


@app.train("code")
@_responds
@_of_clips("code", making=True)
def code(message: Message, settings: SiteSettings) -> RecordDict:
    """One round of training the code of `speaker-normalized`."""
    from moretta.client.training.code_training import round_of_code

    study = _study(message, settings)
    round_number = int(wire.number_of(message.content, "server-round"))
    update = round_of_code(settings, study, wire.arrays_of(message.content), round_number=round_number)
    return _update_record(settings, update, round_number)


@app.query("release")
@_responds
@_of_clips("release", making=True)
def release(message: Message, settings: SiteSettings) -> RecordDict:
    """Anonymize this site's clips and tell what was released; the files are fetched one by one."""
    from moretta.client.approval.offer_approval import arrays_for
    from moretta.client.clips.release import make_release
    from moretta.client.training.held_out import held_out
    from moretta.client.training.training_sets import training_clips
    from moretta.shared.data.reader import is_synthetic

    study = _study(message, settings)
    sent = wire.arrays_of(message.content) if wire.ARRAYS in message.content else {}
    config = message.content[wire.CONFIG]
    digest = str(wire.from_config(message.content, "approval")) if "approval" in config else ""
    shared = arrays_for(settings, study, digest, sent)
    with exclusively(settings.home / "locks" / f"{study.digest()[:16]}-release"):  # two at once would draw noise twice
        made = _approved(make_release(settings, study, shared), settings)
    files = {path.name: path.stat().st_size for path in _release_files(made.folder)}
    return RecordDict(
        {
            wire.CONFIG: wire.json_config(
                site=settings.name,
                files=files,
                statement=made.statement.model_dump(mode="json"),
                training=training_clips(settings, study),
                held_out=sorted(map(settings.names(study).released, held_out(settings, study))),
                synthetic=is_synthetic(settings.corpus),
            )
        }
    )


@app.query("fetch")
@_responds
@_of_clips("release", at_once=True)
def fetch(message: Message, settings: SiteSettings) -> RecordDict:
    """Parts of files of the release of this study, one after the other: a message costs more than its bytes."""
    study = _study(message, settings)
    parts = wire.parts_of(message.content)
    folder = settings.releases / study.digest()[:16]
    if not (folder / STATEMENT_FILE).exists():  # before the statement the ledger may not have the loss
        raise ReleaseError("a request for files of a release that is not finished", expected="a finished release")
    _approved(open_release(folder), settings)
    known = {path.name for path in _release_files(folder)}
    chunk = b"".join(_part(folder, known, part) for part in parts)
    digest = hashlib.sha256(chunk).hexdigest()
    return RecordDict({wire.CONFIG: wire.json_config(site=settings.name, chunk=chunk, sha256=digest)})


def _part(folder: Path, known: set[str], part: wire.FilePart) -> bytes:
    if part.file not in known:
        raise ReleaseError(f"a request for {part.file!r}", expected="a file of the release")
    with (folder / part.file).open("rb") as file:
        file.seek(part.offset)
        return file.read(part.length)


def _train(kind: ModelKind) -> Handler:
    def train(message: Message, settings: SiteSettings) -> RecordDict:
        """One round of local training."""
        from moretta.client.training.rounds import models_beside, round_of_training

        study = _study(message, settings)
        if study.aggregation.secure:
            return secure_responses.masked_update(message.content, settings, study, kind)
        round_number = int(wire.number_of(message.content, "server-round"))
        update = round_of_training(
            settings,
            study,
            kind,
            wire.arrays_of(message.content),
            round_number=round_number,
            proximal=wire.number_of(message.content, "proximal-mu", 0.0),
            beside=models_beside(message.content, study, kind),
        )
        return _update_record(settings, update, round_number)

    return _of_clips(kind)(train)


def _update_record(settings: SiteSettings, update: StoredResponse, round_number: int) -> RecordDict:
    metrics: dict[str, int | float | list[int] | list[float]] = {**update.metrics}
    return RecordDict(
        {
            wire.ARRAYS: wire.arrays_to_record(update.arrays),
            wire.METRICS: MetricRecord(metrics),
            wire.CONFIG: wire.json_config(site=settings.name, round=round_number),
        }
    )


train_voice = app.train("voice")(_responds(_train("voice")))
train_face = app.train("face")(_responds(_train("face")))
train_fusion = app.train("fusion")(_responds(_train("fusion")))


@app.query("secure_keys")
@_responds
@_of_clips(None)
def secure_keys(message: Message, settings: SiteSettings) -> RecordDict:
    """Public keys for a round of secure aggregation."""
    return secure_responses.keys(message.content, settings, _study(message, settings))


@app.query("secure_shares")
@_responds
@_of_clips(None)
def secure_shares(message: Message, settings: SiteSettings) -> RecordDict:
    """Shares of this site's secrets, for the others to read."""
    return secure_responses.shares(message.content, settings, _study(message, settings))


@app.query("secure_unmask")
@_responds
@_of_clips(None)
def secure_unmask(message: Message, settings: SiteSettings) -> RecordDict:
    """What takes the masks off the sum."""
    return secure_responses.unmask(message.content, settings, _study(message, settings))


@app.evaluate("emotion")
@_responds
@_of_clips("counts")
def evaluate(message: Message, settings: SiteSettings) -> RecordDict:
    """Confusion counts of the global models on held-out speakers, and how far their confidence can be trusted."""
    from moretta.client.training.evaluation import evaluate_site

    study = _study(message, settings)
    found = evaluate_site(settings, study, wire.models_of(message.content, study.models))
    tables = {output: {speaker: table.tolist() for speaker, table in c.items()} for output, c in found.counts.items()}
    bins = {output: table.tolist() for output, table in found.reliability.items()}
    return RecordDict({wire.CONFIG: wire.json_config(site=settings.name, counts=tables, reliability=bins)})


def _study(message: Message, settings: SiteSettings) -> Study:
    """The study a message carries, if the steward has approved it and the site's policy lets it take part."""
    study = _permitted(message, settings)
    if settings.policy is not None:
        Offers(settings.home).approved(study)
    return study


def _permitted(message: Message, settings: SiteSettings) -> Study:
    study = wire.study_of(message.content)
    if settings.policy is not None:
        settings.policy.check_study(study)
    return study


def _approved(release: Release, settings: SiteSettings) -> Release:
    """A release that the policy lets out today, whatever it said on the day it was made."""
    if settings.policy is not None:
        statement = release.statement
        settings.policy.check_clips(statement.clips, statement.speakers)
        settings.policy.check_release(statement.anonymizers)
    return release


def _release_files(folder: Path) -> list[Path]:
    names = {STATEMENT_FILE, CLIPS_FILE, CODEBOOK_FILE}
    return sorted(p for p in folder.iterdir() if p.name in names or p.match("voice-*.safetensors") or _is_face(p))


def _is_face(path: Path) -> bool:
    return path.match("face-*.safetensors")
