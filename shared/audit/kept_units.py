"""Where audits of the same content share results: a zoo or a sweep attacks the same originals beside every release."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from moretta.shared.audit.attackers.base import get_attacker
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.execute import Inputs, Unit, possible
from moretta.shared.core.reproducibility import code_digest, versions

_OWN = "moretta."


def shared_places(tasks: Sequence[tuple[Inputs, Unit]], folder: Path | None) -> list[Path | None]:
    """Of each unit with its data, the file of its results in `folder`: named by everything that they depend on.

    None where results may not be shared: an attacker of another package is always run, since its code is not in the
    digest of Moretta's.
    """
    if folder is None:
        return [None] * len(tasks)
    contents = {id(of): _contents(of) for of, _ in {id(of): (of, unit) for of, unit in tasks}.values()}
    return [folder / f"{_key(of, unit, contents[id(of)])}.json" if _is_own(unit) else None for of, unit in tasks]


def _is_own(unit: Unit) -> bool:
    cls = get_attacker(unit.attacker)
    made_of = [cls, *([get_attacker(cls.encoder)] if cls.encoder else [])]
    return all(part.__module__.startswith(_OWN) for part in made_of)


def _contents(inputs: Inputs) -> dict[str, str]:
    """SHA-256, hexadecimal, of all arrays of each set and of public people, in their order, and whose they are."""
    sets: dict[str, ClipSet] = {f"public {name}": clips for name, clips in inputs.public.items()}
    sets |= {str(name): clips for name, clips in inputs.sets.items()}
    return {
        name: _digest([f"{clips.content_key(i)} {clip.speaker}" for i, clip in enumerate(clips.clips)])
        for name, clips in sets.items()
    }


def _key(inputs: Inputs, unit: Unit, contents: Mapping[str, str]) -> str:
    scenarios, barred = possible(inputs, unit)
    read: set[str] = {name for s in scenarios for name in (s.enrol, s.trial, s.train)}
    if unit.train in inputs.public:
        read.add(f"public {unit.train}")
    facts = [
        unit,
        [s.name for s in (*scenarios, *barred)],
        sorted((name, contents[name]) for name in read),
        [clip.model_dump_json() for clip in inputs.clips.clips],
        asdict(inputs.plan),
        [inputs.seed, inputs.bootstrap],
        [code_digest(), versions()],
    ]
    return _digest([json.dumps(facts)])


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode())
    return digest.hexdigest()
