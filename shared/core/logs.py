"""Logs: one logger for each module, the run's id in every line, and text from elsewhere made printable.

Every process of a run writes under the same id: that of Flower once the run is submitted, and until then one of the
command. It stands in the environment, which child processes inherit.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys

from moretta.shared.core.printable import log_printable

_RUN, _LEVEL = "MORETTA_RUN_ID", "MORETTA_LOG_LEVEL"
_FORMAT = "%(asctime)s %(levelname)s run=%(run)s %(name)s: %(message)s"


def run_id() -> str:
    """The id of the run that this process belongs to; a new one where there is none."""
    return os.environ.setdefault(_RUN, secrets.token_hex(4))


def use_run_id(number: object) -> None:
    """Log under this id from now on, as the child processes that are started later will."""
    os.environ[_RUN] = str(number)


def set_up_logging(level: int = logging.WARNING, *, verbose: bool = False) -> None:
    """Log to standard error: Moretta from `level` on, libraries from warnings on. Later calls change the level only.

    Args:
        level: the least severe level that is written.
        verbose: write everything, in this process and in those that it starts.
    """
    if verbose:
        os.environ[_LEVEL] = "DEBUG"
    log_printable()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT))
    handler.addFilter(_add_run_id)
    logging.basicConfig(handlers=[handler])
    logging.getLogger("moretta").setLevel(os.environ.get(_LEVEL, level))


def _add_run_id(record: logging.LogRecord) -> bool:
    record.run = run_id()
    return True
