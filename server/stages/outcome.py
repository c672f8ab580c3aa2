"""How a run ended, in a file: Flower calls a run completed even if every site failed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import MorettaError
from moretta.shared.core.exit_codes import ExitCode
from moretta.shared.core.printable import printable, printable_traceback
from moretta.shared.core.storage import storage_error

OUTCOME_FILE = "outcome.json"
_STATUS = {ExitCode.OK: "completed", ExitCode.GATE: "gate-broken"}


@dataclass
class Ending:
    """What is known of the end so far."""

    gate_passed: bool = True
    finished: bool = True
    """False if more is to come in another process: then no outcome is written yet."""
    code: ExitCode = ExitCode.OK


@contextmanager
def concluding(folder: Path, *, but_for: tuple[type[Exception], ...] = ()) -> Iterator[Ending]:
    """Write the outcome of what runs inside: success, a broken gate, or the error that came out of it.

    Errors end here. Their whole text is in `server/server.log`.

    Args:
        folder: of the run.
        but_for: errors that are no outcome, because the run may go on in another process; they pass through.
    """
    ending = Ending()
    try:
        yield ending
    except but_for:
        (folder / "server").mkdir(parents=True, exist_ok=True)
        (folder / "server" / "server.log").write_text(printable_traceback(*sys.exc_info()), encoding="utf-8")
        raise
    except Exception as error:
        known = storage_error(error) or error
        ending.code = known.exit_code if isinstance(known, MorettaError) else ExitCode.INTERNAL
        cause = printable(known if isinstance(known, MorettaError) else f"{type(error).__name__}: {error}")
        (folder / "server").mkdir(parents=True, exist_ok=True)
        (folder / "server" / "server.log").write_text(printable_traceback(*sys.exc_info()), encoding="utf-8")
        write_outcome(folder, code=ending.code, stage=" ".join(getattr(error, "__notes__", [])), cause=cause)
        return
    ending.code = ExitCode.OK if ending.gate_passed else ExitCode.GATE
    if ending.finished:
        write_outcome(folder, code=ending.code)


def write_outcome(folder: Path, *, code: ExitCode, stage: str = "", cause: str = "") -> None:
    """Write how the run ended."""
    content = {"status": _STATUS.get(code, "failed"), "exit_code": int(code), "stage": stage, "cause": cause}
    write_atomic(folder / OUTCOME_FILE, json.dumps(content, indent=1) + "\n")
