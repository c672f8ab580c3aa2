"""A `moretta` command within this process, for what comes after a first run by the installed command."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from unittest import mock

from moretta.deploy.cli.main import run


def moretta_here(*arguments: object, cache: Path) -> tuple[int, str, str]:
    """Its exit code, output and errors. It must not start work: what it needs must be there already."""
    out, errors = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, {"MORETTA_CACHE": str(cache)}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        code = run(list(map(str, arguments)))
    return code, out.getvalue(), errors.getvalue()
