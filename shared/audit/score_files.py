"""The scores of an audit's comparisons, `scores.npz`: for DET curves, and for whoever wants another metric.

By `modality/scenario/attacker` it has three vectors: `scores` (float32, larger for more alike), and `enrolled` and
`tried`, the numbers of both sides' speakers; the same number on both sides is a mated comparison. `speakers` has the
pseudonyms by number. Read it with `numpy.load(path, allow_pickle=False)`.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from moretta.shared.audit.metrics.scores import Trials
from moretta.shared.core.array_types import Array
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import ReleaseError

SCORES_FILE = "scores.npz"
Key = tuple[str, str, str]  # modality, scenario, attacker
_PARTS = ("scores", "enrolled", "tried")
_MAX_BYTES = 2**30
_EXPECTED = "scores as Moretta wrote them"


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
        found = _read(path)
        named = {
            name: array for name, array in found.items() if name.count("/") == 1 or name.split("/")[2] in attackers
        }
        arrays |= named
    if any(name.endswith("/scores") for name in arrays):
        _write(out, arrays)


def load_scores(folder: Path) -> dict[Key, Trials]:
    """The comparisons of an audit or a study; empty where its folder has none.

    Raises:
        ReleaseError: the file is damaged.
    """
    path = folder / SCORES_FILE
    if not path.exists():
        return {}
    arrays, found = _read(path), {}
    for name in arrays:
        modality, _, rest = name.partition("/")
        scenario, _, attacker = rest.removesuffix("/scores").partition("/")
        if attacker and name.endswith("/scores"):
            key = modality, scenario, attacker
            try:
                found[key] = Trials(*(arrays["/".join((*key, part))] for part in _PARTS))
            except KeyError as error:
                raise ReleaseError(f"{path} has no {error}", expected=_EXPECTED) from error
    return found


def _write(path: Path, arrays: Mapping[str, Array]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def _read(path: Path) -> dict[str, Array]:
    fix = "remove the file: the report is then without its curves"
    try:
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise ReleaseError(f"{path} has {size} bytes", expected=f"at most {_MAX_BYTES}", fix=fix)
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except (OSError, EOFError, ValueError, BadZipFile) as error:
        raise ReleaseError(
            f"{path} cannot be read: {error}", expected="scores as Moretta wrote them", fix=fix
        ) from error
