"""Whose fault an error is: what a site sent costs that site alone, and the study goes on without it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from moretta.server.grid.pending_request import SuperLinkLostError
from moretta.shared.core.errors import MorettaError
from moretta.shared.core.printable import printable

_SHOWN = 1000
"""Characters of a reason that a report repeats."""


@contextmanager
def noting_failure_of(site: str, failures: dict[str, str]) -> Iterator[None]:
    """Read what a site sent. An error in it is noted under the site's name and ends nothing else.

    What is not about the site ends the stage: a SuperLink that is gone, and a disk that is full.

    Args:
        site: whose it is.
        failures: takes the reason, by site.
    """
    try:
        yield
    except (SuperLinkLostError, OSError):
        raise
    except MorettaError as error:
        failures[site] = printable(error.message, most=_SHOWN) or type(error).__name__
    except Exception as error:  # no check is complete: what was not foreseen must cost no other site
        logging.getLogger("moretta").exception("what %s sent was not foreseen", site)
        failures[site] = f"what it sent cannot be used ({type(error).__name__})"
