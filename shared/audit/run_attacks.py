"""How attacks are run: in the processes of a pool. After an interruption an audit runs only those that are left.

Tasks are known by their place in the audit and by their label. This is enough: results are used again only if
everything that an audit depends on is the same. The caller states these dependencies.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from moretta.shared.audit.result import FAILED, Result
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.reproducibility import code_digest, versions
from moretta.shared.core.workers import Progress, Workers

_ROWS: TypeAdapter[list[Result]] = TypeAdapter(list[Result])
_MADE = re.compile("attacks-[0-9a-f]{24}")


@dataclass
class KeptResults:
    """The results of one audit so far, one file a task."""

    folder: Path
    tasks: int = 0
    """Number of tasks that have a file so far."""

    def places(self, labels: Sequence[str]) -> list[Path | None]:
        """The files of the next tasks."""
        first, self.tasks = self.tasks, self.tasks + len(labels)
        names = [hashlib.sha256(f"{first + i} {label}".encode()).hexdigest()[:24] for i, label in enumerate(labels)]
        return [self.folder / f"{name}.json" for name in names]


_KEPT: ContextVar[KeptResults | None] = ContextVar("kept results", default=None)


@contextmanager
def keeping(folder: Path, *basis: str) -> Iterator[Path]:
    """Inside, results of attacks are kept below `folder`, and those there of the same `basis` are used again.

    Kept results, those with other bases too, are removed at the end of the block, unless it was interrupted or failed.
    Nothing else in `folder` is touched. Code, versions of libraries and which attackers can run are part of the basis.

    Yields:
        The folder of this basis, for whatever else an interruption must leave.
    """
    content = json.dumps([code_digest(), versions(), instruments(), *basis], sort_keys=True)
    own = folder / f"attacks-{hashlib.sha256(content.encode()).hexdigest()[:24]}"
    token = _KEPT.set(KeptResults(own))
    try:
        yield own
    finally:
        _KEPT.reset(token)
    for made in folder.glob("attacks-*"):
        if _MADE.fullmatch(made.name):
            shutil.rmtree(made, ignore_errors=True)
    with suppress(OSError):  # not there, or it holds what is not ours
        folder.rmdir()


def instruments() -> str:
    """Which attackers and evaluators can run on this machine: with weights fetched since, an audit says more."""
    from moretta.shared.audit.attackers import attacker_names, get_attacker
    from moretta.shared.audit.utility.evaluators import evaluator_names, get_evaluator
    from moretta.shared.features.landmarks import FaceMesh

    known = ((attacker_names(), get_attacker), (evaluator_names(), get_evaluator))
    found = [{name: get(name).missing() is None for name in names} for names, get in known]
    return json.dumps([*found, {FaceMesh.name: FaceMesh.missing() is None}], sort_keys=True)


def run_all(
    function: Callable[..., list[Result]],
    tasks: Sequence[tuple[Any, ...]],
    labels: Sequence[str],
    *,
    what: str,
    pool: Workers,
    progress: Progress | None,
    shared: Sequence[Path | None] = (),
) -> list[Result]:
    """Results of all tasks, in their order whatever is finished first. Progress: `what`, then the label of each.

    `shared`: of each task the file that audits of the same content share, if there is one.
    """
    kept = _KEPT.get()
    places: list[Path | None] = [None] * len(tasks) if kept is None else kept.places(labels)
    if shared:
        places = [both or own for both, own in zip(shared, places, strict=True)]
    found = [_kept_at(place) for place in places]
    left = [index for index, results in enumerate(found) if results is None]
    if progress is not None and tasks:
        progress(what, len(tasks) - len(left), len(tasks))
    done = pool.run(function, [tasks[index] for index in left])
    for number, (place, results) in enumerate(done, start=len(tasks) - len(left) + 1):
        index = left[place]
        found[index] = results
        _keep(places[index], results)
        if progress is not None:
            progress(labels[index], number, len(tasks))
    return [result for results in found for result in results or ()]


def _kept_at(place: Path | None) -> list[Result] | None:
    """The results of one task; None where there are none, or none that can be read."""
    if place is None or not place.exists():
        return None
    try:
        return _ROWS.validate_json(place.read_bytes())
    except (OSError, ValidationError):
        return None


def _keep(place: Path | None, results: list[Result]) -> None:
    """Keep the results of one task, unless an attack in it failed: it may do better next time."""
    if place is not None and not any(result.reason.startswith(FAILED) for result in results):
        write_atomic(place, _ROWS.dump_json(results))
