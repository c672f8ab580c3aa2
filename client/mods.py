"""Flower mods of a site's ClientApp: one thread, masked errors, the policy, and the check that clips are unchanged.

They wrap every handler in this order. Errors stay at the site: the server learns their kind, or the rule that refused,
and nothing else, because texts may name files. The site's own log has the whole.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
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
from moretta.client.site_log import log_line
from moretta.shared.core.errors import BudgetError, ExitCode, MessageError, MorettaError, RefusedError
from moretta.shared.core.printable import printable, printable_traceback, set_up_logging, use_run_id
from moretta.shared.core.workers import limit_threads
from moretta.shared.messages import wire
from moretta.shared.messages.calls import REQUESTS, AttackWanted
from moretta.shared.messages.message import SHOWN, read
from moretta.shared.messages.message import Message as Request
from moretta.shared.study.schema import Study

_SENT: dict[str, What] = {
    wire.CODE: "code",
    wire.RELEASE: "release",
    wire.FETCH: "release",
    **{call: kind for kind, call in wire.TRAIN.items()},
    wire.EVALUATE: "counts",
    wire.ATTACK: "scores",
}
"""The kind of data, computed from clips, that leaves with the response to each call."""
R = TypeVar("R", bound=Request)


@dataclass(frozen=True)
class SiteCall:
    """One request to this site, as far as the mods have checked it."""

    settings: SiteSettings
    content: RecordDict
    request: Request | None = None
    checked_study: Study | None = None
    of_study: str = ""
    """Name and digest of the study that it is about, for the log, whether or not the policy allows it."""
    leaves: str = ""
    """One line that describes the response."""

    @property
    def study(self) -> Study:
        """The study of the request, which the policy lets the site take part in; every request but hello has one."""
        assert self.checked_study is not None
        return self.checked_study

    def as_(self, kind: type[R]) -> R:
        """The request with its type, whole and bounded."""
        assert isinstance(self.request, kind)
        return self.request


_CALL: ContextVar[SiteCall | None] = ContextVar("site_call", default=None)


def current_call() -> SiteCall:
    """The call that the mods have checked. By its name, so that Ray can send a handler to another process."""
    found = _CALL.get()
    assert found is not None
    return found


def note_what_leaves(kind: str, content: RecordDict) -> None:
    """Keep a line about a response until it is clear that it leaves."""
    if kind in _SENT and kind != wire.FETCH:
        call = current_call()
        _CALL.set(replace(call, leaves=_what_leaves(call, kind, content)))


def handler(respond: Callable[[SiteCall], RecordDict]) -> ClientAppCallable:
    """A handler for Flower from a function of what the mods have checked."""

    def handle(message: Message, context: Context) -> Message:
        del context
        content = respond(current_call())
        note_what_leaves(message.metadata.message_type, content)
        return Message(wire.packed(content), reply_to=message)

    return handle


def one_thread(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """One compute thread, and a log under the id of the run."""
    _limit_once()
    set_up_logging()
    use_run_id(message.metadata.run_id)
    return call_next(message, context)


@cache
def _limit_once() -> None:
    """Limit threads once a process: the search for loaded libraries takes longer than a small round of training."""
    limit_threads(1)


def mask_errors(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """A failure becomes a response with its kind and nothing else."""
    folder = context.node_config.get(SITE_HOME)
    home = None if folder is None else Path(str(folder))
    name = f"partition-{context.node_config.get('partition-id', '?')}"
    _CALL.set(None)
    try:
        settings = _site_settings(home, context)
        name, home = settings.name, settings.home
        _CALL.set(SiteCall(settings, wire.unpacked(message.content)))
        return call_next(message, context)
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


def check_policy(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Reads the request before any of it is used. The policy must allow its study, and the steward have approved it."""
    call, kind = current_call(), message.metadata.message_type
    call = replace(call, request=read(REQUESTS[kind], call.content))
    if kind != wire.HELLO:
        study = wire.study_of(call.content)
        call = replace(call, checked_study=study, of_study=f" of {study.name!r} ({study.digest()[:12]})")
        _CALL.set(call)
        if call.settings.policy is not None:
            call.settings.policy.check_study(call.study)
            if kind != wire.OFFER:
                Offers(call.settings.home).approved(call.study)
    _CALL.set(call)
    return call_next(message, context)


def unchanged_clips(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """A response is about clips that are as they were, before and after it, and is noted before it leaves.

    A person may withdraw while a model is trained: what was made meanwhile is removed and does not leave. Nor does it
    where the steward has refused the study meanwhile.
    """
    call, kind, run = current_call(), message.metadata.message_type, message.metadata.run_id
    if kind in (wire.HELLO, wire.OFFER) or call.settings.policy is None:
        return call_next(message, context)
    number = int(wire.number_of(call.content, "server-round", 0.0))
    making = kind in (wire.CODE, wire.RELEASE)
    check_stored(call.settings, call.study, run=run, making=making, whole=kind == wire.RELEASE)
    response = call_next(message, context)
    if kind in _SENT:
        note_sent(call.settings, call.study, _SENT[kind], run=run, round_number=number)
    if kind != wire.FETCH:  # nothing is made for it, so nothing can change meanwhile
        check_stored(deployed_site(call.settings.home), call.study, run=run)
        Offers(call.settings.home).approved(call.study)  # without an approval no list says which clips it may be of
    if leaves := current_call().leaves:
        log_line(call.settings.home, leaves)
    return response


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
    """Log a failure: a refusal in one line, any other error with its traceback below."""
    found = _CALL.get()
    what = printable(f"{call}{'' if found is None else found.of_study}", most=SHOWN)
    if isinstance(error, RefusedError | MessageError):
        log_line(home, f"{what} refused: {type(error).__name__}: {error}")
    else:
        log_line(home, f"{what} failed: {type(error).__name__}", printable_traceback(*sys.exc_info()))


def _what_leaves(call: SiteCall, kind: str, content: RecordDict) -> str:
    """A response in a line, for the steward."""
    if kind == wire.RELEASE:
        made = wire.from_config(content, "statement")
        return f"release{call.of_study}: {made['clips']} clips of {made['speakers']} people"
    if kind == wire.EVALUATE:
        return f"evaluation{call.of_study}: counts of held-out people"
    if kind == wire.ATTACK:
        people, attacker = wire.from_config(content, "speakers"), call.as_(AttackWanted).attacker
        return f"scores of the attack {attacker}{call.of_study}: on originals of {people} people, covered by no epsilon"
    number = int(wire.number_of(call.content, "server-round", 0.0))
    metrics = content.metric_records.get(wire.METRICS)
    epsilon = None if metrics is None else metrics.get("epsilon")
    spent = "" if epsilon is None else f"; epsilon so far {epsilon:.2f} per {call.study.privacy.unit}"
    return f"round {number} of training {kind.rpartition('.')[2]}{call.of_study}{spent}"
