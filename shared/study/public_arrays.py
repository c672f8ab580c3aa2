"""Public arrays of a study: what each may be, and the digest under which a site approves them.

The coordinator makes them of public data, and no site trusts them. A site checks each array before any clip is read, so
that an error depends on the arrays alone. The ranges keep everything that anonymizers compute finite in float64.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import StudyError
from moretta.shared.study.schema import Study

PUBLIC_SEED = 1
"""Seed of everything that is made of public data: studies that differ in their seed alone share it."""
LEAST_SPREAD = 0.5e-3
"""Smallest divisor: public deviations are 1e-3 at least, as float32."""
LARGEST = 1e6
"""Largest value of a public array that has no bound of its own."""
MAX_VALUES = 2**28
OF_ATTACKER = "attacker/"
"""Begins the names of arrays that an attacker has learned; no anonymizer takes them."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Rule for one public array: type, shape and bounds. Every value is finite, from `least` to `largest`."""

    shape: tuple[int | str, ...]
    """Sizes; a name stands for any size from 1 on, the same wherever it is named in one request."""
    largest: float
    least: float | None = None
    """Smallest value; None means minus the largest. Divisors have a positive one."""
    dtype: Literal["float32", "int64"] = "float32"
    optional: bool = False

    def __str__(self) -> str:
        sizes = ", ".join(map(str, self.shape))
        return f"{self.dtype} [{sizes}] within {self.lowest:g} and {self.largest:g}"

    @property
    def lowest(self) -> float:
        """The least value."""
        return -self.largest if self.least is None else self.least


Rules = Mapping[str, Rule]


def scale_rules(center: str, deviation: str, width: int) -> dict[str, Rule]:
    """Rules of public means and deviations, [width] each, by these names."""
    return {center: Rule((width,), LARGEST), deviation: Rule((width,), LARGEST, LEAST_SPREAD)}


def check_public(arrays: Mapping[str, Array], rules: Rules) -> dict[str, Array]:
    """All public arrays of a request, checked: one missing, unknown, of other type, shape or range is a StudyError."""
    if unknown := sorted(arrays.keys() - rules.keys()):
        raise StudyError(
            f"public arrays that nothing here takes: {', '.join(unknown)[:200]}",
            expected=f"only {', '.join(rules) or 'none'}",
            fix="let the coordinator send what the study's anonymizers declare",
        )
    checked = named(arrays, rules)
    return {name: checked[name] for name in arrays}


def without_attackers(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays of the anonymizers alone."""
    return {name: array for name, array in arrays.items() if not name.startswith(OF_ATTACKER)}


def taken(arrays: Mapping[str, Array], rules: Rules) -> list[Array]:
    """The arrays that the rules name, checked and in their order; others are ignored. Errors: see `check_public`."""
    return list(named(arrays, rules).values())


def named(arrays: Mapping[str, Array], rules: Rules) -> dict[str, Array]:
    """The arrays that the rules name, checked, by name. Errors: see `check_public`."""
    if missing := [name for name, rule in rules.items() if name not in arrays and not rule.optional]:
        raise StudyError(
            f"public arrays without {', '.join(missing)}",
            expected="what the coordinator makes for this study",
            fix="let the coordinator make what is public for this study",
        )
    sizes: dict[str, int] = {}
    return {name: _checked(name, arrays[name], rule, sizes) for name, rule in rules.items() if name in arrays}


def _checked(name: str, array: Array, rule: Rule, sizes: dict[str, int]) -> Array:
    fits = len(array.shape) == len(rule.shape) and 0 < array.size <= MAX_VALUES and str(array.dtype) == rule.dtype
    for size, wanted in zip(array.shape, rule.shape, strict=False):
        fits = fits and size == (sizes.setdefault(wanted, size) if isinstance(wanted, str) else wanted)
    if not fits:
        raise StudyError(f"the public array {name} of {array.dtype} {list(array.shape)}", expected=f"{rule}")
    if not ((array >= rule.lowest) & (array <= rule.largest)).all():  # false for NaN
        raise StudyError(f"the public array {name} with values that cannot be", expected=f"{rule}")
    return np.ascontiguousarray(array)


def are_finite(*arrays: Array) -> bool:
    """Whether all values of all of them are."""
    return all(bool(np.isfinite(array).all()) for array in arrays)


def described(arrays: Mapping[str, Array]) -> dict[str, dict[str, Any]]:
    """Type, shape and SHA-256 of each array, by name."""
    found = {}
    for name, array in sorted(arrays.items()):
        content = np.ascontiguousarray(array)
        digest = hashlib.sha256(content.tobytes()).hexdigest()
        found[name] = {"dtype": content.dtype.str, "shape": list(array.shape), "sha256": digest}
    return found


def arrays_digest(facts: Mapping[str, Any]) -> str:
    """SHA-256 of what `described` gives, 64 hexadecimal digits."""
    content = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(content.encode()).hexdigest()


def approval_digest(study: Study, facts: Mapping[str, Any]) -> str:
    """SHA-256 of a whole study, without the files it names, together with what `described` gives of its arrays.

    All of the study counts, also what costs no privacy: a steward approves what was read.
    """
    return arrays_digest({"study": study.for_sites(), "arrays": dict(facts)})
