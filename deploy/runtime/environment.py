"""The environment and the ports of Moretta's own processes on one machine, which speak over loopback without a
proxy."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from moretta.deploy.runtime.processes import MARK
from moretta.shared.core.workers import THREAD_VARIABLES

HOST = "127.0.0.1"
_NO_PROXY = {"NO_PROXY": "*", "no_proxy": "*"}
"""For libraries that would otherwise read the settings of the system."""
_GRPC_CIPHERS = "GRPC_SSL_CIPHER_SUITES"
_LOCK = threading.Lock()


def names_proxy(variable: str) -> bool:
    """Whether some library takes a proxy, or an exception from it, from this variable.

    >>> names_proxy("https_proxy"), names_proxy("ALL_PROXY"), names_proxy("PATH")
    (True, True, False)
    """
    return variable.lower().endswith("_proxy")


def without_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a process that speaks over loopback alone: no proxy, of whatever kind and spelling.

    An exception for loopback would not do: httpx requires support for a SOCKS proxy even where it is not used.
    """
    return {name: value for name, value in environment.items() if not names_proxy(name)} | _NO_PROXY


@contextmanager
def proxies_ignored() -> Iterator[None]:
    """The same for clients that are made inside by code that reads this process' own environment."""
    with _LOCK:
        before = {name: value for name, value in os.environ.items() if names_proxy(name)}
        try:
            for name in before:
                del os.environ[name]
            os.environ.update(_NO_PROXY)
            yield
        finally:
            for name in _NO_PROXY:
                os.environ.pop(name, None)
            os.environ.update(before)


def named_proxies(environment: Mapping[str, str]) -> list[str]:
    """Variables that name a proxy, sorted; their values may hold passwords and are left out."""
    return sorted(n for n, v in environment.items() if v and names_proxy(n) and n.lower() != "no_proxy")


def child_environment(mark: str, *, hide_gpus: bool = True) -> dict[str, str]:
    """The environment of a child process: no proxy, one compute thread, the mark of its run.

    Args:
        mark: of the run.
        hide_gpus: no GPU is used unless CUDA_VISIBLE_DEVICES names one.
    """
    inherited = {name: value for name, value in without_proxies(os.environ).items() if name != _GRPC_CIPHERS}
    made = {**inherited, **dict.fromkeys(THREAD_VARIABLES, "1"), MARK: mark}
    return {"CUDA_VISIBLE_DEVICES": "", **made} if hide_gpus else made


def flower_environment(mark: str, home: Path, *, hide_gpus: bool = True) -> dict[str, str]:
    """The environment of Flower's programs, with `home` as FLWR_HOME and nothing that calls home or installs."""
    environment = child_environment(mark, hide_gpus=hide_gpus)
    return {
        **environment,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}",
        "FLWR_HOME": str(home.absolute()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "NO_COLOR": "1",
    }


def free_port(wanted: int = 0) -> int:
    """`wanted` if it is free on loopback, else another free port; 0 takes any."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    return 0


def flower_command(program: str, *arguments: str) -> list[str]:
    """The command line of one of Flower's programs; nothing is imported from the folder that it starts in."""
    return [sys.executable, "-P", "-m", "moretta.deploy.runtime.flower_programs", program, *arguments]
