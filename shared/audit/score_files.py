"""The scores of an audit's comparisons, `scores.npz`: for DET curves, and for whoever wants another metric.

By `modality/scenario/attacker` it has three vectors: `scores` (float32, larger for more alike), and `enrolled` and
`tried`, the numbers of both sides' speakers; the same number on both sides is a mated comparison. `speakers` has the
pseudonyms by number. Read it with `numpy.load(path, allow_pickle=False)`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final
from zipfile import ZipFile

import numpy as np

from moretta.shared.audit.metrics.scores import Trials
from moretta.shared.core.array_types import Array
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import ReleaseError, RunError

SCORES_FILE = "scores.npz"
Key = tuple[str, str, str]  # modality, scenario, attacker
_KINDS: Final = {"scores": "f", "enrolled": "iu", "tried": "iu", "speakers": "U"}
"""The types of NumPy that each vector may have."""
_PARTS = ("scores", "enrolled", "tried")
_MAX_BYTES = 2**30
"""Most bytes of a file, and of its unpacked content."""
_EXPECTED = "scores as Moretta wrote them"
_FIX = "remove the file: the report is then without its curves"


def keep_scores(path: Path, of: Mapping[Key, Trials], speakers: Sequence[str]) -> None:
    """Write the comparisons of one training of an attacker."""
    arrays: dict[str, Array] = {f"{key[0]}/speakers": np.array(speakers) for key in of}
    for key, trials in of.items():
        name = "/".join(key)
        arrays[f"{name}/scores"] = trials.scores.astype(np.float32)
        arrays[f"{name}/enrolled"] = trials.enrol_speaker.astype(np.int32)
        arrays[f"{name}/tried"] = trials.trial_speaker.astype(np.int32)
    _write(path, arrays)


def collect_scores(parts: Path, out: Path, attackers: Collection[str]) -> None:
    """Put the files of these attackers' trainings in the folder `parts` together; without any there is no file."""
    arrays: dict[str, Array] = {}
    for path in sorted(parts.glob("*.npz")):
        arrays |= _read(path, lambda name: name.count("/") == 1 or name.split("/")[2] in attackers)
    if any(name.endswith("/scores") for name in arrays):
        _write(out, arrays)


def load_scores(folder: Path) -> dict[Key, Trials]:
    """The comparisons of an audit or a study; empty where its folder has none. Raises ReleaseError: the file is
    damaged."""
    path = folder / SCORES_FILE
    if not path.exists():
        return {}
    arrays, found = _read(path, lambda name: name.count("/") == 3), {}
    for name in arrays:
        key, _, part = name.rpartition("/")
        if part == "scores":
            modality, scenario, attacker = key.split("/")
            try:
                found[modality, scenario, attacker] = Trials(*(arrays[f"{key}/{other}"] for other in _PARTS))
            except (KeyError, RunError) as error:
                why = f"no {error}" if isinstance(error, KeyError) else error.found
                raise ReleaseError(f"{path} has {why} for {key}", expected=_EXPECTED, fix=_FIX) from error
    return found


def _write(path: Path, arrays: Mapping[str, Array]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def _read(path: Path, wanted: Callable[[str], bool]) -> dict[str, Array]:
    """The vectors whose names are wanted; nothing else is unpacked, and nothing before the sizes are known."""
    try:
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise ReleaseError(f"{path} has {size} bytes", expected=f"at most {_MAX_BYTES}", fix=_FIX)
        with ZipFile(path) as archive:
            if (unpacked := sum(member.file_size for member in archive.infolist())) > _MAX_BYTES:
                found = f"{path} unpacks to {unpacked} bytes"
                raise ReleaseError(found, expected=f"at most {_MAX_BYTES}", fix=_FIX)
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            known = [name for name in names if name.count("/") in (1, 3) and name.rpartition("/")[2] in _KINDS]
            return {name: _vector(archive, name) for name in known if wanted(name)}
    except ReleaseError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise what they like of bytes that somebody changed
        raise ReleaseError(f"{path} cannot be read: {error}", expected=_EXPECTED, fix=_FIX) from error


def _vector(archive: ZipFile, name: str) -> Array:
    """One member; its head must promise as many bytes as follow, so no head makes room for what is not there."""
    content = io.BytesIO(archive.read(f"{name}.npy"))
    if np.lib.format.read_magic(content) != (1, 0):
        raise ValueError(f"{name} is of another version of NumPy's format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(content)
    if len(shape) != 1 or dtype.kind not in _KINDS[name.rpartition("/")[2]]:
        raise ValueError(f"{name} has shape {shape} and type {dtype}")
    if shape[0] * dtype.itemsize != len(rest := content.read()):
        raise ValueError(f"{name} has {len(rest)} bytes for {shape[0]} values")
    return np.frombuffer(rest, dtype)
