"""Moretta's processes on one machine speak over loopback, where a proxy that the environment names has no business."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_EVERYTHING = {"NO_PROXY": "*", "no_proxy": "*"}
"""For libraries that would otherwise look into the settings of the system."""
_LOCK = threading.Lock()


def names_proxy(variable: str) -> bool:
    """Whether some library takes a proxy, or an exception from it, from this variable.

    >>> names_proxy("https_proxy"), names_proxy("ALL_PROXY"), names_proxy("PATH")
    (True, True, False)
    """
    return variable.lower().endswith("_proxy")


def without_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a process that speaks over loopback alone: no proxy, of whatever kind and spelling.

    An exception for loopback would not do: httpx wants support for a SOCKS proxy even where it is not used.
    """
    return {name: value for name, value in environment.items() if not names_proxy(name)} | _EVERYTHING


@contextmanager
def proxies_ignored() -> Iterator[None]:
    """The same for clients that are made inside by code that looks into this process' own environment."""
    with _LOCK:
        before = {name: value for name, value in os.environ.items() if names_proxy(name)}
        try:
            for name in before:
                del os.environ[name]
            os.environ.update(_EVERYTHING)
            yield
        finally:
            for name in _EVERYTHING:
                os.environ.pop(name, None)
            os.environ.update(before)


def named_proxies(environment: Mapping[str, str]) -> list[str]:
    """Variables that name a proxy, sorted; values may hold passwords and are left out."""
    return sorted(n for n, v in environment.items() if v and names_proxy(n) and n.lower() not in ("no_proxy",))
