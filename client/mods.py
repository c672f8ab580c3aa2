"""Flower mods of a site's ClientApp: one thread, masked errors, the policy, and the check that clips are unchanged.

They wrap every handler in this order. Errors stay at the site: the server learns their kind, or the rule that refused,
and nothing else, because texts may name files. The site's own log has the whole.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

from flwr.app import Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from moretta.client.approval.offers import NotApprovedError, Offers
from moretta.client.clips.provenance import ChangedError
from moretta.client.clips.sent_log import What
from moretta.client.clips.stored_state import on_current_clips
from moretta.client.policy import PolicyError
from moretta.client.settings import SiteSettings, deployed_site, simulated_site
from moretta.client.site_home import SITE_HOME
from moretta.shared.core.errors import BudgetError, ExitCode, MessageError, MorettaError, RefusedError
from moretta.shared.core.printable import printable, printable_traceback, run_id, set_up_logging, use_run_id
from moretta.shared.messages import REQUESTS, SHOWN, read, wire
from moretta.shared.messages import Message as Request
from moretta.shared.study.schema import Study

MAX_LOG_BYTES = 16 * 2**20
"""Of the site's log, and of the one before it: messages without end must not fill the disk."""
R = TypeVar("R", bound=Request)


@dataclass(frozen=True)
class SiteCall:
    """One request to this site, as far as the mods have checked it."""

    settings: SiteSettings
    content: RecordDict
    request: Request | None = None
    checked_study: Study | None = None

    @property
    def study(self) -> Study:
        """The study of the request, which the policy lets the site take part in."""
        assert self.checked_study is not None  # every request but hello has one
        return self.checked_study

    def as_(self, kind: type[R]) -> R:
        """The request, whole and bounded."""
        assert isinstance(self.request, kind)
        return self.request


_CALL: ContextVar[SiteCall] = ContextVar("site_call")
_log = logging.getLogger(__name__)


def current_call() -> SiteCall:
    """The call that the mods have checked. By its name, so that Ray can send a handler to another process."""
    return _CALL.get()


def handler(respond: Callable[[SiteCall], RecordDict]) -> ClientAppCallable:
    """A handler for Flower from a function of what the mods have checked."""

    def handle(message: Message, context: Context) -> Message:
        del context
        return Message(respond(current_call()), reply_to=message)

    return handle


def one_thread(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Limits the process to one compute thread, and logs under the id of the run."""
    from moretta.shared.core.workers import limit_threads

    limit_threads(1)
    set_up_logging()
    use_run_id(message.metadata.run_id)
    return call_next(message, context)


def mask_errors(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """A failure becomes a response with its kind and nothing else."""
    name, home = f"partition-{context.node_config.get('partition-id', '?')}", _home(context)
    try:
        settings = site_settings(context)
        name, home = settings.name, settings.home
        _CALL.set(SiteCall(settings, message.content))
        return call_next(message, context)
    except Exception as error:
        code = error.exit_code if isinstance(error, MorettaError) else ExitCode.INTERNAL
        _log_failure(home, message.metadata.message_type, error)
        failure = _public_message(error)
        content = RecordDict({wire.CONFIG: wire.json_config(site=name, failure=failure, code=int(code))})
        return Message(content, reply_to=message)


def check_policy(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Reads the request whole and bounded before any of it is used. The policy must allow its study.

    Every request but an offer must be about a study that the steward has approved.
    """
    call, kind = _CALL.get(), message.metadata.message_type
    call = replace(call, request=read(REQUESTS[kind], message.content))
    if kind != wire.HELLO:
        call = replace(call, checked_study=wire.study_of(message.content))
        if call.settings.policy is not None:
            call.settings.policy.check_study(call.study)
            if kind != wire.OFFER:
                Offers(call.settings.home).approved(call.study)
    _CALL.set(call)
    return call_next(message, context)


class _ClipRule(NamedTuple):
    what: What | None
    """Leaves with the response; None where nothing that comes of clips does."""
    making: bool = False
    """A new release or code may be made for the response."""
    at_once: bool = False
    """Nothing is made for the response."""


_CLIP_RULES: dict[str, _ClipRule] = {
    wire.CODE: _ClipRule("code", making=True),
    wire.RELEASE: _ClipRule("release", making=True),
    wire.FETCH: _ClipRule("release", at_once=True),
    **{call: _ClipRule(kind) for kind, call in wire.TRAIN.items()},
    **dict.fromkeys((wire.SECURE_KEYS, wire.SECURE_SHARES, wire.SECURE_UNMASK), _ClipRule(None)),
    wire.EVALUATE: _ClipRule("counts"),
}


def unchanged_clips(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Where a response comes of clips, they must be as they were, before and after it."""
    rule, call = _CLIP_RULES.get(message.metadata.message_type), _CALL.get()
    if rule is None:
        return call_next(message, context)
    with on_current_clips(
        call.settings,
        call.study,
        rule.what,
        run=message.metadata.run_id,
        round_number=int(wire.number_of(message.content, "server-round", 0.0)),
        making=rule.making,
        at_once=rule.at_once,
    ):
        return call_next(message, context)


def site_settings(context: Context) -> SiteSettings:
    """The settings of the site that this process serves.

    The node's own configuration decides what it is: nothing that the server sends can turn an enrolled site, with its
    policy, into a virtual one.
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


def _public_message(error: Exception) -> str:
    """The rule that refused, what was wrong with the request, or only the kind of the error."""
    if isinstance(error, PolicyError | BudgetError | ChangedError | NotApprovedError):
        return error.public_message
    return error.message if isinstance(error, MessageError) else type(error).__name__


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
