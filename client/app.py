"""The Flower ClientApp of a site: hello, release, fetch, train, evaluate.

Errors stay at the site: the server learns only their kind, because their texts may name files. The site's own log has
the whole.
"""

from __future__ import annotations

import hashlib
import logging
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from moretta.client.settings import SiteSettings, simulated_site
from moretta.shared import wire
from moretta.shared.errors import MorettaError, RefusedError, ReleaseError
from moretta.shared.exit_codes import ExitCode
from moretta.shared.release.format import CLIPS_FILE, CODEBOOK_FILE, STATEMENT_FILE, Modality
from moretta.shared.study import Study

if TYPE_CHECKING:
    import torch

app = ClientApp()

Handler = Callable[[Message, SiteSettings], RecordDict]


def site_settings(context: Context) -> SiteSettings:
    """The settings of the site this process serves.

    Raises:
        RefusedError: neither a simulation nor a configured site.
    """
    run_folder = context.run_config.get("run-dir")
    if run_folder and "partition-id" in context.node_config:
        return simulated_site(Path(str(run_folder)), int(context.node_config["partition-id"]))
    raise RefusedError("a message for a site that is not configured", expected="a virtual site of a simulation")


def _answers(handler: Handler) -> Callable[[Message, Context], Message]:
    """Wraps a handler so that a failure becomes an answer that tells its kind and nothing else."""

    @wraps(handler)
    def answer(message: Message, context: Context) -> Message:
        from moretta.shared.threads import limit_threads

        limit_threads(1)
        name, home = f"partition-{context.node_config.get('partition-id', '?')}", None
        try:
            settings = site_settings(context)
            name, home = settings.name, settings.home
            content = handler(message, settings)
        except Exception as error:
            code = error.exit_code if isinstance(error, MorettaError) else ExitCode.INTERNAL
            _log_failure(home, message.metadata.message_type)
            content = RecordDict(
                {wire.CONFIG: wire.json_config(site=name, failure=type(error).__name__, code=int(code))}
            )
        return Message(content, reply_to=message)

    return answer


def _log_failure(home: Path | None, call: str) -> None:
    text = f"{call} failed\n{traceback.format_exc()}\n"
    try:
        if home is not None:
            home.mkdir(parents=True, exist_ok=True)
            with (home / "site.log").open("a", encoding="utf-8") as log:
                log.write(text)
            return
    except OSError as error:  # Flower would tell the server of an error that came out of here, path and all
        text += f"and the site's log cannot be written: {error}\n"
    logging.getLogger("moretta").error(text)


@app.query("hello")
@_answers
def hello(message: Message, settings: SiteSettings) -> RecordDict:
    """Who is there, and what it runs. Nothing of the clips is read."""
    from moretta.shared.versions import code_digest, versions

    del message
    return RecordDict({wire.CONFIG: wire.json_config(site=settings.name, versions=versions(), digest=code_digest())})


@app.query("release")
@_answers
def release(message: Message, settings: SiteSettings) -> RecordDict:
    """Anonymize this site's clips and tell what was released; the files are fetched one by one."""
    from moretta.client.data import save_public_scale
    from moretta.client.release import make_release

    study = wire.study_of(message.content)
    shared = wire.arrays_of(message.content)
    made = make_release(settings, study, shared)
    save_public_scale(made.folder, shared)
    files = {path.name: path.stat().st_size for path in _release_files(made.folder)}
    return RecordDict(
        {
            wire.CONFIG: wire.json_config(
                site=settings.name,
                files=files,
                statement=made.statement.model_dump(mode="json"),
                training=_training_clips(settings, study),
            )
        }
    )


@app.query("fetch")
@_answers
def fetch(message: Message, settings: SiteSettings) -> RecordDict:
    """Parts of files of the release of this study, one after the other: a message costs more than its bytes."""
    study = wire.study_of(message.content)
    parts = wire.parts_of(message.content)
    folder = settings.releases / study.digest()[:16]
    if not (folder / STATEMENT_FILE).exists():  # before the statement the ledger may not have the loss
        raise ReleaseError("a request for files of a release that is not finished", expected="a finished release")
    known = {path.name for path in _release_files(folder)}
    chunk = b"".join(_part(folder, known, part) for part in parts)
    digest = hashlib.sha256(chunk).hexdigest()
    return RecordDict({wire.CONFIG: wire.json_config(site=settings.name, chunk=chunk, sha256=digest)})


