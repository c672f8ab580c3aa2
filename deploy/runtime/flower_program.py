"""A program of Flower's whose log is printable: what other machines send stands in it. Started as a program.

Its arguments are the program's name, such as `flower-superlink`, and that program's own.
"""

from __future__ import annotations

import sys
from importlib import metadata

from moretta.shared.core.printable import log_printable


def command(name: str) -> list[str]:
    """The beginning of the command line that starts this program of Flower's."""
    # -P: nothing is imported from the folder that it is started in
    return [sys.executable, "-P", "-m", "moretta.deploy.runtime.flower_program", name]


def main() -> None:
    """Start what the first argument names."""
    sys.argv = sys.argv[1:]
    (program,) = metadata.distribution("flwr").entry_points.select(group="console_scripts", name=sys.argv[0])
    log_printable()
    program.load()()


if __name__ == "__main__":
    main()
