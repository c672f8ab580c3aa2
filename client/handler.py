"""Every request to a site: checked before its handler sees it, about clips that stay as they were, with masked errors.

Errors stay at the site: the server learns their kind, or the rule that refused, and nothing else, because texts may
name files. The site's own log has the whole.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from flwr.app import Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from moretta.client.clips.provenance import ChangedError
from moretta.client.clips.stored_state import What, check_stored, note_sent
from moretta.client.offers import NotApprovedError, Offers
from moretta.client.policy import PolicyError
from moretta.client.settings import SiteSettings, deployed_site, simulated_site
from moretta.client.site_home import SITE_HOME
from moretta.shared.core.errors import BudgetError, ExitCode, MessageError, MorettaError, RefusedError
from moretta.shared.core.printable import printable, printable_traceback, run_id, set_up_logging, use_run_id
from moretta.shared.core.workers import limit_threads
from moretta.shared.messages import REQUESTS, SHOWN, read, wire
from moretta.shared.messages import Message as Request
from moretta.shared.study.schema import Study

MAX_LOG_BYTES = 16 * 2**20
"""Of the site's log, and of the one before it: messages without end must not fill the disk."""
_SENT: dict[str, What] = {
    wire.CODE: "code",
    wire.RELEASE: "release",
    wire.FETCH: "release",
    **{call: kind for kind, call in wire.TRAIN.items()},
    wire.EVALUATE: "counts",
}
"""What leaves with the response to a call and comes of clips."""
R = TypeVar("R", bound=Request)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SiteCall:
    """One request to this site, read whole and bounded."""

    settings: SiteSettings
    content: RecordDict
    request: Request
    checked_study: Study | None

    @property
    def study(self) -> Study:
        """The study of the request, which the policy lets the site take part in; every request but hello has one."""
        assert self.checked_study is not None
        return self.checked_study

    def as_(self, kind: type[R]) -> R:
        """The request with its type."""
        assert isinstance(self.request, kind)
        return self.request


def handler(respond: Callable[[SiteCall], RecordDict]) -> ClientAppCallable:
    """A handler for Flower from a function of a checked request: one thread, and a failure becomes a response."""

    def handle(message: Message, context: Context) -> Message:
        limit_threads(1)
        set_up_logging()
        use_run_id(message.metadata.run_id)
        folder = context.node_config.get(SITE_HOME)
        home = None if folder is None else Path(str(folder))
        name = f"partition-{context.node_config.get('partition-id', '?')}"
        try:
            settings = _site_settings(home, context)
            name, home = settings.name, settings.home
            content = _on_current_clips(respond, _checked(settings, message), message)
        except Exception as error:
            code = error.exit_code if isinstance(error, MorettaError) else ExitCode.INTERNAL
            _log_failure(home, message.metadata.message_type, error)
            shown = type(error).__name__  # or the rule that refused, or what was wrong with the request
            if isinstance(error, PolicyError | BudgetError | ChangedError | NotApprovedError):
                shown = error.public_message
            elif isinstance(error, MessageError):
                shown = error.message
            content = RecordDict({wire.CONFIG: wire.json_config(site=name, failure=shown, code=int(code))})
        return Message(content, reply_to=message)

    return handle


def _checked(settings: SiteSettings, message: Message) -> SiteCall:
    """The policy must allow a request's study, and the steward must have approved it unless it is an offer."""
    kind = message.metadata.message_type
    request = read(REQUESTS[kind], message.content)
    if kind == wire.HELLO:
        return SiteCall(settings, message.content, request, None)
    study = wire.study_of(message.content)
    if settings.policy is not None:
        settings.policy.check_study(study)
        if kind != wire.OFFER:
            Offers(settings.home).approved(study)
    return SiteCall(settings, message.content, request, study)


def _on_current_clips(respond: Callable[[SiteCall], RecordDict], call: SiteCall, message: Message) -> RecordDict:
    """A response about clips that are as they were, before and after it, and that is noted before it leaves.

    A person may withdraw while a model is trained: what was made meanwhile is removed and does not leave.
    """
    kind, run, settings = message.metadata.message_type, message.metadata.run_id, call.settings
    if kind in (wire.HELLO, wire.OFFER) or settings.policy is None:
        return respond(call)
    number = int(wire.number_of(message.content, "server-round", 0.0))
    making = kind in (wire.CODE, wire.RELEASE)
    check_stored(settings, call.study, run=run, making=making, whole=kind == wire.RELEASE)
    content = respond(call)
    if kind in _SENT:
        note_sent(settings, call.study, _SENT[kind], run=run, round_number=number)
    if kind != wire.FETCH:  # nothing is made for it, so nothing can change meanwhile
        check_stored(deployed_site(settings.home), call.study, run=run)
    return content


def _site_settings(home: Path | None, context: Context) -> SiteSettings:
    """The node's own configuration decides: nothing that the server sends makes an enrolled site a virtual one."""
    if home is not None:
        return deployed_site(home)
    run_folder = context.run_config.get("run-dir")
    if run_folder and "partition-id" in context.node_config:
        return simulated_site(Path(str(run_folder)), int(context.node_config["partition-id"]))
    expected = "an enrolled site, or a virtual one of a simulation"
    raise RefusedError("a message for a site that is not configured", expected=expected)


def _log_failure(home: Path | None, call: str, error: Exception) -> None:
    why = f"{error.message}\n" if isinstance(error, MessageError) else printable_traceback(*sys.exc_info())
    at = datetime.now(UTC).isoformat(timespec="seconds")
    text = f"{at} run={run_id()} {printable(call, most=SHOWN)} failed\n{why}\n"
    try:
        if home is not None:
            home.mkdir(parents=True, exist_ok=True)
            path = home / "site.log"
            if path.exists() and path.stat().st_size > MAX_LOG_BYTES:  # every refused message adds to it
                path.replace(path.with_name("site.log.1"))
            with path.open("a", encoding="utf-8") as log:
                log.write(text)
            return
    except OSError as disk:  # Flower would send the server an error that came out of here, path and all
        text += f"and the site's log cannot be written: {disk}\n"
    _log.error(text)
