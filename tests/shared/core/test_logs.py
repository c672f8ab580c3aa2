"""An operator follows a failure through every process of a run, and nothing in a log forges a line."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

PARENT = """
import logging, subprocess, sys
from moretta.shared.core.printable import set_up_logging, use_run_id
set_up_logging(verbose={verbose})
use_run_id(4711)
logging.getLogger("moretta.server.app").info("begun")
logging.getLogger("moretta.server.app").warning("from %s", "a site\\nforged line")
logging.getLogger("httpx").info("a library's step")
logging.getLogger("httpx").warning("a library's warning")
subprocess.run([sys.executable, "-c", {child!r}], check=True)
"""
CHILD = """
import logging
from moretta.shared.core.printable import set_up_logging
set_up_logging()
logging.getLogger("moretta.client.app").info("in another process")
"""


@pytest.mark.parametrize("verbose", [False, True])
def test_every_line_of_every_process_names_its_module_and_its_run(verbose: bool) -> None:
    code = PARENT.format(verbose=verbose, child=CHILD)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MORETTA_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    lines = [re.sub(r"^[-\d]+ [:,\d]+ ", "", line) for line in done.stderr.splitlines()]
    steps = ["INFO run=4711 moretta.server.app: begun"] if verbose else []
    later = ["INFO run=4711 moretta.client.app: in another process"] if verbose else []
    warnings = [
        r"WARNING run=4711 moretta.server.app: from a site\nforged line",
        "WARNING run=4711 httpx: a library's warning",
    ]
    assert lines == [*steps, *warnings, *later]