def _part(folder: Path, known: set[str], part: wire.Part) -> bytes:
    if part.file not in known:
        raise ReleaseError(f"a request for {part.file!r}", expected="a file of the release")
    with (folder / part.file).open("rb") as file:
        file.seek(part.offset)
        return file.read(part.length)


def _train(modality: Modality) -> Handler:
    def train(message: Message, settings: SiteSettings) -> RecordDict:
        """One round of local training; the ledger has it before the first step."""
        from flwr.app import ArrayRecord

        from moretta.client.data import held_out_mask, released_features
        from moretta.client.ledger import Ledger
        from moretta.client.training import train_locally
        from moretta.shared.models.emotion import emotion_model

        study = wire.study_of(message.content)
        round_number = int(wire.number_of(message.content, "server-round"))
        data = released_features(settings, study, modality)
        training = data.chosen(~held_out_mask(settings, data.speakers))
        if len(training) == 0:
            raise RefusedError("no training clip of this modality", expected="at least one")
        update = train_locally(
            emotion_model(modality, study.section(modality).model),
            _tensors(message, wire.ARRAYS),
            training,
            study,
            Ledger(settings.ledger),
            round_number=round_number,
            seed=_round_seed(settings, modality, round_number),
            proximal=wire.number_of(message.content, "proximal-mu", 0.0),
        )
        metrics: dict[str, int | float | list[int] | list[float]] = {"num-examples": len(training)}
        if update.loss is not None:
            metrics["loss"] = update.loss
        if update.epsilon is not None:
            metrics |= {"epsilon": update.epsilon, "noise-multiplier": update.noise_multiplier}
        return RecordDict(
            {
                wire.ARRAYS: ArrayRecord(update.weights),
                wire.METRICS: MetricRecord(metrics),
                wire.CONFIG: wire.json_config(site=settings.name, round=round_number),
            }
        )

    return train


train_voice = app.train("voice")(_answers(_train("voice")))
train_face = app.train("face")(_answers(_train("face")))


@app.evaluate("emotion")
@_answers
def evaluate(message: Message, settings: SiteSettings) -> RecordDict:
    """Confusion counts of the global models on held-out speakers."""
    from moretta.client.evaluation import evaluate_site

    study = wire.study_of(message.content)
    weights = {
        m: _tensors(message, f"{wire.ARRAYS}-{m}") for m in study.modalities if f"{wire.ARRAYS}-{m}" in message.content
    }
    counts = evaluate_site(settings, study, weights)
    tables = {output: {speaker: table.tolist() for speaker, table in c.items()} for output, c in counts.items()}
    return RecordDict({wire.CONFIG: wire.json_config(site=settings.name, counts=tables)})


def _release_files(folder: Path) -> list[Path]:
    names = {STATEMENT_FILE, CLIPS_FILE, CODEBOOK_FILE}
    return sorted(p for p in folder.iterdir() if p.name in names or p.match("voice-*.safetensors") or _is_face(p))


def _is_face(path: Path) -> bool:
    return path.match("face-*.safetensors")


def _training_clips(settings: SiteSettings, study: Study) -> dict[str, int]:
    from moretta.client.data import held_out_mask, released_features

    counts: dict[str, int] = {}
    for modality in study.modalities:
        speakers = released_features(settings, study, modality).speakers
        counts[modality] = int(np.sum(~held_out_mask(settings, speakers)))
    return counts


def _tensors(message: Message, key: str) -> dict[str, torch.Tensor]:
    import torch

    return {name: torch.from_numpy(array) for name, array in wire.arrays_of(message.content, key).items()}


def _round_seed(settings: SiteSettings, modality: Modality, round_number: int) -> int | None:
    if settings.simulated_seed is None:
        return None
    text = f"{settings.simulated_seed} {settings.name} {modality} {round_number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
