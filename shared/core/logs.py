"""Logs: one logger for each module, the run's id in every line, and text from elsewhere made printable.

Every process of a run writes under the same id: Flower's, once the run is submitted; until then one of the command. The
id stands in the environment, which child processes inherit.
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
    """Log under this id from now on, here and in child processes that start later."""
    os.environ[_RUN] = str(number)


def set_up_logging(level: int = logging.WARNING, *, verbose: bool = False) -> None:
    """Log to standard error: Moretta from `level` on, libraries from warnings on. Another call may lower the level.

    Args:
        level: the least severe level that is written.
        verbose: write every step, in this process and in those that it starts.
    """
    log_printable()
    if verbose:
        os.environ[_LEVEL] = "DEBUG"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT))
    handler.addFilter(_take)
    logging.basicConfig(handlers=[handler])
    wanted = os.environ.get(_LEVEL, level)
    if wanted != logging.WARNING:  # the root's own level
        logging.getLogger("moretta").setLevel(wanted)


def _take(record: logging.LogRecord) -> bool:
    """Lines of Moretta, and warnings of libraries; Flower's logger writes its own."""
    record.run = run_id()
    library = record.name.partition(".")[0]
    return library == "moretta" or (record.levelno >= logging.WARNING and library != "flwr")
